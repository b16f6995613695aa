"""What the engine asks to be stored: rows, as values.

Each names its shard, so that a batch can be fenced shard by shard, and its workflow, so that a batch can be cut by workflow.
Times are microseconds in database time. Payloads are JSON bytes. A failure is stored as the JSON of `mainspring.errors.Failure`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, NodeStatus, Subject, WorkflowStatus


@dataclass(frozen=True, slots=True)
class PlanSaved:
    """A definition that a workflow of this shard uses; storing it twice changes nothing."""

    shard: int
    workflow_id: str
    """The workflow that brought it."""
    plan_hash: bytes
    """SHA-256 of `definition`: 32 bytes."""
    definition: bytes
    """The canonical JSON."""


@dataclass(frozen=True, slots=True)
class WorkflowInserted:
    """A new workflow. If its id is already there, the row and all others of this workflow are left out of the batch."""

    shard: int
    workflow_id: str
    digest: bytes
    """SHA-256 of definition and input: 32 bytes; tells the same submit from another one."""
    name: str
    plan_hash: bytes
    input: bytes
    submitted_at_us: int
    deadline_at_us: int
    """When it must have ended; 0: never."""
    strategy: str
    """The placement strategy in force."""
    rerun_of: str = ""
    """The workflow that it runs again; empty: none."""


@dataclass(frozen=True, slots=True)
class WorkflowUpdated:
    """The workflow row changes its state."""

    shard: int
    workflow_id: str
    version: int
    status: WorkflowStatus
    cancel_reason: str = ""
    failure: bytes | None = None
    output: bytes | None = None
    ended_at_us: int = 0
    closing_until_us: int = 0
    """While FAILING or CANCELLING: when running nodes count as CANCELLED whatever their workers do."""


@dataclass(frozen=True, slots=True)
class NodeAssigned:
    """An attempt was given to a worker: the row becomes RUNNING and is inserted if it is new."""

    shard: int
    workflow_id: str
    node: int
    """The node's index in the plan."""
    instance: int
    """The `map` instance, -1 for a node that is no `map`."""
    version: int
    attempt: int
    assignment: int
    worker: str
    incarnation: str
    started_at_us: int
    redeliveries: int


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A node left the state that it was in: it ended, waits for its next attempt, is offered again or is being cancelled.

    The row is inserted if it is new (a node that failed before it was ever assigned). Worker, assignment and start stay as they are.
    """

    shard: int
    workflow_id: str
    node: int
    instance: int
    version: int
    status: NodeStatus
    attempt: int
    output: bytes | None = None
    failure: bytes | None = None
    ended_at_us: int = 0
    run_us: int = 0
    retry_at_us: int = 0
    redeliveries: int = 0


@dataclass(frozen=True, slots=True)
class RetryDue:
    """A node in BACKOFF waits no longer than until then; the row exists. What the attempt before left in it stays."""

    shard: int
    workflow_id: str
    node: int
    instance: int
    version: int
    retry_at_us: int


@dataclass(frozen=True, slots=True)
class NodesCopied:
    """A part of what an ended workflow of the shard has of some nodes is a new workflow's too; rows that are there stay as they are.

    Copied within the database, so that no payload passes through us. A copy is of the new workflow's first version, and names no
    assignment; progress and earlier attempts stay with the old workflow.
    """

    shard: int
    workflow_id: str
    """The new workflow, whose own row may not be there yet."""
    source: str
    nodes: tuple[int, ...]
    after: tuple[int, int]
    """(node, instance): only rows beyond it, and not beyond `until`."""
    until: tuple[int, int]


@dataclass(frozen=True, slots=True)
class MapExpanded:
    """A `map` node became RUNNING with this many instances; its instances have no rows until they are assigned."""

    shard: int
    workflow_id: str
    node: int
    version: int
    width: int
    started_at_us: int


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt that is not the last of its node has ended; storing it twice changes nothing."""

    shard: int
    workflow_id: str
    node: int
    instance: int
    attempt: int
    worker: str
    started_at_us: int
    ended_at_us: int
    run_us: int
    failure: bytes


@dataclass(frozen=True, slots=True)
class ProgressSaved:
    """What a running attempt told of itself; the row exists."""

    shard: int
    workflow_id: str
    node: int
    instance: int
    version: int
    progress: bytes


@dataclass(frozen=True, slots=True)
class FailoverRecorded:
    """An instance died and another took over from it. Storing it twice changes nothing, whichever shard it comes from."""

    shard: int
    """Whose fence it is written under."""
    workflow_id: str
    """Always empty, as in all rows of the record: they belong to no workflow."""
    event_id: str
    """Follows from the two incarnations: 32 hexadecimal characters."""
    kind: FailoverKind
    failed_engine: str
    failed_incarnation: str
    takeover_engine: str
    """Empty, as the next one, when nobody may take over."""
    takeover_incarnation: str
    detected_at_us: int
    settles_at_us: int
    """Until then other shards may still add to what it affected."""


@dataclass(frozen=True, slots=True)
class FailoverAffected:
    """Some of what a failover affected. Storing it twice changes nothing."""

    shard: int
    """Whose fence it is written under."""
    workflow_id: str
    event_id: str
    subject: Subject
    part: int
    """The shard that these workflows or nodes are of."""
    chunk: int
    """From 0; a part without any has one empty chunk of workflows."""
    ids: bytes
    """A JSON list of ids; of a node, "workflow/node" or "workflow/node[instance]"."""
    ids_count: int
    recorded_at_us: int


@dataclass(frozen=True, slots=True)
class FailoverMarked:
    """The telling of a failover came further."""

    shard: int
    workflow_id: str
    event_id: str
    stage: FailoverStage
    announced_at_us: int
    alerted_at_us: int
    """0: no alert was delivered."""


@dataclass(frozen=True, slots=True)
class DeathsRecorded:
    """The deaths noted in the shard's fence row are in the record."""

    shard: int
    workflow_id: str = ""


@dataclass(frozen=True, slots=True)
class GraceEnded:
    """Every worker that had work of the shard when it was taken is there again, or was given up: nobody is waited for any more."""

    shard: int
    workflow_id: str = ""


@dataclass(frozen=True, slots=True)
class StrategyChanged:
    """What holds for the whole cluster has changed: the fence row says it, and the history has one entry more."""

    shard: int
    workflow_id: str
    standing: str
    """What the fence row is to say, as `ClusterStrategy.text` returns it."""
    before: str
    after: str
    """Of what was wanted or chosen; empty: each coordinator's own."""
    by: str
    """Who changed it: `operator` or `dynamic`."""
    reason: str
    changed_at_us: int
    """Names the entry; no two have the same."""


@dataclass(frozen=True, slots=True)
class PausesChanged:
    """What is paused in the whole cluster has changed: the fence row says it."""

    shard: int
    workflow_id: str
    standing: bytes
    """What the fence row is to say, as `ClusterPauses.data` returns it."""


@dataclass(frozen=True, slots=True)
class WorkflowPaused:
    """A workflow is paused; with 0 as its time it is not any more."""

    shard: int
    workflow_id: str
    since_us: int
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What an operator does, and, written once more, what came of it; of an entry that is there nothing else changes."""

    shard: int
    """Any of the coordinator that writes it: it is under that one's fence."""
    workflow_id: str
    """Always empty."""
    entry_id: str
    """32 hexadecimal characters."""
    began_at_us: int
    ended_at_us: int
    """0: what came of it is not known yet, or never will be, because the coordinator ended before."""
    act: str
    """The name of the call."""
    subject: str
    """What it was done to."""
    reason: str
    who: str
    coordinator: str
    """The name of the one that did it."""
    outcome: str
    """`done`, or why it was not; empty as long as that is not known."""


@dataclass(frozen=True, slots=True)
class WorkersEvicted:
    """The incarnations of workers that were evicted under a shard's fence."""

    shard: int
    """Any of the coordinator that was asked."""
    workflow_id: str
    """Always empty."""
    evicted: str
    """What the fence row is to say, as `engine.eviction.text_of` returns it."""


@dataclass(frozen=True, slots=True)
class PermitsHeld:
    """How many permits of a concurrency key a shard has; with 0 the row goes."""

    shard: int
    """The key's home."""
    workflow_id: str
    """Always empty: permits belong to a shard, not to a workflow."""
    key: str
    holder: int
    """The shard that has them."""
    epoch: int
    """That of its owner who stated so last."""
    count: int


@dataclass(frozen=True, slots=True)
class ResultCached:
    """An output that other nodes may take; it replaces the one that this shard had of the key.

    Each shard has rows of its own, so that no two coordinators ever write the same one and wait for each other.
    """

    shard: int
    workflow_id: str
    """The workflow that it is of."""
    key: bytes
    """32 bytes."""
    output: bytes
    stored_at_us: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class DeletionBegun:
    """An ended workflow, too large for one transaction, is being deleted: from here on nobody sees it, and its id cannot be used yet."""

    shard: int
    workflow_id: str


@dataclass(frozen=True, slots=True)
class NodesDeleted:
    """Of a workflow that is being deleted, the rows of nodes and attempts up to this one go."""

    shard: int
    workflow_id: str
    node: int
    instance: int
    """The last one that goes; the order is that of (node, instance)."""


@dataclass(frozen=True, slots=True)
class WorkflowDeleted:
    """An ended workflow goes with all its rows; its id may be used again."""

    shard: int
    workflow_id: str


@dataclass(frozen=True, slots=True)
class PlanDeleted:
    """A definition goes, unless a workflow of its shard uses it once the batch is written, or the same batch stores it."""

    shard: int
    workflow_id: str
    """Always empty, as in all that follow: they belong to no workflow."""
    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class AffectedDeleted:
    """Of what a failover affected, the chunks up to this one go."""

    shard: int
    """Whose fence it is written under."""
    workflow_id: str
    event_id: str
    subject: Subject
    part: int
    chunk: int
    """The last one that goes; the order is that of (subject, part, chunk)."""


@dataclass(frozen=True, slots=True)
class FailoverDeleted:
    """A failover goes, with all that it affected."""

    shard: int
    """Whose fence it is written under."""
    workflow_id: str
    event_id: str


@dataclass(frozen=True, slots=True)
class AuditDeleted:
    """An entry of the audit log goes."""

    shard: int
    """Whose fence it is written under."""
    workflow_id: str
    entry_id: str


@dataclass(frozen=True, slots=True)
class StrategyChangeDeleted:
    """An entry of the history of the cluster's strategy goes."""

    shard: int
    """Whose fence it is written under."""
    workflow_id: str
    changed_at_us: int


@dataclass(frozen=True, slots=True)
class ResultDropped:
    """An output that is over its time goes, unless it has been replaced."""

    shard: int
    workflow_id: str
    """Always empty."""
    key: bytes
    expires_at_us: int
    """That of the output that goes."""


DeleteRow: TypeAlias = (
    DeletionBegun
    | NodesDeleted
    | WorkflowDeleted
    | PlanDeleted
    | AffectedDeleted
    | FailoverDeleted
    | AuditDeleted
    | StrategyChangeDeleted
    | ResultDropped
)
"""What retention asks for. It is written before anything else of its batch; a definition goes after all of it."""


WriteRow: TypeAlias = (
    PlanSaved
    | WorkflowInserted
    | WorkflowUpdated
    | NodeAssigned
    | NodeChanged
    | RetryDue
    | NodesCopied
    | MapExpanded
    | AttemptEnded
    | ProgressSaved
    | FailoverRecorded
    | FailoverAffected
    | FailoverMarked
    | DeathsRecorded
    | GraceEnded
    | StrategyChanged
    | PermitsHeld
    | PausesChanged
    | WorkflowPaused
    | AuditEntry
    | WorkersEvicted
    | ResultCached
)
Row: TypeAlias = WriteRow | DeleteRow
