"""Coroutines that are under way for one term of the control loop; what fails of them ends it."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from mainspring.errors import MainspringError

_log: Final = structlog.get_logger(__name__)


class Tasks:
    """Those of one term."""

    def __init__(self, aio: asyncio.AbstractEventLoop, failed: Callable[[str], None]) -> None:
        self._aio = aio
        self._failed = failed
        # In the order in which they began, so that they end in one that a seed repeats.
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> "asyncio.Task[None]":
        """Begin a task."""
        task = self._aio.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """Cancel all that are under way."""
        for task in self._tasks:
            task.cancel()

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            reason = str(error) if isinstance(error, MainspringError) else repr(error)
            _log.error("task_failed", error=reason, exc_info=error)
            self._failed(reason)
