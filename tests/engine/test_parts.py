"""What touches many nodes is done in parts: no step does more than it may, and anything may happen between two of them."""

from typing import Any

import pytest

from mainspring_coordinator.engine.effects import Ack, Answer, AnswerCode, Assign, Effect, Ended
from mainspring_coordinator.engine.events import ShardLost, ShardReady, ShardTaken, Tick
from mainspring_coordinator.engine.rows import NodeChanged
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import Rig, define, of, only, rows_of, with_config

part = 10
width = 95
parts = -(-width // part)
roots = define([{"id": f"n{at}", "executor": "work"} for at in range(width)])
fan = define(
    [
        {"id": "first", "executor": "first"},
        *({"id": f"n{at}", "executor": "work", "depends_on": ["first"]} for at in range(width)),
        {"id": "last", "executor": "work", "depends_on": [f"n{at}" for at in range(width)]},
    ]
)
chain: list[dict[str, Any]] = [
    {"id": "a", "executor": "other"},
    {"id": "b", "executor": "other", "depends_on": ["a"]},
]


def new_rig(**config: Any) -> Rig:
    rig = Rig(config=with_config(step_nodes=part, **config))
    rig.at_once = False
    return rig


def go_on(rig: Rig) -> list[list[Effect]]:
    """Do what is left, and return what each further step did."""
    steps: list[list[Effect]] = []
    while rig.engine.busy:
        steps.append(rig.step(Tick()))
        assert len(steps) < 1_000
    return steps


def count(rig: Rig, status: NodeStatus, workflow_id: str = "wf") -> int:
    return rig.engine.state.shards[0].workflows[workflow_id].statuses.count(status)


def test_a_wide_submit_is_acknowledged_at_once_and_its_roots_become_ready_part_by_part() -> None:
    rig = new_rig()
    assert rig.submit(roots).created
    ready = [count(rig, NodeStatus.READY)]
    while rig.engine.busy:
        rig.step(Tick())
        ready.append(count(rig, NodeStatus.READY))
    assert ready[-1] == width
    assert max(after - before for before, after in zip([0, *ready], ready, strict=False)) <= part
    rig.attach(slots=width)
    rig.run_to_end()
    assert only(of(rig.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_wide_release_is_spread_and_its_first_part_goes_with_the_end_that_freed_it() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first",))
    rig.attach("w2", slots=width)
    rig.submit(fan)
    steps = [rig.finish("first"), *go_on(rig)]
    assert [len(of(effects, Assign)) for effects in steps[:parts]] == [part] * (parts - 1) + [width % part]
    assert of(steps[0], Ack)


def test_the_hops_of_others_go_on_in_one_step_each_while_a_wide_release_is_under_way() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first", "other"))
    rig.submit(fan)
    rig.submit(define(chain), "small")
    rig.finish("first")
    assert rig.engine.busy
    assert only(rig.finish("a"), Assign).node_id == "b"
    assert only(rig.finish("b"), Ended).workflow_id == "small"
    assert rig.engine.busy


def test_no_step_assigns_more_than_it_may() -> None:
    rig = new_rig()
    rig.submit(roots)
    go_on(rig)
    before = len(rig.effects)
    rig.attach(slots=width)
    go_on(rig)
    assert len(of(rig.effects[before:], Assign)) == width
    rig = new_rig()
    rig.attach(slots=width)
    steps = [len(of(effects, Assign)) for effects in (rig.step(Tick()) for _ in range(3))]
    rig.submit(roots)
    steps += [len(of(effects, Assign)) for effects in go_on(rig)]
    assert max(steps) <= part


def test_no_step_fires_more_deadlines_than_it_may() -> None:
    rig = new_rig()
    limited = [
        {"id": f"n{at}", "executor": "nobody", "allow_failure": True, "timeouts": {"schedule_to_start": "5s"}}
        for at in range(width)
    ]
    rig.submit(define(limited))
    go_on(rig)
    rig.now_us += 6_000_000
    failed = []
    while not of(rig.effects, Ended):
        failed.append(len(rows_of(rig.step(Tick()), NodeChanged)))
    assert sum(failed) == width
    assert max(failed) <= part


def test_a_cancel_in_the_middle_of_a_release_leaves_nothing_ready() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first",))
    rig.submit(fan)
    rig.finish("first")
    answer = rig.cancel()
    assert (answer.code, answer.status) == (AnswerCode.OK, WorkflowStatus.CANCELLED)
    go_on(rig)
    rig.attach("w2", slots=width)
    assert not rig.running()
    assert not rig.engine.state.ready.waiting


@pytest.mark.parametrize("steps", [0, 3])
def test_a_successor_releases_the_rest_of_what_its_predecessor_died_in(steps: int) -> None:
    old = new_rig()
    old.attach("w1", executors=("first",))
    old.submit(fan)
    old.finish("first")
    for _ in range(steps):
        old.step(Tick())
    assert old.engine.busy
    new = Rig(epoch=2, own=False)
    new.rows = old.rows
    new.step(ShardTaken(0, 2, new.now_us, frozenset()))
    for workflow in fold(old.rows, {fan.hash: fan})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    new.attach("w2", slots=7)
    new.run_to_end()
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED
    assert len({(a.workflow_id, a.node_id) for a in of(new.effects, Assign)}) == width + 1


def test_a_shard_that_is_lost_in_the_middle_of_a_release_takes_the_rest_along() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first", "work"), slots=1)
    rig.submit(fan)
    rig.finish("first")
    assert rig.engine.busy
    rig.step(ShardLost(0))
    assert not [effects for effects in go_on(rig) if of(effects, Assign)]
    rig.step(ShardTaken(0, 2, rig.now_us, frozenset()))
    rig.step(ShardReady(0))
    assert not of(rig.after(60), Answer)
    assert not rig.engine.state.ready.waiting
