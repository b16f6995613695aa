"""What is old is deleted, little by little, by whoever owns it.

Each coordinator does so for its shards, and the owner of shard 0 for what is the cluster's. A read finds what is due, the engine lets it
pass, and the journal deletes it under the shard's fence; whoever is killed in between leaves nothing to the next owner but what is still
due. Shards take turns, a batch each. After each look there is a pause, so long that all of it takes a few percent of the time whatever
there is to do, and nothing is done while the journal or the loop are behind with what somebody waits for.

What is deleted is gone, so the database's clock, which may have been wrong when our process took it over, is not believed alone: while it
and the host's own are far apart nothing is deleted. Two clocks must be wrong alike.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from mainspring import limits
from mainspring.clock import Clock, calendar_us
from mainspring.errors import MainspringError, NotOwnerError
from mainspring_coordinator.engine.operator_events import RetentionDue
from mainspring_coordinator.engine.strategy import home
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.sweeps import Found, Look, Place, Sweep, all_sweeps
from mainspring_coordinator.workflow_reads import check_answer

_log: Final = structlog.get_logger(__name__)
_told_each_us: Final = limits.retention_pass_ms_max * 1_000


class Counts(Protocol):
    """Is told what is counted."""

    def deleted(self, kind: str, count: int) -> None:
        """So many things of a kind were deleted for their age."""
        ...


class Retention:
    """The passes that delete."""

    def __init__(
        self,
        loop: Loop,
        reads: Reads,
        counts: Counts,
        clock: Clock,
        *,
        keep_ms: int,
        is_behind: Callable[[], bool],
        sweeps: Sequence[Sweep] = all_sweeps,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        calendar: Callable[[], int] = calendar_us,
    ) -> None:
        """`keep_ms` is RETENTION_DAYS, 0: for ever; `is_behind` tells whether somebody waits for the journal or the loop.

        `calendar` is the host's own clock, in microseconds since 1970.
        """
        self._loop = loop
        self._reads = reads
        self._counts = counts
        self._clock = clock
        self._keep_us = keep_ms * 1_000
        self._is_behind = is_behind
        self._sweeps = sweeps
        self._pause = pause
        self._calendar = calendar
        self._held = False
        """The clocks were too far apart at the last look."""
        wanted_ms = max(limits.retention_pass_ms_min, keep_ms // 10)
        self._period_s = (
            min(wanted_ms, limits.retention_pass_ms_max) if keep_ms else limits.retention_pass_ms_max
        ) / 1_000
        self._oldest: dict[int, int] = {}
        self._deleted: Counter[str] = Counter()
        """What the log has not been told of yet."""
        self._told_us = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End; whoever owns the shards next goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def oldest_ended_us(self) -> int | None:
        """Return when the workflow of our shards that ended first did so, as of the last look; 0: there is none; None: not looked at."""
        known = [self._oldest[shard] for shard in self._loop.serving if shard in self._oldest]
        return min((at_us for at_us in known if at_us), default=0) if known else None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s * random.uniform(0.8, 1.2))  # noqa: S311  # so that coordinators do not look all at once
            try:
                await self.sweep()
            except MainspringError as error:
                _log.warning("retention_pass_failed", error=str(error), action="the next pass goes on")
            except Exception:
                _log.exception("retention_pass_failed", action="the next pass goes on")

    async def sweep(self) -> None:
        """Delete all that is due by now."""
        self._told_us = self._clock.now_us()
        turns = deque(
            (sweep, shard, epoch, Place())
            for shard, epoch in self._loop.serving.items()
            for sweep in self._sweeps
            if sweep.everywhere or shard == home
        )
        try:
            while turns:
                sweep, shard, epoch, place = turns.popleft()
                if (following := await self._turn(sweep, shard, epoch, place)) is not None:
                    turns.append((sweep, shard, epoch, following))
                if self._clock.now_us() - self._told_us >= _told_each_us:
                    self._tell()
        finally:
            self._tell()

    async def _turn(self, sweep: Sweep, shard: int, epoch: int, place: Place) -> Place | None:
        """Look once, and delete what was found; return where to go on, None when the shard has no more, or is not ours any more."""
        while self._is_behind():
            await self._pause(limits.retention_pause_ms_max / 1_000)
        if self._loop.serving.get(shard) != epoch:
            return None
        began_us = self._clock.now_us()
        now_us = self._loop.now_us()
        if not self._is_believed(now_us):
            return None
        look = Look(shard, now_us, max(0, now_us - self._keep_us) if self._keep_us else 0, place)
        found = await self._reads.run(lambda reader: sweep.find(reader, look))
        if found.oldest_us is not None:
            self._oldest[shard] = found.oldest_us
        if found.rows:
            try:
                await self._delete(sweep, shard, epoch, found)
            except NotOwnerError:
                return None  # its next owner looks by itself
        took_ms = (self._clock.now_us() - began_us) / 1_000
        pause_ms = took_ms * (100 / limits.retention_share_percent - 1)
        await self._pause(min(pause_ms, limits.retention_pause_ms_max) / 1_000)
        return found.next

    def _is_believed(self, now_us: int) -> bool:
        """Tell whether database time is near that of the host; say so when that changes."""
        ahead_us = now_us - self._calendar()
        held = abs(ahead_us) > limits.clocks_apart_ms_max * 1_000
        if held and not self._held:
            _log.error(
                "retention_held",
                database_ahead_s=round(ahead_us / 1e6),
                action="nothing is deleted; set the clocks of the database's host and of this one right, then start this coordinator again",
            )
        elif self._held and not held:
            _log.info("retention_goes_on", database_ahead_s=round(ahead_us / 1e6))
        self._held = held
        return not held

    async def _delete(self, sweep: Sweep, shard: int, epoch: int, found: Found) -> None:
        check_answer(await self._loop.ask(shard, lambda token: RetentionDue(token, shard, epoch, found.rows)))
        count = sum(type(row) is sweep.row for row in found.rows)
        self._deleted[sweep.kind] += count
        self._counts.deleted(sweep.kind, count)

    def _tell(self) -> None:
        """Say what was deleted since this was said last, if anything was."""
        now_us = self._clock.now_us()
        if deleted := {kind: count for kind, count in sorted(self._deleted.items()) if count}:
            _log.info("retention_deleted", **deleted, seconds=round((now_us - self._told_us) / 1e6, 1))
        self._deleted.clear()
        self._told_us = now_us
