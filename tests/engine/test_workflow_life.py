"""From submit to end: order, data, failures, retries, timeouts, cancel."""

from typing import Any

import orjson
import pytest

from mainspring import limits
from mainspring.errors import Failure
from mainspring_coordinator.engine.effects import Ack, Answer, AnswerCode, Assign, CancelCause, Disposition, Ended, Stop
from mainspring_coordinator.engine.events import ProgressReported, ResultItem, ShardTaken
from mainspring_coordinator.engine.rows import (
    AttemptEnded,
    NodeAssigned,
    NodeChanged,
    PlanSaved,
    ProgressSaved,
    WorkflowInserted,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config

diamond: list[dict[str, Any]] = [
    {"id": "a", "executor": "work"},
    {"id": "b", "executor": "work", "input": {"from": "${a.x}"}},
    {"id": "c", "executor": "work", "input": "${a}"},
    {"id": "d", "executor": "work", "input": {"b": "${b}", "c": "${c}", "me": "${workflow.id}"}},
]


def test_a_diamond_runs_in_order_and_hands_data_on() -> None:
    rig = Rig()
    rig.attach()
    answer = rig.submit(define(diamond))
    assert (answer.code, answer.created, answer.status) == (AnswerCode.OK, True, WorkflowStatus.RUNNING)
    assert [assign.node_id for _, assign in rig.running()] == ["a"]
    rig.finish("a", {"x": 1})
    assert {assign.node_id: assign.input for _, assign in rig.running()} == {"b": b'{"from":1}', "c": b'{"x":1}'}
    rig.finish("b", "B")
    assert [assign.node_id for _, assign in rig.running()] == ["c"]
    effects = rig.finish("c", "C")
    assert orjson.loads(only(effects, Assign).input) == {"b": "B", "c": "C", "me": "wf"}
    ended = only(rig.finish("d", [1]), Ended)
    assert (ended.status, ended.output) == (WorkflowStatus.SUCCEEDED, b'{"d":[1]}')
    assert not rig.engine.state.shards[0].workflows


def test_a_hop_is_one_change_and_one_assignment() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(
        define([{"id": f"n{i}", "executor": "work", "depends_on": [f"n{i - 1}"] if i else []} for i in range(3)])
    )
    effects = rig.finish("n0")
    assert (
        len(rows_of(effects, NodeChanged))
        == len(rows_of(effects, NodeAssigned))
        == len(of(effects, Ack))
        == len(of(effects, Assign))
        == 1
    )
    assert len(effects) == 4


def test_the_same_submit_is_the_same_workflow_and_another_one_is_refused() -> None:
    rig = Rig()
    plan = define(diamond)
    assert rig.submit(plan, "wf", 1).created
    again = rig.submit(plan, "wf", 1)
    assert (again.code, again.created) == (AnswerCode.OK, False)
    assert rig.submit(plan, "wf", 2).code is AnswerCode.ALREADY_EXISTS
    assert len([row for row in rig.rows if isinstance(row, WorkflowInserted)]) == 1


def test_a_plan_is_stored_once_a_shard() -> None:
    rig = Rig()
    plan = define(diamond)
    for number in range(3):
        rig.submit(plan, f"wf{number}")
    assert len([row for row in rig.rows if isinstance(row, PlanSaved)]) == 1


def test_the_output_of_a_definition_is_what_it_names() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(diamond, output={"sum": "${d.total}", "in": "${input}"}), value=7)
    for node in "abc":
        rig.finish(node, {"x": 0})
    assert only(rig.finish("d", {"total": 5}), Ended).output == b'{"sum":5,"in":7}'


def test_a_failed_attempt_is_retried_with_growing_delays_and_then_fails_the_workflow() -> None:
    rig = Rig()
    rig.attach()
    retry = {"max_attempts": 3, "initial": "1s", "multiplier": 2, "jitter": 0}
    rig.submit(
        define([{"id": "a", "executor": "work", "retry": retry}, {"id": "z", "executor": "work", "depends_on": ["a"]}])
    )
    for delay in (1, 2):
        effects = rig.fail("a")
        row = rows_of(effects, NodeChanged)[0]
        assert (row.status, row.retry_at_us) == (NodeStatus.BACKOFF, rig.now_us + delay * SECOND)
        assert rows_of(effects, AttemptEnded)[0].attempt == delay
        assert not rig.running()
        assert not of(rig.after(delay - 0.001), Assign)
        assert of(rig.after(0.001), Assign)[0].attempt == delay + 1
    ended = only(rig.fail("a"), Ended)
    assert ended.status is WorkflowStatus.FAILED
    assert ended.failure is not None
    assert orjson.loads(ended.failure) == {"type": "ValueError", "message": "no", "node_id": "a"}


def test_nodes_without_a_number_of_attempts_get_max_retries_more_than_one() -> None:
    rig = Rig(config=with_config(max_retries=1))
    rig.attach()
    rig.submit(define([{"id": "a", "executor": "work"}]))
    assert not of(rig.fail("a"), Ended)
    rig.after(10)
    assert only(rig.fail("a"), Ended).status is WorkflowStatus.FAILED


@pytest.mark.parametrize("failure", [Failure("Fatal", "x"), Failure("Other", "x", non_retryable=True)])
def test_a_non_retryable_failure_is_final(failure: Failure) -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{"id": "a", "executor": "work", "retry": {"non_retryable": ["Fatal"]}}]))
    assert only(rig.fail("a", failure), Ended).status is WorkflowStatus.FAILED


def test_an_allowed_failure_is_null_for_those_who_come_after() -> None:
    rig = Rig()
    rig.attach()
    nodes: list[dict[str, Any]] = [
        {"id": "a", "executor": "work", "allow_failure": True, "retry": {"max_attempts": 1}},
        {"id": "b", "executor": "work", "input": {"a": "${a}"}},
    ]
    rig.submit(define(nodes))
    assert only(rig.fail("a"), Assign).input == b'{"a":null}'
    assert only(rig.finish("b"), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_failing_workflow_stops_what_runs_and_ends_when_it_has_stopped() -> None:
    rig = Rig()
    rig.attach()
    once = {"max_attempts": 1}
    rig.submit(
        define(
            [
                {"id": "a", "executor": "work", "retry": once},
                {"id": "b", "executor": "work"},
                {"id": "c", "executor": "none"},
            ]
        )
    )
    effects = rig.fail("a")
    assert only(effects, Stop).cause is CancelCause.WORKFLOW_FAILED
    assert not of(effects, Ended)
    worker, assign = rig.running("b")[0]
    effects = rig.end(worker, assign, NodeStatus.CANCELLED)
    assert only(effects, Ended).status is WorkflowStatus.FAILED
    assert rows_of(effects, NodeChanged)[0].status is NodeStatus.CANCELLED
    assert not rig.engine.state.ready.waiting


def test_a_cancel_reaches_what_runs_and_its_late_result_frees_nothing() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(diamond))
    answer = rig.cancel()
    assert (answer.code, answer.status) == (AnswerCode.OK, WorkflowStatus.CANCELLING)
    assert rig.cancel().status is WorkflowStatus.CANCELLING
    effects = rig.finish("a")
    assert not of(effects, Assign)
    assert only(effects, Ended).status is WorkflowStatus.CANCELLED
    assert rows_of(effects, NodeChanged)[0].status is NodeStatus.SUCCEEDED
    assert rig.cancel().code is AnswerCode.NOT_FOUND


def test_a_cancel_with_nothing_running_ends_at_once() -> None:
    rig = Rig()
    rig.submit(define(diamond))
    assert rig.cancel().status is WorkflowStatus.CANCELLED


def test_a_worker_that_ignores_a_cancel_cannot_hold_the_workflow_open() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(diamond))
    rig.cancel()
    assert not of(rig.after(29.9), Ended)
    effects = rig.after(0.2)
    assert only(effects, Ended).status is WorkflowStatus.CANCELLED
    worker, assign = next(iter(rig.workers.values())), rig.running()[0][1]
    late = rig.report(worker, ResultItem(0, assign.assignment, NodeStatus.SUCCEEDED, b"1", None, 1))
    assert only(late, Ack).disposition is Disposition.STALE


def test_a_workflow_that_runs_out_of_time_fails() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(diamond, timeout="10s"))
    effects = rig.after(10)
    assert only(effects, Stop).cause is CancelCause.WORKFLOW_FAILED
    worker, assign = rig.running()[0]
    ended = only(rig.end(worker, assign, NodeStatus.CANCELLED), Ended)
    assert ended.failure is not None
    assert orjson.loads(ended.failure)["type"] == "mainspring.WorkflowTimeout"


def test_a_node_that_no_worker_takes_in_time_fails_with_the_next_step() -> None:
    rig = Rig()
    rig.submit(define([{"id": "a", "executor": "nobody", "timeouts": {"schedule_to_start": "5s"}}]))
    assert rig.read().view is not None
    ended = only(rig.after(5), Ended)
    assert ended.failure is not None
    failure = orjson.loads(ended.failure)
    assert (failure["type"], failure["node_id"]) == ("mainspring.ScheduleToStartTimeout", "a")
    assert "nobody" in failure["message"]


def test_an_attempt_that_runs_too_long_is_ended_should_its_worker_not_do_it() -> None:
    rig = Rig(config=with_config(timeout_slack_us=SECOND))
    rig.attach()
    rig.submit(
        define(
            [
                {
                    "id": "a",
                    "executor": "work",
                    "timeouts": {"start_to_close": "5s"},
                    "retry": {"max_attempts": 2, "initial": "1s", "jitter": 0},
                }
            ]
        )
    )
    assert not of(rig.after(5.9), Stop)
    effects = rig.after(0.1)
    assert only(effects, Stop).cause is CancelCause.TIMED_OUT
    assert rows_of(effects, NodeChanged)[0].status is NodeStatus.BACKOFF
    assert only(rig.after(1), Assign).attempt == 2


def test_deadlines_of_what_ended_in_time_do_not_fill_the_memory() -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(define([{"id": "a", "executor": "work", "timeouts": {"start_to_close": "1h"}}]), "late")
    plan = define(
        [{"id": "a", "executor": "work", "timeouts": {"start_to_close": "1d", "schedule_to_start": "1d"}}], timeout="1d"
    )
    for number in range(2_000):
        rig.submit(plan, f"wf-{number}")
        rig.cancel(f"wf-{number}")
    assert len(rig.engine.state.timers) < 2_000
    stop = only(rig.after(3_602), Stop)
    assert (stop.workflow_id, stop.cause) == ("late", CancelCause.TIMED_OUT), "and those of the others do their part"


def test_an_input_that_cannot_be_made_fails_the_node_with_the_expression() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{"id": "a", "executor": "work", "input": "${sum(input)}"}]), value="text")
    ended = next(effect for effect in rig.effects if isinstance(effect, Ended))
    assert ended.failure is not None
    failure = orjson.loads(ended.failure)
    assert failure["type"] == "mainspring.PathError"
    assert "sum(input)" in failure["message"]


def test_progress_is_kept_for_the_next_attempt() -> None:
    rig = Rig()
    worker = rig.attach()
    rig.submit(define([{"id": "a", "executor": "work"}]))
    assign = rig.running()[0][1]
    assert assign.progress is None
    rig.step(ProgressReported(worker.session, 0, assign.assignment, b'{"at":3}'))
    view = rig.read().view
    assert view is not None
    assert [row.version for row in rows_of(rig.effects, ProgressSaved)] == [view.version], (
        "a successor knows the rows alone"
    )
    rig.fail("a")
    assert only(rig.after(5), Assign).progress == b'{"at":3}'


def test_progress_of_what_has_ended_is_not_kept_in_memory() -> None:
    plan = define([{"id": "each", "executor": "work", "map": {"over": "${input}"}}])
    rig = Rig()
    worker = rig.attach()
    rig.submit(plan, value=[1, 2, 3])
    for _, assign in rig.running():
        rig.step(ProgressReported(worker.session, 0, assign.assignment, b"1"))
    rig.finish()
    kept = {(0, 1), (0, 2)}
    assert rig.engine.state.shards[0].workflows["wf"].progress.keys() == kept
    new = Rig(epoch=2, own=False)
    new.step(ShardTaken(0, 2, new.now_us, "e" * 32))
    new.step(fold(rig.rows, {plan.hash: plan})[0][0])
    assert new.engine.state.shards[0].workflows["wf"].progress.keys() == kept


def test_the_plans_that_are_known_to_be_stored_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "plans_a_shard_max", 2)
    rig = Rig()
    for number in range(5):
        rig.submit(define([{"id": f"n{number}", "executor": "work"}]), f"wf-{number}")
    assert len(rig.engine.state.shards[0].plans) <= 2
    assert len(rows_of(rig.effects, PlanSaved)) == 5


def test_versions_go_up_by_one_a_batch() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(diamond))
    versions = [rig.read().view.version]  # type: ignore[union-attr]  # it is there
    for node in "abc":
        rig.finish(node, {"x": 1})
        versions.append(rig.read().view.version)  # type: ignore[union-attr]  # it is there
    assert versions == [1, 2, 3, 4]


def test_a_failed_workflow_tells_why_ready_nodes_waited() -> None:
    rig = Rig()
    rig.submit(define([{"id": "a", "executor": "x"}]))
    answer = rig.read()
    assert answer.view is not None
    assert answer.view.reasons == {0: "no worker is attached; start one with `mainspring worker`"}
    rig.attach(executors=["y"])
    answer = rig.read()
    assert answer.view is not None
    assert answer.view.reasons == {0: "no worker runs executor 'x'; start one that registers it"}


def test_every_end_is_one_row_and_one_effect() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(diamond))
    rig.run_to_end()
    assert [row.status for row in rig.rows if isinstance(row, WorkflowUpdated)] == [WorkflowStatus.SUCCEEDED]
    assert len(of(rig.effects, Ended)) == 1
    assert len(of(rig.effects, Answer)) == 1


def test_more_unfinished_workflows_than_a_shard_takes_are_told_to_come_back() -> None:
    rig = Rig(config=with_config(open_workflows_a_shard=2))
    rig.attach()
    one = define([{"id": "a", "executor": "work"}])
    assert [rig.submit(one, f"w{n}").code for n in range(3)] == [AnswerCode.OK, AnswerCode.OK, AnswerCode.BUSY]
    refused = rig.submit(one, "w2")
    assert refused.message == (
        "shard 0 has 2 unfinished workflows (MAX_OPEN_WORKFLOWS); submit again when some have ended"
    )
    assert rig.submit(one, "w1").code is AnswerCode.OK, "one that is there is no new one"
    rig.finish()
    assert rig.submit(one, "w2").code is AnswerCode.OK
