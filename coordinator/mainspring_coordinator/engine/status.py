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
    # WAITING to SUCCEEDED or FAILED: a map over an empty list, an input that cannot be made. What has not ended an operator may skip or
    # complete.
    _N.WAITING: frozenset({_N.READY, _N.RUNNING, _N.SUCCEEDED, _N.FAILED, _N.SKIPPED}),
    # READY to SUCCEEDED: an operator completes it, or its output is in the result cache.
    _N.READY: frozenset({_N.RUNNING, _N.SUCCEEDED, _N.FAILED, _N.SKIPPED}),
    _N.BACKOFF: frozenset({_N.READY, _N.SUCCEEDED, _N.SKIPPED}),
    # RUNNING to READY: the assignment is known not to have arrived, or its worker is lost; the attempt is offered again.
    _N.RUNNING: frozenset({_N.READY, _N.BACKOFF, _N.CANCELLING, _N.SUCCEEDED, _N.FAILED, _N.SKIPPED, _N.CANCELLED}),
    # A result that arrives while cancelling is recorded; it frees nothing.
    _N.CANCELLING: frozenset({_N.SUCCEEDED, _N.FAILED, _N.CANCELLED}),
    _N.SUCCEEDED: frozenset(),
    _N.FAILED: frozenset(),
    _N.SKIPPED: frozenset(),
    _N.CANCELLED: frozenset(),
}

workflow_terminal: Final = frozenset(status for status, after in workflow_transitions.items() if not after)
node_terminal: Final = frozenset(status for status, after in node_transitions.items() if not after)


class NodeAct(IntEnum):
    """What an operator does to a node, or to one instance of a `map` node."""

    RETRY = 1
    """It is tried now, and anew if it runs."""
    SKIP = 2
    """It is not run; what depends on it gets null."""
    COMPLETE = 3
    """It is not run; the operator says what it gives."""


node_acts: Final[dict[NodeAct, dict[NodeStatus, NodeStatus]]] = {
    # By the state that an act finds, the one that it leads to; the same: it is so already. What is not here cannot be done. A workflow
    # that does not go on (FAILING, CANCELLING, ended) is not acted on at all.
    NodeAct.RETRY: {_N.READY: _N.READY, _N.BACKOFF: _N.READY, _N.RUNNING: _N.READY},
    NodeAct.SKIP: {
        **dict.fromkeys((_N.WAITING, _N.READY, _N.BACKOFF, _N.RUNNING), _N.SKIPPED),
        _N.SKIPPED: _N.SKIPPED,
    },
    NodeAct.COMPLETE: dict.fromkeys((_N.WAITING, _N.READY, _N.BACKOFF, _N.RUNNING), _N.SUCCEEDED),
}


class FailoverKind(IntEnum):
    """How an instance was found to be dead; the numbers are stored."""

    COORDINATOR_KILLED = 1
    """Its database session had ended."""
    COORDINATOR_HUNG = 2
    """Its lease did not move: it stood still, was cut off or was stuck. Its connections were ended."""
    WORKER_LOST = 3
    """Its stream was gone and it did not attach again in time."""


class FailoverStage(IntEnum):
    """How far the telling of a failover is; the numbers are stored and only go up."""

    RECORDED = 0
    """It stands in the database."""
    ANNOUNCED = 1
    """It is logged and counted; its alert is due."""
    CLOSED = 2
    """Nothing is left to be told: the alert was delivered, is not wanted, or was given up."""


class Subject(IntEnum):
    """What a failover affected; the numbers are stored."""

    WORKFLOWS = 1
    NODES = 2
