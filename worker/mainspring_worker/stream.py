"""One stream to one coordinator: a reader task and a writer task, each the only one of its kind.

Reads and writes are never put under a timeout of their own, which would destroy the call half-way; a deadline ends the whole call. The
end of a stream says nothing by itself: only Goodbye tells that it was meant.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import grpc
import grpc.aio
import structlog

from mainspring.dial import Keepalive, open_channel
from mainspring.v1 import worker_pb2 as wire
from mainspring.v1.worker_pb2_grpc import FleetServiceStub

_log: Final = structlog.get_logger(__name__)


class Host(Protocol):
    """What a stream belongs to."""

    def hello(self) -> wire.Hello:
        """Return the first message's content."""
        ...

    def welcomed(self, stream: "Stream", welcome: wire.Welcome) -> bool:
        """A coordinator took us in; False when a stream to that coordinator is open already, and this one is to close."""
        ...

    def received(self, stream: "Stream", message: wire.AttachResponse) -> None:
        """A message came."""
        ...

    def fill(self, stream: "Stream", message: wire.AttachRequest) -> bool:
        """Put everything that is due into a message; tell whether there was anything."""
        ...

    def heartbeat(self, stream: "Stream") -> wire.WorkerHeartbeat:
        """Return a heartbeat, and make everything due that is stated with one."""
        ...


class Stream:
    """One attempt to be attached, from the dial to the end."""

    def __init__(self, session: int, address: str, host: Host, keepalive: Keepalive) -> None:
        self.session = session
        self.address = address
        self.incarnation = ""
        """The coordinator's, once it has welcomed us."""
        self.goodbye: wire.Goodbye | None = None
        """What it said when it ended the stream by intent."""
        self.last_seq_seen = 0
        self.pong = 0
        """The coordinator's ping that came last."""
        self._host = host
        self._keepalive = keepalive
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._silence_s = 90.0
        self._beat_s = 30.0
        self._beat_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_words: wire.Goodbye | None = None
        self._call: grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse] | None = None

    async def run(self) -> None:
        """Attach, and serve the stream to its end; a lost connection is logged, not raised."""
        channel = open_channel(self.address, self._keepalive)
        try:
            self._call = FleetServiceStub(channel).Attach()
            await self._serve(self._call)
        except grpc.aio.AioRpcError as error:
            _log.info("stream_lost", address=self.address, code=error.code().name, details=error.details())
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            # The call was cancelled by us, because the coordinator was silent or the stream was to be closed.
        finally:
            if self._timer is not None:
                self._timer.cancel()
            await channel.close()

    def wake(self) -> None:
        """Something is due to be sent."""
        self._wake.set()

    def close(self, goodbye: wire.Goodbye) -> None:
        """End the stream by intent, after what is due has been sent."""
        self._last_words = goodbye
        self._wake.set()

    def abort(self) -> None:
        """End the stream at once, without a word."""
        if self._call is not None:
            self._call.cancel()

    async def _serve(self, call: "grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse]") -> None:
        await call.write(wire.AttachRequest(seq=1, hello=self._host.hello()))
        first = await call.read()
        if not isinstance(first, wire.AttachResponse):
            await call.code()
            return
        self._take(first)
        if self.goodbye is not None or not first.HasField("welcome"):
            call.cancel()
            return
        welcome = first.welcome
        self.incarnation = welcome.incarnation
        self._beat_s = welcome.heartbeat_interval_ms / 1_000
        self._silence_s = welcome.silence_limit_ms / 1_000
        if not self._host.welcomed(self, welcome):
            call.cancel()
            return
        self._host.received(self, first)
        self._timer = self._loop.call_later(self._beat_s, self._beat)
        self.wake()
        writer = self._loop.create_task(self._write(call))
        try:
            await self._read(call)
        finally:
            # The reader has ended, so the call is over: whatever the writer waits for cannot come any more.
            self._last_words = self._last_words or wire.Goodbye()
            self._wake.set()
            call.cancel()
            await asyncio.wait([writer])
            if not writer.cancelled() and isinstance(writer.exception(), Exception):
                error = writer.exception()
                if not isinstance(error, grpc.aio.AioRpcError | grpc.aio.UsageError | asyncio.InvalidStateError):
                    raise error  # type: ignore[misc]  # it is an exception, as was just seen

    async def _read(self, call: "grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse]") -> None:
        while True:
            message = await call.read()
            if not isinstance(message, wire.AttachResponse):
                return
            self._take(message)
            if self.goodbye is not None:
                return
            self._host.received(self, message)

    async def _write(self, call: "grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse]") -> None:
        seq = 1
        while True:
            await self._wake.wait()
            self._wake.clear()
            message = wire.AttachRequest(seq=seq + 1)
            due = False
            if self._beat_due:
                self._beat_due, due = False, True
                message.heartbeat.CopyFrom(self._host.heartbeat(self))
            due = self._host.fill(self, message) or due
            if self._last_words is not None and not due:
                message.goodbye.CopyFrom(self._last_words)
                await call.write(message)
                await call.done_writing()
                return
            if due:
                seq += 1
                await call.write(message)
                # More may have become due while this one was on its way, or have been left out because it was full.
                self._wake.set()

    def _take(self, message: wire.AttachResponse) -> None:
        self._heard_at = self._loop.time()
        self.last_seq_seen = message.seq
        if message.HasField("heartbeat"):
            self.pong = message.heartbeat.ping
        if message.HasField("goodbye"):
            self.goodbye = message.goodbye

    def _beat(self) -> None:
        """Send a heartbeat; end the call when the coordinator has been silent for too long."""
        now = self._loop.time()
        self._timer = self._loop.call_later(self._beat_s, self._beat)
        if now - self._heard_at > self._silence_s:
            _log.warning("coordinator_silent", address=self.address, seconds=round(now - self._heard_at, 1))
            self.abort()
            return
        self._beat_due = True
        self.wake()


def addresses_of(coordinators: Sequence[wire.CoordinatorAddress]) -> dict[str, str]:
    """Return addresses by incarnation."""
    return {coordinator.incarnation: coordinator.address for coordinator in coordinators}
