"""Workers that come, go, come back, and say what they have."""

from dataclasses import replace

import pytest

from mainspring_coordinator.engine.effects import (
    Ack,
    Assign,
    CancelCause,
    Disposition,
    Ended,
    EpochSpent,
    Refuse,
    Replace,
    ReportBacklog,
    Stop,
)
from mainspring_coordinator.engine.events import (
    CreditSet,
    Inventory,
    PeersSeen,
    ResultItem,
    Results,
    ShardLost,
    ShardReady,
    ShardTaken,
    WorkerAttached,
    WorkerDetached,
    WorkerDraining,
    WorkerHeard,
)
from mainspring_coordinator.engine.rows import NodeAssigned, NodeChanged
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config

one = define([{"id": "a", "executor": "work"}])
GRACE = 2


def test_a_dead_workers_nodes_go_elsewhere_when_its_grace_has_passed() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    rig.drop(first)
    assert not of(rig.after(GRACE - 0.01), Assign)
    effects = rig.after(0.01)
    assign = only(effects, Assign)
    assert (assign.session, assign.attempt) == (2, 1)
    assert rows_of(effects, NodeAssigned)[0].redeliveries == 1


def test_a_coordinator_that_stood_still_when_a_grace_ended_gives_it_once_more() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.drop(first)
    rig.after(GRACE + 2)
    rig.drop(rig.attach("w1", incarnation=first.incarnation, running=first.running))
    rig.after(GRACE + 2)
    assert not [row for row in rig.rows if isinstance(row, NodeChanged)]
    assert rows_of(rig.after(GRACE + 2), NodeChanged)[0].redeliveries == 1


def test_a_worker_that_attaches_again_in_time_keeps_its_work() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    rig.drop(first)
    rig.after(GRACE - 0.1)
    rig.attach("w1", incarnation=first.incarnation)
    assert not of(rig.after(10), Assign)
    assert only(rig.finish("a"), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_worker_that_was_given_up_and_comes_back_stops_what_is_elsewhere_and_its_result_does_not_count() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    late = rig.running()[0][1]
    rig.drop(first)
    rig.attach("w2")
    rig.after(GRACE)
    back = rig.attach("w1", incarnation=first.incarnation, running={(0, late.assignment): late})
    stop = only(rig.effects, Stop)
    assert (stop.session, stop.assignment, stop.cause) == (back.session, late.assignment, CancelCause.SUPERSEDED)
    item = ResultItem(0, late.assignment, NodeStatus.SUCCEEDED, b"1", None, 1)
    assert only(rig.report(back, item), Ack).disposition is Disposition.STALE
    assert rig.engine.state.refused_results == 1
    assert not of(rig.effects, Ended)


def test_a_worker_that_was_given_up_here_keeps_what_another_owner_gave_it() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    (late,) = first.running.values()
    rig.drop(first)
    rig.after(GRACE)
    ours = fold(rig.rows, {one.hash: one})[0][0]
    rig.step(ShardLost(0))
    rig.epoch = 3
    rig.step(ShardTaken(0, 3, rig.now_us + 9 * SECOND, "e" * 32))
    theirs = 2 << 32
    (node,) = ours.nodes
    running = replace(node, status=NodeStatus.RUNNING, assignment=theirs, incarnation=first.incarnation, redeliveries=1)
    rig.step(replace(ours, nodes=[running]))
    rig.step(ShardReady(0))
    before = len(rig.rows)
    given = replace(late, assignment=theirs)
    back = rig.attach("w1", incarnation=first.incarnation, running={(0, theirs): given})
    assert not of(rig.after(60), Stop)
    assert not [row for row in rig.rows[before:] if isinstance(row, NodeChanged)]
    assert only(rig.end(back, given, NodeStatus.SUCCEEDED), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_coordinator_that_has_no_workers_while_a_peer_has_some_gives_nobody_up() -> None:
    rig = Rig()
    first, second = rig.attach("w1"), rig.attach("w2", executors=("other",))
    rig.submit(one)
    rig.step(PeersSeen(have_workers=True))
    rig.drop(first)
    rig.drop(second)
    for _ in range(5):
        assert not rows_of(rig.after(GRACE), NodeChanged)
    rig.attach("w2", executors=("other",), incarnation=second.incarnation)
    # It is not cut off any more, and the other one gets a whole grace from then on.
    assert not rows_of(rig.after(GRACE - 0.1), NodeChanged)
    rig.attach("w1", incarnation=first.incarnation)
    assert not rows_of(rig.after(60), NodeChanged)
    assert only(rig.finish("a"), Ended).status is WorkflowStatus.SUCCEEDED


def test_whoever_comes_back_to_a_coordinator_that_was_cut_off_has_a_whole_grace_however_long_after_the_last_look() -> (
    None
):
    rig = Rig()
    first, second = rig.attach("w1"), rig.attach("w2", executors=("other",))
    rig.submit(one)
    rig.step(PeersSeen(have_workers=True))
    rig.drop(first)
    rig.drop(second)
    rig.after(GRACE)
    rig.after(GRACE - 0.1)
    rig.attach("w2", executors=("other",), incarnation=second.incarnation)
    assert not rows_of(rig.after(0.1), NodeChanged), "it could be reached for a tenth of a second"
    assert not rows_of(rig.after(GRACE - 0.2), NodeChanged)
    assert rows_of(rig.after(0.1), NodeChanged)[0].redeliveries == 1


def test_a_coordinator_that_took_a_shard_and_has_no_workers_while_a_peer_has_some_misses_nobody() -> None:
    old = Rig()
    old.attach()
    old.submit(one)
    new = Rig(epoch=2, own=False)
    new.step(PeersSeen(have_workers=True))
    new.step(ShardTaken(0, 2, new.now_us + SECOND, "e" * 32))
    new.step(fold(old.rows, {one.hash: one})[0][0])
    new.step(ShardReady(0))
    assert not rows_of(new.after(60), NodeChanged)
    new.step(PeersSeen(have_workers=False))
    assert rows_of(new.after(GRACE), NodeChanged)[0].redeliveries == 1


def test_a_coordinator_that_took_a_shard_misses_nobody_before_a_worker_was_heard_that_was_told_of_it() -> None:
    old = Rig()
    old.attach()
    old.submit(one)
    new = Rig(epoch=2, own=False)
    new.step(PeersSeen(have_workers=True))
    new.step(ShardTaken(0, 2, new.now_us + SECOND, "e" * 32))
    new.step(fold(old.rows, {one.hash: one})[0][0])
    second = new.attach("w2", executors=("other",))
    new.step(ShardReady(0))
    # It is cut off from here on; that the other one still seems attached shows nothing.
    assert not rows_of(new.after(60), NodeChanged)
    new.step(WorkerHeard(second.session))
    assert not rows_of(new.after(GRACE - 0.1), NodeChanged)
    assert rows_of(new.after(GRACE), NodeChanged)[0].redeliveries == 1


def test_a_coordinator_that_is_cut_off_lets_a_worker_that_was_started_again_in() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.step(PeersSeen(have_workers=True))
    rig.drop(first)
    anew = WorkerAttached(9, "w1", "f" * 32, "", "", {}, frozenset({"work"}), 1, 1)
    rig.after(GRACE - 0.1)
    assert only(rig.step(anew), Refuse).reason == "NAME_TAKEN"
    rig.after(0.1)
    effects = rig.step(replace(anew, session=10))
    assert not of(effects, Refuse)
    assert rows_of(effects, NodeChanged)[0].redeliveries == 1


@pytest.mark.parametrize("seen", [[], [False], [True, False]])
def test_when_no_peer_has_workers_either_they_are_given_up(seen: list[bool]) -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(one)
    for have_workers in seen:
        rig.step(PeersSeen(have_workers))
    rig.drop(worker)
    assert rows_of(rig.after(GRACE), NodeChanged)[0].redeliveries == 1


def test_a_worker_that_a_peer_may_have_is_given_up_by_one_that_has_others() -> None:
    rig = Rig()
    rig.attach("w2")
    rig.attach("w1")
    rig.submit(one)
    rig.step(PeersSeen(have_workers=True))
    held = rig.running()[0][0]
    rig.drop(held)
    rig.now_us += 1_000
    rig.step(WorkerHeard(3 - held.session))
    assert not rows_of(rig.after(GRACE - 0.002), NodeAssigned)
    assert rows_of(rig.after(0.001), NodeAssigned)[0].redeliveries == 1


def test_nobody_is_given_up_before_another_worker_was_heard_that_only_seems_attached() -> None:
    rig = Rig()
    first, second = rig.attach("w1"), rig.attach("w2", executors=("other",))
    rig.submit(one)
    rig.step(PeersSeen(have_workers=True))
    rig.drop(first)
    # A cut is noticed stream by stream; the other one may end any moment.
    assert not rows_of(rig.after(3 * GRACE), NodeChanged)
    rig.step(WorkerHeard(second.session))
    assert not rows_of(rig.after(GRACE - 0.1), NodeChanged)
    assert rows_of(rig.after(GRACE), NodeChanged)[0].redeliveries == 1


def test_what_a_worker_said_before_another_went_shows_nothing_when_a_recovery_takes_it_in_later() -> None:
    rig = Rig()
    first, second = rig.attach("w1"), rig.attach("w2", executors=("other",))
    rig.submit(one)
    rig.step(PeersSeen(have_workers=True))
    rig.step(ShardTaken(1, 1, rig.now_us, "e" * 32))
    rig.inventory(second, 1)
    rig.after(0.1)
    rig.drop(first)
    rig.now_us += SECOND
    rig.step(ShardReady(1))
    assert not rows_of(rig.after(GRACE - 1), NodeChanged)
    rig.step(WorkerHeard(second.session))
    assert not rows_of(rig.after(GRACE - 0.1), NodeChanged)
    assert rows_of(rig.after(GRACE), NodeChanged)[0].redeliveries == 1


def test_of_two_workers_with_one_name_the_live_one_stays() -> None:
    rig = Rig()
    rig.attach("w1")
    effects = rig.step(WorkerAttached(9, "w1", "f" * 32, "", "", {}, frozenset({"work"}), 1, 1))
    refuse = only(effects, Refuse)
    assert refuse.reason == "NAME_TAKEN"
    assert "'w1'" in refuse.message


def test_a_second_stream_of_one_incarnation_takes_the_place_of_the_first() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w1", incarnation=first.incarnation)
    assert only(rig.effects, Replace).session == first.session
    rig.step(WorkerDetached(first.session, goodbye=False))
    assert not of(rig.after(60), Assign)
    del rig.workers[first.session]
    assert only(rig.finish("a"), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_goodbye_offers_the_rest_elsewhere_at_once_and_counts_nothing() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    effects = rig.drop(first, goodbye=True)
    assert only(effects, Assign).attempt == 1
    assert rows_of(effects, NodeAssigned)[0].redeliveries == 0


def test_what_a_current_inventory_omits_is_offered_again_at_once() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(one)
    lost = worker.running.popitem()[1]
    effects = rig.inventory(worker)
    assign = only(effects, Assign)
    assert assign.assignment != lost.assignment
    assert assign.attempt == lost.attempt == 1
    assert rows_of(effects, NodeAssigned)[0].redeliveries == 0


def test_what_came_by_an_earlier_stream_and_is_omitted_later_is_offered_again_at_once() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    again = rig.attach("w1", incarnation=first.incarnation)
    del rig.workers[first.session]
    # It stood still, say, and let go what it had not begun; by this stream nothing has come yet.
    lost = again.running.popitem()[1]
    again.seen = 0
    assign = only(rig.inventory(again), Assign)
    assert assign.assignment != lost.assignment
    assert (assign.session, assign.attempt) == (again.session, 1)


def test_what_is_still_on_its_way_is_not_offered_again() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(one)
    effects = rig.step(Inventory(worker.session, 0, 1, (), (), (), 0))
    assert not of(effects, Assign)


def test_an_inventory_under_another_epoch_proves_nothing() -> None:
    rig = Rig(epoch=5)
    worker = rig.attach("w1")
    rig.submit(one)
    assert not rig.step(Inventory(worker.session, 0, 4, (), (), (), 9))


def test_a_result_from_a_history_that_the_database_lost_is_not_taken_for_that_of_the_next_of_its_name() -> None:
    rig = Rig(epoch=5)
    worker = rig.attach("w1", slots=1)
    rig.drop(worker)
    rig.submit(one)
    lost = ResultItem(0, 5 << 32, NodeStatus.SUCCEEDED, b"1", None, 1)
    again = WorkerAttached(9, "w1", worker.incarnation, "", "", {}, frozenset({"work"}), 1, 1)
    effects = [*rig.step(again), *rig.step(CreditSet(9, 1, 1))]
    effects += rig.step(Inventory(9, 0, 5, (), (), [lost.assignment], 0))
    assert only(effects, EpochSpent).shard == 0
    effects += rig.step(Results(9, [lost]))
    assert not of(effects, Assign)
    assert [ack.disposition for ack in of(effects, Ack)] != [Disposition.RECORDED]


def test_a_worker_that_has_seen_a_higher_epoch_has_the_shard_taken_under_another() -> None:
    rig = Rig(epoch=5)
    worker = rig.attach("w1")
    assert only(rig.step(Inventory(worker.session, 0, 7, (), (), (), 0)), EpochSpent).shard == 0
    rig.submit(one)
    assert not of(rig.effects, Assign), "it would be told apart from nothing of the history that was lost"


def test_what_an_inventory_has_and_we_do_not_is_stopped() -> None:
    rig = Rig(epoch=5)
    worker = rig.attach("w1")
    stale, foreign = 4 << 32 | 7, 6 << 32 | 1
    stop = only(rig.step(Inventory(worker.session, 0, 5, (), (stale, foreign), (), 0)), Stop)
    assert (stop.assignment, stop.cause) == (stale, CancelCause.SUPERSEDED)


def test_a_result_counts_once_and_a_repeated_one_is_recorded_again_but_not_counted() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(one)
    item = ResultItem(0, rig.running()[0][1].assignment, NodeStatus.SUCCEEDED, b"1", None, 1)
    effects = rig.report(worker, item, item)
    assert [ack.disposition for ack in of(effects, Ack)] == [Disposition.RECORDED] * 2
    assert len(of(effects, Ended)) == 1
    assert rig.engine.state.refused_results == 0


def test_only_an_owner_whose_epoch_is_not_below_may_refuse_a_result() -> None:
    rig = Rig(epoch=3)
    worker = rig.attach("w1")
    cases = {
        (0, 2 << 32): Disposition.STALE,
        (0, 3 << 32): Disposition.STALE,
        (0, 4 << 32): Disposition.NOT_OWNER,
        (1, 1 << 32): Disposition.NOT_OWNER,
    }
    for (shard, number), disposition in cases.items():
        assert (
            only(rig.report(worker, ResultItem(shard, number, NodeStatus.SUCCEEDED, b"1", None, 1)), Ack).disposition
            is disposition
        )


def test_a_result_by_another_worker_is_refused() -> None:
    rig = Rig()
    rig.attach("w1")
    rig.submit(one)
    other = rig.attach("w2")
    item = ResultItem(0, rig.running()[0][1].assignment, NodeStatus.SUCCEEDED, b"1", None, 1)
    assert only(rig.report(other, item), Ack).disposition is Disposition.STALE


def test_an_attempt_that_was_never_started_is_offered_again() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.attach("w2")
    rig.submit(one)
    assign = worker.running.popitem()[1]
    rig.step(WorkerDraining(worker.session))
    effects = rig.report(worker, ResultItem(0, assign.assignment, NodeStatus.READY, b"", None, 0))
    assert (only(effects, Assign).session, only(effects, Assign).attempt) == (2, 1)


def test_a_draining_worker_gets_nothing_more() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.step(WorkerDraining(worker.session))
    rig.submit(one)
    assert not rig.running()
    answer = rig.read()
    assert answer.view is not None
    assert answer.view.reasons == {0: "every worker that runs executor 'work' is draining"}


def test_a_lower_credit_counts_from_its_echo_on() -> None:
    rig = Rig()
    worker = rig.attach("w1", slots=5)
    rig.step(CreditSet(worker.session, 2, 1))
    rig.submit(define([{"id": f"n{i}", "executor": "work"} for i in range(4)]))
    assert len(rig.running()) == 1
    rig.step(CreditSet(worker.session, 1, 5))
    assert len(rig.running()) == 1
    rig.step(CreditSet(worker.session, 3, 3))
    assert len(rig.running()) == 3


def test_labels_and_executors_are_honoured() -> None:
    rig = Rig()
    rig.attach("w1", labels={"zone": "a"})
    rig.submit(define([{"id": "n", "executor": "work", "requires": {"zone": "b"}}]))
    assert not rig.running()
    rig.attach("w2", labels={"zone": "b"})
    assert [worker.name for worker, _ in rig.running()] == ["w2"]


def test_a_worker_has_live_nodes_of_no_more_workflows_than_it_may() -> None:
    rig = Rig()
    rig.attach("w1", workflows_max=2)
    two = define([{"id": "x", "executor": "work"}, {"id": "y", "executor": "work"}])
    for number in range(4):
        rig.submit(two, f"wf{number}")
    assert {assign.workflow_id for _, assign in rig.running()} == {"wf0", "wf1"}
    assert len(rig.running()) == 4
    rig.finish()
    rig.finish()
    assert len({assign.workflow_id for _, assign in rig.running()}) == 2
    rig.run_to_end()
    assert len(of(rig.effects, Ended)) == 4


def test_workers_hear_once_when_something_waits_and_once_when_nothing_does() -> None:
    rig = Rig()
    worker = rig.attach("w1", slots=1)
    rig.submit(define([{"id": f"n{i}", "executor": "work"} for i in range(3)]))
    rig.run_to_end()
    assert [(r.session, bool(r.waiting)) for r in of(rig.effects, ReportBacklog)] == [
        (worker.session, True),
        (worker.session, False),
    ]


def test_small_workflows_take_turns_with_a_wide_one() -> None:
    rig = Rig()
    rig.submit(define([{"id": f"n{i}", "executor": "work"} for i in range(50)]), "wide")
    rig.submit(one, "small")
    rig.attach("w1", slots=2)
    assert {assign.workflow_id for _, assign in rig.running()} == {"wide", "small"}


def test_with_failover_off_work_waits_for_a_worker_of_the_same_name() -> None:
    rig = Rig(config=with_config(failover=False))
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    rig.drop(first)
    assert not of(rig.after(600), Assign)
    rig.attach("w1")
    assert len(rig.running()) == 1


@pytest.mark.parametrize("weights", [(0.3, 0.3, 0.4)])
def test_work_is_spread_over_equal_workers(weights: tuple[float, float, float]) -> None:
    rig = Rig(config=with_config(cpu_weight=weights[0], memory_weight=weights[1], workflow_weight=weights[2]))
    for number in range(4):
        rig.attach(f"w{number}", slots=10)
    rig.submit(define([{"id": f"n{i}", "executor": "work"} for i in range(20)]))
    assert [len(worker.running) for worker in rig.workers.values()] == [5, 5, 5, 5]


def test_a_change_is_stored_before_it_is_told() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(one)
    rig.now_us += SECOND
    effects = rig.report(worker, ResultItem(0, rig.running()[0][1].assignment, NodeStatus.SUCCEEDED, b"1", None, 7))
    row = rows_of(effects, NodeChanged)[0]
    assert (row.status, row.output, row.run_us, row.ended_at_us) == (NodeStatus.SUCCEEDED, b"1", 7, rig.now_us)
