"""What a worker has, and what it owes to whom. Pure: messages in, work to start and to stop out; no clock, no I/O.

The worker holds to six promises:

* It never runs more than its slots; code that was told to stop holds its slot until it has really ended.
* What bears a lower epoch than the highest it has seen for that shard is dropped: assignments, cancels, acknowledgements, and what
  still waits for its start. A shard's new owner offers again what an inventory under its epoch omits.
* A result is kept, and offered to whoever owns its shard, until it is acknowledged.
* After it stood still, nothing is begun that a coordinator sent before it had heard from the worker again.
* A cancel that overtakes its assignment wins, for as long as the stream lasts.
* The bounds that it sets its coordinators never add up to more than its slots: a lower one counts only when it was echoed.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from mainspring.limits import items_a_message_max, message_split_bytes, remembered_cancels_max, unacknowledged_bytes_max
from mainspring_worker.attempts import (
    Attempt,
    Cause,
    Instruction,
    Key,
    Outcome,
    Outgoing,
    Phase,
    Session,
    Start,
    Stated,
    Stop,
    Work,
)

_result_overhead_bytes: Final = 512
"""What a result takes beside its output, at most, unless it is a failure: then its texts are counted."""


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
        self._turn = 0
        """Whose turn it is, of coordinators that are more than the slots."""

    # -- streams -----------------------------------------------------------------------------------------------------------

    def welcomed(self, session: int, shards: Iterable[tuple[int, int]]) -> None:
        """A coordinator took us in; it owns these (shard, epoch)."""
        self.sessions[session] = Session()
        self.owns(session, ((shard, epoch, True) for shard, epoch in shards))
        self.sessions[session].inventory_due |= {shard for shard, _ in self.attempts}

    def ended(self, session: int) -> None:
        """A stream is over; what came by it goes on."""
        gone = self.sessions.pop(session, None)
        if gone is None:
            return
        for shard in gone.owned:
            if self._owners.get(shard) == session:
                del self._owners[shard]
        self._share()

    def cut_off(self) -> list[Instruction]:
        """No coordinator was in reach for so long that work may go elsewhere: stop what asked to be stopped then."""
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
                if owned:
                    # Nothing of it would be taken. It is an owner of yesterday, or its database has lost history: it must hear of that.
                    state.inventory_due.add(shard)
                continue
            self._see_epoch(shard, epoch)
            if owned:
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
            state.inventory_due |= state.owned | {shard for shard, _ in self.attempts}
            for key, attempt in self.attempts.items():
                # What has no owner that we know of is offered to everyone: whoever owns it takes it.
                if attempt.phase is Phase.FINISHED and self._owners.get(key[0], session) == session:
                    state.results_due[key] = None

    def rebalance(self) -> None:
        """Move idle credit to where work waits; to be called at a steady pace while several coordinators share the slots."""
        for state in self.sessions.values():
            state.busy = max(0, state.busy - 1)
        if len(self.sessions) > 1 and any(state.backlog for state in self.sessions.values()):
            self._turn += 1
            self._share()

    def stood_still(self, ping: int) -> None:
        """We stood still so long that our work may be others' by now: what was not begun yet is not begun, nor what came meanwhile.

        A coordinator is trusted again when it answers a ping of at least this number. Inventories omit what was let go or turned
        away, so that it is offered again, if it still is ours.
        """
        for key in self._queue:
            del self.attempts[key]
        self._queue.clear()
        for state in self.sessions.values():
            state.trusted_from = ping
            # Also where nothing is left of a shard: an inventory that is owed says so.
            state.inventory_due |= state.owned
        self._share()

    def heard(self, session: int, pong: int) -> None:
        """A coordinator answered a ping, and so it has not given us up."""
        state = self.sessions.get(session)
        if state is not None and pong >= state.trusted_from:
            state.trusted_from = 0

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
        inventory = self._state_shards(state)
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
            self._see_epoch(work.shard, work.epoch)
            if state.trusted_from:
                state.inventory_due.add(work.shard)
                continue
            self.attempts[work.key] = Attempt(work, Phase.QUEUED)
            state.busy = 2
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
            self._see_epoch(shard, epoch)
            key = (shard, number)
            attempt = self.attempts.get(key)
            if attempt is None:
                state.cancelled[key] = None
                if len(state.cancelled) > remembered_cancels_max:
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

    def acked(self, session: int, items: Iterable[tuple[int, int, int, str]]) -> list[Instruction]:
        """A coordinator answered results: (shard, id, epoch, "recorded", "stale" or "not_owner")."""
        state = self.sessions.get(session)
        instructions: list[Instruction] = []
        was_full = self._kept_is_full()
        for shard, number, epoch, disposition in items:
            if disposition != "not_owner" and epoch < self.epochs.get(shard, 0):
                # It was the owner once: the result is kept for the present one.
                continue
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

    def take_work(self) -> None:
        """Take work again; what we have is stated anew, because coordinators give none of a shard before."""
        self.draining = False
        for state in self.sessions.values():
            state.inventory_due |= state.owned | {shard for shard, _ in self.attempts}
        self._share()

    @property
    def queued(self) -> int:
        """How many attempts wait for their start."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """How many attempts run."""
        return self._active

    @property
    def kept(self) -> int:
        """How many results wait to be acknowledged."""
        return self._kept

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits or is unacknowledged."""
        return not self.attempts

    def left_behind(self) -> list[Key]:
        """Return the attempts that a leaving worker does not finish, or whose results nobody has acknowledged."""
        return [key for key, attempt in self.attempts.items() if attempt.phase is not Phase.VOID]

    # -- within ------------------------------------------------------------------------------------------------------------

    def _see_epoch(self, shard: int, epoch: int) -> None:
        """Stating an epoch promises to start nothing that was sent under a lower one, so what is queued is let go."""
        if epoch <= self.epochs.get(shard, 0):
            return
        self.epochs[shard] = epoch
        if any(key[0] == shard for key in self._queue):
            for key in [key for key in self._queue if key[0] == shard]:
                self._queue.remove(key)
                del self.attempts[key]

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
        """Take as many results as fit into one message; the first always fits."""
        taken: list[Attempt] = []
        size = 0
        for key in list(islice(state.results_due, items_a_message_max)):
            attempt = self.attempts.get(key)
            if attempt is not None and attempt.phase is Phase.FINISHED:
                size += attempt.bytes + _result_overhead_bytes
                if taken and size > message_split_bytes:
                    break
                taken.append(attempt)
            del state.results_due[key]
        return taken

    def _state_shards(self, state: Session) -> list[Stated]:
        due = state.inventory_due
        if not due:
            return []
        phases: dict[int, dict[Phase, list[int]]] = {shard: {phase: [] for phase in Phase} for shard in sorted(due)}
        for (shard, number), attempt in self.attempts.items():
            if shard in phases:
                phases[shard][attempt.phase].append(number)
        return [
            Stated(
                shard,
                self.epochs.get(shard, 0),
                held[Phase.QUEUED],
                held[Phase.RUNNING],
                held[Phase.FINISHED],
                state.ordinal_seen,
            )
            for shard, held in phases.items()
        ]

    def _share(self) -> None:
        """Set every coordinator the bound that it should have; raise one only by what no other may still believe in."""
        if not self.sessions:
            return
        wanted = self._shares()
        for session, state in self.sessions.items():
            if wanted[session] < state.limit:
                self._set_limit(state, wanted[session])
        # What a coordinator has beyond its bound, since that was lowered, still takes slots until it ends.
        over = sum(max(0, used - self.sessions[session].ceiling) for session, used in self._used().items())
        free = self._shareable() - over - sum(state.ceiling for state in self.sessions.values())
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
        used = self._used() if rest else {}
        left = total
        for session in rest:
            # What has nothing waiting keeps what it uses, and, if it was given something a moment ago, one more, so that the
            # next node of its chain starts at once. But one slot goes to each that has something waiting, if there are as many.
            keeps = used[session] + (self.sessions[session].busy > 0)
            shares[session] = max(0, min(keeps, max(1, total // len(self.sessions)), left - len(hungry)))
            left -= shares[session]
        odd = left % len(hungry)
        # Where not even one slot falls to each, they take turns; else nothing would come of it but messages.
        first = self._turn if left < len(hungry) else 0
        for place, session in enumerate(hungry):
            shares[session] = left // len(hungry) + ((place - first) % len(hungry) < odd)
        return shares

    def _used(self) -> dict[int, int]:
        """Return how many slots the coordinators' assignments take, by session."""
        used = dict.fromkeys(self.sessions, 0)
        if len(used) > 1:
            for key, attempt in self.attempts.items():
                owner = self._owners.get(key[0])
                if owner is not None and attempt.phase in (Phase.QUEUED, Phase.RUNNING):
                    used[owner] += 1
        return used
