"""An ended workflow is run again: a new one, of the same definition and input, that takes over what is not to be run once more.

What it takes over is copied first, row by row and within the database, under an id that nobody else comes upon (the host makes it of the
call); the workflow's own row comes last, and with it the workflow is there. So a copy that was cut short is nothing that anybody sees,
and the same call, made again, finishes it. Then the workflow is read from the database, as one that a shard comes with.
"""

from collections.abc import Collection

from mainspring.graph import Graph
from mainspring_coordinator.engine import workflows
from mainspring_coordinator.engine.effects import Answer, AnswerCode, LoadWorkflow
from mainspring_coordinator.engine.operator_events import CopyNodes, Rerun
from mainspring_coordinator.engine.rows import NodesCopied
from mainspring_coordinator.engine.state import ShardState
from mainspring_coordinator.engine.turn import Turn


def kept_nodes(graph: Graph, ended_well: Collection[int], again: Collection[int]) -> list[int]:
    """Return the nodes that a new workflow takes over: those that ended well, unless they or what they depend on are to be run again."""
    anew = bytearray(b"\x01") * len(graph.ids)
    for node in ended_well:
        anew[node] = node in again
    for node in graph.order:
        if anew[node]:
            for child in graph.children_of(node):
                anew[child] = 1
    return [node for node, new in enumerate(anew) if not new]


def copy(turn: Turn, shard: ShardState, event: CopyNodes) -> None:
    """Store a part of what a new workflow takes over; of one that is there already, nothing."""
    if event.workflow_id not in shard.workflows:
        turn.store(NodesCopied(shard.shard, event.workflow_id, event.source, event.nodes, event.after, event.until))
    turn.emit(Answer(event.token, shard.shard, event.workflow_id, AnswerCode.OK))


def begin(turn: Turn, shard: ShardState, event: Rerun) -> None:
    """Let a workflow exist of which all that it takes over is stored. It is in memory once it was read."""
    if workflows.is_answered(turn, shard, event):
        return
    workflows.store_new(turn, shard, event)
    shard.reloading.add(event.workflow_id)
    turn.emit(LoadWorkflow(shard.shard, event.workflow_id))
