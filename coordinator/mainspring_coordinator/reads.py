"""Reads of the database, off the event loop: a few threads, a bounded number of waiting readers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mainspring import limits
from mainspring.errors import BusyError
from mainspring_coordinator.store.protocol import Reader

_T = TypeVar("_T")


class Reads:
    """Runs functions of a `Reader` in threads."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._waiting = 0
        self._threads = ThreadPoolExecutor(limits.read_threads, thread_name_prefix="reads")

    async def run(self, read: Callable[[Reader], _T]) -> _T:
        """Return what `read` finds. `BusyError` when too many wait; what the database raises comes through."""
        if self._waiting >= limits.reads_waiting_max:
            raise BusyError(f"{self._waiting} reads wait for the database; nothing was read", retry_after_ms=500)
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, read, self._reader)
        # Counted until the thread is through, which a caller who leaves does not change.
        running.add_done_callback(self._ended)
        return await asyncio.shield(running)

    def close(self) -> None:
        """Let the threads end; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, done: "asyncio.Future[_T]") -> None:
        self._waiting -= 1
        if not done.cancelled():
            done.exception()  # taken, so that asyncio does not report one whose caller has left
