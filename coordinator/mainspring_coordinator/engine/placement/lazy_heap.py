"""An order that is kept by changes: a heap whose stale entries are passed over when they come up."""

import heapq
from collections.abc import Iterable
from typing import Final, Self, TypeAlias

Rank: TypeAlias = tuple[float, str, int]
"""What it is ordered by, then the worker's name, then its session."""
_slack: Final = 64


class Order:
    """Sessions by a number that changes, the least first; ties by name. A change takes the logarithm of how many there are."""

    __slots__ = ("_heap", "_ranks")

    def __init__(self) -> None:
        self._heap: list[Rank] = []
        self._ranks: dict[int, Rank] = {}
        """By session. An entry of the heap that is not here is stale."""

    @classmethod
    def of(cls, ranks: Iterable[Rank]) -> Self:
        """Make it of many at once."""
        order = cls()
        order._ranks = {rank[2]: rank for rank in ranks}
        order._heap = list(order._ranks.values())
        heapq.heapify(order._heap)
        return order

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, session: int, value: float, name: str) -> None:
        """Put a session in, or move it to where it belongs now."""
        before = self._ranks.get(session)
        if before is not None and before[0] == value:
            return
        rank = self._ranks[session] = (value, name, session)
        heapq.heappush(self._heap, rank)
        self._trim()

    def drop(self, session: int) -> None:
        """Take a session out, if it is in."""
        if self._ranks.pop(session, None) is not None:
            self._trim()

    def first(self) -> Rank | None:
        """Return the first one, None if there is none."""
        heap, ranks = self._heap, self._ranks
        while heap:
            rank = heap[0]
            if ranks.get(rank[2]) is rank:
                return rank
            heapq.heappop(heap)
        return None

    def _trim(self) -> None:
        """Never let more be stale than is not."""
        if len(self._heap) > 2 * len(self._ranks) + _slack:
            self._heap = list(self._ranks.values())
            heapq.heapify(self._heap)
