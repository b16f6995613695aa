"""Notices that this process stood still: SIGSTOP, a suspended machine, a blocked event loop.

While it stands still, coordinators may take it for lost and give its work to others; what they sent before that waits in its sockets.
Which callback runs first when it goes on is chance, so each that may have something begun beats before, and a task beats at a steady pace.
"""

from collections.abc import Callable

from mainspring.clock import Clock
from mainspring.dial import Keepalive
from mainspring.limits import stall_ms_min


def stall_limit_us(heartbeat_ms: int, silence_ms: int, keepalive: Keepalive) -> int:
    """Return the shortest time after which a coordinator takes a process for lost that says nothing more; microseconds.

    The last heartbeat came an interval ago at most, and the last transport ping went out at the moment of the stop at the earliest.
    """
    lost_ms = min(silence_ms - heartbeat_ms, keepalive.timeout_ms, keepalive.ping_timeout_ms)
    return max(stall_ms_min, lost_ms) * 1_000


class Pulse:
    """Of one process."""

    def __init__(self, clock: Clock, limit_us: int, stood_still: Callable[[int], None]) -> None:
        """`stood_still` is called with the microseconds that lay between two beats, if they were more than `limit_us`."""
        self._clock = clock
        self._limit_us = limit_us
        self._stood_still = stood_still
        self._beaten_us = clock.now_us()

    def beat(self) -> None:
        """Take note that we go on."""
        now_us = self._clock.now_us()
        stood_us = now_us - self._beaten_us
        self._beaten_us = now_us
        if stood_us > self._limit_us:
            self._stood_still(stood_us)
