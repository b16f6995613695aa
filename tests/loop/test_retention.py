"""Passes delete what is old, bounded and paced, through the loop and its journal; whoever dies or loses a shard leaves the rest to do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from mainspring import limits
from mainspring.errors import BusyError, StoreUnavailableError
from mainspring_coordinator import sweeps
from mainspring_coordinator.engine.effects import AnswerCode
from mainspring_coordinator.engine.rows import (
    AttemptEnded,
    AuditEntry,
    DeleteRow,
    DeletionBegun,
    FailoverAffected,
    FailoverMarked,
    FailoverRecorded,
    NodesDeleted,
    PlanSaved,
    ResultCached,
    Row,
    StrategyChanged,
    WorkflowInserted,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, Subject, WorkflowStatus
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.retention import Retention
from mainspring_coordinator.store.memory_rows import write
from mainspring_coordinator.sweeps import divide
from tests.engine.rig import define
from tests.loop.rig import LoopRig, a_loop, story
from tests.store.members import succeeded, workflow

DAY_MS = 86_400_000
DAY_US = DAY_MS * 1_000
PLAN = define([{"id": "a", "executor": "work"}])
END = WorkflowStatus.SUCCEEDED
STANDING = "affinity,,0,5"


class Clock:
    us = 0

    def now_us(self) -> int:
        return self.us


class Kept:
    """Retention whose passes the test takes, and whose pauses end at once."""

    def __init__(self, rig: LoopRig, reads: Reads, keep_ms: int) -> None:
        self.rig = rig
        self.clock = Clock()
        self.counted: dict[str, int] = {}
        self.deleted_some = asyncio.Event()
        self.pauses: list[float] = []
        self.calendar_ahead_us = 0
        """By how much the host's own clock is ahead of the database's."""
        self.is_behind: Callable[[], bool] = lambda: False
        self.retention = Retention(
            rig.loop,
            reads,
            self,
            self.clock,
            keep_ms=keep_ms,
            is_behind=self._asked,
            pause=self._pause,
            calendar=lambda: rig.now + self.calendar_ahead_us,
        )

    def deleted(self, kind: str, count: int) -> None:
        self.counted[kind] = self.counted.get(kind, 0) + count
        self.deleted_some.set()

    def _asked(self) -> bool:
        return self.is_behind()

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    @property
    def batches(self) -> list[list[DeleteRow]]:
        """What each commit deleted."""
        found = [[row for row in batch.rows if isinstance(row, DeleteRow)] for batch in self.rig.journal.batches]
        return [rows for rows in found if rows]


@asynccontextmanager
async def keeping(days: float = 7) -> AsyncIterator[tuple[LoopRig, Kept]]:
    async with a_loop() as rig:
        rig.now = 100 * DAY_US
        await rig.take(0, 1)
        reads = Reads(rig.reader)
        try:
            yield rig, Kept(rig, reads, round(days * DAY_MS))
        finally:
            reads.close()


@asynccontextmanager
async def bounded(module: Any, name: str, most: int) -> AsyncIterator[None]:
    """Let a bound be so small that a few rows meet it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, most)
        yield


def stored(rig: LoopRig, *rows: Row) -> None:
    """Let this be in the database."""
    with rig.store.tables.lock:
        write(rig.store.tables, rows)


def run(
    rig: LoopRig, name: str, ended_days_ago: float, *, shard: int = 0, nodes: int = 2, plan: bytes = b"h" * 32
) -> None:
    at_us = rig.now - round(ended_days_ago * DAY_US)
    inserted: WorkflowInserted = replace(workflow(name, shard), plan_hash=plan)
    stored(rig, inserted, *(succeeded(name, node, shard=shard) for node in range(nodes)))
    stored(rig, WorkflowUpdated(shard, name, 9, END, ended_at_us=at_us), PlanSaved(shard, name, plan, b"{}"))


def left(rig: LoopRig) -> list[str]:
    return sorted(rig.store.tables.workflows)


@story
async def test_what_ended_before_goes_with_all_its_rows_and_what_is_young_or_runs_stays() -> None:
    async with keeping() as (rig, kept):
        run(rig, "old", 7.1)
        run(rig, "old-1", 30, shard=1)
        run(rig, "young", 6.9)
        await rig.submit(PLAN, rig.name(0))
        with capture_logs() as lines:
            await kept.retention.sweep()
        assert left(rig) == sorted(["young", rig.name(0)])
        assert {key[0] for key in rig.store.tables.nodes} == {"young"}
        assert kept.counted == {"workflows": 2, "plans": 1}
        told = [line for line in lines if line["event"] == "retention_deleted"]
        assert [(line["workflows"], line["plans"], line["log_level"]) for line in told] == [(2, 1, "info")]
        assert kept.retention.oldest_ended_us() == rig.now - round(6.9 * DAY_US)
        with capture_logs() as lines:
            await kept.retention.sweep()
        assert lines == [], "nothing was deleted"


@story
async def test_nothing_goes_while_the_clocks_of_database_and_host_are_far_apart() -> None:
    async with keeping() as (rig, kept):
        run(rig, "old", 7.1)
        apart_us = limits.clocks_apart_ms_max * 1_000
        with capture_logs() as lines:
            for ahead_us in (apart_us + 1, apart_us + 1, -apart_us - 1):
                kept.calendar_ahead_us = ahead_us
                await kept.retention.sweep()
        assert left(rig) == ["old"]
        assert not kept.batches
        (told,) = lines
        assert (told["event"], told["log_level"], told["database_ahead_s"]) == ("retention_held", "error", -600)
        kept.calendar_ahead_us = -apart_us
        with capture_logs() as lines:
            await kept.retention.sweep()
        assert [line["event"] for line in lines] == ["retention_goes_on", "retention_deleted"]
        assert left(rig) == []


@story
async def test_definitions_go_with_the_last_workflow_of_their_shard_that_uses_them() -> None:
    async with keeping() as (rig, kept):
        run(rig, "old", 8, plan=b"1" * 32)
        run(rig, "young", 1, plan=b"2" * 32)
        run(rig, "old-too", 8, plan=b"2" * 32)
        stored(rig, PlanSaved(0, "", b"0" * 32, b"of a submit whose id was taken"))
        run(rig, "elsewhere", 1, plan=b"1" * 32, shard=1)
        await kept.retention.sweep()
        assert set(rig.store.tables.plans) == {(0, b"2" * 32), (1, b"1" * 32)}


@story
async def test_a_plan_that_was_deleted_comes_again_with_the_next_submit() -> None:
    async with keeping() as (rig, kept):
        first, second = rig.name(0), rig.name(0, 1)
        await rig.submit(PLAN, first)
        await rig.cancel(first)
        rig.now += 8 * DAY_US
        await kept.retention.sweep()
        assert (left(rig), rig.store.tables.plans) == ([], {})
        await rig.submit(PLAN, second)
        assert list(rig.store.tables.plans) == [(0, PLAN.hash)]


@story
async def test_an_id_may_be_used_again_once_its_workflow_is_deleted() -> None:
    async with keeping() as (rig, kept):
        name = rig.name(0)
        await rig.submit(PLAN, name)
        await rig.cancel(name)
        assert (await rig.submit(PLAN, name, b"other" + b"d" * 27)).code is AnswerCode.ALREADY_EXISTS
        rig.now += 8 * DAY_US
        await kept.retention.sweep()
        assert (await rig.submit(PLAN, name, b"other" + b"d" * 27)).created


@story
async def test_while_a_workflow_is_being_deleted_its_id_is_busy() -> None:
    async with keeping() as (rig, _):
        name = rig.name(0)
        run(rig, name, 1)
        stored(rig, DeletionBegun(0, name))
        with pytest.raises(BusyError, match="is being deleted"):
            await rig.submit(PLAN, name)


@story
async def test_a_large_workflow_goes_part_by_part_children_first() -> None:
    async with bounded(sweeps, "_rows", 4), keeping() as (rig, kept):
        run(rig, "large", 9, nodes=11)
        run(rig, "small", 8)
        stored(rig, AttemptEnded(0, "large", 3, -1, 1, "w", 1, 2, 3, b"{}"))
        await kept.retention.sweep()
        assert (left(rig), rig.store.tables.nodes, rig.store.tables.attempts) == ([], {}, {})
        assert rig.store.tables.deleting == set()
        parts = [row for rows in kept.batches for row in rows if isinstance(row, NodesDeleted)]
        assert [row.node for row in parts] == [2, 5, 9], "node 3 has two rows, which go together"
        assert all(any(isinstance(row, DeletionBegun) for row in rows) for rows in kept.batches[:3])


@story
async def test_a_deletion_that_was_begun_is_finished_by_whoever_owns_the_shard_whatever_its_setting() -> None:
    async with keeping(days=0) as (rig, kept):
        run(rig, "begun", 9, nodes=5)
        run(rig, "old", 9)
        stored(rig, DeletionBegun(0, "begun"), NodesDeleted(0, "begun", 2, -1))
        await kept.retention.sweep()
        assert left(rig) == ["old"]
        assert kept.retention.oldest_ended_us() is None


@story
async def test_without_the_setting_all_is_kept() -> None:
    async with keeping(days=0) as (rig, kept):
        run(rig, "old", 99)
        stored(rig, PlanSaved(0, "", b"0" * 32, b"unused"))
        await kept.retention.sweep()
        assert (left(rig), kept.batches, len(rig.store.tables.plans)) == (["old"], [], 2)


def record(rig: LoopRig, days_ago: float, letter: str, stage: FailoverStage = FailoverStage.CLOSED) -> None:
    at_us, event = rig.now - round(days_ago * DAY_US), letter * 32
    stored(
        rig,
        FailoverRecorded(0, "", event, FailoverKind.WORKER_LOST, "w1", "a" * 32, "", "", at_us, at_us),
        *(FailoverAffected(0, "", event, Subject.NODES, 0, chunk, b"[]", 0, at_us) for chunk in range(-1, 3)),
        FailoverMarked(0, "", event, stage, at_us, 0),
        AuditEntry(0, "", event, at_us, 0, "StepDown", "engine-2", "why", "me", "engine-1", ""),
        StrategyChanged(0, "", STANDING, "", "affinity", "operator", "", at_us),
    )


@story
async def test_the_records_of_the_cluster_are_deleted_by_the_owner_of_shard_0() -> None:
    async with bounded(sweeps, "_things", 2), keeping() as (rig, kept):
        for letter, days in (("a", 30), ("b", 20), ("c", 8), ("d", 6)):
            record(rig, days, letter)
        record(rig, 9, "e", FailoverStage.ANNOUNCED)
        rig.loop.end_term("shard 0 goes to another")
        rig.begin()
        await rig.take(1)
        await kept.retention.sweep()
        assert kept.batches == []
        await rig.take(0)
        await kept.retention.sweep()
        tables = rig.store.tables
        assert sorted(name[0] for name in tables.failovers) == ["d", "e"], "the alert of e is still to be delivered"
        assert {name[0][0] for name in tables.affected} == {"d", "e"}
        assert (sorted(name[0] for name in tables.audit), len(tables.strategy_changes)) == (["d"], 1)
        assert kept.counted == {"failovers": 3, "audit_entries": 4, "strategy_changes": 4}
        assert tables.shards[0].strategy == STANDING


@story
async def test_shards_take_turns_and_no_batch_has_more_than_its_bound() -> None:
    async with bounded(limits, "retention_workflows_a_look_max", 3), keeping() as (rig, kept):
        for number in range(8):
            for shard in (0, 1):
                run(rig, f"w{shard}-{number}", 8 + number, shard=shard)
        await kept.retention.sweep()
        assert left(rig) == []
        deletes = [rows for rows in kept.batches if any(row.workflow_id for row in rows)]
        assert [(rows[0].shard, len(rows)) for rows in deletes] == [(0, 3), (1, 3), (0, 3), (1, 3), (0, 2), (1, 2)]
        assert deletes[0][0].workflow_id == "w0-5", "the oldest first"


@story
async def test_a_pause_follows_each_look_and_nothing_is_deleted_while_others_wait() -> None:
    async with keeping() as (rig, kept):
        run(rig, "old", 8)
        waits = [True, True]
        kept.is_behind = lambda: bool(waits and waits.pop())
        ask = rig.loop.ask

        async def slow(shard: int, make: Any) -> Any:
            kept.clock.us += 20_000
            return await ask(shard, make)

        rig.loop.ask = slow  # type: ignore[method-assign]
        await kept.retention.sweep()
        assert kept.pauses[:3] == [5.0, 5.0, pytest.approx(0.38)]


@story
async def test_a_shard_that_was_lost_is_left_to_its_next_owner() -> None:
    async with keeping() as (rig, kept):
        run(rig, "old", 8)
        run(rig, "old-1", 8, shard=1)
        rig.move(0, "other")
        await kept.retention.sweep()
        assert left(rig) == ["old"]
        assert not any(batch.epochs.get(0) for batch in rig.journal.batches if 0 in batch.epochs)


@story
async def test_cached_outputs_go_when_their_own_time_is_over_though_everything_else_is_kept_for_ever() -> None:
    async with bounded(sweeps, "_things", 2), keeping(days=0) as (rig, kept):
        for at in range(5):
            key = bytes([at]) * 32
            stored(rig, ResultCached(at % 2, "wf", key, b"1", 0, rig.now + 1 + at // 4))
        await kept.retention.sweep()
        assert len(rig.store.tables.results) == 5
        rig.now += 1
        before = len(rig.journal.batches)
        await kept.retention.sweep()
        assert list(rig.store.tables.results) == [(bytes([4]) * 32, 0)]
        assert kept.counted == {"results": 4}
        assert [batch.epochs for batch in rig.journal.batches[before:]] == [{0: 1}, {1: 1}]


@story
async def test_an_error_in_a_pass_is_logged_and_the_next_one_goes_on() -> None:
    async with keeping() as (rig, kept):
        run(rig, "old", 8)
        reads: Any = kept.retention._reads
        broken, through = [StoreUnavailableError("away"), RuntimeError("a bug")], reads.run

        async def failing(read: Any) -> Any:
            if broken:
                raise broken.pop(0)
            return await through(read)

        reads.run = failing
        kept.retention._period_s = 0.001
        with capture_logs() as lines:
            kept.retention.start()
            await kept.deleted_some.wait()
        await kept.retention.close()
        assert not left(rig)
        failed = [line["log_level"] for line in lines if line["event"] == "retention_pass_failed"]
        assert failed == ["warning", "error"]


@pytest.mark.parametrize(
    ("names", "keys", "most", "whole", "part"),
    [
        (["a", "b"], [("a", 0, -1), ("b", 0, -1)], 2, ["a", "b"], None),
        (["a", "b", "c"], [("a", 0, -1), ("b", 0, -1), ("b", 1, -1)], 2, ["a"], None),
        (["0", "a"], [("a", 0, -1), ("a", 1, -1), ("a", 2, -1)], 2, ["0"], None),
        (["a", "b"], [("a", 0, -1), ("a", 1, -1), ("a", 2, -1)], 2, [], ("a", 1, -1)),
        (["a"], [("a", 0, -1), ("a", 1, 0), ("a", 1, 1), ("a", 1, 1)], 3, [], ("a", 1, 0)),
        (["a"], [], 2, ["a"], None),
    ],
)
def test_a_batch_takes_whole_workflows_or_a_part_of_the_first(
    names: list[str], keys: list[Any], most: int, whole: list[str], part: Any
) -> None:
    assert divide(names, keys, most) == (whole or (), part)
