"""The machine's nouns: what was assigned, what became of it, and what one stream has been told of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

Key: TypeAlias = tuple[int, int]
"""(shard, assignment id)."""


class Outcome(IntEnum):
    """How an attempt ended; the numbers of the wire."""

    SUCCEEDED = 1
    FAILED = 2
    CANCELLED = 3
    NOT_STARTED = 4


class Cause(IntEnum):
    """Why an attempt is to stop; the numbers of the wire."""

    UNSPECIFIED = 0
    """A newer coordinator's cause that has no name here; to stop is all that counts."""
    WORKFLOW_CANCELLED = 1
    WORKFLOW_FAILED = 2
    TIMED_OUT = 3
    SUPERSEDED = 4
    DISCONNECTED = 5
    """The worker's own: no coordinator is in reach, and the node asked to be stopped then."""
    STOPPED = 6
    """The worker's own: it ends and leaves the attempt behind."""


class Phase(IntEnum):
    """Where an attempt stands."""

    QUEUED = 1
    RUNNING = 2
    FINISHED = 3
    """Its result waits to be acknowledged."""
    VOID = 4
    """It runs on, but its result is wanted by nobody."""


@dataclass(frozen=True, slots=True)
class Work:
    """An assignment, as far as the machine cares."""

    shard: int
    id: int
    epoch: int
    ordinal: int
    stop_on_disconnect: bool = False
    details: object = None
    """What the runner needs; opaque here."""

    @property
    def key(self) -> Key:
        """Return its name."""
        return (self.shard, self.id)


@dataclass(frozen=True, slots=True)
class Start:
    """Run an attempt."""

    work: Work


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell a running attempt to stop."""

    key: Key
    cause: Cause


Instruction: TypeAlias = Start | Stop


@dataclass(slots=True, eq=False)
class Attempt:
    """One assignment that the worker has."""

    work: Work
    phase: Phase
    outcome: Outcome | None = None
    result: object = None
    """The result as the stream sends it; opaque here."""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stated:
    """An inventory of one shard."""

    shard: int
    epoch: int
    queued: Sequence[int]
    running: Sequence[int]
    finished: Sequence[int]
    ordinal_seen: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a stream has to send now."""

    inventory: Sequence[Stated]
    results: Sequence[Attempt]
    credit: tuple[int, int] | None
    """(seq, limit)."""

    def __bool__(self) -> bool:
        return bool(self.inventory or self.results or self.credit)


@dataclass(slots=True, eq=False)
class Session:
    """One stream to one coordinator, after its Welcome."""

    owned: set[int] = field(default_factory=set[int])
    ordinal_seen: int = 0
    backlog: bool = False
    busy: int = 0
    """Above 0: it gave us work since the last but one look at idle credit."""
    credit_seq: int = 0
    limit: int = 0
    """The bound that was set last."""
    unechoed: dict[int, int] = field(default_factory=dict[int, int])
    """By seq, the bounds that were in force before those not echoed yet."""
    trusted_from: int = 0
    """What it sends is begun only after it has answered a ping of at least this number; 0: it is trusted."""
    credit_due: bool = True
    inventory_due: set[int] = field(default_factory=set[int])
    results_due: dict[Key, None] = field(default_factory=dict[Key, None])
    cancelled: dict[Key, None] = field(default_factory=dict[Key, None])

    @property
    def ceiling(self) -> int:
        """Return the highest bound that the coordinator may believe in."""
        return max((self.limit, *self.unechoed.values()))
