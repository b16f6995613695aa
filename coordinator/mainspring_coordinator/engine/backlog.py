"""For which workers something waits, so that idle credit can be moved to where it is.

Kept by changes alone: a step costs nothing for classes and workers that are as they were. A class that something enters and leaves
within one step has not changed.
"""

from collections.abc import Iterator

from mainspring import limits
from mainspring_coordinator.engine.ready import ReadyClass, ReadyQueue


class Backlog:
    """Each worker is told when what waits for it turned from empty to not empty or back, so many of them at a time."""

    def __init__(self) -> None:
        self._classes: dict[int, int] = {}
        """By session: in how many classes something waits for it; none is left out."""
        self.changed: dict[int, None] = {}
        """Sessions to be looked at by the next report."""
        self._told: set[int] = set()
        self._untold: dict[int, None] = {}
        """Sessions for which something waits, and that are not told while so many others are."""

    def join(self, ready: ReadyClass, session: int) -> None:
        """A worker can run a class from now on."""
        ready.eligible[session] = None
        if ready.reported:
            self._shift(session, 1)

    def leave(self, ready: ReadyClass, session: int) -> None:
        """A worker can run a class no longer."""
        if session in ready.eligible:
            del ready.eligible[session]
            if ready.reported:
                self._shift(session, -1)

    def changes(self, queue: ReadyQueue) -> Iterator[tuple[int, int]]:
        """Yield each session to be told, with how many items wait for it now."""
        for ready in queue.turned.values():
            if ready.reported != (ready.wanting > 0):
                ready.reported = not ready.reported
                for session in ready.eligible:
                    self._shift(session, 1 if ready.reported else -1)
        queue.turned.clear()
        for session in self.changed:
            if session in self._classes:
                if session not in self._told:
                    self._untold[session] = None
                continue
            self._untold.pop(session, None)
            if session in self._told:
                self._told.remove(session)
                yield session, 0
        self.changed.clear()
        while self._untold and len(self._told) < limits.backlogged_workers_max:
            session = next(iter(self._untold))
            del self._untold[session]
            self._told.add(session)
            waiting = (ready for ready in queue.waiting.values() if session in ready.eligible)
            yield session, sum(ready.wanting for ready in waiting)

    def _shift(self, session: int, by: int) -> None:
        count = self._classes.get(session, 0) + by
        if count:
            self._classes[session] = count
        else:
            del self._classes[session]
        self.changed[session] = None
