"""Threads, as something that is handed in, like the clock.

Drivers block, so the election and the journal each have a thread of their own. What they need of it is named here: the operating
system gives it to a process, and the simulation of the tests gives it too, so that the same code runs where a seed decides who goes on.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol


class Thread(Protocol):
    """A thread that was started."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        ...


class Signal(Protocol):
    """What wakes a thread: `threading.Event`."""

    def set(self) -> None:
        """Wake whoever waits, and whoever will."""
        ...

    def clear(self) -> None:
        """Let the next one wait again."""
        ...

    def is_set(self) -> bool:
        """Tell whether it is set."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, at most `timeout` seconds; tell whether it is."""
        ...


class Mailbox(Protocol):
    """A queue between threads; who puts things into it bounds them."""

    def put(self, item: Any) -> None:
        """Add something; never blocks."""
        ...

    def get(self) -> Any:
        """Block until there is something, and take it."""
        ...


class Threads(Protocol):
    """Where threads, and what they wait for, come from."""

    def start(self, run: Callable[[], None], name: str) -> Thread:
        """Start a thread that does not keep the process alive."""
        ...

    def signal(self) -> Signal:
        """Return a signal that is not set."""
        ...

    def mailbox(self) -> Mailbox:
        """Return an empty mailbox."""
        ...


class SystemThreads:
    """Those of the operating system."""

    def start(self, run: Callable[[], None], name: str) -> Thread:
        """See `Threads`."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def signal(self) -> Signal:
        """See `Threads`."""
        return threading.Event()

    def mailbox(self) -> Mailbox:
        """See `Threads`."""
        return queue.SimpleQueue[Any]()
