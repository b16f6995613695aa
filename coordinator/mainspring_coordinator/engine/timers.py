"""Deadlines, as a heap of values.

A timer is never taken back. It names what it was set for, and whoever handles it checks that this still holds; so a deadline that
has become void costs one comparison, and none can be forgotten.
"""

import heapq
from enum import IntEnum
from typing import NamedTuple


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
        self._order = 0

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
        return self._heap[0].due_us if self._heap else None

    def pop_due(self, now_us: int) -> Timer | None:
        """Take the earliest if it is due."""
        return heapq.heappop(self._heap) if self._heap and self._heap[0].due_us <= now_us else None
