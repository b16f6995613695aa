"""One step of the engine: the state, the time, and the effects gathered so far."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from mainspring_coordinator.engine.effects import Effect, Store
from mainspring_coordinator.engine.rows import Row
from mainspring_coordinator.engine.state import State, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, node_transitions, workflow_transitions

_width: Final = 16
_allowed: Final = bytes(
    after in node_transitions[NodeStatus(before)] if before in set(NodeStatus) and after in set(NodeStatus) else False
    for before in range(_width)
    for after in range(_width)
)
"""`node_transitions` as a flat table: one index, on the path that every node takes."""


@dataclass(slots=True)
class Turn:
    """What a handler gets: it changes `state` and adds to `effects`, and does nothing else."""

    state: State
    now_us: int
    effects: list[Effect] = field(default_factory=list[Effect])
    released: deque[tuple[WorkflowState, int]] = field(default_factory=deque[tuple[WorkflowState, int]])
    """Nodes that have ended in this step and whose children have not been looked at yet."""

    def emit(self, effect: Effect) -> None:
        """Ask for something to be done."""
        self.effects.append(effect)

    def store(self, row: Row) -> None:
        """Ask for a row to be written."""
        self.effects.append(Store(row))

    def set_node(self, workflow: WorkflowState, node: int, instance: int, status: NodeStatus) -> None:
        """Move a node or an instance to another state; a transition that the table lacks is a bug."""
        statuses = workflow.statuses if instance < 0 else workflow.maps[node].statuses
        index = node if instance < 0 else instance
        before = statuses[index]
        if not _allowed[before * _width + status]:
            raise AssertionError(
                f"workflow {workflow.id} ({workflow.status.name}, version {workflow.version}), node {workflow.plan.nodes[node].id!r}, "
                f"instance {instance}: no transition from {NodeStatus(before).name} to {status.name}"
            )
        statuses[index] = status

    def set_workflow(self, workflow: WorkflowState, status: WorkflowStatus) -> None:
        """Move a workflow to another state; a transition that the table lacks is a bug."""
        if status not in workflow_transitions[workflow.status]:
            raise AssertionError(f"workflow {workflow.id}: no transition from {workflow.status.name} to {status.name}")
        workflow.status = status
