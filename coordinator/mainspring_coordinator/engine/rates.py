"""How often executors may be started: the generic cell rate algorithm (ITU-T I.371), one number an executor.

A rate is the whole cluster's; each live coordinator has an equal share of it. Starts are spread evenly, one by one; only where they are
less than 10 ms apart, as many as fall into 10 ms may be made at once, because a step of the engine takes a moment. So no second, minute or
hour sees more than its rate, but for that one per cent of a second. What was started before a coordinator began is not known to it.

Who is looked at after others, because it must run alone or by a worker that is at its bound, would find each start taken by those; so
every other one is kept for it as long as it waits.
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
        self._late: dict[str, None] = {}
        """Those of them for which somebody waits who is looked at after others."""
        self._kept: dict[str, None] = {}
        """Executors of which the next start is kept for whoever that is."""
        self._served: dict[str, None] = {}
        """Those of which the last start was kept."""

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
            if executor in self._kept:
                del self._kept[executor]
                self._served[executor] = None
            else:
                self._served.pop(executor, None)
            pace_ns = rate.per_s * 1_000_000_000 * self._coordinators // rate.count
            credit_ns = _together_ns if pace_ns < _together_ns else 0
            self._next_ns[executor] = max(self._next_ns.get(executor, 0), now_us * _us - credit_ns) + pace_ns

    def wait(self, executor: str, session: int, *, late: bool) -> bool:
        """Something waits for its rate, and for this worker if there is one; tell whether nothing did before.

        `late`: it is looked at after others.
        """
        first = executor not in self._waits
        waits = self._waits.setdefault(executor, {})
        if session:
            waits[session] = None
        if late:
            self._late[executor] = None
        return first

    def let_go(self, executor: str) -> Mapping[int, None]:
        """What waited may be looked at again; return the workers that it waited for."""
        if executor in self._late:
            del self._late[executor]
            if executor not in self._served:
                self._kept[executor] = None
        return self._waits.pop(executor, {})

    def keeps(self, executor: str) -> bool:
        """Tell whether the next start is kept for those that are looked at after others."""
        return executor in self._kept

    def keep_no_more(self) -> bool:
        """All were looked at; tell whether a start was kept that nobody could use."""
        unused = bool(self._kept)
        self._kept.clear()
        return unused

    def told(self, executor: str) -> str:
        """Return the rate that something waits for, or nothing."""
        return str(self._limited[executor]) if executor in self._waits else ""
