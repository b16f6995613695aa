"""The owner of shard 0 decides for the cluster, from what it and the others measure; who does not own it is silent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from mainspring.v1 import worker_pb2
from mainspring_coordinator.dynamic import Dynamic, RecentAttempts, signals
from mainspring_coordinator.engine.operator_events import StrategySet
from mainspring_coordinator.engine.placement.dynamic import DynamicConfig, Signals
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import Attempts, ConnectionId, CoordinatorRow
from mainspring_coordinator.worker_book import WorkerEntry
from tests.loop.rig import LoopRig, a_loop, story

SECOND = 1_000_000
NONE = ConnectionId(0, "")


def entry(session: int = 1, *, cpu: float | None = 10.0, trip_us: int = 500, **flags: object) -> WorkerEntry:
    known = cpu is not None
    one = WorkerEntry(session, worker_pb2.Hello(name=f"w{session}"), 0, cpu_percent=cpu or 0.0, load_known=known)
    one.round_trip_us = trip_us
    for name, value in flags.items():
        setattr(one, name, value)
    return one


def row(name: str, strategy: str, attempts: Attempts = Attempts(0, 0)) -> CoordinatorRow:  # noqa: B008  (a frozen value)
    return CoordinatorRow(name, name, "", "", 1, 1, NONE, NONE, 1, strategy, attempts)


class Decider:
    """`dynamic` over a real loop, with the workers, lease rows and live coordinators that the test says."""

    name = incarnation = "me"

    def __init__(self, rig: LoopRig, reads: Reads) -> None:
        self.rig = rig
        self.workers = [entry()]
        self.live = {"me", "peer"}
        self.counted: list[tuple[str, str]] = []
        self.own = RecentAttempts(300 * SECOND)
        config = DynamicConfig(dwell_us=0)
        everyone = (rig.loop, lambda: rig.loop.engine, lambda: self.workers, self.own)
        self.dynamic = Dynamic(*everyone, reads, self, self.strategies, config, self, period_ms=1_000)

    def owner_of(self, shard: int) -> tuple[str, str] | None:
        raise NotImplementedError

    def coordinators(self) -> list[tuple[str, str, str]]:
        return [(name, name, "") for name in sorted(self.live)]

    def strategies(self) -> list[str]:
        return [one.strategy for one in self.rig.store.tables.coordinators.values() if one.incarnation in self.live]

    def strategy_changed(self, strategy: str, by: str) -> None:
        self.counted.append((strategy, by))

    def leases(self, *rows: CoordinatorRow) -> None:
        self.rig.store.tables.coordinators = {one.incarnation: one for one in rows}

    @property
    def stored(self) -> str:
        return self.rig.store.tables.shards[0].strategy


@asynccontextmanager
async def deciding(*shards: int) -> AsyncIterator[Decider]:
    async with a_loop() as rig:
        reads = Reads(rig.reader)
        try:
            await rig.take(*shards)
            yield Decider(rig, reads)
        finally:
            reads.close()


@story
async def test_it_decides_stores_counts_and_says_why() -> None:
    async with deciding(0) as decider:
        decider.leases(row("me", "dynamic"))
        decider.workers = [entry(cpu=95.0), entry(2, cpu=85.0)]
        with capture_logs() as logs:
            await decider.dynamic.decide()
        assert decider.rig.loop.engine.strategy == "load-balanced"
        assert decider.stored.split(",")[:2] == ["", "load-balanced"]
        assert decider.counted == [("load-balanced", "dynamic")]
        (said,) = [line for line in logs if line["event"] == "strategy_changed"]
        assert (said["strategy"], said["reason"]) == ("load-balanced", "the workers' mean cpu is 90 % (threshold 80 %)")
        await decider.dynamic.decide()
        assert len(decider.counted) == 1, "nothing has changed"


@story
async def test_the_failures_of_all_coordinators_count() -> None:
    async with deciding(0) as decider:
        decider.leases(
            row("me", "capability"), row("peer", "dynamic", Attempts(30, 15)), row("gone", "", Attempts(900, 0))
        )
        decider.own.note(1, Attempts(30, 0))
        await decider.dynamic.decide()
        (change,) = decider.rig.reader.strategy_changes(0, 9)
        assert change.reason == "15 of the last 60 attempts failed (threshold 10%)"


@pytest.mark.parametrize("wanted", ["", "locality"])
def test_where_nobody_follows_it_decides_nothing(wanted: str) -> None:
    @story
    async def told() -> None:
        async with deciding(0) as decider:
            decider.leases(row("me", "capability"), row("gone", "dynamic"))
            await decider.rig.ask(0, lambda token: StrategySet(token, 0, wanted, ""))
            before = decider.stored
            await decider.dynamic.decide()
            assert (decider.stored, decider.counted) == (before, [])

    told()


@story
async def test_an_operator_may_set_it_for_coordinators_that_have_another_one() -> None:
    async with deciding(0) as decider:
        decider.leases(row("me", "capability"))
        await decider.rig.ask(0, lambda token: StrategySet(token, 0, "dynamic", ""))
        await decider.dynamic.decide()
        assert decider.rig.loop.engine.strategy == "round-robin"


@story
async def test_who_does_not_own_shard_0_decides_nothing() -> None:
    async with deciding(1, 2) as decider:
        decider.leases(row("me", "dynamic"))
        await decider.dynamic.decide()
        assert (decider.stored, decider.counted) == ("", [])


def test_what_counts_of_the_workers_is_what_active_ones_have_said() -> None:
    workers = [
        entry(1, cpu=20.0, trip_us=1_000),
        entry(2, cpu=None, trip_us=0),
        entry(3, cpu=90.0, trip_us=90_000, draining=True),
        entry(4, cpu=90.0, trip_us=90_000, absent_since_us=5),
        entry(5, cpu=40.0, trip_us=3_000),
    ]
    assert signals(workers, [Attempts(3, 1), Attempts(4, 2)]) == Signals(3, 30.0, 2_000.0, 7, 3)
    assert signals([], []) == Signals(0, None, None, 0, 0)


def test_the_window_moves_on_and_a_new_term_begins_at_nothing() -> None:
    recent = RecentAttempts(300 * SECOND)
    recent.note(0, Attempts(10, 1))
    recent.note(100 * SECOND, Attempts(25, 3))
    assert recent.recent == Attempts(25, 3)
    recent.note(300 * SECOND, Attempts(25, 3))
    assert recent.recent == Attempts(25, 3)
    recent.note(301 * SECOND, Attempts(25, 3))
    assert recent.recent == Attempts(15, 2), "what ended before the window"
    recent.note(302 * SECOND, Attempts(4, 4))
    assert recent.recent == Attempts(19, 6), "a new term"
    for second in range(303, 2_000):
        recent.note(second * SECOND, Attempts(4, 4))
        assert len(recent._buckets) <= 32
    assert recent.recent == Attempts(0, 0)
