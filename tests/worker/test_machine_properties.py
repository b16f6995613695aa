"""Whatever happens, in any order, the machine keeps its promises.

Streams and code do as they like; coordinators too, save that one that owns a shard tells the truth about it.
"""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from mainspring_worker.attempts import Cause, Instruction, Key, Outcome, Phase, Start, Work
from mainspring_worker.machine import Machine

slots = 4
shards = st.integers(0, 2)


class Coordinator:
    """What a coordinator believes of one stream; it hears with a delay."""

    def __init__(self) -> None:
        self.limit = 0
        self.outstanding: set[Key] = set()
        self.on_the_way: deque[tuple[int, int]] = deque()
        """Credits that it has not applied yet."""
        self.ordinal = 0
        self.unanswered = 0
        """The ping that it has to answer before it is trusted again; 0: none."""


class Promises(RuleBasedStateMachine):
    """Slots, epochs, results, credit, stalls."""

    sessions: Bundle[int] = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(slots)
        self.coordinators: dict[int, Coordinator] = {}
        self.epochs: dict[int, int] = {}
        self.owners: dict[int, int] = {}
        self.running: set[Key] = set()
        self.unacknowledged: set[Key] = set()
        self.last = 0

    def obey(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Start):
                key = instruction.work.key
                assert key not in self.running, "started twice"
                assert instruction.work.epoch >= self.machine.epochs[key[0]], "of a lower epoch than was seen"
                self.running.add(key)
        assert len(self.running) <= slots

    @rule(target=sessions, owned=st.sets(shards))
    def attach(self, owned: set[int]) -> int:
        return self.welcome(owned)

    def welcome(self, owned: set[int]) -> int:
        self.last += 1
        self.coordinators[self.last] = Coordinator()
        for shard in owned:
            self.epochs[shard] = self.epochs.get(shard, 0) + 1
            self.owners[shard] = self.last
        self.machine.welcomed(self.last, [(shard, self.epochs[shard]) for shard in owned])
        return self.last

    @initialize(target=sessions)
    def begin(self) -> MultipleResults[int]:
        return multiple(self.welcome({0, 1, 2}), self.welcome(set()))

    @rule(session=consumes(sessions))
    def lose(self, session: int) -> None:
        self.machine.ended(session)
        del self.coordinators[session]
        self.owners = {shard: owner for shard, owner in self.owners.items() if owner != session}

    @rule(session=sessions, shard=shards)
    def move(self, session: int, shard: int) -> None:
        self.epochs[shard] = self.epochs.get(shard, 0) + 1
        self.owners[shard] = session
        self.machine.owns(session, [(shard, self.epochs[shard], True)])

    @rule(session=sessions, shard=shards, count=st.integers(1, slots), behind=st.integers(0, 1), greedy=st.booleans())
    def assign(self, session: int, shard: int, count: int, behind: int, greedy: bool) -> None:
        coordinator = self.coordinators[session]
        epoch = self.epochs.get(shard, 0) - behind
        if epoch < 1 or (not behind and self.owners.get(shard) != session):
            return
        room = coordinator.limit - len(coordinator.outstanding)
        works = []
        for _ in range(count if behind or greedy else min(count, max(0, room))):
            self.last += 1
            coordinator.ordinal += 1
            works.append(Work(shard, self.last, epoch, coordinator.ordinal))
            if not behind:
                coordinator.outstanding.add((shard, self.last))
        for _ in range(2):
            instructions = self.machine.assigned(session, works)
            begun = [instruction.work for instruction in instructions if isinstance(instruction, Start)]
            assert not (coordinator.unanswered and set(begun) & set(works)), "begun, though it may be another's by now"
            self.obey(instructions)

    @rule()
    def stand_still(self) -> None:
        self.last += 1
        self.machine.stood_still(self.last)
        for coordinator in self.coordinators.values():
            coordinator.unanswered = self.last

    @rule(session=sessions, late=st.booleans())
    def answer(self, session: int, late: bool) -> None:
        coordinator = self.coordinators[session]
        self.machine.heard(session, coordinator.unanswered - late)
        if not late:
            coordinator.unanswered = 0

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        wanted = key in self.machine.attempts and key in self.machine.left_behind()
        self.running.discard(key)
        if wanted:
            self.unacknowledged.add(key)
        self.obey(self.machine.finished(key, Outcome.SUCCEEDED, None, 1))

    @precondition(lambda self: self.machine.attempts)
    @rule(session=sessions, data=st.data(), cause=st.sampled_from(list(Cause)[:5]), behind=st.booleans())
    def cancel(self, session: int, data: st.DataObject, cause: Cause, behind: bool) -> None:
        shard, number = data.draw(st.sampled_from(sorted(self.machine.attempts)))
        self.obey(self.machine.cancels(session, [(shard, number, self.epochs[shard] - behind, cause)]))

    @precondition(lambda self: self.unacknowledged)
    @rule(session=sessions, data=st.data(), disposition=st.sampled_from(["recorded", "stale", "not_owner"]))
    def acknowledge(self, session: int, data: st.DataObject, disposition: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.unacknowledged)))
        owner = self.owners.get(key[0]) == session
        if disposition == "not_owner" and owner:
            return
        # Who is not the owner any more speaks under the epoch that it had.
        epoch = self.epochs[key[0]] - (not owner)
        self.obey(self.machine.acked(session, [(*key, epoch, disposition)]))
        if owner:
            self.unacknowledged.discard(key)
            for coordinator in self.coordinators.values():
                coordinator.outstanding.discard(key)

    @rule(session=sessions)
    def write(self, session: int) -> None:
        coordinator = self.coordinators[session]
        out = self.machine.outgoing(session)
        if out.credit is not None:
            coordinator.on_the_way.append(out.credit)
        for stated in out.inventory:
            if self.owners.get(stated.shard) == session:
                held = {(stated.shard, number) for number in (*stated.queued, *stated.running, *stated.finished)}
                for other in self.coordinators.values():
                    other.outstanding = {key for key in other.outstanding if key[0] != stated.shard}
                coordinator.outstanding |= held

    @rule(session=sessions)
    def apply_credit(self, session: int) -> None:
        coordinator = self.coordinators[session]
        if coordinator.on_the_way:
            seq, coordinator.limit = coordinator.on_the_way.popleft()
            self.machine.credit_echoed(session, seq)

    @rule(drained=st.booleans())
    def drain(self, drained: bool) -> None:
        queued = [key for key, one in self.machine.attempts.items() if one.phase is Phase.QUEUED]
        (self.machine.drain if drained else self.machine.take_work)()
        # What was queued is given back as never started; the coordinator hears of it as of any result.
        if drained:
            self.unacknowledged |= set(queued)

    @invariant()
    def a_drained_worker_begins_nothing_and_wants_nothing(self) -> None:
        if self.machine.draining:
            assert not self.machine.queued
            assert not any(session.limit for session in self.machine.sessions.values())

    @rule(session=sessions, waiting=st.booleans())
    def tell_backlog(self, session: int, waiting: bool) -> None:
        self.machine.backlog(session, waiting)
        self.machine.rebalance()

    @invariant()
    def no_more_runs_than_there_are_slots(self) -> None:
        assert len(self.running) == self.machine.running <= slots

    @invariant()
    def credit_that_may_be_believed_in_never_exceeds_the_slots(self) -> None:
        believed = sum(
            max([coordinator.limit, *(limit for _, limit in coordinator.on_the_way)])
            for coordinator in self.coordinators.values()
        )
        assert believed <= slots

    @invariant()
    def a_result_is_offered_to_the_owner_until_it_is_acknowledged(self) -> None:
        for key in self.unacknowledged:
            assert key in self.machine.attempts, "lost"
        for session in self.coordinators:
            self.machine.heartbeat(session)
            due = set(self.machine.sessions[session].results_due)
            assert {key for key in self.unacknowledged if self.owners.get(key[0]) == session} <= due


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=150, stateful_step_count=60)
