"""Outputs of the result cache whose time is over leave the database: some at a time, under the fences of the shards that stored them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from mainspring import limits
from mainspring.errors import MainspringError
from mainspring_coordinator.engine.events import ResultsExpired
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import Reader

_log: Final = structlog.get_logger(__name__)


class CacheSweep:
    """Looks for them now and then. Where the cache is in Redis nothing is stored here, and what was stored before goes."""

    def __init__(self, loop: Loop, reads: Reads) -> None:
        self._loop = loop
        self._reads = reads
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End; whoever owns the shards next goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(limits.cache_sweep_interval_ms / 1_000)
            try:
                await self.sweep()
            except MainspringError as error:
                _log.warning("cache_sweep_failed", error=str(error), action="the next one tries again")
            except Exception:
                _log.exception("cache_sweep_failed", action="the next one tries again")

    async def sweep(self) -> None:
        """Let all go that are over their time now. Raises as `Loop.ask`."""
        now_us, shards = self._loop.now_us(), sorted(self._loop.serving)
        while shards:
            found = await self._reads.run(lambda reader, shards=shards: _expired(reader, shards, now_us))  # type: ignore[misc]  # a default binds the loop's value
            for shard, results in found.items():
                await self._loop.ask(
                    shard,
                    lambda token, shard=shard, results=results: ResultsExpired(token, shard, results),  # type: ignore[misc]  # as above
                )
            shards = [shard for shard, results in found.items() if len(results) == limits.cache_sweep_rows_max]


def _expired(reader: Reader, shards: Sequence[int], now_us: int) -> Mapping[int, Sequence[tuple[bytes, int]]]:
    found = {shard: reader.expired_results(shard, now_us, limits.cache_sweep_rows_max) for shard in shards}
    return {shard: results for shard, results in found.items() if results}
