"""A coordinator process: the real election, loop and fleet, put together as `app.Coordinator` does."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import grpc
import grpc.aio

from mainspring.errors import BusyError
from mainspring.ids import shard_of
from mainspring.settings import CoordinatorSettings
from mainspring.v1 import peers_pb2, worker_pb2
from mainspring_coordinator import permits_wire
from mainspring_coordinator.election import Election, Vitals
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Effect, Ended, StatePermits, StrategyFailed
from mainspring_coordinator.engine.events import PeersSeen, PermitsGranted, PermitsStated
from mainspring_coordinator.engine.eviction import incarnations_of
from mainspring_coordinator.engine.operator_events import EvictionsSeen, PausesSeen, StrategySeen
from mainspring_coordinator.engine.ready import ReadyQueue
from mainspring_coordinator.engine.step import Engine
from mainspring_coordinator.epoch import View
from mainspring_coordinator.fleet import FleetService
from mainspring_coordinator.loop import ControlLoop
from mainspring_coordinator.ports import PermitEffect
from mainspring_coordinator.session import FleetTimings
from mainspring_coordinator.shard_loader import ShardLoader
from mainspring_coordinator.store.protocol import Journal, ShardRow
from mainspring_coordinator.writer import Written
from tests.simulation.database import Server, SimStore
from tests.simulation.derived import check_engine
from tests.simulation.process import Process
from tests.simulation.twins import Twins
from tests.simulation.wire import Context, Wires


class Coordinator:
    """One start of one coordinator."""

    def __init__(
        self, process: Process, server: Server, wires: Wires, settings: CoordinatorSettings, config: EngineConfig
    ) -> None:
        self.process = process
        self.name = process.name
        self.store = SimStore(server, process, settings.lock_query_timeout_ms * 1_000)
        self.stopped = False
        self._world = process.world
        self._witness = server.witness
        self._wires = wires
        self._settings = settings
        self._config = config
        self._known: Sequence[tuple[str, str, str]] = ()
        self._incarnation = ""
        self._checks = 0
        self._draining = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.election: Election
        self.loop: ControlLoop
        self.fleet: FleetService
        process.run_soon(lambda: self._spawn(self._start()))

    async def _start(self) -> None:
        settings, process = self._settings, self.process
        self.election = Election(
            self.store,
            settings,
            self,
            self._vitals,
            self,
            grpc_address=self.name,
            http_address=self.name,
            clock=process,
            threads=process,
            chance=self._world.chance,
            name_term=self._name_term,
        )
        self.loop = ControlLoop(
            self._config,
            settings.shards,
            ShardLoader(self.store.reader(), None),  # type: ignore[arg-type]  # the process runs what executors would
            now_us=self.election.now_us,
            fresh=self.election.fresh,
            new_batch_id=self._new_batch_id,
            observer=self,
            give_up=self.election.give_up,
            clock=process,
            threads=process,
        )
        let_out = self.loop._delivery.let_out
        self.loop._delivery.let_out = partial(self._let_out, let_out)  # type: ignore[method-assign]  # the one door
        timings = FleetTimings(
            settings.heartbeat_interval_ms, settings.failure_detection_timeout_ms, settings.stream_grace_ms
        )
        self.loop.on_permits(self._pass_on_permits)
        self.fleet = FleetService(self.loop, self.election, "mainspring", timings, version="0", clock=process)
        self.fleet.accepting = False
        cluster = await self.election.start()
        self.loop.shards_total = cluster.shards_total
        self.fleet.start()
        self.fleet.accepting = True
        self._wires.listeners[self.name] = (process, self._take_call)
        self._wires.peers[self.name] = (process, self.take_permits)

    async def stop(self) -> None:
        """Leave in order, as `app.Coordinator.stop` does."""
        self._draining = True
        self.election.withdraw()
        await self.loop.release_shards(list(self.loop.serving))
        await self.fleet.close()
        await self.election.stop()
        self.loop.end_term("the coordinator stops")
        self.stopped = True

    @property
    def started(self) -> bool:
        """Whether its first term has begun."""
        return self._wires.listeners.get(self.name, (None,))[0] is self.process

    def _name_term(self) -> str:
        self._incarnation = f"{self._world.chance.getrandbits(128):032x}"
        return self._incarnation

    def _new_batch_id(self) -> bytes:
        return self._world.chance.randbytes(16)

    def _let_out(self, let_out: Callable[[Sequence[Effect]], None], effects: Sequence[Effect]) -> None:
        self._witness.let_out(self.name, self.election.incarnation, effects)
        self._checks += 1
        if self._checks % 4 == 0:
            for law, what in check_engine(self.loop._engine):
                self._witness.breaks(law, f"{self.name}: {what}")
        let_out(effects)

    # -- permits -----------------------------------------------------------------------------------------------------------

    def _pass_on_permits(self, effects: Sequence[PermitEffect]) -> None:
        """Send what shards say of permits, as `peers` does: within the process, or by a call that may be lost, or come twice."""
        for effect in effects:
            said = effect.statement if isinstance(effect, StatePermits) else effect.reply
            to = shard_of(said.key, self.loop.shards_total) if isinstance(effect, StatePermits) else said.shard
            owner = self.election.owner_of(to)
            if to in self.loop.owned() or owner is None or owner[0] == self.election.incarnation:
                self._take_permits(effect, to)
                continue
            request = permits_wire.to_request([effect])
            for _ in range(self._wires.copies()):
                arrive = partial(self._wires.post, owner[1], owner[0], request)
                self._wires.network.send(self.name, owner[1], arrive)

    def take_permits(self, incarnation: str, request: peers_pb2.PassPermitsRequest) -> None:
        """A call has arrived that was meant for an incarnation."""
        if incarnation != self.election.incarnation:
            return
        total = self.loop.shards_total
        for statement in request.statements:
            said = permits_wire.to_statement(statement, total)
            self._take_permits(said, shard_of(said.statement.key, total))
        for message in request.replies:
            self._take_permits(permits_wire.to_reply(message, total), message.shard)

    def _take_permits(self, effect: PermitEffect, to: int) -> None:
        if to in self.loop.owned():
            with suppress(BusyError):
                self.loop.post(
                    PermitsStated(to, effect.statement)
                    if isinstance(effect, StatePermits)
                    else PermitsGranted(to, effect.reply)
                )

    # -- calls -------------------------------------------------------------------------------------------------------------

    def _take_call(self, context: Context) -> None:
        task = self._spawn(self._serve(context))
        context.connection.server.on_end = lambda: self._aborted(task)

    async def _serve(self, context: Context) -> None:
        try:
            await self.fleet.Attach(None, context)  # type: ignore[arg-type]  # it reads and writes by the context alone
            context.finish()
        except grpc.aio.AbortError:
            pass
        except asyncio.CancelledError:
            context.finish(grpc.StatusCode.CANCELLED)

    def _aborted(self, task: "asyncio.Task[Any]") -> None:
        # gRPC cancels the handler of a call that is over; whether its reader sees the end before is a race.
        if self._world.chance.random() < 0.5:
            task.cancel()

    # -- election.Listener -------------------------------------------------------------------------------------------------

    def on_term(self, incarnation: str, journal: Journal) -> None:
        """See `Listener`."""
        self._world.tell(self.name, f"term {incarnation[:6]} begins")
        self.loop.begin_term(journal)
        self.loop._engine = cast("Engine", Twins(self.loop._engine, self._config, self._witness, incarnation))
        self.fleet.accepting = True

    def on_taken(self, row: ShardRow) -> None:
        """See `Listener`."""
        self.loop.take_shard(row)

    def on_release_wanted(self, shards: Sequence[int]) -> None:
        """See `Listener`."""
        self._spawn(self.loop.release_shards(shards))

    def on_peers(self, view: View) -> None:
        """See `Listener`."""
        epochs = {shard: row.epoch for shard, row in view.shards.items()}
        have_workers = view.peers_have_workers(self.election.incarnation)
        evicted = [name for row in view.shards.values() for name in incarnations_of(row.evicted)]
        self.loop.looked(
            epochs,
            PeersSeen(have_workers, len(view.live)),
            StrategySeen(view.shards[0].strategy),
            PausesSeen(view.shards[0].pauses),
            EvictionsSeen(evicted),
        )
        live = self.election.coordinators()
        if live != self._known:
            self._known = live
            self.fleet.coordinators_changed()

    def on_term_lost(self, reason: str) -> None:
        """See `Listener`."""
        self._world.tell(self.name, f"term is lost: {reason}")
        self.loop.end_term(reason)
        if not self._draining:
            self.fleet.accepting = False
            self._spawn(self.fleet.dismiss(worker_pb2.GOODBYE_REASON_STEPPING_DOWN, "term lost"))

    def on_tick(self) -> None:
        """See `Listener`."""
        if hasattr(self, "loop"):
            self.loop.tick()

    def _vitals(self) -> Vitals:
        return Vitals(self.loop.oldest_batch_us(), len(self.fleet.book), self.loop.owned())

    # -- what it measures --------------------------------------------------------------------------------------------------

    def shard_taken(self, seconds: float) -> None:
        """See `Measures`."""

    def loop_lag(self, seconds: float) -> None:
        """See `Measures`."""

    def clock_jumped(self, seconds: float) -> None:
        """See `Measures`."""

    def committed(self, written: Written) -> None:
        """See `Observer`."""

    def ended(self, effect: Ended) -> None:
        """See `Observer`."""

    def cut(self, ready: ReadyQueue) -> None:
        """See `Observer`."""

    def let_out(self, effects: Sequence[Effect], refused: int) -> None:
        """See `Observer`."""
        if refused:
            self._world.tell(self.name, f"refused {refused} results")

    def strategy_failed(self, effect: StrategyFailed) -> None:
        """See `Observer`."""
        self.process.faults.append(f"{self.name}: strategy {effect.strategy} failed: {effect.error}")

    def _spawn(self, coroutine: Any) -> "asyncio.Task[Any]":
        task = self.process.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.process.over:
            self.process.faults.append(f"{self.name}: {error!r}")
