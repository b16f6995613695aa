"""A listener that does what the control loop does with shards, and lets a test wait for what happens."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.election import Election, Vitals
from mainspring_coordinator.epoch import View
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import Journal, ShardRow


class Measured:
    """Takes what an election measures."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.lags: list[float] = []
        self.jumps: list[float] = []

    def shard_taken(self, seconds: float) -> None:
        self.taken.append(seconds)

    def loop_lag(self, seconds: float) -> None:
        self.lags.append(seconds)

    def clock_jumped(self, seconds: float) -> None:
        self.jumps.append(seconds)


class Coordinator:
    """An election and what it said."""

    def __init__(self, url: str, name: str, *, distributed: bool = True, **values: Any) -> None:
        self.settings = CoordinatorSettings.of(ENGINE_INSTANCE_ID=name, DISTRIBUTED_MODE=distributed, **values)
        self.store = open_store(url, lock_socket_timeout_ms=self.settings.lock_query_timeout_ms)
        self.measured = Measured()
        self.workers = 1
        self.owned: dict[int, int] = {}
        self.incarnations: list[str] = []
        self.lost: list[str] = []
        self.views: list[View] = []
        self.ticks = 0
        self._journal: Journal | None = None
        self._writer = ThreadPoolExecutor(1)
        self._changed = asyncio.Event()
        self.election = Election(
            self.store,
            self.settings,
            self,
            lambda: Vitals(0, self.workers, dict(self.owned)),
            self.measured,
            grpc_address=f"{name}:1",
            http_address=f"{name}:2",
        )

    async def __aenter__(self) -> Self:
        await self.election.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.election.stop()
        self._writer.shutdown()
        self.store.close()

    async def until(self, what: Callable[[], bool], seconds: float = 20) -> float:
        """Wait until something holds, looked at with each event; return how long it took."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(seconds):
            while not what():
                self._changed.clear()
                await self._changed.wait()
        return asyncio.get_running_loop().time() - began

    async def leave(self) -> None:
        """Give everything up, as a process does that stops on purpose."""
        self.election.withdraw()
        await self._release(dict(self.owned))

    async def _release(self, epochs: dict[int, int]) -> None:
        assert self._journal is not None
        await asyncio.get_running_loop().run_in_executor(self._writer, self._journal.release, epochs)
        for shard in epochs:
            self.owned.pop(shard, None)
        self._changed.set()

    # election.Listener
    def on_term(self, incarnation: str, journal: Journal) -> None:
        self.incarnations.append(incarnation)
        self._journal = journal
        self._changed.set()

    def on_taken(self, row: ShardRow) -> None:
        assert self._journal is not None
        self.owned[row.shard] = row.epoch
        self._writer.submit(self._journal.adopt, row)
        self._changed.set()

    def on_release_wanted(self, shards: Sequence[int]) -> None:
        epochs = {shard: self.owned[shard] for shard in shards if shard in self.owned}
        self._releasing = asyncio.get_running_loop().create_task(self._release(epochs))

    def on_peers(self, view: View) -> None:
        self.views.append(view)
        self._changed.set()

    def on_term_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self.owned.clear()
        self._journal = None
        self._changed.set()

    def on_tick(self) -> None:
        self.ticks += 1
        self._changed.set()
