"""One worker's stream: what is read, what is written, and when it ends."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import structlog

from mainspring import limits
from mainspring.clock import Clock
from mainspring.errors import BadRequestError, BusyError, UnavailableError
from mainspring.v1 import worker_pb2
from mainspring.wire import clip
from mainspring_coordinator.answering import Context, incident
from mainspring_coordinator.auth.unreadable import Unreadable
from mainspring_coordinator.engine.effects import Ack, Assign, Disposition, Refuse, Replace, Welcomed
from mainspring_coordinator.engine.events import Event, WorkerAttached, WorkerDetached, WorkerHeard
from mainspring_coordinator.fleet_wire import HelloRefusedError, Outbox, check_hello, events_of, load_of
from mainspring_coordinator.holdings import reject, resolve
from mainspring_coordinator.ports import Directory, Loop, SessionEffect
from mainspring_coordinator.worker_book import WorkerBook, WorkerEntry

_log: Final = structlog.get_logger(__name__)
_ended_first: Final = (
    "the worker's stream ended before it answered; it may have been told or not, look at: mainspring workers"
)


@dataclass(frozen=True, slots=True)
class FleetTimings:
    """Milliseconds; they are told to each worker in Welcome."""

    heartbeat_ms: int = 30_000
    silence_ms: int = 90_000
    stream_grace_ms: int = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What a session needs of its process."""

    loop: Loop
    directory: Directory
    cluster: str
    timings: FleetTimings
    version: str
    clock: Clock
    vitals: Callable[[], tuple[str, str]]
    """How database ("up", "down") and lock ("held", "not_held") are, for the heartbeats."""
    book: WorkerBook
    keep: Callable[[Coroutine[Any, Any, None]], None]
    """Lets work go on that outlives the stream."""


class Session:
    """One attached stream, and the outlet through which the loop speaks to it."""

    def __init__(self, fleet: Surroundings, context: Context) -> None:
        self._fleet = fleet
        self._loop = fleet.loop
        self._context = context
        self.number = fleet.loop.new_session()
        self._outbox = Outbox()
        self._to_write = asyncio.Event()
        self._over = asyncio.Event()
        """The call is to end now."""
        self._entry: WorkerEntry | None = None
        self._posted = False
        """The engine knows of this session."""
        self._welcomed = False
        self._goodbye = False
        """The worker said that it leaves."""
        self._evicted = False
        """An operator evicted the worker."""
        self._left = False
        """The call has ended for us; nothing more is written, unless our Goodbye is on its way."""
        self._wanted = False
        """We had a reason of our own to end it."""
        self._told: dict[int, int] = {}
        """The shards, with their epochs, that the worker was told we own."""
        now_us = fleet.clock.now_us()
        self._opened_us = self._heard_us = now_us
        self._writing_since_us = 0
        self._seq_seen = 0
        self._ping = 0
        self._pinged_us = 0
        self._worker_ping = 0
        self._asked = 0
        """The ping whose answer the loop is to be told of; 0: none."""
        self._stance: list[asyncio.Future[None]] = []
        """Who waits for the worker to say whether it takes work."""
        self._unseen: list[tuple[int, asyncio.Future[None]]] = []
        """Who waits for the answer to which ping."""
        self._heartbeat_due_us = now_us + fleet.timings.heartbeat_ms * 1_000

    # -- the outlet: called by the loop -------------------------------------------------------------------------------------

    def deliver(self, effects: Sequence[SessionEffect]) -> None:
        """Send what one commit released; see `ports.Outlet`."""
        try:
            for effect in effects:
                if isinstance(effect, (Welcomed, Refuse, Replace)):
                    self._settle(effect)
            self._outbox.pack(effects)
            self._count(effects)
        except Exception as error:
            self.end(worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, str(incident(error, "deliver")))
        self._written_soon()

    def shards_changed(self, owned: Mapping[int, int]) -> None:
        """Tell the worker which shards we serve from now on; see `ports.Outlet`."""
        if not self._welcomed:
            return  # Welcome will say it
        changes = [
            worker_pb2.ShardOwnership(shard=shard, epoch=epoch, owned=False)
            for shard, epoch in self._told.items()
            if shard not in owned
        ]
        changes += [
            worker_pb2.ShardOwnership(shard=shard, epoch=epoch, owned=True)
            for shard, epoch in owned.items()
            if self._told.get(shard) != epoch
        ]
        if self._entry is not None:
            for change in changes:
                self._entry.stated.pop(change.shard, None)
        self._told = dict(owned)
        if changes:
            self._outbox.own(changes)
            self._written_soon()

    def until_seen(self) -> "asyncio.Future[None]":
        """Ask the worker to say that it has heard all of this; see `ports.Outlet`."""
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._welcomed or self._outbox.closed:
            seen.set_result(None)  # nothing was sent that counts, or nothing more can be asked
            return seen
        self._send_ping(self._fleet.clock.now_us())
        self._unseen = [waiting for waiting in self._unseen if not waiting[1].done()]
        self._unseen.append((self._ping, seen))
        return seen

    @property
    def incarnation(self) -> str:
        """The incarnation of the worker that was taken in; empty before."""
        return self._entry.hello.incarnation if self._entry is not None and self._welcomed else ""

    def set_draining(self, draining: bool) -> "asyncio.Future[None]":
        """Ask the worker to take no more work, or some again; the future is done when it has said what it does, and says no more than that.

        `UnavailableError` comes by it when the stream ends first.
        """
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._outbox.closed:
            answered.set_exception(UnavailableError(_ended_first))
            return answered
        self._outbox.message().set_draining.CopyFrom(worker_pb2.SetDraining(draining=draining))
        self._stance.append(answered)
        self._written_soon()
        return answered

    @property
    def heard_us(self) -> int:
        """When the last message came."""
        return self._heard_us

    @property
    def lost(self) -> bool:
        """Whether the stream of a worker that was taken in ended, or was ended for its silence, though nobody wanted it to."""
        return self._welcomed and not self._goodbye and not self._wanted

    def ask(self) -> None:
        """Let the loop know when the worker answers; what it said before does not count."""
        if self._welcomed and not self._outbox.closed and not self._asked:
            self._send_ping(self._fleet.clock.now_us())
            self._asked = self._ping

    def coordinators_changed(self) -> None:
        """Tell the worker which coordinators are live."""
        if not self._welcomed or self._outbox.closed:
            return  # Welcome says it, or there is nothing more to say
        message = self._outbox.message()
        del message.coordinators[:]
        message.coordinators.extend(_coordinators(self._fleet.directory))
        self._written_soon()

    # -- the beat: called by the fleet --------------------------------------------------------------------------------------

    def extend(self, by_us: int) -> None:
        """Move all deadlines, because we ourselves stood still."""
        self._opened_us += by_us
        self._heard_us += by_us
        if self._writing_since_us:
            self._writing_since_us += by_us

    def beat(self, now_us: int) -> None:
        """Send a heartbeat if one is due; end the stream if it is silent, stuck or late."""
        timings = self._fleet.timings
        silence_us = timings.silence_ms * 1_000
        if not self._welcomed:
            if now_us - self._opened_us > limits.hello_wait_ms_max * 1_000:
                what = "no Hello came" if self._entry is None else "this coordinator could not take it up; attach again"
                self.end(worker_pb2.GOODBYE_REASON_SILENT, f"{what} within {limits.hello_wait_ms_max} ms")
        elif now_us - self._heard_us > silence_us:
            self.end(
                worker_pb2.GOODBYE_REASON_SILENT,
                f"nothing came for {timings.silence_ms} ms (FAILURE_DETECTION_TIMEOUT); attach again",
            )
        elif now_us >= self._heartbeat_due_us:
            self._heartbeat_due_us = now_us + timings.heartbeat_ms * 1_000
            self._send_ping(now_us)
        if self._writing_since_us and now_us - self._writing_since_us > silence_us:
            self._over.set()

    def end(self, reason: worker_pb2.GoodbyeReason.ValueType, message: str) -> None:
        """End the stream by intent, behind what still waits to be written."""
        self._wanted = reason != worker_pb2.GOODBYE_REASON_SILENT
        self._outbox.close(reason, clip(message, limits.reason_bytes_max))
        self._to_write.set()
        self._over.set()

    # -- the call -----------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Read and write until one of both ends."""
        over = asyncio.create_task(self._over.wait(), name=f"session {self.number} over")
        reader = asyncio.create_task(self._read(), name=f"session {self.number} reader")
        writer = asyncio.create_task(self._write(), name=f"session {self.number} writer")
        tasks = (over, reader, writer)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._outbox.closed and not writer.done():
                # What was released by a commit leaves before the Goodbye; a worker that does not read has a moment.
                await asyncio.wait({writer}, timeout=limits.goodbye_wait_ms_max / 1_000)
        finally:
            self._leave()
            # A write that is cut short would leave the call without a status, and its worker waiting for one.
            self._left = True
            self._to_write.set()
            try:
                await asyncio.wait({writer}, timeout=limits.goodbye_wait_ms_max / 1_000)
            finally:  # the call may be cancelled twice: by its worker, and by the server that stops
                for task in tasks:
                    task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    incident(ended, "Attach")

    async def _read(self) -> None:
        while True:
            request = await self._next()
            if request is None:
                return
            if isinstance(request, Unreadable):
                self._breach(str(request.error), "")
                return
            self._heard_us = self._fleet.clock.now_us()
            if self._entry is not None:
                self._entry.heard_us = self._heard_us
            try:
                await self._take(request)
            except BadRequestError as error:
                self._breach(f"message {request.seq}: {error}", error.field)
            except HelloRefusedError as error:
                self.end(error.reason, str(error))
            if self._goodbye or self._outbox.closed:
                return

    def _breach(self, what: str, field: str) -> None:
        _log.warning("a worker broke the contract", session=self.number, peer=self._context.peer(), field=field)
        self.end(worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, what)

    async def _next(self) -> worker_pb2.AttachRequest | Unreadable | None:
        """Return the next message; None at the end of the stream, which says nothing of its cause."""
        try:
            request = await self._context.read()
        except grpc.aio.BaseError:
            return None
        return None if request is grpc.aio.EOF else request

    async def _write(self) -> None:
        while not self._left or self._outbox.closed:
            message = self._outbox.take()
            if message is None:
                self._to_write.clear()
                await self._to_write.wait()
                continue
            self._writing_since_us = self._fleet.clock.now_us()
            try:
                await self._context.write(message)
            except grpc.aio.BaseError:
                return  # the stream is gone; the reader sees its end
            self._writing_since_us = 0
            if message.HasField("goodbye"):
                return

    async def _take(self, request: worker_pb2.AttachRequest) -> None:
        """Take in one message."""
        if request.seq != self._seq_seen + 1:
            raise BadRequestError(
                f"seq: {request.seq} follows {self._seq_seen}; messages are numbered from 1", field="seq"
            )
        self._seq_seen = request.seq
        entry = self._entry
        if entry is None:
            entry = await self._attach(request)
        elif request.HasField("hello"):
            raise BadRequestError("hello: only in the first message", field="hello")
        for event in events_of(self.number, request, self._loop.shards_total, entry.hello.slots):
            await self._post(event)
        self._note(entry, request)
        if request.HasField("goodbye"):
            self._goodbye = True

    async def _attach(self, request: worker_pb2.AttachRequest) -> WorkerEntry:
        hello = check_hello(request, self._fleet.cluster)
        entry = self._entry = WorkerEntry(self.number, hello, self._heard_us)
        self._loop.attach(self.number, self)
        self._posted = True
        await self._post(
            WorkerAttached(
                self.number,
                hello.name,
                hello.incarnation,
                hello.host,
                hello.zone,
                dict(hello.labels),
                frozenset(hello.executors),
                hello.slots,
                hello.workflows_max,
            )
        )
        return entry

    async def _post(self, event: Event) -> None:
        """Hand an event to the loop; while its queue is full nothing more is read, so the worker waits too."""
        while not self._outbox.closed:
            try:
                self._loop.post(event)
            except BusyError as error:
                await asyncio.sleep(error.retry_after_ms / 1_000)
                # It is we who do not listen.
                self._heard_us = self._fleet.clock.now_us()
            else:
                return

    def _note(self, entry: WorkerEntry, request: worker_pb2.AttachRequest) -> None:
        """Keep what a message says of the worker itself, and answer its heartbeat."""
        for item in request.inventory:
            if item.shard not in self._told:
                continue  # another's, of which we do not hear when it has ended
            entry.stated[item.shard] = len(item.queued) + len(item.running) + len(item.finished)
        if (load := load_of(request)) is not None:
            entry.reported(load)
        if request.HasField("credit"):
            entry.credit = request.credit.limit
        if request.HasField("draining") or request.HasField("taking_work"):
            entry.draining, entry.stays = request.HasField("draining"), request.draining.stays
            told, self._stance = self._stance, []
            resolve(told)
        if request.HasField("heartbeat"):
            heartbeat = request.heartbeat
            if self._pinged_us and heartbeat.pong == self._ping:
                entry.round_trip_us = max(1, self._fleet.clock.now_us() - self._pinged_us)
                self._pinged_us = 0
            self._seen(heartbeat.pong)
            if self._asked and heartbeat.pong >= self._asked:
                self._asked = 0
                with suppress(BusyError):  # then others are heard
                    self._loop.post(WorkerHeard(self.number))
            if heartbeat.ping:
                self._worker_ping = heartbeat.ping
                self._heartbeat(ping=0)

    def _send_ping(self, now_us: int) -> None:
        self._ping += 1
        self._pinged_us = now_us
        self._heartbeat(ping=self._ping)

    def _seen(self, ping: int) -> None:
        """The worker has heard all up to this ping: the message that holds it came after what was sent before."""
        resolve([seen for asked, seen in self._unseen if asked <= ping])

    def _heartbeat(self, *, ping: int) -> None:
        if self._outbox.closed:
            return
        database, lock = self._fleet.vitals()
        message = self._outbox.message()
        # One that still waits to be written is brought up to date rather than followed by another.
        heartbeat = message.heartbeat
        heartbeat.last_seq_seen = self._seq_seen
        heartbeat.ping = ping or heartbeat.ping
        heartbeat.pong = self._worker_ping
        heartbeat.database = database
        heartbeat.lock = lock
        self._written_soon()

    def _settle(self, effect: Welcomed | Refuse | Replace) -> None:
        """The engine said whether the worker may stay."""
        match effect:
            case Welcomed():
                assert self._entry is not None
                self._welcomed = True
                self._fleet.book.attached(self._entry)
                self._told = dict(self._loop.serving)
                self._outbox.message().welcome.CopyFrom(self._welcome())
            case Refuse():
                reason = worker_pb2.GoodbyeReason.Value(f"GOODBYE_REASON_{effect.reason}")
                self._evicted = effect.reason == "EVICTED"
                if reason == worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR:
                    _log.warning(
                        "worker_refused", session=self.number, peer=self._context.peer(), reason=effect.message
                    )
                self.end(reason, effect.message)
            case Replace():
                self.end(
                    worker_pb2.GOODBYE_REASON_REPLACED,
                    "a newer stream of the same incarnation took the place of this one",
                )

    def _welcome(self) -> worker_pb2.Welcome:
        fleet, timings = self._fleet, self._fleet.timings
        return worker_pb2.Welcome(
            cluster=fleet.cluster,
            incarnation=fleet.directory.incarnation,
            name=fleet.directory.name,
            coordinators=_coordinators(fleet.directory),
            shards=[
                worker_pb2.ShardOwnership(shard=shard, epoch=epoch, owned=True) for shard, epoch in self._told.items()
            ],
            shards_total=self._loop.shards_total,
            heartbeat_interval_ms=timings.heartbeat_ms,
            silence_limit_ms=timings.silence_ms,
            stream_grace_ms=timings.stream_grace_ms,
            version=clip(fleet.version, limits.version_bytes_max),
            sets_draining=True,
        )

    def _count(self, effects: Sequence[SessionEffect]) -> None:
        """Keep the number of the worker's assignments between two inventories."""
        if self._entry is None:
            return
        stated = self._entry.stated
        for effect in effects:
            if isinstance(effect, Assign):
                stated[effect.shard] = stated.get(effect.shard, 0) + 1
            elif isinstance(effect, Ack) and effect.disposition is not Disposition.NOT_OWNER:
                stated[effect.shard] = max(0, stated.get(effect.shard, 0) - 1)

    def _written_soon(self) -> None:
        if self._outbox.overflown:
            _log.warning("a worker does not read; its stream ends", session=self.number, messages=len(self._outbox))
            self._over.set()
        self._to_write.set()

    def _leave(self) -> None:
        """Tell loop and book that the stream has ended."""
        self._seen(self._ping)
        reject(self._stance, UnavailableError(_ended_first))
        if not self._posted:
            return
        self._loop.detach(self.number)
        if self._entry is not None and self._welcomed:
            self._fleet.book.detached(self._entry, self._fleet.clock.now_us(), gone=self._goodbye or self._evicted)
        self._fleet.keep(self._tell_end(WorkerDetached(self.number, self._goodbye)))

    async def _tell_end(self, event: Event) -> None:
        while True:
            try:
                self._loop.post(event)
            except BusyError as error:
                await asyncio.sleep(error.retry_after_ms / 1_000)
            else:
                return


def _coordinators(directory: Directory) -> list[worker_pb2.CoordinatorAddress]:
    return [
        worker_pb2.CoordinatorAddress(incarnation=incarnation, name=name, address=address)
        for incarnation, name, address in directory.coordinators()
    ]
