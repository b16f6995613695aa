"""`dynamic`: the owner of shard 0 measures, decides for the cluster, and says why.

It looks each heartbeat interval at what it sees of the workers, all of which are attached to it, and at what the lease rows say of how
attempts ended elsewhere. The decision itself is `engine.placement.dynamic`; what is decided is stored under the fence of shard 0, and
every coordinator follows when it looks at its peers next.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from mainspring.errors import MainspringError
from mainspring_coordinator.engine.operator_events import StrategyChosen
from mainspring_coordinator.engine.placement.dynamic import Choice, DynamicConfig, Signals, choose
from mainspring_coordinator.engine.step import Engine
from mainspring_coordinator.engine.strategy import dynamic, home
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import Attempts
from mainspring_coordinator.worker_book import WorkerEntry

_log: Final = structlog.get_logger(__name__)
_parts: Final = 30
"""In how many parts the window moves on."""


class Counts(Protocol):
    """Is told what is counted."""

    def strategy_changed(self, strategy: str, by: str) -> None:
        """The cluster has another strategy."""
        ...


class RecentAttempts:
    """How many attempts ended within a window that moves on. Any thread may read it."""

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self._seen = Attempts(0, 0)
        self._buckets: deque[tuple[int, int, int]] = deque()
        """Since when, how many ended, how many of them failed."""
        self.recent = Attempts(0, 0)

    def note(self, now_us: int, total: Attempts) -> None:
        """Take in how many there were since the beginning of the term, which may be a new one."""
        before = self._seen if total.ended >= self._seen.ended else Attempts(0, 0)
        self._seen = total
        ended, failed = total.ended - before.ended, total.failed - before.failed
        if not self._buckets or now_us - self._buckets[-1][0] >= self._window_us // _parts:
            self._buckets.append((now_us, 0, 0))
        since_us, so_far, of_them = self._buckets[-1]
        self._buckets[-1] = (since_us, so_far + ended, of_them + failed)
        while now_us - self._buckets[0][0] > self._window_us:
            self._buckets.popleft()
        self.recent = Attempts(sum(part[1] for part in self._buckets), sum(part[2] for part in self._buckets))


def signals(workers: Iterable[WorkerEntry], attempts: Iterable[Attempts]) -> Signals:
    """Return what workers and lease rows say."""
    active = [entry for entry in workers if not entry.absent_since_us and not entry.draining]
    cpu = [entry.cpu_percent for entry in active if entry.load_known]
    trips = [entry.round_trip_us for entry in active if entry.round_trip_us]
    ended = list(attempts)
    return Signals(
        len(active),
        sum(cpu) / len(cpu) if cpu else None,
        sum(trips) / len(trips) if trips else None,
        sum(one.ended for one in ended),
        sum(one.failed for one in ended),
    )


class Dynamic:
    """The passes that decide."""

    def __init__(
        self,
        loop: Loop,
        engine: Callable[[], Engine],
        workers: Callable[[], Iterable[WorkerEntry]],
        own: RecentAttempts,
        reads: Reads,
        directory: Directory,
        strategies: Callable[[], Iterable[str]],
        config: DynamicConfig,
        counts: Counts,
        *,
        period_ms: int,
    ) -> None:
        """`engine` is the present term's, and `own` counts its attempts; those of the others are in their lease rows.

        `strategies` are the live coordinators' own, as of the last look at them.
        """
        self._loop = loop
        self._engine = engine
        self._workers = workers
        self._own = own
        self._reads = reads
        self._directory = directory
        self._strategies = strategies
        self._config = config
        self._counts = counts
        self._period_s = period_ms / 1_000
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End; whoever owns shard 0 next goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            try:
                await self.decide()
            except MainspringError as error:
                _log.warning("strategy_pass_failed", error=str(error), action="the next pass tries again")
            except Exception:
                _log.exception("strategy_pass_failed", action="the next pass tries again")

    async def decide(self) -> None:
        """Choose, if we speak for the cluster and somebody follows."""
        standing = self._engine().cluster_strategy
        if home not in self._loop.serving or not any(map(standing.follows_dynamic, self._strategies())):
            return
        rows = await self._reads.run(lambda reader: reader.coordinators())
        live = {incarnation for incarnation, _, _ in self._directory.coordinators()}
        rows = [row for row in rows if row.incarnation in live]
        standing = self._engine().cluster_strategy
        others = [row.attempts for row in rows if row.incarnation != self._directory.incarnation]
        measured = signals(self._workers(), [self._own.recent, *others])
        choice = choose(self._config, measured, standing.chosen, standing.chosen_at_us, self._loop.now_us())
        if choice is not None:
            await self._store(choice, standing.chosen)

    async def _store(self, choice: Choice, before: str) -> None:
        answer = await self._loop.ask(home, lambda token: StrategyChosen(token, home, choice.strategy, choice.reason))
        if answer.created:
            self._counts.strategy_changed(choice.strategy, dynamic)
            _log.info("strategy_changed", before=before, strategy=choice.strategy, by=dynamic, reason=choice.reason)
