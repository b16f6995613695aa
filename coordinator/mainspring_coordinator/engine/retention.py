"""What is old is deleted: the last look, in memory, before it goes.

A read of the database says what is due. It was made a while ago, so the shard must still be ours under the epoch of then, and what is in
memory stays. All else is looked at again by the transaction that deletes it.
"""

from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import RetentionDue
from mainspring_coordinator.engine.rows import PlanDeleted
from mainspring_coordinator.engine.state import ShardState, State
from mainspring_coordinator.engine.turn import Turn


def due(turn: Turn, event: RetentionDue) -> None:
    """Delete what was found, but for what is in memory."""
    shard = turn.state.shards.get(event.shard)
    if shard is None or shard.epoch != event.epoch:
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.NOT_OWNER))
        return
    for row in event.rows:
        if isinstance(row, PlanDeleted):
            # Whoever is submitted from here on brings it again; whoever was before keeps it, by its row.
            shard.plans.discard(row.plan_hash)
        elif row.workflow_id and _is_known(turn.state, shard, row.workflow_id):
            continue
        turn.store(row)
    turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK, claims=False))


def _is_known(state: State, shard: ShardState, workflow_id: str) -> bool:
    """Tell whether a workflow of this id is in memory: it is being submitted, or loaded anew, or its end is not stored yet."""
    return workflow_id in shard.workflows or workflow_id in shard.reloading or (shard.shard, workflow_id) in state.ended
