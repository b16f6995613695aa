"""A process of the simulation: an event loop of its own, threads, and clocks.

The loop implements as much of asyncio's as the project uses, over the world's heap. Threads are greenlets: whoever blocks in one
switches to the world, which goes on with whatever is next. A paused process takes no step, and its clocks run on; a dead one never
takes a step again, not even to clean up.
"""

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from tests.simulation.world import World

_T = TypeVar("_T")
_thread_start_us: Final = 200


class Process(asyncio.BaseEventLoop):
    """One start of one process. Of the base it has the type alone: every method that the project comes to is here."""

    def __init__(self, world: World, name: str, *, drift: float = 0.0) -> None:
        """`drift`: by which share its clock is fast."""
        self.world = world
        self.name = name
        self.alive = True
        self.paused = False
        self.held: list[Callable[[], object]] = []
        self.faults: list[str] = []
        """Errors that nobody took; each is a bug."""
        self.over = False
        """The run is over: whatever is left is taken down."""
        self._drift = drift
        self._origin_us = world.chance.randrange(10**12)
        self._began_us = world.now_us
        self._ready: deque[asyncio.Handle] = deque()
        self._planned = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads: list[greenlet] = []

    # -- its life ----------------------------------------------------------------------------------------------------------

    def step(self, call: Callable[[], object]) -> None:
        """Take one step, as this process."""
        events._set_running_loop(self)
        try:
            call()
        finally:
            events._set_running_loop(None)

    def run_soon(self, call: Callable[[], object], delay_us: int = 0) -> None:
        """Let the process do something."""
        self.world.at(delay_us, call, self)

    def pause(self) -> None:
        """Stop it (SIGSTOP)."""
        self.paused = True

    def resume(self) -> None:
        """Let it go on (SIGCONT): what was due meanwhile comes at once, in its order."""
        self.paused = False
        held, self.held = self.held, []
        for call in held:
            self.world.at(0, call, self)

    def kill(self) -> None:
        """End it (SIGKILL)."""
        self.alive = False
        self.held.clear()

    def take_down(self) -> None:
        """After the run: end what is left of it, so that nothing is left to the garbage collector."""
        self.over = True
        for thread in self._threads:
            # One that leaves in order asks the database once more on its way, and waits there again.
            while not thread.dead:
                thread.throw(GreenletExit)
        for _ in range(100):
            if not self._tasks:
                break
            for task in list(self._tasks):
                task.cancel()
            while self._ready:
                self.step(self._run_ready)
        self._ready.clear()
        self._tasks.clear()
        self._threads.clear()

    # -- clocks ------------------------------------------------------------------------------------------------------------

    def now_us(self) -> int:
        """Return its boot clock: an origin and a pace of its own."""
        passed_us = self.world.now_us - self._began_us
        return self._origin_us + passed_us + int(passed_us * self._drift)

    def time(self) -> float:
        """See asyncio."""
        return self.world.now_us / 1e6

    # -- threads -----------------------------------------------------------------------------------------------------------

    def start(self, run: Callable[[], None], name: str) -> "SimThread":
        """See `Threads`."""
        del name
        self._threads = [thread for thread in self._threads if not thread.dead]
        thread = greenlet(run, parent=self.world.hub)
        self._threads.append(thread)
        self.world.at(self.world.soon_us(_thread_start_us), thread.switch, self)
        return SimThread()

    def signal(self) -> "SimSignal":
        """See `Threads`."""
        return SimSignal(self)

    def mailbox(self) -> "SimMailbox":
        """See `Threads`."""
        return SimMailbox(self)

    def run_in_executor(self, executor: Any, func: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":  # type: ignore[override]  # the stub has it as a coroutine's
        """See asyncio."""
        del executor
        future: asyncio.Future[_T] = self.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        def run() -> None:
            try:
                value = func(*args)
            except Exception as error:
                self.call_soon_threadsafe(settle, None, error)
            else:
                self.call_soon_threadsafe(settle, value, None)

        self.start(run, "executor")
        return future

    # -- asyncio -----------------------------------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        """See asyncio."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        if not self._planned:
            self._planned = True
            self.world.at(0, self._run_ready, self)
        return handle

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        """See asyncio. The loop takes it in its turn, a moment later."""
        if self.over:
            raise RuntimeError("Event loop is closed")
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.world.at(round(when * 1e6) - self.world.now_us, partial(self._run_timer, handle), self)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """See asyncio: it stays on the heap, and does nothing there."""

    def _run_timer(self, handle: asyncio.TimerHandle) -> None:
        if not handle._cancelled:
            handle._run()

    def _run_ready(self) -> None:
        self._planned = False
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
        if ready and not self._planned:
            self._planned = True
            self.world.at(0, self._run_ready, self)

    def create_future(self) -> "asyncio.Future[Any]":
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, _T], *, name: str | None = None, context: Any = None
    ) -> "asyncio.Task[_T]":
        """See asyncio."""
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio: an error that nobody took is a bug."""
        if not self.over:
            self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    def is_running(self) -> bool:
        """See asyncio."""
        return True

    def is_closed(self) -> bool:
        """See asyncio."""
        return self.over


class SimThread:
    """See `threads.Thread`."""

    def join(self, timeout: float | None = None) -> None:
        """Nothing waits: who joins does so when the thread has said its last."""


class Parked:
    """A thread that waits; the first who wakes it wins."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.woken = False
        self.value: Any = None
        self._thread = getcurrent()
        assert self._thread is not process.world.hub, "only a thread may block"

    def wait(self) -> Any:
        """Block; return what whoever wakes it hands over."""
        self.process.world.hub.switch()
        return self.value

    def wake(self, value: Any = None, delay_us: int = 0) -> None:
        """Let the thread go on in a step of its process."""
        self.process.world.at(delay_us, partial(self._resume, value), self.process)

    def _resume(self, value: Any) -> None:
        if not self.woken:
            self.woken = True
            self.value = value
            # What a thread does, it does outside of the event loop.
            events._set_running_loop(None)
            self._thread.switch()


class SimSignal:
    """See `threads.Signal`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._set = False
        self._waiting: list[Parked] = []

    def set(self) -> None:
        """See `Signal`."""
        self._set = True
        waiting, self._waiting = self._waiting, []
        for parked in waiting:
            parked.wake()

    def clear(self) -> None:
        """See `Signal`."""
        self._set = False

    def is_set(self) -> bool:
        """See `Signal`."""
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """See `Signal`."""
        if not self._set:
            parked = Parked(self._process)
            self._waiting.append(parked)
            if timeout is not None:
                parked.wake(delay_us=round(timeout * 1e6))
            parked.wait()
            if parked in self._waiting:
                self._waiting.remove(parked)
        return self._set


class SimMailbox:
    """See `threads.Mailbox`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._items: deque[Any] = deque()
        self._waiting: Parked | None = None

    def put(self, item: Any) -> None:
        """See `Mailbox`."""
        self._items.append(item)
        if self._waiting is not None:
            self._waiting.wake()
            self._waiting = None

    def get(self) -> Any:
        """See `Mailbox`."""
        while not self._items:
            self._waiting = parked = Parked(self._process)
            parked.wait()
        return self._items.popleft()
