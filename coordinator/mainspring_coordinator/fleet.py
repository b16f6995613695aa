"""The workers' streams.

A stream has one task that reads and one that writes; nothing else touches it, and no read or write is ever cut short by a timeout,
because the operation would go on below. What must end a stream (silence, a writer that is stuck, a Hello that does not come) is found
by a beat that looks at all of them, and ends the whole call.

A closed stream tells nothing: only a Goodbye before it says that the end was wanted. Every attach is a session with a number of its
own, and the end of an older session never touches a newer one.

Heartbeats go both ways: each side sends one with a `ping` at its interval, and answers one that has a `ping` by one that has none.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from heapq import nlargest
from typing import Any, Final

import structlog

from mainspring import limits
from mainspring.clock import BootClock, Clock
from mainspring.errors import BusyError, UnavailableError
from mainspring.rpc_errors import abort_with
from mainspring.v1 import worker_pb2
from mainspring.v1.worker_pb2_grpc import FleetServiceServicer
from mainspring_coordinator.answering import Context
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.session import FleetTimings, Session, Surroundings
from mainspring_coordinator.worker_book import WorkerBook

_log: Final = structlog.get_logger(__name__)
__all__ = ["FleetService", "FleetTimings"]

_beat_us_max: Final = 1_000_000
_beat_us_min: Final = 20_000
_ask_s: Final = 0.05


class FleetService(FleetServiceServicer):
    """Holds the workers' streams."""

    def __init__(
        self,
        loop: Loop,
        directory: Directory,
        cluster: str,
        timings: FleetTimings,
        *,
        version: str = "",
        clock: Clock | None = None,
        vitals: Callable[[], tuple[str, str]] = lambda: ("up", "held"),
    ) -> None:
        """`vitals` says how database ("up", "down") and lock ("held", "not_held") are, for the heartbeats."""
        clock = clock if clock is not None else BootClock()
        self.book = WorkerBook(timings.stream_grace_ms * 1_000)
        self._surroundings = Surroundings(
            loop, directory, cluster, timings, version, clock, vitals, self.book, self._keep
        )
        self._clock = clock
        self._name = directory.name
        self.accepting = True
        """False: new streams are refused, because this process is about to stop or holds no term."""
        # In the order in which they came, so that they are told in one that a seed repeats.
        self._sessions: dict[Session, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat_us = min(_beat_us_max, max(_beat_us_min, timings.heartbeat_ms * 1_000 // 4))
        self._beat_at_us = self._clock.now_us()
        self._beating: asyncio.Task[None] | None = None
        self._asked: asyncio.TimerHandle | None = None
        """Ends the moment in which nobody is asked again."""
        self._ask_again = False
        self._none_left = asyncio.Event()
        self._none_left.set()

    def start(self) -> None:
        """Begin to watch over the streams."""
        self._beat_at_us = self._clock.now_us()
        self._beating = asyncio.get_running_loop().create_task(self._beat_for_ever())

    async def close(
        self, reason: worker_pb2.GoodbyeReason.ValueType = worker_pb2.GOODBYE_REASON_SHUTDOWN, message: str = ""
    ) -> None:
        """Say goodbye to all workers, take no new ones, and return when their streams have ended, which is bounded."""
        self.accepting = False
        await self.dismiss(reason, message or f"coordinator {self._name!r} stops; go on with another one")
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None
        if self._asked is not None:
            self._asked.cancel()
        if self._tasks:
            # Ends that the loop has no room for; who stops needs not hear them.
            _, unheard = await asyncio.wait(self._tasks, timeout=limits.goodbye_wait_ms_max / 1_000)
            for task in unheard:
                task.cancel()

    async def dismiss(self, reason: worker_pb2.GoodbyeReason.ValueType, message: str) -> None:
        """Say goodbye to all workers, and return when their streams have ended; they may attach again at once."""
        for session in list(self._sessions):
            session.end(reason, message)
        await self._none_left.wait()

    def session_of(self, incarnation: str) -> Session | None:
        """Return the stream of a worker that is attached; of a newer one and an older that still ends, the newer."""
        return next((one for one in reversed(self._sessions) if one.incarnation == incarnation), None)

    def coordinators_changed(self) -> None:
        """Tell all workers which coordinators are live, so that they attach to each."""
        for session in self._sessions:
            session.coordinators_changed()

    async def Attach(  # type: ignore[override]  # the generated type knows generators only, not what reads and writes
        self, request_iterator: AsyncIterator[worker_pb2.AttachRequest], context: Context
    ) -> None:
        """Serve one worker's stream from its Hello to its end."""
        if not self.accepting:
            await abort_with(
                context, UnavailableError("this coordinator takes no workers now; attach again, or to another one")
            )
        if len(self._sessions) >= limits.workers_max:
            await abort_with(
                context,
                BusyError(
                    f"{limits.workers_max} workers are attached here; attach to another coordinator",
                    retry_after_ms=3_000,
                ),
            )
        session = Session(self._surroundings, context)
        self._sessions[session] = None
        self._none_left.clear()
        try:
            await session.serve()
        finally:
            self._sessions.pop(session, None)
            if not self._sessions:
                self._none_left.set()
            if session.lost:
                self._ask_others()

    def _ask_others(self) -> None:
        """A worker went without a word: let some of the others answer, so that it shows whether it is we who cannot be reached.

        When many go at once the next look at all streams waits a moment, and is for all that went meanwhile.
        """
        if self._asked is not None:
            self._ask_again = True
            return
        self._ask_again = False
        self._asked = asyncio.get_running_loop().call_later(_ask_s, self._may_ask)
        for session in nlargest(limits.asked_of_an_absence, self._sessions, key=lambda session: session.heard_us):
            session.ask()

    def _may_ask(self) -> None:
        self._asked = None
        if self._ask_again:
            self._ask_others()

    def beat(self) -> None:
        """Look at every stream once: send heartbeats that are due, end what is silent, stuck or late."""
        now_us = self._clock.now_us()
        stalled_us = now_us - self._beat_at_us - 2 * self._beat_us
        self._beat_at_us = now_us
        for session in list(self._sessions):
            if stalled_us > 0:
                # We stood still, not they: nobody had a chance to be heard.
                session.extend(stalled_us)
            session.beat(now_us)
        self.book.forget_overdue(now_us)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Let work go on that outlives its stream."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._beat_us / 1_000_000)
            self.beat()
