"""The states of workflows and nodes, and the only transitions between them.

Both tables are closed: a transition that is not in them is a bug, and raises. Numbers are those of the wire and of the database.
"""

from enum import IntEnum
from typing import Final


class WorkflowStatus(IntEnum):
    """The state of a workflow."""

    RUNNING = 1
    FAILING = 2
    CANCELLING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6


class NodeStatus(IntEnum):
    """The state of a node, or of one instance of a `map` node."""

    WAITING = 1
    READY = 2
    BACKOFF = 3
    RUNNING = 4
    CANCELLING = 5
    SUCCEEDED = 6
    FAILED = 7
    SKIPPED = 8
    CANCELLED = 9


_W: Final = WorkflowStatus
_N: Final = NodeStatus

workflow_transitions: Final[dict[WorkflowStatus, frozenset[WorkflowStatus]]] = {
    _W.RUNNING: frozenset({_W.SUCCEEDED, _W.FAILING, _W.FAILED, _W.CANCELLING, _W.CANCELLED}),
    # A cancel of a workflow that is failing only hastens its end; it stays a failure.
    _W.FAILING: frozenset({_W.FAILED}),
    _W.CANCELLING: frozenset({_W.CANCELLED}),
    _W.SUCCEEDED: frozenset(),
    _W.FAILED: frozenset(),
    _W.CANCELLED: frozenset(),
}

node_transitions: Final[dict[NodeStatus, frozenset[NodeStatus]]] = {
    # WAITING to SUCCEEDED or FAILED: a map over an empty list, an input that cannot be made.
    _N.WAITING: frozenset({_N.READY, _N.RUNNING, _N.SUCCEEDED, _N.FAILED, _N.SKIPPED}),
    _N.READY: frozenset({_N.RUNNING, _N.FAILED, _N.SKIPPED}),
    _N.BACKOFF: frozenset({_N.READY, _N.SKIPPED}),
    # RUNNING to READY: the assignment is known not to have arrived, or its worker is lost; the attempt is offered again.
    _N.RUNNING: frozenset({_N.READY, _N.BACKOFF, _N.CANCELLING, _N.SUCCEEDED, _N.FAILED, _N.CANCELLED}),
    # A result that arrives while cancelling is recorded; it frees nothing.
    _N.CANCELLING: frozenset({_N.SUCCEEDED, _N.FAILED, _N.CANCELLED}),
    _N.SUCCEEDED: frozenset(),
    _N.FAILED: frozenset(),
    _N.SKIPPED: frozenset(),
    _N.CANCELLED: frozenset(),
}

workflow_terminal: Final = frozenset(status for status, after in workflow_transitions.items() if not after)
node_terminal: Final = frozenset(status for status, after in node_transitions.items() if not after)
