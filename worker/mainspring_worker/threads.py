"""Threads for plain functions.

The standard pool is not used for three reasons: the interpreter waits for its threads at exit, so one executor that never returns
would keep a drained worker alive for ever; a `StopIteration` cannot pass through its futures, and the attempt would hang; and every
end wakes the event loop by itself, where here all ends that have gathered are told at once.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

Job: TypeAlias = Callable[[], Any]
"""What a thread runs; it raises nothing."""
Told: TypeAlias = Callable[[Any], None]
"""What is called on the event loop with what the job returned."""


class ThreadPool:
    """At most `size` threads, started when they are needed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Job, Told] | None] = SimpleQueue()
        self._ended: deque[tuple[Told, Any]] = deque()
        self._threads = 0
        self._unfinished = 0

    def run(self, job: Job, told: Told) -> None:
        """Run `job` in a thread, then call `told` on the event loop."""
        self._unfinished += 1
        if self._unfinished > self._threads and self._threads < self._size:
            self._threads += 1
            # A daemon: who leaves it behind at the end of the process has said so.
            threading.Thread(target=self._work, name=f"executor-{self._threads}", daemon=True).start()
        self._jobs.put((job, told))

    def close(self) -> None:
        """Let idle threads end; those that run a job are left to the process's end."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = self._size

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, told = item
            result = job()
            first = not self._ended
            self._ended.append((told, result))
            if first and not self._wake():
                return

    def _wake(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            return False  # the event loop is closed: the worker is gone, and nobody asks any more
        return True

    def _tell(self) -> None:
        while self._ended:
            told, result = self._ended.popleft()
            self._unfinished -= 1
            told(result)
