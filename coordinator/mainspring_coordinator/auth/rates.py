"""What one caller may take: calls a second, and connections. Both are kept for a bounded number of callers."""

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

from mainspring.clock import Clock
from mainspring.errors import BusyError
from mainspring.limits import callers_remembered_max, connections_a_peer_max


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_us: int


class Rates:
    """A bucket of calls for each caller: so many at once, and as many new ones a second."""

    def __init__(self, rate: int, clock: Clock) -> None:
        """`rate`: calls a second."""
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        """Of those that called last; who is forgotten begins with a full one."""

    def take(self, caller: str) -> None:
        """Count a call. `BusyError` with the time to come back when there were too many."""
        now_us = self._clock.now_us()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(float(self._rate), now_us)
            if len(self._buckets) > callers_remembered_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
        bucket.tokens = min(float(self._rate), bucket.tokens + (now_us - bucket.at_us) * self._rate / 1_000_000)
        bucket.at_us = now_us
        if bucket.tokens < 1:
            raise BusyError(
                f"{caller} makes more than {self._rate} calls a second (MAX_CALL_RATE); put several submits into one call, or wait",
                retry_after_ms=math.ceil((1 - bucket.tokens) * 1_000 / self._rate),
            )
        bucket.tokens -= 1


class Connections:
    """Which connections of which hosts have calls under way.

    gRPC bounds the connections of all hosts together; idle ones of one host it cannot tell from others'.
    """

    def __init__(self, most: int = connections_a_peer_max) -> None:
        self._most = most
        self._calls: dict[str, Counter[str]] = {}
        """By host and connection."""

    @property
    def hosts(self) -> int:
        """Of how many hosts calls are under way."""
        return len(self._calls)

    def enter(self, peer: str) -> None:
        """Count a call that begins. `BusyError`, and it does not count, when its host has too many connections."""
        host = host_of(peer)
        connections = self._calls.setdefault(host, Counter())
        if peer not in connections and len(connections) >= self._most:
            raise BusyError(
                f"{host} has {len(connections)} connections with calls under way, and may have no more; "
                "let what runs there share its clients",
                retry_after_ms=1_000,
            )
        connections[peer] += 1

    def leave(self, peer: str) -> None:
        """A call that was counted has ended."""
        host = host_of(peer)
        connections = self._calls[host]
        connections[peer] -= 1
        if not connections[peer]:
            del connections[peer]
        if not connections:
            del self._calls[host]


def host_of(peer: str) -> str:
    """Return the host of a peer as gRPC writes it, such as "ipv4:10.0.0.7:41234"."""
    return peer.rpartition(":")[0] or peer
