"""One stream to one coordinator: a reader task and a writer task, each the only one of its kind.

Reads and writes are never put under a timeout of their own, which would destroy the call half-way; a deadline ends the whole call. The
end of a stream says nothing by itself: only Goodbye tells that it was meant.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import grpc
import grpc.aio
import structlog

from mainspring.limits import hello_wait_ms_max
from mainspring.v1 import worker_pb2 as wire
from mainspring.v1.worker_pb2_grpc import FleetServiceStub

_log: Final = structlog.get_logger(__name__)


class Host(Protocol):
    """What a stream belongs to."""

    def hello(self) -> wire.Hello:
        """Return the first message's content."""
        ...

    def welcomed(self, stream: "Stream", welcome: wire.Welcome) -> None:
        """A coordinator took us in."""
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

    def __init__(
        self,
        session: int,
        address: str,
        host: Host,
        dial: Callable[[], grpc.aio.Channel],
        beat_ms: int,
        silence_ms: int,
    ) -> None:
        """`dial` opens a channel. A heartbeat goes out every `beat_ms`, or sooner if the coordinator wants.

        A coordinator that is silent for `silence_ms` counts as lost.
        """
        self.session = session
        self.address = address
        self.incarnation = ""
        """The coordinator's, once it has welcomed us."""
        self.sets_draining = False
        """The coordinator understands that a worker may take work again."""
        self.goodbye: wire.Goodbye | None = None
        """What it said when it ended the stream by intent."""
        self.failure = ""
        """Why no coordinator has taken us in, once that is known; empty for a refusal, which is its Goodbye."""
        self.last_seq_seen = 0
        self.pong = 0
        """The coordinator's ping that came last."""
        self.lasted_s = 0.0
        """How long it was attached."""
        self._host = host
        self._dial = dial
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._writing_since = 0.0
        """0 while no write is under way."""
        self._silence_s = silence_ms / 1_000
        self._beat_s = beat_ms / 1_000
        self._looked_at = 0.0
        self._beaten_at = self._heard_at
        self._beat_due = False
        self._answer_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_words: wire.Goodbye | None = None
        self._call: grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse] | None = None

    async def run(self) -> None:
        """Attach, and serve the stream to its end; a lost connection is logged, not raised."""
        channel = self._dial()
        self._timer = self._loop.call_later(hello_wait_ms_max / 1_000, self._no_welcome)
        try:
            self._call = FleetServiceStub(channel).Attach()
            await self._serve(self._call)
        except grpc.aio.AioRpcError as error:
            if self.incarnation:
                _log.info("stream_lost", address=self.address, code=error.code().name, details=error.details())
            else:
                self.failure = f"{error.code().name}: {error.details()}"
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

    def beat(self) -> None:
        """Send a heartbeat now."""
        self._beat_due = True
        self.wake()

    def close(self, goodbye: wire.Goodbye) -> None:
        """End the stream by intent, after what is due has been sent."""
        self._last_words = goodbye
        self._wake.set()

    def abort(self) -> None:
        """End the stream at once, without a word."""
        if self._call is not None:
            self._call.cancel()

    async def _serve(self, call: "grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse]") -> None:
        hello = self._host.hello()
        await call.write(wire.AttachRequest(seq=1, hello=hello))
        first = await call.read()
        if not isinstance(first, wire.AttachResponse):
            self.failure = f"the stream ended before a welcome, with {(await call.code()).name}"
            return
        if not self._take(first) or self.goodbye is not None or not first.HasField("welcome"):
            self.failure = "" if self.goodbye is not None else "its first message was no welcome"
            call.cancel()
            return
        welcome = first.welcome
        self.incarnation, self.sets_draining = welcome.incarnation, welcome.sets_draining
        if welcome.heartbeat_interval_ms:
            self._beat_s = min(self._beat_s, welcome.heartbeat_interval_ms / 1_000)
        since = self._loop.time()
        self._host.welcomed(self, welcome)
        self._host.received(self, first)
        self._watch()
        self.wake()
        writer = self._loop.create_task(self._write(call))
        writer.add_done_callback(self._writer_ended)
        try:
            await self._read(call)
        finally:
            # The reader has ended, so the call is over: whatever the writer waits for cannot come any more.
            self.lasted_s = self._loop.time() - since
            self._last_words = self._last_words or wire.Goodbye()
            self._wake.set()
            call.cancel()
            await asyncio.wait([writer])

    def _writer_ended(self, writer: "asyncio.Task[None]") -> None:
        # Here, because whoever waits for the writer may be cancelled meanwhile, and would not look at how it ended.
        error = None if writer.cancelled() else writer.exception()
        if error is not None and not isinstance(
            error, grpc.aio.AioRpcError | grpc.aio.UsageError | asyncio.InvalidStateError
        ):
            _log.error("stream_failed", address=self.address, exc_info=error)

    async def _read(self, call: "grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse]") -> None:
        while True:
            message = await call.read()
            if not isinstance(message, wire.AttachResponse):
                return
            if not self._take(message) or self.goodbye is not None:
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
            elif self._answer_due:
                due = True
                message.heartbeat.last_seq_seen, message.heartbeat.pong = self.last_seq_seen, self.pong
            self._answer_due = False
            due = self._host.fill(self, message) or due
            if self._last_words is not None and not due:
                message.goodbye.CopyFrom(self._last_words)
                await call.write(message)
                await call.done_writing()
                return
            if due:
                seq += 1
                self._writing_since = self._loop.time()
                await call.write(message)
                self._writing_since = 0.0
                # More may have become due while this one was on its way, or have been left out because it was full.
                self._wake.set()

    def _take(self, message: wire.AttachResponse) -> bool:
        """Take note of a message; False if one before it is missing, which only a new stream, with new inventories, can mend."""
        self._heard_at = self._loop.time()
        if message.seq != self.last_seq_seen + 1:
            _log.warning("message_missing", address=self.address, seq=message.seq, before=self.last_seq_seen)
            return False
        self.last_seq_seen = message.seq
        if message.heartbeat.ping:
            # Answered at once, by a heartbeat without a ping: the coordinator measures the round trip by it.
            self.pong = message.heartbeat.ping
            self._answer_due = True
            self.wake()
        if message.HasField("goodbye"):
            self.goodbye = message.goodbye
        return True

    def _no_welcome(self) -> None:
        self.failure = f"no welcome within {hello_wait_ms_max / 1_000:g} s"
        self.abort()

    def _watch(self) -> None:
        """Have a look now and then: send a heartbeat that is due, end the call when the coordinator is silent or does not read."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        pace = self._beat_s / 4
        late = now - self._looked_at - 2 * pace if self._looked_at else 0.0
        if late > 0:
            # We stood still, not the coordinator: what it sent meanwhile has not been read yet.
            self._heard_at += late
            self._writing_since += late if self._writing_since else 0.0
        silent = now - self._heard_at
        stuck = now - self._writing_since if self._writing_since else 0.0
        if max(silent, stuck) > self._silence_s:
            _log.warning("coordinator_silent", address=self.address, seconds=round(max(silent, stuck), 1))
            self.abort()
            return
        if now - self._beaten_at >= self._beat_s - pace / 2:
            self._beaten_at = now
            self.beat()
        self._looked_at = now
        self._timer = self._loop.call_later(pace, self._watch)
