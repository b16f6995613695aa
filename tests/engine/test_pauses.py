"""Pauses: what is not given out any more, what goes on meanwhile, and in which order things go on afterwards."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from mainspring import limits
from mainspring_coordinator.engine.backlog import Backlog
from mainspring_coordinator.engine.effects import (
    Answer,
    AnswerCode,
    Assign,
    Ended,
    ReportBacklog,
    Verdict,
)
from mainspring_coordinator.engine.events import CreditSet, Read, ShardLost, ShardReady, ShardTaken
from mainspring_coordinator.engine.operator_events import PauseSet, PausesSeen, WorkflowPauseSet
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause, utc
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.ready import ClassKey, Rank, ReadyQueue
from mainspring_coordinator.engine.rows import NodeAssigned, PausesChanged, WorkflowPaused
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.pausing import fan, in_order, kinds, names, pause, resume, step
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config


@pytest.mark.parametrize("kind", kinds)
def test_nothing_is_given_out_while_what_runs_runs_on_and_all_goes_on_in_its_order(kind: str) -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(fan(4))
    answer = pause(rig, kind)
    assert (answer.code, answer.created, answer.pause) == (AnswerCode.OK, True, Pause(rig.now_us, "ann", "a fire"))
    assert not of(rig.finish("n0"), Assign)
    assert not rig.running()
    assert rig.submit(fan(1), "later").created, "workflows are taken"
    assert names(rig.after(3_600)) == []
    if kind == "workflow":
        assert [one.workflow_id for _, one in rig.running()] == ["later"]
        rig.finish()
    assert resume(rig, kind) == ["n1"]
    # Where "later" was paused as well, it takes its turn.
    assert in_order(rig) == ["n1", *["n0"] * (kind != "workflow"), "n2", "n3"]
    assert not rig.engine.state.shards[0].workflows


@pytest.mark.parametrize("kind", kinds)
def test_nobody_is_asked_to_keep_room_for_what_is_paused(kind: str) -> None:
    rig = Rig()
    worker = rig.attach(slots=1)
    rig.submit(fan(3))
    assert rig.backlogged == {worker.session}
    effects = step(rig, kind, paused=True)
    assert [one.waiting for one in of(effects, ReportBacklog)] == [0]
    assert not of(rig.finish(), ReportBacklog)
    rig.submit(fan(1), "more")
    if kind == "workflow":
        rig.finish()
    assert rig.backlogged == set()
    step(rig, kind, paused=False)
    assert rig.backlogged == {worker.session}


@pytest.mark.parametrize("kind", kinds)
def test_what_becomes_empty_and_full_again_while_paused_is_still_asked_for_by_nobody(kind: str) -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(fan(2))
    pause(rig, kind)
    rig.cancel()
    rig.finish()
    rig.submit(fan(2), "wf")
    assert rig.backlogged == set() or kind == "workflow", "a workflow's pause ends with it"


def test_a_class_that_empties_and_fills_in_the_step_that_pauses_it_is_asked_for_by_nobody() -> None:
    queue, backlog, key = ReadyQueue(SECOND), Backlog(), ClassKey("work", ())

    def push() -> None:
        queue.push(key, (0, "wf"), Rank(0), (0, -1), lambda _: {7: None}, 1)

    push()
    assert list(backlog.changes(queue)) == [(7, 1)]
    queue.put_in_force(ClusterPauses(Pause(1, "ann", ""), {}, 1))
    queue.take(queue.waiting[key], (0, "wf"), 1)
    push()
    assert list(backlog.changes(queue)) == [(7, 0)]


def test_what_other_executors_run_goes_on() -> None:
    rig = Rig()
    rig.attach(executors=("work", "other"))
    pause(rig, "executor")
    rig.submit(define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "other"}]))
    assert [one.node_id for _, one in rig.running()] == ["b"]
    assert resume(rig, "executor") == ["a"]


def test_an_executor_that_nobody_has_is_paused_should_it_come() -> None:
    rig = Rig()
    pause(rig, "executor", "new")
    rig.submit(define([{"id": "a", "executor": "new"}]))
    rig.attach(executors=("new",))
    assert not rig.running()
    assert resume(rig, "executor", "new") == ["a"]


def test_each_pause_is_one_by_itself() -> None:
    rig = Rig()
    rig.attach()
    for kind in kinds[:2]:
        pause(rig, kind)
    rig.submit(fan(1))
    pause(rig, "workflow")
    assert resume(rig, "cluster") == []
    assert resume(rig, "executor") == []
    assert resume(rig, "workflow") == ["n0"]


@pytest.mark.parametrize("kind", kinds)
def test_to_pause_twice_and_to_resume_what_is_not_paused_change_nothing_and_say_so(kind: str) -> None:
    rig = Rig()
    rig.submit(fan(1))
    pause(rig, kind)
    rig.now_us += 5 * SECOND
    effects = rig.step(
        WorkflowPauseSet(9, 0, "wf", True, "bob", "else")
        if kind == "workflow"
        else PauseSet(9, 0, "work" if kind == "executor" else "", True, "bob", "else")
    )
    answer = only(effects, Answer)
    assert (answer.created, answer.pause) == (False, Pause(rig.now_us - 5 * SECOND, "ann", "a fire"))
    assert not rows_of(effects, PausesChanged) + rows_of(effects, WorkflowPaused)
    assert only(step(rig, kind, paused=False), Answer).created
    answer = only(step(rig, kind, paused=False), Answer)
    assert (answer.created, answer.pause) == (False, None)


def test_a_pause_is_not_older_than_its_workflow_though_the_databases_clock_went_back() -> None:
    rig = Rig()
    submitted_us = rig.now_us
    rig.submit(fan(1))
    rig.now_us -= 3 * SECOND
    pause(rig, "workflow")
    # Else who reads it would take it for that of an earlier workflow of this id.
    assert rows_of(rig.effects, WorkflowPaused)[-1].since_us == submitted_us


def test_only_a_workflow_that_is_there_and_goes_on_is_paused() -> None:
    rig = Rig()
    rig.attach()
    assert pause(rig, "workflow", "nobody").code is AnswerCode.NOT_FOUND
    rig.submit(fan(1))
    rig.cancel()
    answer = pause(rig, "workflow")
    assert (answer.created, answer.status) == (False, WorkflowStatus.CANCELLING)


def test_who_does_not_own_shard_0_pauses_nothing() -> None:
    rig = Rig(own=False)
    for kind in kinds:
        assert pause(rig, kind).code is AnswerCode.NOT_OWNER
    assert not rig.engine.state.ready.pauses


def test_so_many_executors_are_paused_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(limits, "pauses_max", 1)
    pause(rig, "executor", "a")
    answer = pause(rig, "executor", "b")
    assert answer.code is AnswerCode.REFUSED
    assert "1 executors are paused" in answer.message
    assert not rig.engine.state.ready.pauses.get("b")
    monkeypatch.setattr(limits, "pauses_max", 9)
    monkeypatch.setattr(limits, "pauses_bytes_max", 40)
    assert pause(rig, "cluster").code is AnswerCode.REFUSED


def test_a_workflow_that_is_cancelled_or_ends_is_paused_no_more() -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(fan(2))
    pause(rig, "workflow")
    rig.cancel()
    rig.finish()
    assert only(rig.effects, Ended).status is WorkflowStatus.CANCELLED
    rig.submit(fan(1), "last")
    pause(rig, "workflow", "last")
    rig.finish()
    assert of(rig.effects, Ended)[-1].status is WorkflowStatus.SUCCEEDED
    stored = {row.workflow_id: row.since_us for row in rig.rows if isinstance(row, WorkflowPaused)}
    assert stored == {"wf": 0, "last": 0}
    assert not rig.engine.state.ready.paused


@pytest.mark.parametrize("kind", kinds)
def test_deadlines_go_on(kind: str) -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(fan(2, timeouts={"schedule_to_start": "5s"}))
    pause(rig, kind)
    rig.after(6)
    view = rig.read().view
    assert view is not None
    assert view.statuses[1] == NodeStatus.FAILED
    rig.finish()
    failure = only(rig.effects, Ended).failure
    assert failure is not None
    assert b"no worker took it within 5000 ms; it is paused by ann" in failure


@pytest.mark.parametrize("kind", kinds)
def test_what_is_tied_to_a_worker_waits_for_the_end_of_the_pause_as_well(kind: str) -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(fan(4, affinity={"key": "k", "mode": "hard"}))
    rig.attach("w2")
    assert len(rig.engine.state.ready.tied_items_of((0, "wf"))) == 3
    pause(rig, kind)
    rig.finish("n0")
    rig.after(5)
    assert not rig.running()
    assert resume(rig, kind) == ["n1"]
    assert in_order(rig) == ["n1", "n2", "n3"]


@pytest.mark.parametrize("kind", kinds)
def test_what_waits_near_its_inputs_waits_for_the_end_of_the_pause_as_well(kind: str) -> None:
    rig = Rig(config=with_config(strategy="locality"))
    rig.attach("near", slots=1, host="a")
    rig.submit(define([{"id": "made", "executor": "work"}, {"id": "used", "executor": "work", "input": "${made}"}]))
    rig.finish("made")
    rig.submit(define([{"id": "b", "executor": "work"}]), "other")
    worker, used = rig.running("used")[0]
    rig.attach("far", slots=1, host="b")
    pause(rig, kind)
    rig.end(worker, used, NodeStatus.READY)
    rig.after(5)
    assert not rig.running("used")
    assert resume(rig, kind) == ["used"]


@pytest.mark.parametrize("kind", kinds)
def test_no_worker_is_kept_for_a_node_that_must_run_alone_and_is_paused(kind: str) -> None:
    rig = Rig()
    rig.submit(fan(1), "killer")
    for number in range(2):
        rig.drop(rig.attach(f"victim{number}", slots=2))
        rig.after(3)
    rig.submit(fan(3), "wf")
    rig.attach(slots=2)
    assert rig.engine.state.reserved
    pause(rig, kind, "killer" if kind == "workflow" else "")
    assert not rig.engine.state.reserved
    rig.finish()
    if kind == "workflow":
        assert len(rig.running()) == 2, "others have the room"
        rig.run_to_end()
    else:
        rig.finish()
    assert not rig.running()
    resume(rig, kind, "killer" if kind == "workflow" else "")
    rig.run_to_end()
    assert not rig.engine.state.shards[0].workflows


@pytest.mark.parametrize("kind", kinds)
def test_instances_of_a_map_begin_again_where_they_stood(kind: str) -> None:
    rig = Rig()
    rig.attach(slots=2)
    rig.submit(define([{"id": "each", "executor": "work", "map": {"over": "${input}"}}]), value=list(range(6)))
    pause(rig, kind)
    worker, first = rig.running()[0]
    rig.end(worker, first, NodeStatus.READY)
    rig.finish()
    assert not rig.running()
    effects = step(rig, kind, paused=False)
    assert [one.instance for one in of(effects, Assign)] == [0, 2]
    rig.run_to_end()
    assert only(rig.effects, Ended).status is WorkflowStatus.SUCCEEDED


@pytest.mark.parametrize("kind", kinds)
def test_what_comes_back_while_paused_stands_before_what_waited_and_retries_behind_it(kind: str) -> None:
    rig = Rig()
    worker = rig.attach(slots=2)
    rig.submit(fan(4, retry={"initial": "1s"}))
    pause(rig, kind)
    rig.fail("n0")
    rig.after(2)
    _, second = rig.running("n1")[0]
    rig.end(worker, second, NodeStatus.READY)
    resume(rig, kind)
    assert in_order(rig) == ["n1", "n2", "n3", "n0"]


def test_priorities_hold_within_a_workflow_that_goes_on() -> None:
    rig = Rig()
    nodes = [{"id": f"p{at}", "executor": "work", "priority": at} for at in (1, 9, 5)]
    rig.submit(define(nodes))
    pause(rig, "workflow")
    rig.attach(slots=1)
    resume(rig, "workflow")
    assert in_order(rig) == ["p9", "p5", "p1"]


@pytest.mark.parametrize("kind", kinds)
def test_a_worker_at_its_bound_of_workflows_takes_no_node_that_is_paused(kind: str) -> None:
    rig = Rig()
    rig.attach(slots=3, workflows_max=1)
    rig.step(CreditSet(1, 2, 1))
    rig.submit(fan(3))
    rig.step(CreditSet(1, 3, 2))
    pause(rig, kind)
    before = len(rig.running())
    rig.step(CreditSet(1, 4, 3))
    assert len(rig.running()) == before
    resume(rig, kind)
    assert len(rig.running()) == 3


def take_over(old: Rig, plans: Sequence[Plan], *, seen: bytes | None = None) -> Rig:
    """Let a new owner read back what an old one has stored."""
    new = Rig(own=False, epoch=2)
    new.now_us = old.now_us
    new.step(ShardTaken(0, 2, new.now_us, "f" * 32))
    new.step(PausesSeen(seen))
    for workflow in fold(old.rows, {plan.hash: plan for plan in plans})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    return new


def test_a_new_owner_honours_the_pause_of_a_workflow_before_its_first_assignment() -> None:
    plan = fan(3)
    old = Rig()
    old.submit(plan)
    since_us = old.now_us
    pause(old, "workflow")
    old.now_us += 9 * SECOND
    new = take_over(old, [plan])
    new.attach(slots=1)
    assert not new.running()
    view = new.read().view
    assert view is not None
    assert view.pause == Pause(since_us, "ann", "a fire")
    assert resume(new, "workflow") == ["n0"]
    assert in_order(new) == ["n0", "n1", "n2"]


@pytest.mark.parametrize("kind", kinds[:2])
def test_a_new_owner_honours_what_the_fence_row_says_before_its_first_assignment(kind: str) -> None:
    plan = fan(2)
    old = Rig()
    old.submit(plan)
    (row,) = rows_of(step(old, kind, paused=True), PausesChanged)
    new = take_over(old, [plan], seen=row.standing)
    new.attach(slots=1)
    assert not new.running()
    assert new.engine.state.ready.pauses == old.engine.state.ready.pauses
    assert resume(new, kind) == ["n0"]


def test_what_is_held_back_until_a_worker_came_can_be_paused_and_go_on() -> None:
    plan = fan(3)
    old = Rig()
    old.submit(plan)
    new = take_over(old, [plan])
    pause(new, "workflow")
    new.attach(slots=1)
    assert not new.running()
    resume(new, "workflow")
    assert in_order(new) == ["n0", "n1", "n2"]
    again = take_over(old, [plan])
    pause(again, "workflow")
    resume(again, "workflow")
    assert not again.engine.state.ready.waiting, "it is held back as before"
    again.attach(slots=1)
    assert in_order(again) == ["n0", "n1", "n2"]


def test_every_coordinator_follows_what_it_reads_and_nothing_older() -> None:
    owner, peer = Rig(), Rig()
    peer.attach(slots=1)
    rows = [rows_of(step(owner, "executor", paused=wanted), PausesChanged)[0] for wanted in (True, False, True)]
    assert len({ClusterPauses.parse(row.standing).changed_at_us for row in rows}) == 3
    peer.step(PausesSeen(rows[2].standing))
    peer.submit(fan(1))
    for row in rows[:2]:
        peer.step(PausesSeen(row.standing))
    peer.step(PausesSeen(None))
    assert not peer.running()
    owner.step(ShardLost(0))
    owner.step(PausesSeen(rows[1].standing))
    assert not owner.engine.state.ready.pauses, "what it set last may never have been stored"


def test_who_waits_until_a_pause_is_seen_is_answered() -> None:
    rig = Rig()
    answer = only(rig.step(PausesSeen(ClusterPauses(Pause(1, "a", "b"), {}, 5).data(), 17, 0)), Answer)
    assert (answer.token, answer.shard, answer.code) == (17, 0, AnswerCode.OK)
    assert rig.engine.state.ready.pauses


@pytest.mark.parametrize("kind", kinds)
def test_an_explanation_says_who_paused_it_since_when_why_and_how_it_goes_on(kind: str) -> None:
    rig = Rig()
    rig.attach()
    rig.submit(fan(1))
    rig.run_to_end()
    pause(rig, kind if kind != "workflow" else "executor", "work")
    rig.submit(fan(1), "wf")
    if kind == "workflow":
        pause(rig, kind)
        resume(rig, "executor")
    what, how = {
        "cluster": ("the whole cluster is", "--all"),
        "executor": ("executor 'work' is", "--executor work"),
        "workflow": ("its workflow is", "--workflow wf"),
    }[kind]
    said = f"{what} paused by ann since 1970-01-01T00:16:40Z: a fire; resume with: mainspring resume {how}"
    told = only(rig.step(Read(5, 0, "wf", about=("n0", -1))), Answer).explanation
    assert told is not None
    assert told.nodes[0].reason == said
    assert [one.verdict for one in told.workers] == [Verdict.PAUSED]
    whole = only(rig.step(Read(5, 0, "wf", about=("", -1))), Answer).explanation
    assert whole is not None
    assert (whole.nodes[0].reason, whole.pause is not None) == (said, kind == "workflow")
    view = rig.read().view
    assert view is not None
    assert view.reasons[0] == said


def test_pauses_are_read_as_they_were_written_and_as_a_later_version_writes_them() -> None:
    pauses = ClusterPauses(None, {"é": Pause(1, "ann", "x"), "b": Pause(2, "bob", "")}, 7)
    assert ClusterPauses.parse(pauses.data()) == pauses
    assert ClusterPauses.parse(pauses.data()[:-1] + b',"new":1}') == pauses
    assert ClusterPauses.parse(None) == ClusterPauses() == ClusterPauses.parse(b"")


@pytest.mark.parametrize("at_s", [0, 951_782_399, 951_868_800, 1_709_164_800, 4_107_542_400, 1_795_700_611])
def test_times_are_told_as_a_calendar_does(at_s: int) -> None:
    assert utc(at_s * SECOND + 5) == datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_nothing_of_what_is_paused_is_ever_stored_as_assigned() -> None:
    rig = Rig()
    rig.attach()
    pause(rig, "cluster")
    for number in range(3):
        rig.submit(fan(3), f"wf{number}")
    rig.drop(rig.attach("w2"))
    rig.after(60)
    assert not [row for row in rig.rows if isinstance(row, NodeAssigned)]
    resume(rig, "cluster")
    rig.run_to_end()
    assert len(of(rig.effects, Ended)) == 3
