"""Virtual time: a heap of what is to happen, a source of chance, and the story of what happened.

Everything that a run does is a call on the heap, ordered by its time and then by the order in which it was planned. Nothing here reads
a clock or draws from anywhere but the seed, so that the same seed tells the same story.
"""

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from greenlet import getcurrent

if TYPE_CHECKING:
    from tests.simulation.process import Process

SECOND: Final = 1_000_000
MS: Final = 1_000
_remembered_lines: Final = 4_000


class World:
    """One run's time, chance and story."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.now_us = 1_000 * SECOND
        self.hub = getcurrent()
        """Where the heap is worked off; threads of processes switch back to it when they block."""
        self.events = 0
        self.lines: deque[str] = deque(maxlen=_remembered_lines)
        self.stepped: Callable[[Process], None] = lambda process: None
        """Called after each step of a process; faults strike here."""
        self.echo: Callable[[str], None] | None = None
        self._hash = hashlib.blake2b(digest_size=16)
        self._heap: list[tuple[int, int, Process | None, Callable[[], object]]] = []
        self._order = 0

    def at(self, delay_us: int, call: Callable[[], object], process: "Process | None" = None) -> None:
        """Plan a call; one of a process waits while that is paused, and is void once it is dead."""
        self._order += 1
        heapq.heappush(self._heap, (self.now_us + max(0, delay_us), self._order, process, call))

    def soon_us(self, most_us: int = 2 * MS) -> int:
        """Draw a short delay: mostly short, now and then long."""
        draw = self.chance.random()
        return int(most_us * draw * draw * draw)

    def tell(self, who: str, what: str) -> None:
        """Note an event of the story."""
        self.events += 1
        line = f"{self.now_us / SECOND:.6f} {who}: {what}"
        self.lines.append(line)
        self._hash.update(line.encode())
        if self.echo is not None:
            self.echo(line)

    @property
    def fingerprint(self) -> str:
        """Return the hash of the whole story."""
        return self._hash.hexdigest()

    def run(self, until: Callable[[], bool], deadline_us: int) -> bool:
        """Let things happen until `until` holds or the time is over; tell whether it holds."""
        heap, pop = self._heap, heapq.heappop
        while heap:
            if until():
                return True
            due_us, _, process, call = pop(heap)
            if due_us > deadline_us:
                return False
            self.now_us = due_us
            if process is None:
                call()
            elif process.alive:
                if process.paused:
                    process.held.append(call)
                else:
                    process.step(call)
                    self.stepped(process)
        return until()
