"""What can happen to the engine. Everything that reaches it is one of these, our own timers too.

A `token` names a caller who waits for an answer; it comes back in the effect `Answer`. A `session` names one attached stream of a
worker, never used twice within a process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mainspring.errors import Failure
from mainspring_coordinator.engine.operator_events import (
    ActOnNode,
    Audited,
    CopyNodes,
    EvictionsSeen,
    PauseSet,
    PausesSeen,
    Rerun,
    RetentionDue,
    StrategyChosen,
    StrategySeen,
    StrategySet,
    WorkerEvicted,
    WorkflowPauseSet,
)
from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import HeldPermits, Reply, Statement
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, NodeStatus, WorkflowStatus


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; deadlines that are due fire."""


# -- clients ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """A client wants a workflow to exist."""

    token: int
    shard: int
    workflow_id: str
    plan: Plan
    input: bytes
    digest: bytes
    """SHA-256 of definition and input."""
    strategy: str


@dataclass(frozen=True, slots=True)
class SubmitExisted:
    """The commit of a submit found the id in the database: the tentative workflow goes, the caller is answered."""

    shard: int
    workflow_id: str
    digest: bytes
    status: WorkflowStatus


@dataclass(frozen=True, slots=True)
class Cancel:
    """A client wants a workflow to stop."""

    token: int
    shard: int
    workflow_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Read:
    """A client wants to see a workflow as it is now; answered with a `View` or None if it is not in memory (ended, or unknown)."""

    token: int
    shard: int
    workflow_id: str
    brief: bool = False
    """Only whether it is in memory is asked; nothing of the answer may be told to the client."""
    about: tuple[str, int] | None = None
    """Answered with an explanation of this node and instance, or of the workflow if the node's id is empty, instead of a view."""


# -- the record ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Death:
    """A coordinator's incarnation that died while it owned shards."""

    kind: FailoverKind
    name: str
    """Empty if nobody knows it any more."""
    incarnation: str
    detected_at_us: int


@dataclass(frozen=True, slots=True)
class IdChunk:
    """Some ids."""

    ids: bytes
    """A JSON list."""
    count: int


@dataclass(frozen=True, slots=True)
class DeathsFound:
    """Owners of a shard died, and what was unfinished in it is known."""

    shard: int
    """Under whose fence it is recorded."""
    part: int
    """The shard that they owned."""
    deaths: Sequence[Death]
    workflows: Sequence[IdChunk]
    nodes: Sequence[IdChunk]
    taken: bool = True
    """We own the shard now; False: its work waits, because failover is off."""


@dataclass(frozen=True, slots=True)
class FailoverTold:
    """The telling of a failover came further; answered once that is stored."""

    token: int
    shard: int
    event_id: str
    stage: FailoverStage
    announced_at_us: int
    alerted_at_us: int


# -- workers ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerAttached:
    """A worker's stream is there. It gets work of a shard once its inventory of that shard has come."""

    session: int
    name: str
    incarnation: str
    host: str
    zone: str
    labels: Mapping[str, str]
    executors: frozenset[str]
    slots: int
    workflows_max: int


@dataclass(frozen=True, slots=True)
class WorkerDetached:
    """A stream ended."""

    session: int
    goodbye: bool
    """It ended by intent: what it still had is offered elsewhere at once, and nothing counts as a redelivery."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a worker has of one shard."""

    session: int
    shard: int
    epoch: int
    queued: Sequence[int]
    running: Sequence[int]
    finished: Sequence[int]
    ordinal_seen: int


@dataclass(frozen=True, slots=True)
class ResultItem:
    """The end of one attempt as its worker reports it."""

    shard: int
    assignment: int
    status: NodeStatus
    """SUCCEEDED, FAILED, CANCELLED, or READY when it was never started."""
    output: bytes
    failure: Failure | None
    run_us: int


@dataclass(frozen=True, slots=True)
class Results:
    """Ended attempts."""

    session: int
    items: Sequence[ResultItem]


@dataclass(frozen=True, slots=True)
class ProgressReported:
    """What a running attempt tells of itself."""

    session: int
    shard: int
    assignment: int
    details: bytes


@dataclass(frozen=True, slots=True)
class CreditSet:
    """The bound that a worker sets us on its outstanding assignments."""

    session: int
    seq: int
    limit: int


@dataclass(frozen=True, slots=True)
class LoadReported:
    """How busy a worker is; percent."""

    session: int
    cpu: float
    memory: float


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """A worker takes no more work."""

    session: int


@dataclass(frozen=True, slots=True)
class WorkerResumed:
    """A worker that took no more work takes some again; its inventories follow."""

    session: int


@dataclass(frozen=True, slots=True)
class WorkerHeard:
    """A worker answered, whatever it said."""

    session: int


@dataclass(frozen=True, slots=True)
class PeersSeen:
    """Whether workers are attached to another coordinator, or how many coordinators are live, has changed."""

    have_workers: bool
    coordinators: int = 1
    """How many are live, ourselves included."""


# -- the strategy ----------------------------------------------------------------------------------------------------------


# -- pauses ----------------------------------------------------------------------------------------------------------------


# -- ownership -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShardTaken:
    """We own a shard from now on; its workflows come as `WorkflowLoaded`, then `ShardReady`."""

    shard: int
    epoch: int
    grace_until_us: int
    holder: str
    """Our own incarnation."""
    evicted: str = ""
    """What the fence row says of evicted workers."""


@dataclass(frozen=True, slots=True)
class LoadedNode:
    """A node as the database has it."""

    node: int
    instance: int
    status: NodeStatus
    attempt: int
    assignment: int
    worker: str
    incarnation: str
    started_at_us: int
    retry_at_us: int
    width: int
    redeliveries: int
    progress: bytes | None


@dataclass(frozen=True, slots=True)
class WorkflowLoaded:
    """An unfinished workflow as the database has it."""

    shard: int
    workflow_id: str
    plan: Plan
    input: bytes
    digest: bytes
    status: WorkflowStatus
    version: int
    submitted_at_us: int
    deadline_at_us: int
    closing_until_us: int
    strategy: str
    cancel_reason: str
    failure: bytes | None
    nodes: Sequence[LoadedNode]
    pause: Pause | None = None


@dataclass(frozen=True, slots=True)
class ShardReady:
    """All unfinished workflows of a shard are loaded: it serves."""

    shard: int


@dataclass(frozen=True, slots=True)
class ShardLost:
    """We own a shard no longer; all that we know of it is void."""

    shard: int


@dataclass(frozen=True, slots=True)
class OutputsLoaded:
    """The outputs that `LoadOutputs` asked for; by node index, the JSON bytes, `null` for a node without output."""

    shard: int
    workflow_id: str
    outputs: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class WorkflowEvicted:
    """The database refused a workflow's rows: it leaves memory, and comes again as `WorkflowLoaded` or `WorkflowAbsent`."""

    shard: int
    workflow_id: str


@dataclass(frozen=True, slots=True)
class WorkflowAbsent:
    """A workflow that was to be loaded anew is not there, or has ended."""

    shard: int
    workflow_id: str


# -- permits ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PermitsLoaded:
    """Permits that are out of keys whose home we have taken; before its `ShardReady`."""

    shard: int
    permits: Sequence[HeldPermits]


@dataclass(frozen=True, slots=True)
class PermitsStated:
    """The owner of a shard says what that keeps and wants of a key."""

    shard: int
    """The key's home."""
    statement: Statement


@dataclass(frozen=True, slots=True)
class PermitsGranted:
    """The home of a key replies, or asks."""

    shard: int
    """Whose permits they are."""
    reply: Reply


Call: TypeAlias = Submit | Cancel | Read | WorkflowPauseSet | ActOnNode | CopyNodes | Rerun
"""What a client or an operator asks of a workflow, and is answered."""

# -- the result cache ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CachedOutput:
    """An output that the result cache has."""

    output: bytes
    stored_at_us: int
    """When it was made."""


@dataclass(frozen=True, slots=True)
class CacheAnswer:
    """What the result cache says to one question."""

    workflow_id: str
    node: int
    instance: int
    number: int
    """That of the question."""
    found: CachedOutput | None
    """None: there is nothing, or nobody could tell."""
    failed: bool = False
    """Nobody could tell."""


@dataclass(frozen=True, slots=True)
class CacheAnswered:
    """The result cache answers questions of one shard."""

    shard: int
    answers: Sequence[CacheAnswer]


Event: TypeAlias = (
    Tick
    | Submit
    | SubmitExisted
    | Cancel
    | Read
    | ActOnNode
    | CopyNodes
    | Rerun
    | WorkerAttached
    | WorkerDetached
    | Inventory
    | Results
    | ProgressReported
    | CreditSet
    | LoadReported
    | WorkerDraining
    | WorkerResumed
    | WorkerEvicted
    | EvictionsSeen
    | WorkerHeard
    | PeersSeen
    | ShardTaken
    | WorkflowLoaded
    | ShardReady
    | ShardLost
    | OutputsLoaded
    | WorkflowEvicted
    | WorkflowAbsent
    | DeathsFound
    | FailoverTold
    | StrategySet
    | Audited
    | RetentionDue
    | StrategyChosen
    | StrategySeen
    | PauseSet
    | WorkflowPauseSet
    | PausesSeen
    | PermitsLoaded
    | PermitsStated
    | PermitsGranted
    | CacheAnswered
)
