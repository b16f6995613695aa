"""The real control loop and its real writer, over the store in memory, which stops or fails where the test says."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

from mainspring.errors import PoisonBatchError, StoreUnavailableError
from mainspring.ids import shard_of
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Answer, Assign, Effect, Ended, StrategyFailed
from mainspring_coordinator.engine.events import Cancel, CreditSet, Event, Inventory, Read, Submit, WorkerAttached
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.ready import ReadyQueue
from mainspring_coordinator.loop import ControlLoop
from mainspring_coordinator.ports import SessionEffect
from mainspring_coordinator.shard_loader import ShardLoader
from mainspring_coordinator.store.memory import MemoryJournal, MemoryStore, before_commit
from mainspring_coordinator.store.protocol import Batch, ClusterRow, Committed, ShardRow
from mainspring_coordinator.writer import Written

_T = TypeVar("_T")
shards_total = 4
waits_s = 20


def story(told: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Let a test be a coroutine, which may not hang."""

    @wraps(told)
    def test() -> None:
        asyncio.run(asyncio.wait_for(told(), waits_s))

    # pytest would look through the wrapper and see a coroutine.
    del test.__wrapped__
    return test


class Gate:
    """Holds the journal before its commits; a failure can be scripted for each try."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._arrived = threading.Event()
        self.script: list[Exception] = []
        self.tries = 0

    def __call__(self, point: str) -> None:
        if point == before_commit:
            self.tries += 1
            if self.script:
                raise self.script.pop(0)

    def pass_through(self) -> None:
        """In the journal's thread, holding no lock: wait until the gate is open."""
        self._arrived.set()
        assert self._open.wait(waits_s), "the gate was never opened"

    def shut(self) -> None:
        self._arrived.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def reached(self) -> None:
        """Return when a commit waits at the gate."""
        assert await asyncio.to_thread(self._arrived.wait, waits_s), "no commit came"


class GatedJournal(MemoryJournal):
    """Keeps what was committed, and waits at the gate."""

    def __init__(self, store: MemoryStore, incarnation: str, gate: Gate) -> None:
        super().__init__(store, incarnation)
        self._gate = gate
        self.batches: list[Batch] = []
        self.refused: set[str] = set()

    def commit(self, batch: Batch) -> Committed:
        self._gate.pass_through()
        named = [row.workflow_id for row in batch.rows if row.workflow_id in self.refused]
        if named:
            raise PoisonBatchError(named[0], "no such value")
        committed = super().commit(batch)
        self.batches.append(batch)
        return committed


class Outbox:
    """A worker's stream that keeps what it is given."""

    def __init__(self) -> None:
        self.got: list[SessionEffect] = []
        self.deliveries = 0
        self.hears = True
        """Whether the worker says at once that it has heard all."""
        self.asked: list[asyncio.Future[None]] = []
        """By what the loop waits for the worker to have heard all."""
        self._changed = asyncio.Event()

    def deliver(self, effects: Sequence[SessionEffect]) -> None:
        self.got += effects
        self.deliveries += 1
        self._changed.set()

    def shards_changed(self, owned: object) -> None:
        del owned
        self._changed.set()

    def until_seen(self) -> "asyncio.Future[None]":
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.hears:
            seen.set_result(None)
        self.asked.append(seen)
        self._changed.set()
        return seen

    async def wait_until_asked(self) -> "asyncio.Future[None]":
        while not self.asked:
            self._changed.clear()
            await self._changed.wait()
        return self.asked[-1]

    def of(self, kind: type[_T]) -> list[_T]:
        return [effect for effect in self.got if isinstance(effect, kind)]

    async def wait_for(self, kind: type[_T], count: int = 1) -> list[_T]:
        while len(found := self.of(kind)) < count:
            self._changed.clear()
            await self._changed.wait()
        return found


class Watch:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.writes: list[Written] = []
        self.ends: list[Ended] = []
        self.refusals = 0
        self.waited: list[dict[str, int]] = []
        """By batch: what waited when it was closed."""
        self.given_out: list[list[str]] = []
        """By batch that was let out: the executors of what it assigned."""

    def committed(self, written: Written) -> None:
        self.writes.append(written)

    def ended(self, effect: Ended) -> None:
        self.ends.append(effect)

    def cut(self, ready: ReadyQueue) -> None:
        self.waited.append({key.executor: one.count for key, one in ready.waiting.items()})

    def let_out(self, effects: Sequence[Effect], refused: int) -> None:
        self.refusals += refused
        self.given_out.append([effect.executor for effect in effects if isinstance(effect, Assign)])

    def strategy_failed(self, effect: StrategyFailed) -> None:
        raise AssertionError(effect)


class LoopRig:
    """One coordinator's loop; other coordinators are rows in the database."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.gate = Gate()
        self.now = 1_000_000_000
        self.store = MemoryStore(lambda: self.now, self.gate)
        self.store.create_cluster(ClusterRow("test", shards_total))
        self.observer = Watch()
        self.given_up: list[str] = []
        self.gave_up = asyncio.Event()
        self.trusted = True
        self._batch = 0
        self.reader: Any = self.store.reader()
        self.loader = ShardLoader(self.reader, threads)
        self.loop = ControlLoop(
            EngineConfig(),
            shards_total,
            self.loader,
            now_us=lambda: self.now,
            fresh=lambda: self.trusted,
            new_batch_id=self._new_batch_id,
            observer=self.observer,
            give_up=self._give_up,
        )
        self.begin()

    def begin(self) -> None:
        """Begin a term."""
        self.journal = GatedJournal(self.store, "me", self.gate)
        self.loop.begin_term(self.journal)

    def _give_up(self, reason: str) -> None:
        self.given_up.append(reason)
        self.gave_up.set()

    def _new_batch_id(self) -> bytes:
        self._batch += 1
        return self._batch.to_bytes(16, "big")

    def move(self, shard: int, holder: str) -> ShardRow:
        """Let a coordinator own a shard in the database, one epoch higher."""
        with self.store.tables.lock:
            row = self.store.tables.shards[shard]
            taken = replace(row, epoch=row.epoch + 1, holder=holder, grace_until_us=self.now)
            self.store.tables.shards[shard] = taken
            return taken

    async def take(self, *shards: int) -> None:
        """Own shards and serve them."""
        for shard in shards:
            self.loop.take_shard(self.move(shard, "me"))
        for shard in shards:
            await self.loop.prove(shard)

    def name(self, shard: int, number: int = 0) -> str:
        """Return a workflow id of a shard."""
        names = (name for n in range(100_000) if shard_of(name := f"wf-{n}", shards_total) == shard)
        return next(islice(names, number, None))

    def submit(self, plan: Plan, name: str, digest: bytes = b"d" * 32) -> "asyncio.Task[Answer]":
        """Submit without waiting."""
        shard = shard_of(name, shards_total)
        return self.ask(shard, lambda token: Submit(token, shard, name, plan, b"null", digest, "load-balanced"))

    def cancel(self, name: str) -> "asyncio.Task[Answer]":
        shard = shard_of(name, shards_total)
        return self.ask(shard, lambda token: Cancel(token, shard, name, "why not"))

    def read(self, name: str) -> "asyncio.Task[Answer]":
        shard = shard_of(name, shards_total)
        return self.ask(shard, lambda token: Read(token, shard, name))

    def ask(self, shard: int, make: Callable[[int], Event]) -> "asyncio.Task[Answer]":
        return asyncio.get_running_loop().create_task(self.loop.ask(shard, make))

    def attach(self, name: str = "w1", *, slots: int = 10) -> tuple[int, Outbox]:
        """Attach a worker that has nothing."""
        session, outbox = self.loop.new_session(), Outbox()
        self.loop.attach(session, outbox)
        executors = frozenset({"work"})
        self.loop.post(WorkerAttached(session, name, f"{session:032x}", "host", "", {}, executors, slots, 100))
        for shard, epoch in self.loop.serving.items():
            self.loop.post(Inventory(session, shard, epoch, (), (), (), 0))
        self.loop.post(CreditSet(session, 1, slots))
        return session, outbox


def unavailable(times: int) -> list[Exception]:
    """Return what the database says while it is away."""
    return [StoreUnavailableError("the database is away") for _ in range(times)]


@asynccontextmanager
async def a_loop() -> AsyncIterator[LoopRig]:
    """A loop in its first term; nothing of it is left behind."""
    with ThreadPoolExecutor(2) as threads:
        rig = LoopRig(threads)
        try:
            yield rig
        finally:
            rig.gate.open()
            rig.loop.end_term("the test is over")
