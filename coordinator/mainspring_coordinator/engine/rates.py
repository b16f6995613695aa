"""How often executors may be started: the generic cell rate algorithm (ITU-T I.371), one number an executor.

A rate is the whole cluster's; each live coordinator has an equal share of it. Starts are spread evenly, one by one; only where they are
less than 10 ms apart, as many as fall into 10 ms may be made at once, because a step of the engine takes a moment. So no second, minute or
hour sees more than its rate, but for that one per cent of a second. What was started before a coordinator began is not known to it.
"""

from collections.abc import Mapping
from typing import Final

from mainspring.rates import Rate

_together_ns: Final = 10_000_000
_us: Final = 1_000


class Rates:
    """What may be started when. Falsy where no executor has a rate."""

    def __init__(self, limited: Mapping[str, Rate]) -> None:
        self._limited = limited
        self._coordinators = 1
        self._next_ns: dict[str, int] = {}
        """By executor: when its next start is due."""
        self._waits: dict[str, dict[int, None]] = {}
        """By executor that something waits for: the workers, by session, that could have taken it though they take no new workflows."""

    def __bool__(self) -> bool:
        return bool(self._limited)

    def share(self, coordinators: int) -> None:
        """So many coordinators are live."""
        self._coordinators = max(1, coordinators)

    def due_us(self, executor: str, now_us: int) -> int:
        """Return when the next start of an executor may be; 0 if now."""
        next_ns = self._next_ns.get(executor)
        if next_ns is None:
            return 0
        due_us = -(-next_ns // _us)
        return due_us if due_us > now_us else 0

    def started(self, executor: str, now_us: int) -> None:
        """An attempt was given to a worker."""
        rate = self._limited.get(executor)
        if rate is not None:
            pace_ns = rate.per_s * 1_000_000_000 * self._coordinators // rate.count
            credit_ns = _together_ns if pace_ns < _together_ns else 0
            self._next_ns[executor] = max(self._next_ns.get(executor, 0), now_us * _us - credit_ns) + pace_ns

    def wait(self, executor: str, session: int) -> bool:
        """Something waits for its rate, and for this worker if there is one; tell whether nothing did before."""
        first = executor not in self._waits
        waits = self._waits.setdefault(executor, {})
        if session:
            waits[session] = None
        return first

    def let_go(self, executor: str) -> Mapping[int, None]:
        """What waited may be looked at again; return the workers that it waited for."""
        return self._waits.pop(executor, {})

    def told(self, executor: str) -> str:
        """Return the rate that something waits for, or nothing."""
        return str(self._limited[executor]) if executor in self._waits else ""
