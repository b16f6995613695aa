"""A wide workflow of short nodes has no more of them under way than is of use, while small workflows are.

From an assignment to its result, and to what that frees, everything goes through one pipeline: a commit, a message, the worker, a message,
a step. What passes it together waits for each other, so a hop takes as long as all that is under way takes, whoever it belongs to.
Workers' slots bound what is under way for the sake of what *runs*; of nodes that run for microseconds hardly any does, and all slots'
worth of them is in the pipeline. Then a hop of a small workflow waits for a hundred nodes of a wide one each time, however fair the turns.

So a workflow is held back while it has more under way than keeps the pipeline busy and runs, if a small one was given a node a moment
ago. Without small ones, or with nodes that run for longer, all slots are used: being held back costs throughput, which nobody would
gain from.
"""

from typing import Final

from mainspring import limits
from mainspring_coordinator.engine.state import State, WorkflowState

_unknown_run_us: Final = 1_000_000
"""How long nodes are believed to run until some have."""


def given(state: State, workflow: WorkflowState, now_us: int) -> None:
    """A workflow was given a node."""
    if len(workflow.live) <= limits.small_workflow_nodes:
        state.small = workflow.key
        state.small_us = now_us


def ran(workflow: WorkflowState, run_us: int) -> None:
    """A node of a workflow ran for so long: the mean of the last ones moves by a sixteenth of the difference."""
    known = workflow.run_us or _unknown_run_us
    workflow.run_us = max(1, known + (run_us - known) // 16)


def bound(workflow: WorkflowState) -> int:
    """Return how many nodes of a workflow may be under way beside small ones."""
    run_us = workflow.run_us or _unknown_run_us
    return limits.pipeline_nodes + run_us * limits.pipeline_nodes_a_s // 1_000_000


def holds_back(state: State, workflow: WorkflowState, now_us: int) -> bool:
    """Tell whether a workflow gets no node now; each of its results, of which there is one for sure, is a reason to ask again."""
    if now_us - state.small_us > limits.small_workflow_us or len(workflow.live) < limits.pipeline_nodes:
        return False
    return state.small != workflow.key and len(workflow.live) >= bound(workflow)
