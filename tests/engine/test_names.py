"""A worker is a name and an incarnation: neither alone gives what it has to another."""

from mainspring_coordinator.engine.effects import Ack, Assign, Disposition, Ended, Refuse, Replace, Welcomed
from mainspring_coordinator.engine.events import (
    Inventory,
    ProgressReported,
    ResultItem,
    Results,
    ShardReady,
    ShardTaken,
    WorkerAttached,
)
from mainspring_coordinator.engine.rows import NodeChanged, ProgressSaved
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import Rig, Worker, define, of, only, rows_of

one = define([{"id": "a", "executor": "work"}])


def come(worker: Worker, name: str) -> WorkerAttached:
    return WorkerAttached(1_000, name, worker.incarnation, "elsewhere", "", {}, frozenset({"work"}), 1, 1)


def test_who_comes_under_the_incarnation_of_a_worker_of_another_name_is_turned_away_with_all_that_it_says() -> None:
    for has_work in (True, False):
        rig = Rig()
        worker = rig.attach("w1")
        if has_work:
            rig.submit(one)
        refuse = only(rig.step(come(worker, "other")), Refuse)
        assert (refuse.session, refuse.reason) == (1_000, "PROTOCOL_ERROR")
        assert f"incarnation {worker.incarnation} is worker 'w1', and not 'other'" in refuse.message
        assert not of(rig.effects, Replace)
        if has_work:
            number = rig.running()[0][1].assignment
            stolen = ResultItem(0, number, NodeStatus.SUCCEEDED, b"stolen", None, 1)
            assert not rig.step(Results(1_000, [stolen]))
            assert only(rig.finish("a", 1), Ended).status is WorkflowStatus.SUCCEEDED


def test_one_that_is_away_for_a_moment_is_known_too() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.drop(worker)
    assert of(rig.step(come(worker, "other")), Refuse)
    assert of(rig.step(come(worker, "w1")), Welcomed)


def test_who_came_before_it_was_read_whose_the_incarnation_is_gets_nothing_of_it_and_gives_way() -> None:
    before = Rig()
    worker = before.attach("w1")
    before.submit(one)
    number = before.running()[0][1].assignment
    rig = Rig(own=False)
    rig.step(come(worker, "other"))
    rig.step(ShardTaken(0, 2, rig.now_us + 1_000_000, "e" * 32))
    for event in fold(before.rows, {one.hash: one})[0]:
        rig.step(event)
    rig.step(ShardReady(0))
    assert not rows_of(rig.step(ProgressReported(1_000, 0, number, b"1")), ProgressSaved)
    ack = only(rig.step(Results(1_000, [ResultItem(0, number, NodeStatus.SUCCEEDED, b"1", None, 1)])), Ack)
    assert ack.disposition is Disposition.STALE
    assert not rows_of(rig.effects, NodeChanged)
    again = rig.attach("w1", incarnation=worker.incarnation)
    assert only(rig.effects, Replace).session == 1_000
    rig.step(Inventory(again.session, 0, 2, (), (number,), (), 0))
    assert not of(rig.effects, Assign)
    effects = rig.step(Results(again.session, [ResultItem(0, number, NodeStatus.SUCCEEDED, b"1", None, 1)]))
    assert only(effects, Ended).status is WorkflowStatus.SUCCEEDED
