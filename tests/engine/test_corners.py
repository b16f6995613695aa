"""Things that meet in unlucky moments: ends while closing, timers of the past, counts across takeovers."""

from typing import Any

from mainspring import limits
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Assign, Ended, LoadOutputs
from mainspring_coordinator.engine.events import (
    Cancel,
    Inventory,
    OutputsLoaded,
    ShardLost,
    ShardReady,
    ShardTaken,
    Submit,
    SubmitExisted,
)
from mainspring_coordinator.engine.status import WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, with_config
from tests.engine.test_recovery import Cluster

one = [{"id": "a", "executor": "work"}]
big = "x" * (limits.payload_bytes_max - 10)


def test_an_attempt_that_fails_while_its_workflow_is_cancelled_ends_the_cancel() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(one))
    rig.cancel()
    assert only(rig.fail("a"), Ended).status is WorkflowStatus.CANCELLED


def test_the_second_failure_of_a_failing_workflow_does_not_replace_the_first() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{"id": name, "executor": "work", "retry": {"max_attempts": 1}} for name in "ab"]))
    rig.fail("a")
    ended = only(rig.fail("b"), Ended)
    assert ended.status is WorkflowStatus.FAILED
    assert ended.failure is not None
    assert b'"a"' in ended.failure


def test_a_failed_attempt_that_was_redelivered_has_a_new_number_after_a_takeover_too() -> None:
    cluster = Cluster(define([{"id": "a", "executor": "work", "retry": {"initial": "1s", "jitter": 0}}]))
    worker = cluster.rig.attach("w1")
    cluster.rig.submit(cluster.plan)
    cluster.rig.drop(worker)
    cluster.rig.attach("w2")
    cluster.rig.after(3)
    cluster.take_over()
    cluster.rig.fail("a")
    assert only(cluster.rig.after(2), Assign).attempt == 2


def test_a_shard_with_a_map_that_failed_after_it_was_expanded_can_be_recovered() -> None:
    over = {"id": "m", "executor": "work", "map": {"over": "${input}"}, "input": "${item}"}
    cluster = Cluster(define([over, {"id": "other", "executor": "other"}]))
    cluster.rig.attach("w1", slots=30)
    cluster.rig.attach("w2", executors=("other",))
    cluster.rig.submit(cluster.plan, value=list(range(17)))
    for _ in range(17):
        cluster.rig.finish("m", big)
    cluster.take_over()
    assert cluster.rig.read().status is WorkflowStatus.FAILING


def test_nobody_hears_of_changes_of_a_workflow_whose_id_was_taken() -> None:
    rig = Rig()
    rig.engine.step(Submit(1, 0, "wf", define(one), b"1", b"digest", "load-balanced"), rig.now_us)
    rig.engine.step(SubmitExisted(0, "wf", b"digest", WorkflowStatus.SUCCEEDED), rig.now_us)
    assert not rig.engine.cut()


def test_with_failover_off_work_from_before_a_takeover_goes_to_a_worker_of_the_same_name() -> None:
    config = with_config(failover=False)
    old = Rig(config=config)
    old.attach("w1")
    plan = define(one)
    old.submit(plan)
    new = Rig(epoch=2, own=False, config=config)
    new.step(ShardTaken(0, 2, new.now_us, "e" * 32))
    for workflow in fold(old.rows, {plan.hash: plan})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    new.attach("other")
    assert not of(new.after(60), Assign)
    worker = new.attach("w1")
    assert only(new.after(60), Assign).session in {worker.session, worker.session - 1}


def test_what_a_node_frees_that_could_not_be_assigned_is_assigned_in_the_same_step() -> None:
    rig = Rig()
    rig.attach()
    too_large = {"one": "${z}", "two": "${z}"}
    rig.submit(
        define(
            [
                {"id": "z", "executor": "work"},
                {"id": "a", "executor": "work", "input": too_large, "allow_failure": True},
                {"id": "b", "executor": "work", "depends_on": ["a"]},
            ]
        )
    )
    assert [assign.node_id for assign in of(rig.finish("z", big), Assign)] == ["b"]


def test_the_deadline_of_an_ended_workflow_does_not_end_a_later_one_of_the_same_id() -> None:
    rig = Rig()
    rig.attach()
    plan = define(one, timeout="10s")
    rig.submit(plan)
    rig.finish("a")
    rig.now_us += 8 * SECOND
    rig.submit(plan)
    assert not of(rig.after(3), Ended)
    assert rig.read().status is WorkflowStatus.RUNNING


def test_a_node_whose_time_to_start_passed_while_its_input_was_loaded_stays_failed() -> None:
    nodes: list[dict[str, Any]] = [
        {"id": "z", "executor": "work"},
        {
            "id": "a",
            "executor": "late",
            "input": "${z}",
            "allow_failure": True,
            "timeouts": {"schedule_to_start": "5s"},
        },
        {"id": "keep", "executor": "nobody"},
    ]
    cluster = Cluster(define(nodes))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    cluster.rig.finish("z", 1)
    cluster.take_over()
    rig = cluster.rig
    rig.attach("late", executors=("late",))
    wanted = only(of(rig.effects, LoadOutputs), LoadOutputs)
    rig.after(6)
    assert not of(rig.step(OutputsLoaded(0, "wf", dict.fromkeys(wanted.nodes, b"1"))), Assign)


def test_calls_and_inventories_that_wait_for_a_recovery_outlive_its_second_beginning() -> None:
    rig = Rig(own=False, epoch=2)
    rig.step(ShardTaken(0, 2, rig.now_us, "e" * 32))
    rig.attach()
    rig.step(Cancel(7, 0, "wf", ""))
    rig.step(ShardTaken(0, 2, rig.now_us, "e" * 32))
    waiting = rig.engine.state.shards[0].deferred
    assert [type(event) for event in waiting] == [Inventory, Cancel]
    assert only(rig.step(ShardLost(0)), Answer).code is AnswerCode.NOT_OWNER


def test_a_submit_in_the_batch_that_holds_the_end_finds_what_has_ended() -> None:
    rig = Rig()
    plan = define([{"id": "a", "executor": "work"}])
    cut = rig.engine.cut
    rig.engine.cut = list  # type: ignore[method-assign]  # one batch goes on
    rig.submit(plan)
    rig.cancel()
    stored = len(rig.rows)
    again = rig.submit(plan)
    assert (again.code, again.status, again.created) == (AnswerCode.OK, WorkflowStatus.CANCELLED, False)
    assert rig.submit(plan, value="another").code is AnswerCode.ALREADY_EXISTS
    assert len(rig.rows) == stored
    cut()
    assert rig.submit(plan).created, "what the database has by now, it finds by itself"


def test_no_version_is_told_that_no_row_holds() -> None:
    rig = Rig()
    worker = rig.attach(slots=1)
    rig.submit(define([{"id": "a", "executor": "work", "retry": {"max_attempts": 2, "initial": "1s"}}]))
    rig.fail()
    rig.drop(worker, goodbye=True)
    before = rig.read().view
    stored = len(rig.rows)
    rig.after(2)
    after = rig.read().view
    assert before is not None
    assert after is not None
    assert len(rig.rows) == stored, "that the retry is due is not written before a worker takes it"
    assert after.version == before.version
