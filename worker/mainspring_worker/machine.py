"""What a worker has, and what it owes to whom. Pure: messages in, work to start and to stop out; no clock, no I/O.

The worker holds to five promises:

* It never runs more than its slots; code that was told to stop holds its slot until it has really ended.
* What bears a lower epoch than the highest it has seen for that shard is dropped.
* A result is kept, and offered to whoever owns its shard, until it is acknowledged.
* A cancel that overtakes its assignment wins, for as long as the stream lasts.
* The bounds that it sets its coordinators never add up to more than its slots: a lower one counts only when it was echoed.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

from mainspring.limits import items_a_message_max, message_split_bytes, unacknowledged_bytes_max

Key: TypeAlias = tuple[int, int]
"""(shard, assignment id)."""
_remembered_cancels_max: Final = 10_000
_result_overhead_bytes: Final = 256


class Outcome(IntEnum):
    """How an attempt ended; the numbers of the wire."""

    SUCCEEDED = 1
    FAILED = 2
    CANCELLED = 3
    NOT_STARTED = 4


class Cause(IntEnum):
    """Why an attempt is to stop; the numbers of the wire."""

    WORKFLOW_CANCELLED = 1
    WORKFLOW_FAILED = 2
    TIMED_OUT = 3
    SUPERSEDED = 4
    DISCONNECTED = 5
    """The worker's own: no coordinator is in reach, and the node asked to be stopped then."""


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
    credit_seq: int = 0
    limit: int = 0
    """The bound that was set last."""
    unechoed: dict[int, int] = field(default_factory=dict[int, int])
    """By seq, the bounds that were in force before those not echoed yet."""
    credit_due: bool = True
    inventory_due: set[int] = field(default_factory=set[int])
    results_due: dict[Key, None] = field(default_factory=dict[Key, None])
    cancelled: dict[Key, None] = field(default_factory=dict[Key, None])

    @property
    def ceiling(self) -> int:
        """Return the highest bound that the coordinator may believe in."""
        return max((self.limit, *self.unechoed.values()))


class Machine:
    """The state of one incarnation of a worker."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.attempts: dict[Key, Attempt] = {}
        self.sessions: dict[int, Session] = {}
        self.epochs: dict[int, int] = {}
        self.draining = False
        self._owners: dict[int, int] = {}
        self._queue: deque[Key] = deque()
        self._active = 0
        """Attempts that run, void ones included."""
        self._kept = 0
        self._kept_bytes = 0

    # -- streams -----------------------------------------------------------------------------------------------------------

    def welcomed(self, session: int, shards: Iterable[tuple[int, int]]) -> None:
        """A coordinator took us in; it owns these (shard, epoch)."""
        self.sessions[session] = Session()
        self.owns(session, ((shard, epoch, True) for shard, epoch in shards))

    def ended(self, session: int) -> list[Instruction]:
        """A stream is over; what came by it goes on."""
        gone = self.sessions.pop(session, None)
        if gone is None:
            return []
        for shard in gone.owned:
            if self._owners.get(shard) == session:
                del self._owners[shard]
        self._share()
        if self.sessions:
            return []
        return [
            Stop(key, Cause.DISCONNECTED)
            for key, attempt in self.attempts.items()
            if attempt.phase is Phase.RUNNING and attempt.work.stop_on_disconnect
        ]

    def owns(self, session: int, shards: Iterable[tuple[int, int, bool]]) -> None:
        """A coordinator says of (shard, epoch, owned) that it owns them, or does not any more."""
        state = self.sessions.get(session)
        if state is None:
            return
        for shard, epoch, owned in shards:
            if epoch < self.epochs.get(shard, 0):
                continue
            if owned:
                self.epochs[shard] = epoch
                before = self.sessions.get(self._owners.get(shard, -1))
                if before is not None and before is not state:
                    before.owned.discard(shard)
                self._owners[shard] = session
                state.owned.add(shard)
                state.inventory_due.add(shard)
                self._offer_shard(state, shard)
            else:
                state.owned.discard(shard)
                if self._owners.get(shard) == session:
                    del self._owners[shard]
        self._share()

    def heartbeat(self, session: int) -> None:
        """It is time to state everything again: inventories, and results that were not acknowledged."""
        state = self.sessions.get(session)
        if state is not None:
            state.inventory_due |= state.owned
            for shard in state.owned:
                self._offer_shard(state, shard)

    def backlog(self, session: int, waiting: bool) -> None:
        """Something that we could run waits at a coordinator, or nothing does any more."""
        state = self.sessions.get(session)
        if state is not None and state.backlog != waiting:
            state.backlog = waiting
            self._share()

    def credit_echoed(self, session: int, seq: int) -> None:
        """A coordinator applied a bound."""
        state = self.sessions.get(session)
        if state is not None:
            state.unechoed = {at: limit for at, limit in state.unechoed.items() if at > seq}
            self._share()

    def outgoing(self, session: int) -> Outgoing:
        """Take what is to be sent on a stream now."""
        state = self.sessions.get(session)
        if state is None:
            return Outgoing((), (), None)
        inventory = [self._state_shard(state, shard) for shard in sorted(state.inventory_due)]
        state.inventory_due.clear()
        results = self._take_results(state)
        credit = None
        if state.credit_due:
            state.credit_due = False
            state.credit_seq += 1
            credit = (state.credit_seq, state.limit)
        return Outgoing(inventory, results, credit)

    def wants_to_send(self, session: int) -> bool:
        """Tell whether `outgoing` has something."""
        state = self.sessions.get(session)
        return state is not None and bool(state.inventory_due or state.results_due or state.credit_due)

    # -- work --------------------------------------------------------------------------------------------------------------

    def assigned(self, session: int, works: Iterable[Work]) -> list[Instruction]:
        """Work came."""
        state = self.sessions.get(session)
        if state is None:
            return []
        for work in works:
            state.ordinal_seen = max(state.ordinal_seen, work.ordinal)
            if work.epoch < self.epochs.get(work.shard, 0) or work.key in self.attempts:
                continue
            self.epochs[work.shard] = work.epoch
            self.attempts[work.key] = Attempt(work, Phase.QUEUED)
            if work.key in state.cancelled:
                self._finish(work.key, Outcome.CANCELLED, None, 0)
            elif self.draining:
                self._finish(work.key, Outcome.NOT_STARTED, None, 0)
            else:
                self._queue.append(work.key)
        return self._start()

    def cancels(self, session: int, items: Iterable[tuple[int, int, int, Cause]]) -> list[Instruction]:
        """These (shard, id, epoch, cause) are to stop."""
        state = self.sessions.get(session)
        if state is None:
            return []
        instructions: list[Instruction] = []
        for shard, number, epoch, cause in items:
            if epoch < self.epochs.get(shard, 0):
                continue
            key = (shard, number)
            attempt = self.attempts.get(key)
            if attempt is None:
                state.cancelled[key] = None
                if len(state.cancelled) > _remembered_cancels_max:
                    del state.cancelled[next(iter(state.cancelled))]
            elif attempt.phase is Phase.QUEUED:
                self._queue.remove(key)
                self._finish(key, Outcome.CANCELLED, None, 0)
            elif attempt.phase is Phase.RUNNING:
                if cause in (Cause.SUPERSEDED, Cause.TIMED_OUT):
                    # The coordinator has closed this attempt already: its result would only be refused.
                    attempt.phase = Phase.VOID
                instructions.append(Stop(key, cause))
        self._share()
        return instructions

    def finished(self, key: Key, outcome: Outcome, result: object, size: int) -> list[Instruction]:
        """The code of an attempt has ended; `result` is what its stream sends, of `size` bytes."""
        attempt = self.attempts[key]
        self._active -= 1
        if attempt.phase is Phase.VOID:
            del self.attempts[key]
        else:
            self._finish(key, outcome, result, size)
        if attempt.phase is Phase.VOID or self._kept_is_full():
            self._share()
        return self._start()

    def acked(self, session: int, items: Iterable[tuple[int, int, str]]) -> list[Instruction]:
        """A coordinator answered results: (shard, id, "recorded", "stale" or "not_owner")."""
        state = self.sessions.get(session)
        instructions: list[Instruction] = []
        was_full = self._kept_is_full()
        for shard, number, disposition in items:
            key = (shard, number)
            attempt = self.attempts.get(key)
            if attempt is None:
                continue
            if disposition == "not_owner":
                if state is not None and self._owners.get(shard) == session:
                    del self._owners[shard]
                    state.owned.discard(shard)
            elif attempt.phase is Phase.FINISHED:
                self._kept -= 1
                self._kept_bytes -= attempt.bytes
                del self.attempts[key]
            elif disposition == "stale" and attempt.phase is Phase.RUNNING:
                attempt.phase = Phase.VOID
                instructions.append(Stop(key, Cause.SUPERSEDED))
        if was_full and not self._kept_is_full():
            self._share()
        return instructions

    def drain(self) -> None:
        """Take no more work; what is queued is given back."""
        self.draining = True
        while self._queue:
            self._finish(self._queue.popleft(), Outcome.NOT_STARTED, None, 0)
        self._share()

    def void_all(self) -> list[Instruction]:
        """This incarnation is lost: stop everything, and forget every result. Slots are free as the code ends."""
        instructions: list[Instruction] = []
        self._queue.clear()
        for key, attempt in list(self.attempts.items()):
            if attempt.phase is Phase.RUNNING:
                attempt.phase = Phase.VOID
                instructions.append(Stop(key, Cause.SUPERSEDED))
            elif attempt.phase is not Phase.VOID:
                del self.attempts[key]
        self.sessions.clear()
        self._owners.clear()
        self._kept = self._kept_bytes = 0
        return instructions

    @property
    def queued(self) -> int:
        """How many attempts wait for their start."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """How many attempts run."""
        return self._active

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits or is unacknowledged."""
        return not self.attempts

    def left_behind(self) -> list[Key]:
        """Return the attempts that a leaving worker does not finish, or whose results nobody has acknowledged."""
        return [key for key, attempt in self.attempts.items() if attempt.phase is not Phase.VOID]

    # -- within ------------------------------------------------------------------------------------------------------------

    def _start(self) -> list[Instruction]:
        instructions: list[Instruction] = []
        while self._queue and self._active < self.slots:
            attempt = self.attempts[self._queue.popleft()]
            attempt.phase = Phase.RUNNING
            self._active += 1
            instructions.append(Start(attempt.work))
        return instructions

    def _finish(self, key: Key, outcome: Outcome, result: object, size: int) -> None:
        attempt = self.attempts[key]
        attempt.phase, attempt.outcome, attempt.result, attempt.bytes = Phase.FINISHED, outcome, result, size
        self._kept += 1
        self._kept_bytes += size
        owner = self.sessions.get(self._owners.get(key[0], -1))
        if owner is not None:
            owner.results_due[key] = None

    def _kept_is_full(self) -> bool:
        return self._kept > 2 * self.slots or self._kept_bytes > unacknowledged_bytes_max

    def _offer_shard(self, state: Session, shard: int) -> None:
        for key, attempt in self.attempts.items():
            if key[0] == shard and attempt.phase is Phase.FINISHED:
                state.results_due[key] = None

    def _take_results(self, state: Session) -> list[Attempt]:
        """Take what fits into one message; the first always does."""
        taken: list[Attempt] = []
        size = 0
        for key in list(state.results_due)[:items_a_message_max]:
            attempt = self.attempts.get(key)
            if attempt is not None and attempt.phase is Phase.FINISHED:
                size += attempt.bytes + _result_overhead_bytes
                if taken and size > message_split_bytes:
                    break
                taken.append(attempt)
            del state.results_due[key]
        return taken

    def _state_shard(self, state: Session, shard: int) -> Stated:
        phases: dict[Phase, list[int]] = {phase: [] for phase in Phase}
        for (at, number), attempt in self.attempts.items():
            if at == shard:
                phases[attempt.phase].append(number)
        return Stated(
            shard,
            self.epochs.get(shard, 0),
            phases[Phase.QUEUED],
            phases[Phase.RUNNING],
            phases[Phase.FINISHED],
            state.ordinal_seen,
        )

    def _share(self) -> None:
        """Set every coordinator the bound that it should have; raise one only by what no other may still believe in."""
        if not self.sessions:
            return
        wanted = self._shares()
        for session, state in self.sessions.items():
            if wanted[session] < state.limit:
                self._set_limit(state, wanted[session])
        free = self._shareable() - sum(state.ceiling for state in self.sessions.values())
        for session, state in self.sessions.items():
            more = min(free, wanted[session] - state.limit)
            # Within its own ceiling a bound may rise again without touching what is free.
            within = min(state.ceiling, wanted[session])
            target = max(within, state.limit + more) if more > 0 else within
            if target > state.limit:
                free -= max(0, target - state.ceiling)
                self._set_limit(state, target)

    def _set_limit(self, state: Session, limit: int) -> None:
        if not state.credit_due:
            state.unechoed[state.credit_seq + 1] = state.limit
        state.limit = limit
        state.credit_due = True

    def _shareable(self) -> int:
        if self.draining or self._kept_is_full():
            return 0
        elsewhere = sum(
            attempt.phase is Phase.VOID
            or (attempt.phase in (Phase.QUEUED, Phase.RUNNING) and key[0] not in self._owners)
            for key, attempt in self.attempts.items()
        )
        return max(0, self.slots - elsewhere)

    def _shares(self) -> dict[int, int]:
        total = self._shareable()
        hungry = [session for session, state in self.sessions.items() if state.backlog] or list(self.sessions)
        rest = [session for session in self.sessions if session not in hungry]
        shares: dict[int, int] = {}
        for session in rest:
            # What has nothing waiting keeps what it uses, and one more, so that its next node starts at once.
            used = sum(
                1
                for key, attempt in self.attempts.items()
                if attempt.phase in (Phase.QUEUED, Phase.RUNNING) and self._owners.get(key[0]) == session
            )
            shares[session] = min(used + 1, max(1, total // len(self.sessions)), total - sum(shares.values()))
        left = total - sum(shares.values())
        for place, session in enumerate(hungry):
            shares[session] = left // len(hungry) + (place < left % len(hungry))
        return shares
