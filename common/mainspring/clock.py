"""Time, as something that is handed in.

`CLOCK_BOOTTIME` counts on while a machine is suspended, unlike the monotonic clock, and never goes back, unlike the wall clock;
every duration that ownership rests on is measured with it.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time that never goes back."""

    def now_us(self) -> int:
        """Return microseconds since an arbitrary, fixed origin."""
        ...


class BootClock:
    """The host's `CLOCK_BOOTTIME`."""

    def now_us(self) -> int:
        """Return microseconds since the machine was started, its suspended time included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def calendar_us() -> int:
    """Return microseconds since 1970 by the host's own clock: to be compared with another clock, never to be counted by."""
    return time.time_ns() // 1000


def calendar_now() -> datetime:
    """Return the host's date and time: for what people read, and for what others have dated, as certificates and tokens are."""
    return datetime.fromtimestamp(time.time_ns() / 1e9, UTC)
