"""Pauses: nothing of what is paused is given to workers any more, until it goes on; what runs, runs on.

The whole cluster, or what an executor runs, is paused by a word in the fence row of shard 0, which every coordinator reads with each
look at its peers, and whoever takes a shard reads once more before it gives anything of it out. A workflow's own pause is a row of its
shard, under that shard's fence, and is loaded with the workflow. `ready` keeps apart what is paused, `pausing` begins and ends pauses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import orjson


@dataclass(frozen=True, slots=True)
class Pause:
    """That something is paused."""

    since_us: int
    """In database time."""
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClusterPauses:
    """The pauses that are every coordinator's matter."""

    everything: Pause | None = None
    executors: Mapping[str, Pause] = field(default_factory=dict[str, Pause])
    changed_at_us: int = 0
    """When anything of this changed; higher each time. -1: it may not be what is stored."""

    @classmethod
    def parse(cls, data: bytes | None) -> Self:
        """Read them from the fence row; nothing: there never was one. A later version may have added something to it."""
        if not data:
            return cls()
        known: dict[str, Any] = orjson.loads(data)
        everything = known.get("everything")
        return cls(
            Pause(*everything) if everything else None,
            {name: Pause(*pause) for name, pause in known["executors"].items()},
            known["changed_at_us"],
        )

    def data(self) -> bytes:
        """Return them as the fence row has them."""
        pause, executors = self.everything, self.executors
        return orjson.dumps(
            {
                "everything": [pause.since_us, pause.who, pause.reason] if pause is not None else None,
                "executors": {name: [one.since_us, one.who, one.reason] for name, one in executors.items()},
                "changed_at_us": self.changed_at_us,
            }
        )

    def __len__(self) -> int:
        return len(self.executors) + (self.everything is not None)

    def over(self, executor: str) -> Pause | None:
        """Return the pause that keeps what an executor runs from being given out, if there is one."""
        return self.everything or self.executors.get(executor)

    def get(self, executor: str) -> Pause | None:
        """Return the pause of an executor itself, or, where none is named, of everything."""
        return self.executors.get(executor) if executor else self.everything

    def put(self, executor: str, pause: Pause | None, changed_at_us: int) -> Self:
        """Return what holds once an executor, or everything where none is named, is paused, or, without a pause, goes on."""
        if not executor:
            return replace(self, everything=pause, changed_at_us=changed_at_us)
        others = {name: one for name, one in self.executors.items() if name != executor}
        return replace(
            self, executors=others | ({executor: pause} if pause is not None else {}), changed_at_us=changed_at_us
        )


def utc(at_us: int) -> str:
    """Return a time as people read it, to the second: the date by the Gregorian calendar's eras of 400 years that begin in March."""
    days, second = divmod(at_us // 1_000_000, 86_400)
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    month = month + 3 if month < 10 else month - 9
    year += 400 * era + (month <= 2)
    return f"{year:04}-{month:02}-{day + 1:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
