"""Deadlines, as a heap of values.

A timer is never taken back. It names what it was set for, and whoever handles it checks that this still holds; so a deadline that
has become void costs one comparison, and none can be forgotten. Most are void long before they are due, because most work ends in time;
so all are looked through now and then, a few at a time, and those that are void leave memory.
"""

import heapq
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

_few: Final = 1_024
"""So many are not worth a look."""
_looks_a_step: Final = 16


class TimerKind(IntEnum):
    """What a timer is for."""

    RETRY = 1
    """A node in BACKOFF is due: `workflow_id`, `node`, `instance`, `number` the attempt that failed."""
    SCHEDULE_TO_START = 2
    """A READY node has waited too long: as RETRY, `number` the attempts so far."""
    START_TO_CLOSE = 3
    """An attempt runs too long: `number` the assignment."""
    WORKFLOW = 4
    """A workflow's time is over."""
    CLOSING = 5
    """A workflow that is being cancelled or is failing must end."""
    WORKER_GRACE = 6
    """An absent worker is lost: `workflow_id` its incarnation, `number` the session that ended."""
    SHARD_GRACE = 7
    """Workers that have not come back since the shard was taken are lost: `number` the epoch, `instance` 0 once we stood still."""
    NEARNESS = 8
    """A node waits no longer for a worker near its inputs: `workflow_id`, `node`, `instance`."""
    RATE = 9
    """An executor may be started again: `workflow_id` its name."""
    PERMITS = 10
    """What a shard stated of its permits may have to be said again: `workflow_id` the key, `number` the statement."""
    PERMITS_SILENT = 11
    """Shards that have permits from this home are asked for them: `number` the epoch."""
    CACHE = 12
    """A node waits no longer for what the result cache says: `workflow_id`, `node`, `instance`, `number` that of the question."""


class Timer(NamedTuple):
    """A deadline; ordered by its time, then by the order in which it was set."""

    due_us: int
    order: int
    kind: TimerKind
    shard: int
    workflow_id: str
    node: int
    instance: int
    number: int


class Timers:
    """All deadlines of an engine."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._aside: list[Timer] = []
        """Those that are still to be looked through; a heap as well."""
        self._held: int = 0
        """How many held the last time that all were looked through, or as far as they have been."""
        self._order = self._looked = 0

    def __iter__(self) -> Iterator[Timer]:
        """Return all, in no order."""
        yield from self._heap
        yield from self._aside

    def __len__(self) -> int:
        """Return how many there are, void ones included."""
        return len(self._heap) + len(self._aside)

    def set(
        self,
        due_us: int,
        kind: TimerKind,
        *,
        shard: int = -1,
        workflow_id: str = "",
        node: int = -1,
        instance: int = -1,
        number: int = 0,
    ) -> None:
        """Set a deadline."""
        self._order += 1
        heapq.heappush(self._heap, Timer(due_us, self._order, kind, shard, workflow_id, node, instance, number))

    def put_back(self, timer: Timer) -> None:
        """Set a deadline again that could not be handled when it was due."""
        heapq.heappush(self._heap, timer)

    def next_due_us(self) -> int | None:
        """Return when the earliest is due."""
        first = self._first()
        return first[0].due_us if first else None

    def pop_due(self, now_us: int) -> Timer | None:
        """Take the earliest if it is due."""
        first = self._first()
        return heapq.heappop(first) if first and first[0].due_us <= now_us else None

    @property
    def crowded(self) -> bool:
        """Tell whether some should be looked through: so many have come that most may be void."""
        return bool(self._aside) or len(self._heap) > 2 * self._held + _few

    def look_through(self, holds: Callable[[Timer], bool]) -> None:
        """Forget those that are void among a few, twice as many at least as were set since the last time."""
        if not self._aside:
            self._heap, self._aside, self._held = [], self._heap, 0
        most = _looks_a_step + 2 * (self._order - self._looked)
        self._looked = self._order
        for _ in range(min(most, len(self._aside))):
            timer = self._aside.pop()  # a heap without its last entry is one
            if holds(timer):
                heapq.heappush(self._heap, timer)
                self._held += 1

    def _first(self) -> list[Timer]:
        if not self._aside:
            return self._heap
        return self._aside if not self._heap or self._aside[0] < self._heap[0] else self._heap
