"""What a client learns of workflows, as plain frozen values; nothing of the wire shows through.

Times are microseconds since the Unix epoch in the cluster's own time scale, 0 when not known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mainspring.errors import Failure, MainspringError, WorkflowCancelledError, WorkflowFailedError
from mainspring.workflow import Json


class WorkflowStatus(StrEnum):
    """The state of a workflow."""

    RUNNING = "RUNNING"
    FAILING = "FAILING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the workflow has ended."""
        return self in (WorkflowStatus.SUCCEEDED, WorkflowStatus.FAILED, WorkflowStatus.CANCELLED)


class NodeStatus(StrEnum):
    """The state of a node, or of one instance of a `map` node."""

    WAITING = "WAITING"
    READY = "READY"
    BACKOFF = "BACKOFF"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the node has ended."""
        return self in (NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class Pause:
    """That nothing of something is given to workers, until it goes on."""

    since_us: int
    """Since when, by the database's clock."""
    who: str
    """Who paused it."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A workflow as its owner knows it."""

    workflow_id: str
    """Its id."""
    name: str
    """The definition's name."""
    status: WorkflowStatus
    """Its state."""
    version: int
    """One higher with each commit that touched it."""
    submitted_at_us: int
    """When it was accepted."""
    ended_at_us: int
    """When it ended, 0 before."""
    failure: Failure | None
    """Why it failed."""
    nodes_total: int
    """How many nodes the definition has; 0 in a list, which does not know it."""
    node_counts: Mapping[NodeStatus, int]
    """How many nodes and instances stand in each state; empty in a list."""
    shard: int
    """The shard that it belongs to."""
    definition_hash: str
    """SHA-256 of the definition."""
    cancel_reason: str
    """The reason given with the cancel."""
    assignment_strategy: str
    """The placement strategy in force when it was submitted."""
    pause: Pause | None = None
    """Its own pause, if it has one."""
    rerun_of: str = ""
    """The workflow that it runs again, empty if it is no rerun."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node, or an instance of a `map` node, without its payloads."""

    node_id: str
    """The node's id."""
    instance: int
    """The index of the `map` instance, -1 for the node itself."""
    executor: str
    """The executor that it names."""
    status: NodeStatus
    """Its state."""
    attempt: int
    """The number of the latest attempt, from 1; 0 before the first."""
    worker: str
    """The worker of the latest attempt."""
    started_at_us: int
    """When the latest attempt was assigned, 0 before."""
    ended_at_us: int
    """When it ended for good, 0 before."""
    run_us: int
    """How long the executor ran in the latest attempt, 0 when not known."""
    failure: Failure | None
    """The last failure."""
    depends_on: tuple[str, ...]
    """The nodes that it depends on."""
    width: int
    """How many instances a `map` node has."""
    instances_ended: int
    """How many of them have ended."""
    retry_at_us: int
    """When the next attempt is due, 0 if none is."""
    waiting_reason: str
    """Why it is not running, in words."""
    cached: bool = False
    """It did not run: its output is that of another node, from the result cache."""

    @property
    def label(self) -> str:
        """The node's id, with the number of its instance if it is one."""
        return self.node_id if self.instance < 0 else f"{self.node_id}[{self.instance}]"


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """An attempt that has ended."""

    attempt: int
    """Its number, from 1."""
    worker: str
    """The worker that it was given to."""
    started_at_us: int
    """When it was assigned."""
    ended_at_us: int
    """When its end was recorded."""
    run_us: int
    """How long the executor ran, 0 when not known."""
    failure: Failure | None
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class NodeDetail:
    """One node with all that is known of it."""

    node: NodeInfo
    """The node."""
    input: Json
    """The input of the latest attempt; None before the first."""
    output: Json
    """The output; None unless it succeeded."""
    progress: Json
    """The last progress details that the executor reported; None if none."""
    attempts: tuple[AttemptInfo, ...]
    """Earlier attempts, oldest first."""


@dataclass(frozen=True, slots=True)
class NodeExplanation:
    """Why a node is as it is."""

    node_id: str
    """The node."""
    instance: int
    """The `map` instance, -1 for the node itself."""
    status: NodeStatus
    """How far it is."""
    reason: str
    """Why, in words."""


@dataclass(frozen=True, slots=True)
class WorkersExplanation:
    """Workers that have not got a node for one reason."""

    verdict: str
    """The reason: ABLE, LIMIT, NEARER, KEY, WORKFLOWS, INVENTORY, FULL, ALONE, DRAINING, ABSENT, LABELS or EXECUTOR."""
    reason: str
    """The same in words, said of one of them."""
    count: int
    """How many workers."""
    workers: tuple[str, ...]
    """Their names, at most 50."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a workflow's nodes do not run."""

    status: WorkflowStatus
    """How far the workflow is."""
    nodes: tuple[NodeExplanation, ...]
    """The one that was asked for, or up to 100 of those that have not ended."""
    nodes_left_out: int
    """How many more have not ended."""
    strategy: str
    """By which a worker is chosen for the one node."""
    workers: tuple[WorkersExplanation, ...]
    """For one node that is ready: why each worker has not got it, those that come closest first."""
    pause: Pause | None = None
    """The workflow's own pause, if it has one."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One line of a workflow's history."""

    at_us: int
    """When it was committed."""
    type: str
    """What happened, for example "ATTEMPT_STARTED"."""
    node_id: str
    """The node, empty for the workflow's own events."""
    instance: int
    """The `map` instance, -1 for the node itself."""
    attempt: int
    """The attempt, 0 where it says nothing."""
    worker: str
    """The worker, empty where it says nothing."""
    failure: Failure | None
    """The failure, if there was one."""
    note: str
    """A remark for a person."""


@dataclass(frozen=True, slots=True)
class WatchUpdate:
    """A snapshot of a workflow, or what changed in it."""

    workflow: WorkflowInfo
    """The workflow as of this update."""
    nodes: tuple[NodeInfo, ...]
    """In a snapshot all nodes, otherwise those that changed."""
    snapshot: bool
    """Whether this replaces all that was known before."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a workflow ended, or the state so far."""

    workflow_id: str
    """The workflow's id."""
    status: WorkflowStatus
    """Its state."""
    output: Json
    """The output, if it succeeded."""
    failure: Failure | None
    """Why it failed."""
    submitted_at_us: int
    """When it was accepted."""
    ended_at_us: int
    """When it ended, 0 before."""

    def error(self) -> MainspringError | None:
        """Return the error that tells how it ended, None if it succeeded or goes on."""
        if self.status is WorkflowStatus.FAILED:
            return WorkflowFailedError(
                self.workflow_id, self.failure or Failure("mainspring.Unknown", "no failure recorded")
            )
        if self.status is WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(
                f"workflow {self.workflow_id!r} was cancelled; see why with: mainspring history {self.workflow_id}"
            )
        return None

    def value(self) -> Json:
        """Return the output; raise `WorkflowFailedError` or `WorkflowCancelledError` if there is none."""
        error = self.error()
        if error is not None:
            raise error
        return self.output


@dataclass(frozen=True, slots=True)
class Submission:
    """One new workflow of `submit_many`."""

    definition: object
    """What `submit` takes: a definition, a builder, or the mapping that JSON would have."""
    input: Json = None
    """The workflow's input."""
    workflow_id: str | None = None
    """Its id; None: one is made."""


@dataclass(frozen=True, slots=True)
class WorkflowFilter:
    """Which workflows to list; what is left at its default does not restrict."""

    statuses: tuple[WorkflowStatus, ...] = ()
    """Only those in one of these states."""
    name: str = ""
    """Only those of definitions with this name."""
    id_prefix: str = ""
    """Only those whose id begins with this."""
    submitted_from_us: int = 0
    """Only those accepted at or after this time."""
    submitted_before_us: int = 0
    """Only those accepted before this time."""
