"""What operators do to nodes: in which state which act can be done, what follows, and what each kind of node makes of it."""

import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mainspring import limits
from mainspring.failures import (
    completed_by_operator,
    failure_from_json,
    skipped_by_operator,
    superseded_by_operator,
)
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import (
    Ack,
    Answer,
    AnswerCode,
    Assign,
    CancelCause,
    Disposition,
    Effect,
    Ended,
    LoadOutputs,
    Stop,
)
from mainspring_coordinator.engine.events import OutputsLoaded, ResultItem, ShardReady, ShardTaken
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import AttemptEnded, NodeChanged, RetryDue, WorkflowUpdated
from mainspring_coordinator.engine.status import NodeAct, NodeStatus, WorkflowStatus, node_acts, node_transitions
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config

RETRY, SKIP, COMPLETE = NodeAct
_N = NodeStatus
slow = {"retry": {"max_attempts": 5, "initial": "60s", "jitter": 0}}
two = define(
    [
        {"id": "a", "executor": "work", **slow},
        {"id": "b", "executor": "work", "input": "${a}", "depends_on": ["a"]},
    ],
    output="${b}",
)
fan = define(
    [
        {"id": "each", "executor": "work", "map": {"over": "${input}", "max_parallel": 2}, **slow},
        {"id": "all", "executor": "work", "input": "${each}"},
    ]
)
# Each state in which `one` of a workflow can be found, and how it comes to be in it.
ways: dict[NodeStatus, Callable[[Rig], object]] = {
    _N.WAITING: lambda rig: None,
    _N.READY: lambda rig: rig.finish("first"),
    _N.BACKOFF: lambda rig: (rig.finish("first"), rig.attach("w2", executors=("one",)), rig.fail("one")),
    _N.RUNNING: lambda rig: (rig.finish("first"), rig.attach("w2", executors=("one",))),
    _N.SUCCEEDED: lambda rig: (rig.finish("first"), rig.attach("w2", executors=("one",)), rig.finish("one")),
    _N.SKIPPED: lambda rig: rig.act(SKIP, "one"),
    _N.FAILED: lambda rig: (
        rig.finish("first"),
        rig.attach("w2", executors=("one",)),
        [(rig.fail("one"), rig.after(60)) for _ in range(5)],
    ),
}
three = define(
    [
        {"id": "first", "executor": "work"},
        {"id": "one", "executor": "one", "depends_on": ["first"], "allow_failure": True, **slow},
        {"id": "last", "executor": "last", "input": "${one}"},
        {"id": "side", "executor": "side"},
    ]
)


def code(effects: Sequence[Effect]) -> tuple[AnswerCode, bool]:
    answer = only(effects, Answer)
    return answer.code, answer.created


def refused(effects: Sequence[Effect]) -> str:
    answer = only(effects, Answer)
    assert answer.code is AnswerCode.REFUSED
    assert not rows_of(effects, NodeChanged)
    return answer.message


def mark(row: NodeChanged | AttemptEnded) -> str:
    assert row.failure is not None
    return failure_from_json(row.failure).type


def working(plan: Plan, value: Any = None, **rest: Any) -> Rig:
    rig = Rig(**rest)
    rig.attach()
    rig.submit(plan, value=value)
    return rig


@pytest.mark.parametrize(("act", "state"), list(product(NodeAct, ways)))
def test_the_table_says_what_can_be_done(act: NodeAct, state: NodeStatus) -> None:
    rig = working(three)
    ways[state](rig)
    workflow = rig.engine.state.shards[0].workflows["wf"]
    assert workflow.statuses[1] == state
    effects = rig.act(act, "one", value=7)
    wanted = node_acts[act].get(state)
    if wanted is None:
        assert f"is {state.name}" in refused(effects)
        return
    assert code(effects) == (AnswerCode.OK, wanted is not state)
    # What becomes READY may be assigned in the same step.
    assert workflow.statuses[1] in (wanted, _N.RUNNING if wanted is _N.READY else wanted)


def test_the_page_for_operators_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    rows = re.findall(r"^\| `([A-Z]+)` \| (\S+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    wanted = [
        (state.name, *(f"`{after.name}`" if (after := node_acts[act].get(state)) else "-" for act in NodeAct))
        for state in NodeStatus
    ]
    assert rows == wanted


def test_every_act_of_the_table_is_a_transition_of_nodes() -> None:
    for act, before_after in node_acts.items():
        for before, after in before_after.items():
            by_way = act is RETRY and before is _N.RUNNING  # of BACKOFF
            assert before is after or after in node_transitions[_N.BACKOFF if by_way else before]


def test_a_retry_ends_the_wait_for_the_next_attempt_and_leaves_what_the_last_one_said() -> None:
    rig = working(two)
    rig.fail("a")
    effects = rig.act(RETRY, "a")
    (due,) = rows_of(effects, RetryDue)
    assert due.retry_at_us == rig.now_us
    assert not rows_of(effects, NodeChanged)
    assert only(effects, Assign).attempt == 2
    assert not of(rig.after(61), Assign), "the deadline of the wait that is over means nothing"


def test_a_retry_of_what_runs_takes_it_away_and_counts_as_an_attempt() -> None:
    rig = working(two)
    worker, first = rig.running("a")[0]
    effects = rig.act(RETRY, "a")
    assert (only(effects, Stop).assignment, only(effects, Stop).cause) == (first.assignment, CancelCause.SUPERSEDED)
    assert only(effects, Assign).attempt == 2
    assert mark(rows_of(effects, AttemptEnded)[0]) == superseded_by_operator
    late = rig.end(worker, first, _N.SUCCEEDED)
    assert only(late, Ack).disposition is Disposition.STALE
    assert not rows_of(late, NodeChanged)
    assert rig.engine.state.refused_results == 1
    rig.run_to_end()
    assert only(rig.effects, Ended).status is WorkflowStatus.SUCCEEDED


def test_a_retry_of_one_attempt_leaves_a_later_one_alone() -> None:
    rig = working(two)
    assert code(rig.act(RETRY, "a", attempt=1)) == (AnswerCode.OK, True)
    assert code(rig.act(RETRY, "a", attempt=1)) == (AnswerCode.OK, False)
    assert rig.running("a")[-1][1].attempt == 2
    assert "has had 2 attempts, not 3" in refused(rig.act(RETRY, "a", attempt=3))
    rig.finish("a", instance=-1)  # the late one
    rig.finish("a")
    assert code(rig.act(RETRY, "a", attempt=1)) == (AnswerCode.OK, False)


def test_attempts_that_operators_ask_for_are_bounded() -> None:
    rig = working(two)
    for _ in range(limits.attempts_by_operators_max - 1):
        assert code(rig.act(RETRY, "a")) == (AnswerCode.OK, True)
        rig.workers[1].running = dict([rig.workers[1].running.popitem()])
    assert "the bound" in refused(rig.act(RETRY, "a"))


def test_what_is_skipped_gives_null_to_what_depends_on_it_in_the_same_step() -> None:
    rig = working(two)
    _, first = rig.running("a")[0]
    effects = rig.act(SKIP, "a")
    assert only(effects, Stop).assignment == first.assignment
    (row,) = rows_of(effects, NodeChanged)
    assert (row.status, row.output, mark(row), row.ended_at_us) == (_N.SKIPPED, None, skipped_by_operator, rig.now_us)
    assign = only(effects, Assign)
    assert (assign.node_id, assign.input) == ("b", b"null")
    rig.finish("b", 3)
    assert only(rig.effects, Ended).output == b"3"


def test_what_is_completed_gives_what_the_operator_says() -> None:
    rig = working(two)
    effects = rig.act(COMPLETE, "a", value={"n": 1})
    row = next(row for row in rows_of(effects, NodeChanged) if row.node == 0)
    assert (row.status, row.output, mark(row)) == (_N.SUCCEEDED, b'{"n":1}', completed_by_operator)
    assert (only(effects, Assign).node_id, only(effects, Assign).input) == ("b", b'{"n":1}')
    ended = rig.act(COMPLETE, "b", value="done")
    assert only(ended, Ended).output == b'"done"'
    assert rows_of(ended, WorkflowUpdated)[0].status is WorkflowStatus.SUCCEEDED
    assert code(ended) == (AnswerCode.OK, True)


def test_outputs_that_operators_give_count_as_any_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "workflow_payload_bytes_max", 10)
    rig = working(two)
    assert code(rig.act(COMPLETE, "a", value=123_456)) == (AnswerCode.OK, True)
    assert "over 10 bytes" in refused(rig.act(COMPLETE, "b", value=123_456))


@pytest.mark.parametrize(("act", "given"), [(SKIP, b"null"), (COMPLETE, b"7")])
def test_what_has_ended_before_its_turn_is_not_started_when_its_turn_comes(act: NodeAct, given: bytes) -> None:
    rig = working(two)
    effects = rig.act(act, "b", value=7)
    assert not of(effects, Assign)
    assert only(rig.finish("a"), Ended).output == given
    assert [assign.node_id for assign in of(rig.effects, Assign)] == ["a"]


def test_the_workflow_is_there_and_the_node_and_the_instance() -> None:
    rig = working(fan, [1, 2])
    assert code(rig.act(SKIP, "each", workflow_id="other")) == (AnswerCode.NOT_FOUND, False)
    for node, instance, said in (
        ("no", -1, "has no node 'no'"),
        ("each", 2, "has 2 instances"),
        ("all", 0, "is no map"),
    ):
        answer = only(rig.act(SKIP, node, instance), Answer)
        assert answer.code is AnswerCode.NO_NODE
        assert said in answer.message


def test_nothing_is_done_to_a_workflow_that_is_ending() -> None:
    rig = working(two)
    rig.cancel()
    for act in NodeAct:
        assert "is CANCELLING" in refused(rig.act(act, "a"))
        assert "is CANCELLING" in refused(rig.act(act, "b"))
    rig.finish("a")
    assert code(rig.act(SKIP, "a")) == (AnswerCode.NOT_FOUND, False)


# -- maps ------------------------------------------------------------------------------------------------------------------


def test_instances_of_a_map_are_acted_on_one_by_one() -> None:
    rig = working(fan, [0, 1, 2, 3, 4])
    assert [assign.instance for _, assign in rig.running()] == [0, 1]
    effects = rig.act(SKIP, "each", 0)
    assert only(effects, Stop).assignment
    assert [assign.instance for assign in of(effects, Assign)] == [2], "its place among the parallel ones is free"
    assert not of(rig.act(COMPLETE, "each", 3, value="x"), Assign)
    rig.workers[1].running = {key: one for key, one in rig.workers[1].running.items() if one.instance}
    rig.finish("each", "one", instance=1)
    assert [assign.instance for _, assign in rig.running()] == [2, 4], "what has ended is passed over"
    rig.act(RETRY, "each", 4)
    rig.workers[1].running = {
        key: one for key, one in rig.workers[1].running.items() if one.attempt == 2 or one.instance == 2
    }
    assert sorted((assign.instance, assign.attempt) for _, assign in rig.running()) == [(2, 1), (4, 2)]
    rig.finish("each", "two", instance=2)
    rig.finish("each", "four", instance=4)
    assert rig.running("all")[0][1].input == b'[null,"one","two","x","four"]'


def test_a_map_whose_last_instances_are_skipped_while_they_wait_ends() -> None:
    rig = Rig()
    rig.submit(fan, value=[0, 1, 2])
    for instance in (2, 0, 1):
        assert code(rig.act(SKIP, "each", instance)) == (AnswerCode.OK, True)
    assert rig.engine.state.ready.items_of((0, "wf")) == [(1, -1)]
    rig.attach()
    assert rig.running("all")[0][1].input == b"[null,null,null]"
    rig.run_to_end()
    assert only(rig.effects, Ended).status is WorkflowStatus.SUCCEEDED


def test_a_retry_of_an_instance_that_waits_brings_it_forward_once() -> None:
    rig = working(fan, [0])
    rig.fail("each")
    assert code(rig.act(RETRY, "each", 0)) == (AnswerCode.OK, True)
    assert [assign.attempt for _, assign in rig.running()] == [2]
    rig.fail("each")
    assert not of(rig.after(59), Assign)
    assert [assign.attempt for assign in of(rig.after(70), Assign)] == [3]


def test_an_instance_is_tried_again_when_no_other_is_left_to_be_started() -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(fan, value=[0, 1])
    assert code(rig.act(SKIP, "each", 1)) == (AnswerCode.OK, True)
    rig.workers[1].running.clear()
    assert only(rig.act(RETRY, "each", 0), Assign).attempt == 2
    rig.finish("each", "zero")
    assert rig.running("all")[0][1].input == b'["zero",null]'


def test_a_map_as_a_whole_can_be_skipped_before_it_is_expanded_and_not_completed() -> None:
    plan = define([{"id": "a", "executor": "work"}, *({**node, "depends_on": ["a"]} for node in ([
        {"id": "each", "executor": "work", "map": {"over": "${a}"}}]
    )), {"id": "all", "executor": "work", "input": "${each}"}])  # fmt: skip
    rig = working(plan)
    assert "is a map, whose output" in refused(rig.act(COMPLETE, "each"))
    assert "is WAITING" in refused(rig.act(RETRY, "each"))
    assert code(rig.act(SKIP, "each")) == (AnswerCode.OK, True)
    assert rig.running("all")[0][1].input == b"null"
    rig.run_to_end()
    assert only(rig.effects, Ended).status is WorkflowStatus.SUCCEEDED
    rig = working(fan, [1, 2])
    for act in (SKIP, RETRY):
        assert "act on its instances" in refused(rig.act(act, "each"))


def test_what_is_skipped_before_a_wide_workflow_has_begun_as_a_whole_is_not_begun() -> None:
    rig = Rig(config=with_config(step_nodes=10))
    rig.at_once = False
    rig.submit(define([{"id": f"n{at}", "executor": "work"} for at in range(95)], output="${input}"))
    assert code(rig.act(SKIP, "n90")) == (AnswerCode.OK, True)
    while rig.engine.busy:
        rig.after(0)
    assert rig.engine.state.shards[0].workflows["wf"].statuses.count(_N.READY) == 94


def test_a_map_that_is_skipped_while_it_is_being_expanded_has_no_instances() -> None:
    rig = Rig(config=with_config(step_nodes=10))
    rig.at_once = False
    rig.attach()
    rig.submit(fan, value=list(range(95)))
    assert rig.engine.busy
    rig.act(SKIP, "each")
    while rig.engine.busy:
        rig.after(0)
    assert [assign.node_id for _, assign in rig.running()] == ["all"]


# -- what else a node may wait for -----------------------------------------------------------------------------------------


def test_a_superseded_attempt_gives_its_permit_to_another_node() -> None:
    limited = {"executor": "work", "concurrency": {"key": "db", "limit": 1}}
    rig = working(define([{"id": f"n{at}", **limited} for at in range(3)]))
    for skipped, following in (("n0", "n1"), ("n1", "n2")):
        assert [assign.node_id for _, assign in rig.running()][-1] == skipped
        assert [assign.node_id for assign in of(rig.act(SKIP, skipped), Assign)] == [following]
    rig.act(SKIP, "n2")
    assert only(rig.effects, Ended).status is WorkflowStatus.SUCCEEDED


def test_a_node_that_waits_for_a_permit_or_to_run_alone_can_be_skipped() -> None:
    limited = {"executor": "work", "concurrency": {"key": "db", "limit": 1}}
    rig = working(define([{"id": f"n{at}", **limited} for at in range(2)]))
    rig.act(SKIP, "n1")
    rig.finish("n0")
    assert only(rig.effects, Ended).status is WorkflowStatus.SUCCEEDED
    rig = Rig()
    rig.submit(define([{"id": "bomb", "executor": "work"}, {"id": "other", "executor": "other"}]))
    for number in range(limits.redeliveries_alone_min):
        rig.drop(rig.attach(f"w{number}"))
        rig.after(2)
    keep = rig.attach("keep", executors=("work", "other"))
    assert {assign.node_id for _, assign in rig.running()} == {"other"}
    assert code(rig.act(SKIP, "bomb")) == (AnswerCode.OK, True)
    rig.finish("other")
    assert only(rig.effects, Ended).status is WorkflowStatus.SUCCEEDED
    assert not rig.engine.state.reserved
    assert rig.engine.state.room(rig.engine.state.workers[keep.session]) == 10


def test_a_skip_of_what_an_absent_worker_runs_is_heard_when_it_is_back() -> None:
    rig = working(two)
    worker, first = rig.running("a")[0]
    rig.drop(worker)
    effects = rig.act(SKIP, "a")
    assert not of(effects, Stop)
    back = rig.attach(worker.name, incarnation=worker.incarnation, running=worker.running)
    assert [(stop.assignment, stop.cause) for stop in of(rig.effects, Stop)] == [
        (first.assignment, CancelCause.SUPERSEDED)
    ]
    late = ResultItem(0, first.assignment, _N.SUCCEEDED, b"1", None, 5)
    assert only(rig.report(back, late), Ack).disposition is Disposition.STALE


def test_a_node_that_is_bound_to_a_worker_is_tried_again_there() -> None:
    rig = Rig()
    for name in ("w1", "w2"):
        rig.attach(name, slots=1)
    nodes = [{"id": name, "executor": "work", "affinity": {"key": "k", "mode": "hard"}} for name in "ab"]
    rig.submit(define(nodes))
    (holder, running) = rig.running()[0]
    assert len(rig.running()) == 1, "the other one waits for the worker that has the key"
    effects = rig.act(SKIP, "b" if running.node_id == "a" else "a")
    assert not of(effects, Assign)
    del holder.running[running.shard, running.assignment]
    assert only(rig.act(RETRY, running.node_id), Assign).session == holder.session


# -- recovery --------------------------------------------------------------------------------------------------------------


def taken_over(rig: Rig, plan: Plan, config: EngineConfig | None = None) -> Rig:
    """Let another coordinator own the shard, whose workers are gone."""
    new = Rig(epoch=rig.epoch + 1, own=False, config=config)
    new.rows = rig.rows
    new.now_us = rig.now_us + SECOND
    new.step(ShardTaken(0, new.epoch, new.now_us, "e" * 32))
    for workflow in fold(rig.rows, {plan.hash: plan})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    return new


def test_a_successor_goes_on_from_what_operators_did() -> None:
    plan = define(
        [
            {"id": "skipped", "executor": "work"},
            {"id": "given", "executor": "work"},
            {"id": "sooner", "executor": "work", **slow},
            {"id": "anew", "executor": "anew"},
            {"id": "sum", "executor": "work", "input": ["${skipped}", "${given}"]},
        ]
    )
    rig = working(plan)
    anew = rig.attach("w2", executors=("anew",))
    rig.fail("sooner")
    rig.drop(rig.workers[1], goodbye=True)
    rig.act(SKIP, "skipped")
    rig.act(COMPLETE, "given", value=5)
    rig.act(RETRY, "sooner")
    rig.drop(anew)
    rig.act(RETRY, "anew")
    new = taken_over(rig, plan)
    new.attach(executors=("work", "anew"))
    wanted = only(new.effects, LoadOutputs)
    assert list(wanted.nodes) == [1], "null is not asked for"
    assert {assign.node_id: assign.attempt for _, assign in new.running()} == {"sooner": 2, "anew": 2}
    new.step(OutputsLoaded(0, "wf", {1: fold(rig.rows, {plan.hash: plan})[1]["wf"][1, -1]}))
    assert new.running("sum")[0][1].input == b"[null,5]"


def test_a_successor_starts_the_instances_that_were_not_skipped() -> None:
    plan = define([{"id": "each", "executor": "work", "map": {"over": "${input}", "max_parallel": 1},
                    "timeouts": {"schedule_to_start": "5s"}}])  # fmt: skip
    rig = working(plan, [0, 1, 2, 3])
    rig.act(SKIP, "each", 3)
    rig.finish("each", instance=0)
    new = taken_over(rig, plan)
    worker = new.attach()
    # That of the attempt which runs was lost with its worker; the third one waits for no deadline of its own.
    new.after(6)
    while new.running():
        new.finish("each")
    assert worker.running == {}
    assert sorted(assign.instance for assign in of(new.effects, Assign)) == [1, 2]


def test_a_skipped_map_is_null_when_it_is_read_from_the_database() -> None:
    plan = define(
        [
            {"id": "a", "executor": "a"},
            {"id": "each", "executor": "work", "map": {"over": "${a}"}, "depends_on": ["a"]},
            {"id": "all", "executor": "work", "input": "${each}", "depends_on": ["a"]},
        ]
    )
    rig = working(plan)
    rig.act(SKIP, "each")
    new = taken_over(rig, plan, with_config(payload_cache_bytes=1))
    new.attach(executors=("work", "a"))
    new.submit(two, "other")
    for worker, assign in reversed(new.running("a")):
        # That of the other workflow first, whose output takes the place of null in memory.
        new.end(worker, assign, _N.SUCCEEDED, b"[1]")
    wanted = of(new.effects, LoadOutputs)
    assert [(list(load.nodes), dict(load.widths)) for load in wanted if load.workflow_id == "wf"] == [([1], {})]


def test_a_skipped_map_is_null_to_a_successor() -> None:
    plan = define(
        [
            {"id": "a", "executor": "work"},
            {"id": "each", "executor": "work", "map": {"over": "${a}"}, "depends_on": ["a"]},
            {"id": "b", "executor": "other"},
            {"id": "all", "executor": "work", "input": "${each}", "depends_on": ["b"]},
        ]
    )
    rig = working(plan)
    rig.act(SKIP, "each")
    new = taken_over(rig, plan)
    new.attach(executors=("work", "other"))
    new.finish("b")
    assert new.running("all")[0][1].input == b"null"
