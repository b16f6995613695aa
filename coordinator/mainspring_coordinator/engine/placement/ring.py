"""Which worker a key belongs to, so that few keys move when workers come and go.

Multi-probe consistent hashing (Appleton and O'Reilly, 2015): each worker has one point on a ring, a key has 21 probes, and the worker
that comes soonest after any of them has the key. A worker that leaves gives up its own keys and no others, one that comes takes
only what is its own, and the fullest worker has about 1.1 times the mean.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, TypeAlias

probes_count: Final = 21
_mask: Final = 2**64 - 1
_asked_to_divide: Final = 32
Near: TypeAlias = tuple[int, str, int]
"""How far away a worker is, its name, its session."""


def point_of(name: str) -> int:
    """Return the place of a worker on the ring, by its name, so that it has the same keys after a restart."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def probes_of(key: str) -> tuple[int, ...]:
    """Return the places at which a key looks for its worker."""
    digest = hashlib.blake2b(key.encode(), digest_size=16, person=b"affinity").digest()
    first, step = int.from_bytes(digest[:8]), int.from_bytes(digest[8:]) | 1
    return tuple((first + step * number) & _mask for number in range(probes_count))


class Ring:
    """Workers by their points."""

    __slots__ = ("_asked", "_at", "_places", "_points", "_shift")

    def __init__(self) -> None:
        self._points = array(
            "Q"
        )  # side by side in memory: looking for a place in a list of objects took three times as long
        self._at: list[tuple[str, int]] = []
        """Name and session, as far along as the point."""
        self._asked = 0
        """How often it was looked at since the last change."""
        self._places: list[int] = []
        """For each of equal parts of the ring, about as many as there are workers: where the first point in it or after it stands.
        Empty until the ring has been looked at so often that making it pays."""
        self._shift = 0

    def add(self, point: int, name: str, session: int) -> None:
        """Put a worker on the ring."""
        place = bisect_left(self._points, point)
        self._points.insert(place, point)
        self._at.insert(place, (name, session))
        self._asked, self._places = 0, []

    def remove(self, point: int, session: int) -> None:
        """Take a worker off the ring."""
        place = bisect_left(self._points, point)
        while self._at[place][1] != session:
            place += 1
        del self._points[place], self._at[place]
        self._asked, self._places = 0, []

    def nearest(self, probes: Sequence[int]) -> Near | None:
        """Return the worker that comes soonest after one of the probes; None if there is none."""
        points = self._points
        if not points:
            return None
        count, best, found = len(points), _mask + 1, 0
        self._asked += 1
        if self._asked == _asked_to_divide:
            self._divide()
        places, shift = self._places, self._shift
        for probe in probes:
            if places:
                place = places[probe >> shift]
                while place < count and points[place] < probe:
                    place += 1
            else:
                place = bisect_left(points, probe)
            if place == count:
                place = 0
            distance = (points[place] - probe) & _mask
            if distance < best:
                best, found = distance, place
        name, session = self._at[found]
        return best, name, session

    def _divide(self) -> None:
        bits = max(1, len(self._points).bit_length())
        self._shift = 64 - bits
        place, places = 0, list[int]()
        for part in range(1 << bits):
            while place < len(self._points) and self._points[place] < part << self._shift:
                place += 1
            places.append(place)
        self._places = places
