"""How many nodes wait for a worker, and how long, by executor.

The engine keeps no time for what is ready: a node that waits takes a few bytes there. So it is told here from numbers alone. When a
batch is closed, what waits then is counted, class by class; what has left with it is known; the difference is what became ready
meanwhile. Those that leave are taken to be those that came first. In whatever order they really leave, the sum of the waits comes out
the same, and so does the mean; the longest wait comes out as the shortest that it can have been. A class, or a priority, that is passed
over for long would hide behind the others, so that the engine's own account of it (since when nothing of a priority was taken) counts
as well.

What is paused does not count: it waits for an operator, and begins to wait for a worker when it goes on.

The one item of a `map` waits until its last instance was given out. Instances leave no trace in the numbers, and are left out.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from mainspring.label_values import LabelValues
from mainspring.limits import arrivals_remembered_max, classes_measured_max
from mainspring_coordinator.engine.effects import Assign, Effect
from mainspring_coordinator.engine.ready import ReadyQueue

wait_buckets_s: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1_800)
_pause_us: Final = 200
"""For each class that was counted, which takes 1 to 2 us: so counting takes a hundredth of the time."""


@dataclass(slots=True)
class Line:
    """The nodes of one executor."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(wait_buckets_s) + 1))
    """By bucket, how many were given out after such a wait; those of the buckets below are not among them."""
    seconds: float = 0.0
    """How long all of these waited together."""
    waiting: int = 0
    """How many waited when it was last counted."""
    came: int = 0
    """How many have become ready."""
    marks: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    """When, and how many had come by then; of those that wait."""
    _grain_us: int = 0
    """Those that came within such a time of each other have one mark."""

    @property
    def gone(self) -> int:
        """How many of those that became ready wait no more."""
        return self.came - self.waiting

    def count(self, counted_us: int, waiting: int, left: int, left_us: int) -> None:
        """So many waited at the first time; so many left with what was let out at the second."""
        new = waiting - self.waiting + left
        if new > 0:
            self._add(counted_us, self.came + new)
            self.came += new
            self.waiting += new
        self._leave(left, left_us)
        self._leave(
            self.waiting - waiting, None
        )  # these wait no more though nobody got them: cancelled, or lost with their shard

    def since_us(self, waiting: int) -> int:
        """Return since when the first of those that wait now does; 0 if that is not known yet."""
        gone = self.came - waiting
        return next((at_us for at_us, upto in self.marks if upto > gone), 0)

    def _add(self, at_us: int, upto: int) -> None:
        if not self.marks:
            self._grain_us = 0
        elif len(self.marks) >= arrivals_remembered_max:
            self._grain_us = 2 * (at_us - self.marks[0][0]) // arrivals_remembered_max
            marks, self.marks = self.marks, deque[tuple[int, int]]()
            for mark in marks:
                self._mark(*mark)
        self._mark(at_us, upto)

    def _mark(self, at_us: int, upto: int) -> None:
        if self.marks and at_us - self.marks[-1][0] < self._grain_us:
            # The earlier time stays, so that no wait looks shorter than it was.
            at_us, _ = self.marks.pop()
        self.marks.append((at_us, upto))

    def _leave(self, count: int, at_us: int | None) -> None:
        while count > 0:
            since_us, upto = self.marks[0]
            together = min(count, upto - self.gone)
            if at_us is not None:
                wait_s = max(0, at_us - since_us) / 1_000_000
                self.counts[bisect_left(wait_buckets_s, wait_s)] += together
                self.seconds += wait_s * together
            self.waiting -= together
            count -= together
            if self.gone == upto:
                self.marks.popleft()


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits of one executor at this moment."""

    nodes: int
    oldest_s: float


class Waits:
    """Is told of each batch by the control loop; read when metrics are asked for, on the same event loop."""

    def __init__(self, executors: LabelValues | None = None) -> None:
        self.lines: dict[str, Line] = {}
        """By executor."""
        self._executors = executors or LabelValues()
        self._counted: dict[str, int] | None = None
        """What waited when it was last counted, if what was given out by then has not been let out yet."""
        self._counted_us = 0
        self._due_us = 0
        self._left: dict[str, int] = {}
        """How many have been given out since it was last settled."""

    def cut(self, ready: ReadyQueue, now_us: int) -> None:
        """A batch was closed; see `ports.Observer`."""
        self._settle(now_us)
        if now_us >= self._due_us:
            self._due_us = now_us + _pause_us * min(len(ready.waiting), classes_measured_max)
            self._counted_us, self._counted = now_us, self._count(ready)

    def let_out(self, effects: Iterable[Effect], now_us: int) -> None:
        """It is committed, and has left."""
        left = self._left
        for effect in effects:
            if type(effect) is Assign and effect.instance < 0:
                executor = self._executors.of(effect.executor)
                left[executor] = left.get(executor, 0) + 1
        self._settle(now_us)

    def now(self, ready: ReadyQueue, database_us: int, now_us: int) -> dict[str, Waiting]:
        """Return what waits at this moment, by executor; those of which nothing waits any more are among them."""
        unserved_us: dict[str, int] = {}
        counted: dict[str, int] = {}
        for key, one in islice(ready.waiting.items(), classes_measured_max):
            executor = self._executors.of(key.executor)
            counted[executor] = counted.get(executor, 0) + (one.count if one.pause is None else 0)
            since_us = one.waiting.unserved_since_us()
            if since_us and one.pause is None:
                unserved_us[executor] = max(unserved_us.get(executor, 0), database_us - since_us)
        found: dict[str, Waiting] = {}
        for executor in {**self.lines, **counted}:
            nodes = counted.get(executor, 0)
            line = self.lines.get(executor)
            since_us = line.since_us(nodes) if line is not None and nodes else 0
            waited_us = max(now_us - since_us if since_us else 0, unserved_us.get(executor, 0))
            found[executor] = Waiting(nodes, waited_us / 1_000_000)
        return found

    def _count(self, ready: ReadyQueue) -> dict[str, int]:
        counted: dict[str, int] = {}
        for key, one in islice(ready.waiting.items(), classes_measured_max):
            executor = self._executors.of(key.executor)
            counted[executor] = counted.get(executor, 0) + (one.count if one.pause is None else 0)
        return counted

    def _settle(self, now_us: int) -> None:
        counted, self._counted = self._counted, None
        if counted is None:
            return
        left, self._left = self._left, {}
        waiting = [executor for executor, line in self.lines.items() if line.waiting]
        for executor in {*left, *counted, *waiting}:
            line = self.lines.get(executor)
            if line is None:
                line = self.lines[executor] = Line()
            line.count(self._counted_us, counted.get(executor, 0), left.get(executor, 0), now_us)
