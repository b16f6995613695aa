"""What comes in between the parts of a long act, or in the moment in which a shard is lost, at the worst of times."""

from typing import Any

import pytest

from mainspring_coordinator.engine.effects import Ended
from mainspring_coordinator.engine.events import CreditSet, ShardReady, ShardTaken, SubmitExisted, WorkflowEvicted
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import NodeAssigned
from mainspring_coordinator.engine.status import WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import Rig, define, of, only, rows_of
from tests.engine.test_parts import go_on, new_rig, width


def wide(last: dict[str, Any], **thirtieth: Any) -> Plan:
    """Return a node that frees many, the thirtieth of which is a map, on which alone the last node depends."""
    many: list[dict[str, Any]] = [{"id": f"n{at}", "executor": "work", "depends_on": ["first"]} for at in range(width)]
    many[30] |= {"map": {"over": "${input}"}, **thirtieth}
    return define(
        [{"id": "first", "executor": "first"}, *many, {"id": "last", "executor": "work", "depends_on": ["n30"], **last}]
    )


@pytest.mark.parametrize(
    ("last", "thirtieth", "value"),
    [
        ({}, {}, []),
        ({}, {"allow_failure": True}, "no list"),
        ({"map": {"over": "${workflow.name}"}, "allow_failure": True}, {}, []),
    ],
    ids=["an empty map", "a map that fails", "two maps"],
)
def test_what_ends_while_a_workflow_is_built_frees_its_children_once(
    last: dict[str, Any], thirtieth: dict[str, Any], value: Any
) -> None:
    plan = wide(last, **thirtieth)
    old = new_rig()
    old.attach("w1", executors=("first",))
    old.submit(plan, value=value)
    old.finish("first")
    assert old.engine.busy, "its owner dies between two parts"
    new = new_rig()
    new.epoch = 2
    new.step(ShardTaken(0, 2, new.now_us, "e" * 32))
    for workflow in fold(old.rows, {plan.hash: plan})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    go_on(new)
    new.attach("w2", slots=7)
    go_on(new)
    new.run_to_end()
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_taken_id_gets_nothing_assigned_while_another_workflow_of_its_shard_is_built() -> None:
    rig = new_rig()
    worker = rig.attach(slots=1)
    big = define([{"id": f"n{at}", "executor": "nobody"} for at in range(width)])
    one = define([{"id": "a", "executor": "work"}])
    rig.submit(one, "holds the slot")
    rig.submit(big, "big")
    go_on(rig)
    stored = list(rig.rows)
    rig.step(WorkflowEvicted(0, "big"))
    rig.submit(one, "taken")
    rig.step(next(one for one in fold(stored, {big.hash: big, one.hash: one})[0] if one.workflow_id == "big"))
    rig.step(SubmitExisted(0, "taken", b"x" * 32, WorkflowStatus.SUCCEEDED))
    assert rig.engine.state.occupied
    rig.step(CreditSet(worker.session, 2, 2))
    assert "taken" not in {row.workflow_id for row in rows_of(rig.effects, NodeAssigned)}


def test_outputs_that_leave_memory_before_a_map_is_expanded_are_loaded_again() -> None:
    rig = new_rig(payload_cache_bytes=200)
    rig.attach("w1", executors=("first", "other"))
    each = {"executor": "work", "depends_on": ["first"], "map": {"over": "${first}"}}
    plan = define([{"id": "first", "executor": "first"}, *({"id": f"n{at}", **each} for at in range(width))])
    big = define(
        [
            {"id": "x", "executor": "other"},
            {"id": "y", "executor": "nobody", "depends_on": ["x"], "input": "${x}"},
        ]
    )
    rig.submit(plan)
    rig.submit(big, "big")
    go_on(rig)
    rig.finish("first", ["v" * 10])
    rig.finish("x", "z" * 300)
    go_on(rig)
    assert not of(rig.effects, Ended)


def test_a_deadline_for_the_start_is_that_of_the_present_wait() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(define([{"id": "a", "executor": "work", "timeouts": {"schedule_to_start": "60s"}}]))
    rig.after(10)
    rig.drop(worker, goodbye=True)  # it waits from now on, until 70
    rig.after(1)
    worker = rig.attach("w2")
    assert rig.running("a")
    rig.after(58)
    rig.drop(worker, goodbye=True)  # and again, until 129
    rig.after(2)
    assert not of(rig.effects, Ended)
    rig.after(59)
    assert only(of(rig.effects, Ended), Ended).status is WorkflowStatus.FAILED
