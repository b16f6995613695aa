"""What a worker takes from the world around it: how it reaches others, what it measures, how it draws lots.

A process has the real ones; the simulation of the tests hands in others, so that a seed decides.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc.aio

from mainspring.clock import BootClock, Clock
from mainspring.dial import Keepalive, open_channel
from mainspring.naming import new_incarnation
from mainspring.usage import Usage


class Measured(Protocol):
    """What this process uses."""

    def cpu_percent(self) -> float:
        """Return 0 to 100."""
        ...

    def memory_percent(self) -> float:
        """Return 0 to 100."""
        ...

    def memory_bytes(self) -> dict[str, int]:
        """Return what the process itself holds: rss and vms."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Of one worker."""

    dial: Callable[[str, Keepalive], grpc.aio.Channel] = open_channel
    """Opens a channel to "host:port"."""
    usage: Measured = field(default_factory=Usage)
    chance: random.Random = field(default_factory=random.Random)
    """Spreads reconnects; guards nothing."""
    clock: Clock = field(default_factory=BootClock)
    """Tells how long the process stood still."""
    elapsed_s: Callable[[], float] = time.perf_counter
    """Measures how long code runs."""
    name_incarnation: Callable[[], str] = new_incarnation
    """Makes the id of one start."""
