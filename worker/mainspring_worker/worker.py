"""The worker: ties the machine, the runner and the streams together.

It dials every coordinator of the cluster, runs what they assign, and keeps each result until its owner has acknowledged it. A lost
stream is dialled again, first at once, then with jitter; what runs goes on meanwhile.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

import orjson
import structlog

from mainspring.dial import Keepalive
from mainspring.errors import MainspringError
from mainspring.limits import (
    credit_interval_ms,
    drain_ms_default,
    goodbye_wait_ms_max,
    message_split_bytes,
    progress_bytes_max,
    progress_interval_ms_min,
)
from mainspring.naming import new_incarnation
from mainspring.usage import Usage
from mainspring.v1 import worker_pb2 as wire
from mainspring.v1 import workflow_pb2
from mainspring.wire import json_encoding, protocol_version
from mainspring_worker.attempts import Cause, Instruction, Key, Start, Work
from mainspring_worker.context import Context
from mainspring_worker.executors import Executor
from mainspring_worker.links import Links, Timings
from mainspring_worker.machine import Machine
from mainspring_worker.outcome import Ended
from mainspring_worker.processes import ProcessPool
from mainspring_worker.reports import Report, to_inventories, to_result
from mainspring_worker.runner import Order, Runner
from mainspring_worker.stream import Stream

_log: Final = structlog.get_logger(__name__)
_progress_a_message_max: Final = message_split_bytes // (progress_bytes_max + 256)
_noticeable_percent: Final = 5.0
"""A load that moved by less is told with the next heartbeat only."""
_fatal: Final = frozenset({wire.GOODBYE_REASON_INCOMPATIBLE, wire.GOODBYE_REASON_WRONG_CLUSTER})
_causes: Final = {int(cause): cause for cause in Cause if cause is not Cause.DISCONNECTED}
_dispositions: Final[Mapping[int, str]] = {
    wire.ACK_DISPOSITION_RECORDED: "recorded",
    wire.ACK_DISPOSITION_STALE: "stale",
    wire.ACK_DISPOSITION_NOT_OWNER: "not_owner",
}


class RefusedError(MainspringError):
    """The cluster refuses this worker, and trying again would not help."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Who a worker is and how it behaves; times are milliseconds."""

    name: str
    addresses: Sequence[str]
    slots: int = 50
    workflows_max: int = 10
    host: str = ""
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    cluster: str = ""
    """The cluster's name; empty: whichever answers."""
    heartbeat_interval_ms: int = 30_000
    failure_detection_timeout_ms: int = 90_000
    load_report_interval_ms: int = 2_000
    drain_ms: int = drain_ms_default
    keepalive: Keepalive = field(default_factory=Keepalive)
    modules: Sequence[str] = ()
    """What registers the executors; processes of `process=True` executors import them too."""
    processes: int = 0
    """How many such processes there may be; 0: as many as slots."""
    http_port: int = 0


@dataclass(slots=True)
class Load:
    """What was measured last."""

    cpu: float = 0.0
    memory: float = 0.0


class Worker:
    """One worker. `await run()` serves until it is told to stop; nothing of it survives its event loop."""

    def __init__(
        self,
        config: WorkerConfig,
        executors: Mapping[str, Executor],
        *,
        on_attached: Callable[[str, str], None] = lambda _coordinator, _address: None,
        on_ended: Callable[[Executor, bool, float], None] = lambda _executor, _is_map, _seconds: None,
    ) -> None:
        """`on_attached` gets the name and address of a coordinator that welcomed us, `on_ended` what ran, for metrics."""
        self.config = config
        self.incarnation = new_incarnation()
        self.load = Load()
        self.usage = Usage()
        self.database, self.lock = "unknown", "unknown"
        """What a coordinator said last of its database and its lock."""
        self._executors = executors
        self._on_attached = on_attached
        self._on_ended = on_ended
        self._machine = Machine(config.slots)
        self._processes = ProcessPool(config.modules, config.processes or config.slots)
        self._runner = Runner(executors, config.slots, self._attempt_ended, self._processes)
        timings = Timings(config.heartbeat_interval_ms, config.failure_detection_timeout_ms, config.keepalive)
        self._links = Links(self, config.addresses, timings)
        self._orders: dict[Key, Order] = {}
        self._progress: dict[Key, bytes] = {}
        self._progress_lock = threading.Lock()
        self._progress_due: dict[Key, bytes] = {}
        self._progress_timer: asyncio.TimerHandle | None = None
        self._cut_off_timer: asyncio.TimerHandle | None = None
        self._grace_ms = 0
        """How long a coordinator waits for us after a stream was lost, as Welcome said last."""
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._changed = asyncio.Event()
        self._draining = False
        self._told_draining: set[int] = set()
        self._drain_task: asyncio.Task[Sequence[Key]] | None = None
        self._reported = Load()
        self._load_due: set[int] = set()

    @property
    def attached(self) -> int:
        """To how many coordinators it is attached."""
        return len(self._links.attached)

    @property
    def running(self) -> int:
        """How many attempts run."""
        return self._machine.running

    @property
    def active_workflows(self) -> int:
        """Of how many workflows it runs nodes."""
        return len({order.context.workflow_id for order in self._orders.values()})

    async def run(self) -> None:
        """Serve until `stop` is called; `RefusedError` when the cluster wants no such worker."""
        self._links.dial()
        reporter = self._loop.create_task(self._report_load())
        balancer = self._loop.create_task(self._move_idle_credit())
        try:
            await self._stopped
        finally:
            reporter.cancel()
            balancer.cancel()
            for timer in (self._progress_timer, self._cut_off_timer):
                if timer is not None:
                    timer.cancel()
            await asyncio.gather(reporter, balancer, return_exceptions=True)
            await self._links.close()
            self._processes.close()
            self._runner.close()

    def stop_on_signals(self) -> None:
        """Drain at the first SIGTERM or SIGINT, end at once at the second."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._draining:
            self._finish()
        else:
            self._drain_task = self._loop.create_task(self.drain())

    async def drain(self, within_ms: int | None = None) -> Sequence[Key]:
        """Take no more work, finish what runs, say goodbye; return the attempts left behind when the time is over."""
        self._draining = True
        within_ms = self.config.drain_ms if within_ms is None else within_ms
        _log.info("draining", running=self._machine.running, queued=self._machine.queued, within_ms=within_ms)
        self._machine.drain()
        for stream in self._links.attached.values():
            stream.wake()
        try:
            async with asyncio.timeout(within_ms / 1_000):
                while not self._machine.idle:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            _log.warning("drain_time_over", running=self._machine.running)
        left = self._machine.left_behind()
        for key in left:
            order = self._orders.get(key)
            if order is not None:
                context = order.context
                _log.warning(
                    "attempt_left", workflow=context.workflow_id, node=context.node_id, instance=context.instance
                )
        abandoned = [wire.AbandonedAttempt(shard=shard, id=number) for shard, number in left]
        goodbye = wire.Goodbye(reason=wire.GOODBYE_REASON_SHUTDOWN, message="the worker stops", abandoned=abandoned)
        await self._links.leave(goodbye, 2 * goodbye_wait_ms_max / 1_000)
        _log.info("stopped", left=len(left))
        self._finish()
        return left

    def _finish(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # -- connections -------------------------------------------------------------------------------------------------------

    def left(self, stream: Stream) -> None:
        """A stream is over; what came by it goes on."""
        self._told_draining.discard(stream.session)
        self._load_due.discard(stream.session)
        self._machine.ended(stream.session)
        if not self._links.attached and self._cut_off_timer is None:
            # Not at once: most streams that are lost are back before anybody else gets their work. Half of the time that the
            # coordinator waits, so that what asked for it has ended before it runs elsewhere.
            self._cut_off_timer = self._loop.call_later(self._grace_ms / 2_000, self._cut_off)
        self._wake_all()

    def _cut_off(self) -> None:
        self._cut_off_timer = None
        self._obey(self._machine.cut_off())

    def heard_goodbye(self, stream: Stream, goodbye: wire.Goodbye) -> None:
        """Do what a Goodbye asks for."""
        reason = wire.GoodbyeReason.Name(goodbye.reason) if goodbye.reason in wire.GoodbyeReason.values() else "unknown"
        _log.warning("goodbye", address=stream.address, reason=reason, message=goodbye.message)
        if goodbye.reason in _fatal and not self._stopped.done():
            self._stopped.set_exception(RefusedError(goodbye.message))
        if goodbye.reason == wire.GOODBYE_REASON_INCARNATION_LOST and stream.said == self.incarnation:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """This incarnation is lost to the cluster: its work was given to others. Become a new one."""
        self._obey(self._machine.void_all())
        self.incarnation = new_incarnation()
        self._links.forget_all(wire.Goodbye(reason=wire.GOODBYE_REASON_SHUTDOWN, message="the worker begins anew"))

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
            version=version("mainspring"),
            protocol=protocol_version,
            cluster=config.cluster,
            workflows_max=config.workflows_max,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            http_port=config.http_port,
        )

    def welcomed(self, stream: Stream, welcome: wire.Welcome) -> None:
        """A coordinator took us in."""
        if self._cut_off_timer is not None:
            self._cut_off_timer.cancel()
            self._cut_off_timer = None
        self._grace_ms = welcome.stream_grace_ms
        self._links.welcomed(stream)
        self._machine.welcomed(stream.session, ((owned.shard, owned.epoch) for owned in welcome.shards if owned.owned))
        _log.info("attached", coordinator=welcome.name, address=stream.address, cluster=welcome.cluster)
        self._on_attached(welcome.name, stream.address)
        self._links.meet(welcome.coordinators)
        self._wake_all()

    def received(self, stream: Stream, message: wire.AttachResponse) -> None:
        """A coordinator spoke."""
        machine, session = self._machine, stream.session
        if message.shards:
            machine.owns(session, ((item.shard, item.epoch, item.owned) for item in message.shards))
        if message.acks:
            self._obey(
                machine.acked(
                    session,
                    (
                        (ack.shard, ack.id, ack.epoch, _dispositions[ack.disposition])
                        for ack in message.acks
                        if ack.disposition in _dispositions
                    ),
                )
            )
            self._changed.set()
        if message.cancels:
            items = (
                (item.shard, item.id, item.epoch, _causes.get(item.cause, Cause.UNSPECIFIED))
                for item in message.cancels
            )
            self._obey(machine.cancels(session, items))
        if message.assignments:
            self._obey(machine.assigned(session, [self._work(item) for item in message.assignments]))
        if message.credit_seq:
            machine.credit_echoed(session, message.credit_seq)
        if message.HasField("backlog"):
            machine.backlog(session, message.backlog.waiting > 0)
        if message.coordinators:
            self._links.meet(message.coordinators)
        if message.HasField("heartbeat"):
            self.database, self.lock = message.heartbeat.database, message.heartbeat.lock
        if message.HasField("drain") and not self._draining:
            self._drain_task = self._loop.create_task(self.drain(message.drain.deadline_ms))
        self._wake_all()

    def fill(self, stream: Stream, message: wire.AttachRequest) -> bool:
        """Put what is due for a coordinator into a message."""
        progress = self._take_progress(stream.session)
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
        if self._draining and stream.session not in self._told_draining:
            self._told_draining.add(stream.session)
            message.draining.deadline_ms = self.config.drain_ms
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
            load=self._load_report(), last_seq_seen=stream.last_seq_seen, ping=self._loop_us(), pong=stream.pong
        )

    # -- attempts ----------------------------------------------------------------------------------------------------------

    def _work(self, item: wire.Assignment) -> Work:
        return Work(item.shard, item.id, item.epoch, item.ordinal, item.stop_on_disconnect, item)

    def _obey(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Start):
                self._start(instruction.work)
            else:
                self._runner.stop(instruction.key, instruction.cause)

    def _start(self, work: Work) -> None:
        item = work.details
        assert isinstance(item, wire.Assignment)
        key = work.key
        context = Context(
            item.workflow_id,
            item.workflow_name,
            item.node_id,
            item.instance,
            item.attempt,
            orjson.loads(item.progress.data) if item.progress.data else None,
            lambda details: self._report_progress(key, details),
        )
        order = Order(key, item.executor, item.input.data, item.start_to_close_ms, context)
        self._orders[key] = order
        self._runner.start(order)

    def _attempt_ended(self, order: Order, ended: Ended, run_us: int) -> None:
        self._orders.pop(order.key, None)
        with self._progress_lock:
            details = self._progress.pop(order.key, None)
        if details is not None and ended.failure is not None:
            # The next attempt begins with what this one said last.
            self._progress_due[order.key] = details
        report = Report(ended, run_us)
        found = self._executors.get(order.executor)
        if found is not None:
            self._on_ended(found, order.context.instance >= 0, run_us / 1e6)
        self._obey(self._machine.finished(order.key, report.outcome, report, ended.size))
        self._changed.set()
        self._wake_all()

    def _wake_all(self) -> None:
        for session, stream in self._links.attached.items():
            if self._machine.wants_to_send(session):
                stream.wake()

    # -- progress and load -------------------------------------------------------------------------------------------------

    def _report_progress(self, key: Key, details: bytes) -> None:
        """Called from any thread; the last details of each attempt are sent, at most once a second."""
        with self._progress_lock:
            first = not self._progress
            self._progress[key] = details
        if first:
            self._loop.call_soon_threadsafe(self._progress_noted)

    def _progress_noted(self) -> None:
        if self._progress_timer is None:
            self._send_progress()

    def _send_progress(self) -> None:
        self._progress_timer = None
        with self._progress_lock:
            noted, self._progress = self._progress, {}
        if noted:
            self._progress_due |= noted
            self._progress_timer = self._loop.call_later(progress_interval_ms_min / 1_000, self._send_progress)
            for stream in self._links.attached.values():
                stream.wake()

    def _take_progress(self, session: int) -> list[wire.Progress]:
        owned = self._machine.sessions[session].owned if session in self._machine.sessions else set[int]()
        if not self._progress_due:
            return []
        for key in [key for key in self._progress_due if key not in self._machine.attempts]:
            del self._progress_due[key]
        keys = [key for key in self._progress_due if key[0] in owned][:_progress_a_message_max]
        return [
            wire.Progress(
                shard=key[0],
                id=key[1],
                details=workflow_pb2.Payload(encoding=json_encoding, data=self._progress_due.pop(key)),
            )
            for key in keys
        ]

    async def _move_idle_credit(self) -> None:
        while True:
            await asyncio.sleep(credit_interval_ms / 1_000)
            self._machine.rebalance()
            self._wake_all()

    async def _report_load(self) -> None:
        while True:
            self.load = Load(self.usage.cpu_percent(), self.usage.memory_percent())
            moved = max(abs(self.load.cpu - self._reported.cpu), abs(self.load.memory - self._reported.memory))
            if moved >= _noticeable_percent:
                self._reported = self.load
                self._load_due = set(self._links.attached)
                for stream in self._links.attached.values():
                    stream.wake()
            await asyncio.sleep(self.config.load_report_interval_ms / 1_000)

    def _load_report(self) -> wire.LoadReport:
        return wire.LoadReport(
            cpu_percent=self.load.cpu,
            memory_percent=self.load.memory,
            queued=self._machine.queued,
            running=self._machine.running,
        )

    def _loop_us(self) -> int:
        return int(self._loop.time() * 1e6)
