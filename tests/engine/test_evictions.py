"""Operators drain workers and let them take work again, and evict incarnations: these have nothing any more, and may not come back."""

from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from mainspring import limits
from mainspring.ids import shard_of
from mainspring_coordinator.engine.effects import Ack, Answer, AnswerCode, Assign, Effect, Ended, Refuse, Welcomed
from mainspring_coordinator.engine.events import (
    ResultItem,
    Results,
    ShardLost,
    ShardReady,
    ShardTaken,
    WorkerAttached,
    WorkerDraining,
    WorkerResumed,
)
from mainspring_coordinator.engine.eviction import incarnations_of, text_of
from mainspring_coordinator.engine.operator_events import EvictionsSeen, WorkerEvicted
from mainspring_coordinator.engine.rows import (
    FailoverAffected,
    FailoverRecorded,
    NodeAssigned,
    NodeChanged,
    WorkersEvicted,
)
from mainspring_coordinator.engine.status import FailoverKind, NodeStatus, Subject, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, Worker, define, of, only, rows_of, with_config

one = define([{"id": "a", "executor": "work"}])
GRACE = 2


def evict(rig: Rig, worker: Worker, shard: int = 0) -> list[Effect]:
    effects = rig.step(WorkerEvicted(-1, shard, worker.incarnation))
    rig.workers.pop(worker.session, None)
    return effects


def affected(effects: Sequence[Effect]) -> list[str]:
    rows = rows_of(effects, FailoverAffected)
    return [name for row in rows if row.subject is Subject.NODES for name in orjson.loads(row.ids)]


def come_back(rig: Rig, worker: Worker, incarnation: str = "") -> list[Effect]:
    session = worker.session + 1_000
    who = incarnation or worker.incarnation
    return rig.step(WorkerAttached(session, worker.name, who, "host", "", {}, frozenset({"work"}), 10, 100))


# -- evicted -----------------------------------------------------------------------------------------------------------------


def test_what_an_evicted_worker_runs_goes_elsewhere_in_the_same_step_and_counts_nothing() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    effects = evict(rig, first)
    assert only(effects, Assign).session == 2
    assert rows_of(effects, WorkersEvicted) == [WorkersEvicted(0, "", first.incarnation)]
    assert [row.redeliveries for row in rows_of(effects, NodeAssigned)] == [0]
    (recorded,) = rows_of(effects, FailoverRecorded)
    assert (recorded.kind, recorded.failed_incarnation) == (FailoverKind.WORKER_LOST, first.incarnation)
    assert (recorded.detected_at_us, recorded.settles_at_us) == (rig.now_us, rig.now_us)
    assert affected(effects) == ["wf/a"], "it may run twice"
    refused = only(effects, Refuse)
    assert (refused.session, refused.reason) == (first.session, "EVICTED")
    assert first.incarnation in refused.message
    assert only(effects, Answer).code is AnswerCode.OK


def test_its_late_result_does_not_count_by_the_stream_that_still_ends_nor_by_another() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    late = rig.running()[0][1]
    rig.attach("w2")
    evict(rig, first)
    item = ResultItem(0, late.assignment, NodeStatus.SUCCEEDED, b"1", None, 1)
    effects = rig.step(Results(first.session, [item]))
    assert not of(effects, Ack)
    assert not rows_of(effects, NodeChanged)
    (heir,) = rig.workers.values()
    rig.report(heir, item)
    assert rig.engine.state.refused_results == 1
    assert only(rig.finish("a"), Ended).status is WorkflowStatus.SUCCEEDED


def test_an_evicted_incarnation_is_turned_away_and_a_new_one_of_its_name_is_welcome() -> None:
    rig = Rig()
    first = rig.attach("w1")
    assert not rows_of(evict(rig, first), FailoverRecorded), "it had nothing that could run twice"
    back = come_back(rig, first)
    assert only(back, Refuse).reason == "EVICTED"
    assert not of(back, Welcomed)
    assert of(come_back(rig, first, "f" * 32), Welcomed)


@pytest.mark.parametrize("failover", [True, False])
def test_an_evicted_worker_that_is_away_is_not_waited_for(failover: bool) -> None:
    rig = Rig(config=with_config(failover=failover))
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    rig.drop(first)
    if not failover:
        rig.after(GRACE)
        rig.after(2 * GRACE)
    assert not rows_of(rig.effects, NodeChanged)
    before = len(rig.rows)
    effects = rig.step(WorkerEvicted(-1, 0, first.incarnation))
    recorded = [row for row in rig.rows if isinstance(row, FailoverRecorded)]
    assert [row.failed_incarnation for row in recorded] == [first.incarnation], "once, when its grace was over or now"
    assert any(row is recorded[0] for row in rig.rows[:before]) is not failover
    assert only(effects, Assign).session == 2
    assert [row.redeliveries for row in rows_of(effects, NodeAssigned)] == [0]
    assert not of(rig.after(10 * GRACE), Assign), "nor given up a second time"


def test_another_coordinator_does_the_same_when_it_reads_of_it_and_stores_nothing_of_its_own() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    seen = EvictionsSeen([first.incarnation, "9" * 32])
    effects = rig.step(seen)
    rig.workers.pop(first.session)
    assert only(effects, Assign).session == 2
    assert only(effects, Refuse).reason == "EVICTED"
    assert affected(effects) == ["wf/a"], "each puts on record what it had of it"
    assert not rows_of(effects, WorkersEvicted)
    assert not rig.step(seen)
    assert only(come_back(rig, first), Refuse).reason == "EVICTED"


def test_who_takes_a_shard_later_reads_of_it_with_the_shard_and_waits_for_nobody() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    stored = fold(rig.rows, {one.hash: one})[0][0]
    heir = Rig(own=False)
    heir.epoch = 2
    heir.attach("w2")
    evicted = text_of(["8" * 32, first.incarnation])
    heir.step(ShardTaken(0, 2, heir.now_us + 9 * SECOND, "e" * 32, evicted))
    heir.step(stored)
    effects = heir.step(ShardReady(0))
    (changed,) = rows_of(effects, NodeChanged)
    assert (changed.status, changed.redeliveries) == (NodeStatus.READY, 0)
    assert affected(effects) == ["wf/a"], "whoever had the shard before did not live to do it"
    assert [row.failed_engine for row in rows_of(effects, FailoverRecorded)] == ["w1"]
    (worker,) = heir.workers.values()
    assert only(heir.inventory(worker), Assign).session == worker.session
    # What it stores of its own is added to what the row had.
    (row,) = rows_of(heir.step(WorkerEvicted(-1, 0, "7" * 32)), WorkersEvicted)
    assert incarnations_of(row.evicted) == ["8" * 32, first.incarnation, "7" * 32]


def test_a_workflow_that_is_loaded_only_after_the_eviction_waits_for_nobody_either() -> None:
    rig = Rig()
    first = rig.attach("w1")
    rig.submit(one)
    stored = fold(rig.rows, {one.hash: one})[0][0]
    rig.step(ShardLost(0))
    rig.step(ShardTaken(0, 2, rig.now_us + 9 * SECOND, "e" * 32))
    rig.epoch = 2
    evict(rig, first)
    rig.step(stored)
    effects = rig.step(ShardReady(0))
    assert rows_of(effects, NodeChanged)[0].redeliveries == 0
    assert affected(effects) == ["wf/a"]


def test_an_eviction_is_stored_once_and_only_under_a_shard_that_is_ours() -> None:
    rig = Rig(shards=2)
    first = rig.attach("w1")
    assert rows_of(evict(rig, first, 1), WorkersEvicted) == [WorkersEvicted(1, "", first.incarnation)]
    again = evict(rig, first, 1)
    assert not rows_of(again, WorkersEvicted)
    assert only(again, Answer).claims, "nothing is stored that would prove that it is known"
    rig.step(ShardLost(1))
    lost = evict(rig, first, 1)
    assert only(lost, Answer).code is AnswerCode.NOT_OWNER
    assert not rows_of(lost, WorkersEvicted)


def test_a_fence_row_keeps_the_newest() -> None:
    rig = Rig()
    names = [f"{number:032x}" for number in range(limits.evictions_a_shard_max + 3)]
    for name in names:
        rig.step(WorkerEvicted(-1, 0, name))
    last = [row for row in rig.rows if isinstance(row, WorkersEvicted)][-1]
    assert incarnations_of(last.evicted) == names[3:]
    assert len(last.evicted) <= 33 * limits.evictions_a_shard_max
    assert incarnations_of("") == []


def test_what_is_remembered_of_evictions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "evictions_max", 2)
    rig = Rig()
    rig.step(EvictionsSeen(["1" * 32, "2" * 32, "3" * 32]))
    assert list(rig.engine.state.evicted) == ["2" * 32, "3" * 32]


def test_a_worker_with_much_work_is_evicted_part_by_part() -> None:
    many = define([{"id": f"n{number}", "executor": "work"} for number in range(9)])
    rig = Rig(config=replace(with_config(), step_nodes=2))
    first = rig.attach("w1")
    rig.submit(many)
    assert len(first.running) == 9
    second = rig.attach("w2")
    rig.at_once = False
    effects = evict(rig, first)
    assert len(rows_of(effects, NodeChanged)) <= 2
    # Between two parts its name is another's already.
    assert only(come_back(rig, first), Refuse).reason == "EVICTED"
    rig.at_once = True
    rig.after(0.001)
    assert len(second.running) == 9


# -- drained -----------------------------------------------------------------------------------------------------------------


def test_a_drained_worker_that_takes_work_again_gets_some_once_it_has_stated_what_it_has() -> None:
    rig = Rig(shards=2)
    worker = rig.attach("w1")
    rig.step(WorkerDraining(worker.session))
    name = next(name for name in map(str, range(99)) if shard_of(name, 2) == 1)
    rig.submit(one, name)
    assert not rig.running()
    assert not of(rig.step(WorkerResumed(worker.session)), Assign)
    assert not of(rig.inventory(worker, 0), Assign)
    assert only(rig.inventory(worker, 1), Assign).session == worker.session
    assert only(rig.finish("a"), Ended).status is WorkflowStatus.SUCCEEDED


def test_what_a_drained_worker_runs_it_keeps_over_both() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(one)
    rig.attach("w2")
    rig.step(WorkerDraining(worker.session))
    rig.step(WorkerDraining(worker.session))
    rig.step(WorkerResumed(worker.session))
    rig.step(WorkerResumed(worker.session))
    rig.inventory(worker)
    assert not of(rig.after(60), Assign)
    assert only(rig.finish("a"), Ended).status is WorkflowStatus.SUCCEEDED


def test_one_that_never_drained_or_is_not_there_does_not_resume() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    assert not rig.step(WorkerResumed(worker.session))
    assert worker.session in rig.engine.state.pool.members
    rig.step(WorkerDraining(worker.session))
    rig.drop(worker)
    assert not rig.step(WorkerResumed(worker.session))
    assert not rig.step(WorkerResumed(77))
