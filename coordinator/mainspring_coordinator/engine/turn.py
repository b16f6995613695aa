"""One step of the engine: the state, the time, and the effects gathered so far.

No step takes long. What touches many nodes is an *act*: a generator that does a part, yields when the step has done as much as one
may, and is given the next step's turn to go on with. Between two parts of an act anything may happen, and the process may die. So an
act looks again at what it is about to change; what makes its outcome certain (a status, an incarnation that is lost) is stored with
its first part; and what a successor reads back leads it to do the rest.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

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


Act: TypeAlias = Generator[None, "Turn", None]
_over: Final = object()


@dataclass(slots=True)
class Turn:
    """What a handler gets: it changes `state` and adds to `effects`, and does nothing else."""

    state: State
    now_us: int
    effects: list[Effect] = field(default_factory=list[Effect])
    released: deque[tuple[WorkflowState, int]] = field(default_factory=deque[tuple[WorkflowState, int]])
    """Nodes that have ended in this step and whose children have not been looked at yet."""
    left: int = 0
    """How many nodes more this step may take on; an act that finds none left yields."""
    acts: deque[Act] = field(default_factory=deque[Act])
    """Those that have not ended, of earlier steps too."""

    def begin(self, act: Act) -> None:
        """Do an act as far as this step may; the steps that follow do the rest."""
        if next(act, _over) is not _over:
            self.acts.append(act)

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
