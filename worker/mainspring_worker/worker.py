"""The worker: ties the machine, the running code and the streams together.

It dials every coordinator of the cluster, runs what they assign, and keeps each result until its owner has acknowledged it. A lost
stream is dialled again, first at once, then with jitter; what runs goes on meanwhile.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.metadata import version
from typing import Final

import structlog

from mainspring.dial import open_channel
from mainspring.errors import MainspringError
from mainspring.limits import credit_interval_ms
from mainspring.v1 import worker_pb2 as wire
from mainspring.wire import protocol_version
from mainspring_worker.attempts import Key
from mainspring_worker.config import WorkerConfig
from mainspring_worker.drain import Drain
from mainspring_worker.execution import EndedListener, Execution
from mainspring_worker.executors import Executor, registry
from mainspring_worker.links import Links, Timings
from mainspring_worker.machine import Machine
from mainspring_worker.orders import to_acks, to_cancels, to_works
from mainspring_worker.progress import ProgressBook
from mainspring_worker.pulse import Pulse, stall_limit_us
from mainspring_worker.reports import to_inventories, to_result
from mainspring_worker.spans import Spans, no_spans
from mainspring_worker.stream import Stream
from mainspring_worker.surroundings import Surroundings

_log: Final = structlog.get_logger(__name__)
_version: Final = version("mainspring")
_noticeable_percent: Final = 5.0
"""A load that moved by less is told with the next heartbeat only."""
_fatal: Final = frozenset({wire.GOODBYE_REASON_INCOMPATIBLE, wire.GOODBYE_REASON_WRONG_CLUSTER})


class RefusedError(MainspringError):
    """The cluster refuses this worker, and trying again would not help."""


class EvictedError(MainspringError):
    """An operator evicted this incarnation: what it ran is others' by now. One that is started again is welcome."""


class Stance(Enum):
    """Whether a worker takes work, as it tells coordinators."""

    TAKES = "takes work"
    STAYS = "an operator drained it: it takes none, and stays"
    LEAVES = "it takes none, and is on its way out"


@dataclass(slots=True)
class Load:
    """What was measured last."""

    cpu: float = 0.0
    memory: float = 0.0


class Worker:
    """One worker. `await run()` serves until it is told to stop; nothing of it survives its event loop.

    worker = Worker(WorkerConfig(name="worker-1", addresses=["127.0.0.1:7320"]))
    await worker.run()
    """

    def __init__(
        self,
        config: WorkerConfig,
        executors: Mapping[str, Executor] | None = None,
        *,
        on_attached: Callable[[str, str], None] = lambda _coordinator, _address: None,
        on_ended: EndedListener = lambda _executor, _is_map, _outcome, _seconds: None,
        surroundings: Surroundings | None = None,
        spans: Spans = no_spans,
    ) -> None:
        """`executors` by name, None: all that are registered; `on_attached` gets name and address of a coordinator that took us in."""
        self.config = config
        self._surroundings = surroundings or Surroundings(dial=partial(open_channel, access=config.access))
        self.incarnation = self._surroundings.name_incarnation()
        self.load = Load()
        self.usage = self._surroundings.usage
        self.database, self.lock = "unknown", "unknown"
        """What a coordinator said last of its database and its lock."""
        self._executors = executors if executors is not None else registry.chosen(None)
        self._on_attached = on_attached
        self._machine = Machine(config.slots)
        self._progress = ProgressBook(self._wake_every_stream)
        timings = Timings(config.heartbeat_interval_ms, config.failure_detection_timeout_ms, config.keepalive)
        limit_us = stall_limit_us(timings.heartbeat_ms, timings.silence_ms, timings.keepalive)
        self._pulse = Pulse(self._surroundings.clock, limit_us, self._stood_still)
        self._execution = Execution(
            config,
            self._executors,
            self._machine,
            self._progress,
            on_ended=on_ended,
            going_on=self._pulse.beat,
            changed=self._attempts_changed,
            elapsed_s=self._surroundings.elapsed_s,
            spans=spans,
        )
        self._links = Links(self, config.addresses, timings, self._surroundings)
        self._cut_off_timer: asyncio.TimerHandle | None = None
        self._cluster = config.cluster
        """The cluster that we are of: as configured, else that of the coordinator that took us in first."""
        self._taken_in = False
        self._grace_ms = 0
        """How long a coordinator waits for us after a stream was lost, as Welcome said last."""
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._drain = Drain(self._machine, self._execution, self._links, self._finish)
        self._signalled_before = False
        self._drained = False
        """An operator drained us."""
        self._told: dict[int, Stance | None] = {}
        """What was said of it, by session; None: it is to be said again. A coordinator that was told nothing believes that we take work."""
        self._reported = Load()
        self._reported_has = (0, 0, 0)
        self._load_due: set[int] = set()

    @property
    def attached(self) -> int:
        """To how many coordinators it is attached."""
        return len(self._links.attached)

    @property
    def by_tls(self) -> bool:
        """Whether coordinators are dialled by TLS."""
        return bool(self.config.access.tls.ca)

    @property
    def running(self) -> int:
        """How many attempts run."""
        return self._machine.running

    @property
    def queued(self) -> int:
        """How many attempts wait for their start."""
        return self._machine.queued

    @property
    def unacknowledged(self) -> int:
        """How many results wait to be acknowledged."""
        return self._machine.kept

    @property
    def credit(self) -> int:
        """How many of its slots it gives to coordinators."""
        return sum(session.limit for session in self._machine.sessions.values())

    @property
    def draining(self) -> bool:
        """Whether it takes no more work, because it is on its way out or because an operator drained it."""
        return self._drain.begun or self._drained

    @property
    def active_workflows(self) -> int:
        """Of how many workflows it runs nodes."""
        return len({order.context.workflow_id for order in self._execution.orders.values()})

    async def run(self) -> None:
        """Serve until the worker was drained; `RefusedError` when the cluster wants no such worker, `EvictedError` when not any more."""
        self._links.dial()
        reporter = self._loop.create_task(self._report_load())
        beating = self._loop.create_task(self._beat())
        try:
            await self._stopped
        finally:
            reporter.cancel()
            beating.cancel()
            self._progress.close()
            if self._cut_off_timer is not None:
                self._cut_off_timer.cancel()
            await asyncio.gather(reporter, beating, return_exceptions=True)
            await self._drain.close()
            await self._links.close()
            await self._execution.close()

    def stop_on_signals(self) -> None:
        """Drain at the first SIGTERM or SIGINT, end at once at the second."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        second, self._signalled_before = self._signalled_before, True
        self._drain.begin(0 if second else self.config.drain_ms)
        self._wake_every_stream()

    async def drain(self, within_ms: int | None = None) -> Sequence[Key]:
        """Take no more work, finish what runs, say goodbye; return the attempts left behind when the time is over."""
        task = self._drain.begin(self.config.drain_ms if within_ms is None else within_ms)
        self._wake_every_stream()
        return await asyncio.shield(task)

    def _finish(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # -- connections -------------------------------------------------------------------------------------------------------

    def left(self, stream: Stream) -> None:
        """A stream is over; what came by it goes on."""
        self._told.pop(stream.session, None)
        self._load_due.discard(stream.session)
        self._machine.ended(stream.session)
        if not self._links.attached and self._cut_off_timer is None:
            # Not at once: most streams that are lost are back before anybody else gets their work. Half of the time that the
            # coordinator waits, so that what asked for it has ended before it runs elsewhere.
            self._cut_off_timer = self._loop.call_later(self._grace_ms / 2_000, self._cut_off)
        self._wake_all()

    def _cut_off(self) -> None:
        self._cut_off_timer = None
        self._execution.obey(self._machine.cut_off())

    def heard_goodbye(self, goodbye: wire.Goodbye) -> None:
        """Do what a Goodbye asks for."""
        # Later on, whoever refuses us for good is not one of ours: another process by now at an address that we knew, or one that
        # has still to be upgraded. Those that took us in go on with us.
        if self._stopped.done():
            return
        if goodbye.reason in _fatal and not self._taken_in:
            self._stopped.set_exception(RefusedError(goodbye.message))
        elif goodbye.reason == wire.GOODBYE_REASON_EVICTED:
            # It names our incarnation, which no other cluster knows; all its coordinators say so, or will in a moment.
            self._stopped.set_exception(EvictedError(goodbye.message))

    # -- stream.Host -------------------------------------------------------------------------------------------------------

    def hello(self) -> wire.Hello:
        """Say who we are."""
        config = self.config
        return wire.Hello(
            name=config.name,
            incarnation=self.incarnation,
            host=config.host,
            zone=config.zone,
            labels=dict(config.labels),
            executors=sorted(self._executors),
            slots=config.slots,
            version=_version,
            protocol=protocol_version,
            cluster=self._cluster,
            workflows_max=config.workflows_max,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            http_port=config.http_port,
            can_be_drained=True,
        )

    def welcomed(self, stream: Stream, welcome: wire.Welcome) -> None:
        """A coordinator took us in."""
        if self._cut_off_timer is not None:
            self._cut_off_timer.cancel()
            self._cut_off_timer = None
        self._grace_ms = welcome.stream_grace_ms
        self._cluster = self._cluster or welcome.cluster
        self._taken_in = True
        self._links.welcomed(stream)
        self._machine.welcomed(stream.session, ((owned.shard, owned.epoch) for owned in welcome.shards if owned.owned))
        _log.info("attached", coordinator=welcome.name, address=stream.address, cluster=welcome.cluster)
        self._on_attached(welcome.name, stream.address)
        self._links.meet(welcome.coordinators)
        self._wake_all()

    def received(self, stream: Stream, message: wire.AttachResponse) -> None:
        """A coordinator spoke."""
        machine, session = self._machine, stream.session
        # First: nothing else may have run since we went on.
        self._pulse.beat()
        if message.HasField("heartbeat"):
            machine.heard(session, message.heartbeat.pong)
            self.database, self.lock = message.heartbeat.database, message.heartbeat.lock
        if message.shards:
            machine.owns(session, ((item.shard, item.epoch, item.owned) for item in message.shards))
        if message.acks:
            self._execution.obey(machine.acked(session, to_acks(message.acks)))
            self._drain.changed()
            self._report_if_drained()
        if message.cancels:
            self._execution.obey(machine.cancels(session, to_cancels(message.cancels)))
        if message.assignments:
            self._execution.obey(machine.assigned(session, to_works(message.assignments)))
        if message.credit_seq:
            machine.credit_echoed(session, message.credit_seq)
        if message.HasField("backlog"):
            machine.backlog(session, message.backlog.waiting > 0)
        if message.coordinators:
            self._links.meet(message.coordinators)
        if message.HasField("set_draining"):
            self._set_drained(stream, message.set_draining.draining)
        if message.HasField("drain"):
            self._drain.begin(message.drain.deadline_ms)
            self._wake_every_stream()
        self._wake_all()

    def fill(self, stream: Stream, message: wire.AttachRequest) -> bool:
        """Put what is due for a coordinator into a message."""
        session = self._machine.sessions.get(stream.session)
        progress = self._progress.take(session.owned, self._machine.attempts) if session is not None else ()
        if progress:
            # Results wait for the next message: after the result of an attempt its progress would not be heard any more.
            message.progress.extend(progress)
            return True
        due = self._machine.outgoing(stream.session)
        if due.inventory:
            message.inventory.extend(to_inventories(due.inventory))
        if due.results:
            message.results.extend([to_result(attempt) for attempt in due.results])
        if due.credit is not None:
            message.credit.seq, message.credit.limit = due.credit
        if self._tell_stance(stream, message):
            return True
        if stream.session in self._load_due:
            self._load_due.discard(stream.session)
            message.load.CopyFrom(self._load_report())
            return True
        return bool(due)

    def heartbeat(self, stream: Stream) -> wire.WorkerHeartbeat:
        """Show that we live, and state everything again."""
        self._machine.heartbeat(stream.session)
        return wire.WorkerHeartbeat(
            load=self._load_report(),
            last_seq_seen=stream.last_seq_seen,
            ping=self._surroundings.clock.now_us(),
            pong=stream.pong,
        )

    # -- within ------------------------------------------------------------------------------------------------------------

    def _set_drained(self, stream: Stream, drained: bool) -> None:
        """An operator wants us to take no more work, or some again. Whoever is on its way out stays so."""
        if drained is not self._drained:
            _log.warning("drained" if drained else "undrained", running=self.running, queued=self.queued)
        self._drained = drained
        if not self._drain.begun:
            (self._machine.drain if drained else self._machine.take_work)()
        # Whoever asks waits for an answer, even if nothing has changed.
        self._told[stream.session] = None
        self._wake_every_stream()

    def _stance_towards(self, stream: Stream) -> Stance:
        if self._drain.begun:
            return Stance.LEAVES
        # A coordinator that would not hear us take it back learns it from its bound alone.
        return Stance.STAYS if self._drained and stream.sets_draining else Stance.TAKES

    def _tell_stance(self, stream: Stream, message: wire.AttachRequest) -> bool:
        """Say whether we take work, if that is news to a coordinator, or asked for."""
        stance = self._stance_towards(stream)
        if self._told.get(stream.session, Stance.TAKES) is stance:
            return False
        self._told[stream.session] = stance
        match stance:
            case Stance.LEAVES:
                message.draining.deadline_ms = self._drain.left_ms
            case Stance.STAYS:
                message.draining.stays = True
                message.load.CopyFrom(self._load_report())
            case Stance.TAKES:
                message.taking_work.SetInParent()
        return True

    def _stood_still(self, for_us: int) -> None:
        _log.warning("stood_still", seconds=round(for_us / 1e6, 1))
        self._machine.stood_still(self._surroundings.clock.now_us())
        for stream in self._links.attached.values():
            stream.beat()

    def _attempts_changed(self) -> None:
        self._drain.changed()
        self._report_if_drained()
        self._wake_all()

    def _wake_all(self) -> None:
        for session, stream in self._links.attached.items():
            if self._machine.wants_to_send(session):
                stream.wake()

    def _wake_every_stream(self) -> None:
        for stream in self._links.attached.values():
            stream.wake()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(credit_interval_ms / 1_000)
            self._pulse.beat()
            self._machine.rebalance()
            self._wake_all()

    async def _report_load(self) -> None:
        while True:
            self.load = Load(self.usage.cpu_percent(), self.usage.memory_percent())
            moved = max(abs(self.load.cpu - self._reported.cpu), abs(self.load.memory - self._reported.memory))
            if moved >= _noticeable_percent or self._has() != self._reported_has:
                self._report_soon()
            await asyncio.sleep(self.config.load_report_interval_ms / 1_000)

    def _report_if_drained(self) -> None:
        """Tell every coordinator at once what we still have: an operator waits until it is nothing."""
        if self._drained and self._has() != self._reported_has:
            self._report_soon()

    def _report_soon(self) -> None:
        self._reported, self._reported_has = self.load, self._has()
        self._load_due = set(self._links.attached)
        self._wake_every_stream()

    def _has(self) -> tuple[int, int, int]:
        return self.queued, self.running, self.unacknowledged

    def _load_report(self) -> wire.LoadReport:
        queued, running, unacknowledged = self._has()
        return wire.LoadReport(
            cpu_percent=self.load.cpu,
            memory_percent=self.load.memory,
            queued=queued,
            running=running,
            unacknowledged=unacknowledged,
        )
