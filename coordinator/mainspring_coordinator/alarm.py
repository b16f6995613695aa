"""Wakes the control loop when something is due."""

import asyncio
from collections.abc import Callable


class Alarm:
    """One timer of the event loop, moved only when another time is due."""

    def __init__(self, aio: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._aio = aio
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None
        self._due_us = 0

    def set(self, due_us: int | None, now_us: int) -> None:
        """Wake at `due_us`; None leaves it as it is, since waking for nothing does no harm."""
        if due_us is None or (self._timer is not None and self._due_us == due_us):
            return
        self.cancel()
        self._due_us = due_us
        self._timer = self._aio.call_later(max(0.0, (due_us - now_us) / 1e6), self._fired)

    def cancel(self) -> None:
        """Wake no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fired(self) -> None:
        self._timer = None
        self._wake()
