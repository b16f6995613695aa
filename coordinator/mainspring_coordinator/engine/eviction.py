"""Workers that operators evicted: what such an incarnation has is given up at once, and it may not come back.

An eviction stands in the fence row of a shard, that of whichever coordinator was asked. Every coordinator reads all fence rows with each
look at its peers, so it hears of it within that time, whomever it can reach; and who takes a shard later reads it with the shard. It is no
death: nothing counts as a redelivery. But what it had may run twice, and is put on record as that of one that was lost. What the
incarnation still runs is superseded, and its results are refused, because it has no stream any more by which it could offer them.
"""

from collections.abc import Iterable, Sequence

from mainspring import limits
from mainspring_coordinator.engine import failovers
from mainspring_coordinator.engine.absence import held_by, offer_in_parts, put_evicted_on_record, remove
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Refuse
from mainspring_coordinator.engine.events import WorkerAttached
from mainspring_coordinator.engine.operator_events import EvictionsSeen, WorkerEvicted
from mainspring_coordinator.engine.rows import WorkersEvicted
from mainspring_coordinator.engine.turn import Turn


def incarnations_of(text: str) -> Sequence[str]:
    """Return the incarnations that a fence row names, the oldest eviction first."""
    return text.split()


def text_of(incarnations: Sequence[str]) -> str:
    """Return what the fence row says: the newest of them, as many as it may hold."""
    return " ".join(incarnations[-limits.evictions_a_shard_max :])


def evict(turn: Turn, event: WorkerEvicted) -> None:
    """An operator evicts an incarnation: store that, and do it."""
    shard = turn.state.shards.get(event.shard)
    if shard is None:
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.NOT_OWNER))
        return
    if event.incarnation not in shard.evicted:
        shard.evicted = incarnations_of(text_of([*shard.evicted, event.incarnation]))
        turn.store(WorkersEvicted(shard.shard, "", text_of(shard.evicted)))
    _give_up(turn, event.incarnation)
    # It claims what this batch stores: with nothing to store, the epoch must be proven.
    turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK))


def seen(turn: Turn, event: EvictionsSeen) -> None:
    """Fence rows name these."""
    learn(turn, event.incarnations)


def learn(turn: Turn, incarnations: Iterable[str]) -> None:
    """Give up those that we did not know of."""
    for incarnation in incarnations:
        if incarnation not in turn.state.evicted:
            _give_up(turn, incarnation)


def refuse(turn: Turn, event: WorkerAttached) -> bool:
    """Turn a worker away whose incarnation was evicted; tell whether it was."""
    if event.incarnation not in turn.state.evicted:
        return False
    turn.emit(Refuse(event.session, "EVICTED", _told(event.name, event.incarnation)))
    return True


def _give_up(turn: Turn, incarnation: str) -> None:
    state = turn.state
    state.remember_evicted(incarnation)
    held = held_by(turn, incarnation)
    for assignment in held:
        assignment.session = 0
    worker = state.workers.get(state.sessions.get(incarnation, 0))
    had = [assignment for assignment in held if state.has(assignment)]
    if worker is None:
        put_evicted_on_record(turn, had)
    else:
        if worker.attached:
            worker.absent_since_us = turn.now_us
        if had and not worker.overdue:
            failovers.worker_died(turn, worker, had)
        remove(turn, worker)
        turn.emit(Refuse(worker.session, "EVICTED", _told(worker.name, incarnation)))
    turn.begin(offer_in_parts(turn, held, died=False))


def _told(name: str, incarnation: str) -> str:
    return (
        f"an operator evicted incarnation {incarnation} of worker {name!r}, and its work goes elsewhere (mainspring audit says who and "
        "why); it ends, and may be started again"
    )
