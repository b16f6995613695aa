"""Workers that have seen more of a shard than its owner knows of: the database has lost history, or they do not tell the truth.

Whoever owns the shard then takes it under an epoch above what they have seen, so that nothing of the lost history is taken for anything.
That costs the shard a moment, so it is bounded: what is too far above our epoch to be history is not believed, and a shard's epoch is
raised but so often within a while, whoever says what. A worker that is not believed loses its stream, and may come back.

It may also be that we are not the owner any more. Then giving the shard up shows it.
"""

from mainspring import limits
from mainspring_coordinator.engine.effects import EpochSpent, Refuse
from mainspring_coordinator.engine.state import ShardState
from mainspring_coordinator.engine.turn import Turn
from mainspring_coordinator.engine.worker import WorkerState


def claimed(turn: Turn, shard: ShardState, worker: WorkerState, epoch: int) -> bool:
    """A worker has something of a shard's epoch that we know nothing of; tell whether it is believed."""
    if worker.disbelieved:
        return False
    if (doubt := _doubt(turn, shard, epoch)) is not None:
        worker.disbelieved = True
        message = (
            f"worker {worker.name!r} (incarnation {worker.incarnation}) says that it has seen epoch {epoch} of shard {shard.shard}, "
            f"whose epoch is {shard.epoch}: {doubt}; if the database was restored start this worker again, else keep it out"
        )
        turn.emit(Refuse(worker.session, "PROTOCOL_ERROR", message))
        return False
    shard.seen_epoch = max(shard.seen_epoch, epoch)
    hold_assignments(turn, shard, by=worker.name)
    return True


def hold_assignments(turn: Turn, shard: ShardState, *, by: str = "") -> None:
    """The epoch has no more ids that are ours: no worker gets anything of the shard until it is taken under a higher one."""
    turn.state.unreconcile(shard.shard)
    turn.emit(EpochSpent(shard.shard, shard.seen_epoch, by))


def _doubt(turn: Turn, shard: ShardState, epoch: int) -> str | None:
    """Return why a worker is not believed."""
    if epoch - shard.epoch > limits.epochs_lost_max:
        return f"more than {limits.epochs_lost_max} above it"
    if shard.seen_epoch:
        return None  # it is to be raised anyway
    since_us = turn.now_us - limits.epoch_claims_window_ms * 1_000
    raised = [at_us for at_us in turn.state.epoch_claims.get(shard.shard, ()) if at_us > since_us]
    turn.state.epoch_claims[shard.shard] = raised
    if len(raised) >= limits.epoch_claims_max:
        return (
            f"it was raised {len(raised)} times within {limits.epoch_claims_window_ms // 1_000} s for what workers said"
        )
    raised.append(turn.now_us)
    return None
