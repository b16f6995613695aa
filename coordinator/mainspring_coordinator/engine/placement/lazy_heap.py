"""An order that is kept by changes: a heap whose stale entries are passed over when they come up."""

import heapq
from collections.abc import Iterable
from typing import Final, Self, TypeAlias

Entry: TypeAlias = tuple[float, str, int]
"""What it is ordered by, then the worker's name, then its session."""
_slack: Final = 64


class LazyHeap:
    """Sessions by a number that changes, the least first; ties by name. A change takes the logarithm of how many there are."""

    __slots__ = ("_entries", "_heap")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._entries: dict[int, Entry] = {}
        """By session. An entry of the heap that is not here is stale."""

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """Make it of many at once."""
        order = cls()
        order._entries = {entry[2]: entry for entry in entries}
        order._heap = list(order._entries.values())
        heapq.heapify(order._heap)
        return order

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, session: int, value: float, name: str) -> None:
        """Put a session in, or move it to where it belongs now."""
        before = self._entries.get(session)
        if before is not None and before[0] == value:
            return
        entry = self._entries[session] = (value, name, session)
        heapq.heappush(self._heap, entry)
        self._trim()

    def drop(self, session: int) -> None:
        """Take a session out, if it is in."""
        if self._entries.pop(session, None) is not None:
            self._trim()

    def first(self) -> Entry | None:
        """Return the first one, None if there is none."""
        heap, entries = self._heap, self._entries
        while heap:
            entry = heap[0]
            if entries.get(entry[2]) is entry:
                return entry
            heapq.heappop(heap)
        return None

    def _trim(self) -> None:
        """Never let more be stale than is not."""
        if len(self._heap) > 2 * len(self._entries) + _slack:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)
