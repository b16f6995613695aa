"""What the engine wants done.

Rows are written first, all of a batch in one transaction. Everything else leaves only after the commit of the last batch that it
reflects (save, then speak). Each effect names its shard and workflow, so that a batch can be cut when a shard is lost or a workflow
is refused; -1 and "" where it belongs to none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TypeAlias

from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import Reply, Statement
from mainspring_coordinator.engine.rows import Row
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus


class CancelCause(IntEnum):
    """Why an attempt is to be stopped; the numbers of the wire."""

    WORKFLOW_CANCELLED = 1
    WORKFLOW_FAILED = 2
    TIMED_OUT = 3
    SUPERSEDED = 4


class Disposition(IntEnum):
    """What became of a result; the numbers of the wire."""

    RECORDED = 1
    STALE = 2
    NOT_OWNER = 3


@dataclass(frozen=True, slots=True)
class Store:
    """Write a row."""

    row: Row


@dataclass(frozen=True, slots=True)
class Assign:
    """Give an attempt to a worker."""

    session: int
    shard: int
    epoch: int
    assignment: int
    ordinal: int
    workflow_id: str
    workflow_name: str
    node_id: str
    instance: int
    attempt: int
    executor: str
    input: bytes
    start_to_close_ms: int
    progress: bytes | None
    stop_on_disconnect: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell a worker to stop an attempt."""

    session: int
    shard: int
    epoch: int
    workflow_id: str
    assignment: int
    cause: CancelCause


@dataclass(frozen=True, slots=True)
class Ack:
    """Answer a result."""

    session: int
    shard: int
    epoch: int
    workflow_id: str
    assignment: int
    disposition: Disposition


@dataclass(frozen=True, slots=True)
class EchoCredit:
    """Tell a worker that its bound is in force."""

    session: int
    seq: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """A worker may not attach, or not stay: it was evicted, or does not tell the truth."""

    session: int
    reason: str
    """NAME_TAKEN, EVICTED or PROTOCOL_ERROR: a name of the wire's GoodbyeReason."""
    message: str


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A worker is attached; it may be told so."""

    session: int


@dataclass(frozen=True, slots=True)
class Replace:
    """A newer stream of the same incarnation took the place of this one: close it."""

    session: int


class AnswerCode(IntEnum):
    """How a call went."""

    OK = 0
    NOT_FOUND = 1
    ALREADY_EXISTS = 2
    NOT_OWNER = 3
    BUSY = 4
    NO_NODE = 5
    """The workflow has no such node or instance; `message` says so."""
    REFUSED = 6
    """It cannot be done to what is as it is; `message` says why, and what can."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node or an instance as it is now."""

    node: int
    instance: int
    status: NodeStatus
    attempt: int
    worker: str
    started_at_us: int
    retry_at_us: int
    width: int
    instances_ended: int


@dataclass(frozen=True, slots=True)
class MapView:
    """The instances of an expanded `map` node as they are now."""

    width: int
    ended: int
    statuses: bytes
    """By instance, its NodeStatus; those that never began are WAITING."""


@dataclass(frozen=True, slots=True)
class View:
    """A workflow as it is now, taken by copying arrays. Nodes that have ended have their details in the database."""

    workflow_id: str
    status: WorkflowStatus
    version: int
    statuses: bytes
    """By node, its NodeStatus."""
    attempts: bytes
    """By node, its latest attempt, 0 before the first."""
    maps: Mapping[int, MapView]
    """By node."""
    active: Mapping[tuple[int, int], NodeView]
    """Nodes and instances that run or wait for their next attempt."""
    reasons: Mapping[int, str]
    """For nodes that are READY: why they do not run. At most 1,000."""
    pause: Pause | None = None
    """Its own, if it is paused."""

    @property
    def node_counts(self) -> Mapping[NodeStatus, int]:
        """Return how many nodes and instances are in each state that occurs."""
        everything = (self.statuses, *(view.statuses for view in self.maps.values()))
        counts = {status: sum(array.count(status) for array in everything) for status in NodeStatus}
        return {status: count for status, count in counts.items() if count}

    @property
    def nodes(self) -> Sequence[NodeView]:
        """Return every node, each `map` node followed by those of its instances that have begun."""
        views: list[NodeView] = []
        for node, status in enumerate(self.statuses):
            expanded = self.maps.get(node)
            width, ended = (expanded.width, expanded.ended) if expanded is not None else (0, 0)
            views.append(
                self.active.get((node, -1))
                or NodeView(node, -1, NodeStatus(status), self.attempts[node], "", 0, 0, width, ended)
            )
            if expanded is not None:
                views += [
                    self.active.get((node, instance)) or NodeView(node, instance, NodeStatus(state), 0, "", 0, 0, 0, 0)
                    for instance, state in enumerate(expanded.statuses)
                    if state != NodeStatus.WAITING
                ]
        return views


class Verdict(StrEnum):
    """Why a worker does not get a node now."""

    EXECUTOR = "executor"
    """It does not run the node's executor."""
    LABELS = "labels"
    """It does not have the labels that the node requires."""
    ABSENT = "absent"
    """Its stream dropped; it may come back."""
    DRAINING = "draining"
    """It takes no more work."""
    PAUSED = "paused"
    """It could take the node, which is paused."""
    ALONE = "alone"
    """It, or the node, has to do with a node that must run alone."""
    FULL = "full"
    """What it gives this coordinator is taken."""
    INVENTORY = "inventory"
    """It has not stated yet what it has of the workflow's shard."""
    WORKFLOWS = "workflows"
    """It is at its bound of workflows."""
    KEY = "key"
    """Another worker has the node's affinity key."""
    LIMIT = "limit"
    """It could take the node, whose concurrency key has no permit for it yet."""
    NEARER = "nearer"
    """Others are nearer to the node's inputs, and it waits a moment for them."""
    ABLE = "able"
    """It could take the node, whose turn has not come."""


@dataclass(frozen=True, slots=True)
class NodeReason:
    """Why a node is as it is."""

    node: int
    instance: int
    status: NodeStatus
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerReason:
    """Why a worker does not get a node."""

    worker: str
    """Its name."""
    incarnation: str
    verdict: Verdict
    reason: str
    """Said of the worker: "drains"."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why nodes do not run."""

    status: WorkflowStatus
    nodes: Sequence[NodeReason]
    """Empty: there is no such node."""
    left_out: int
    """How many nodes that have not ended are not told of."""
    strategy: str
    """By which the one node's worker is chosen."""
    workers: Sequence[WorkerReason]
    """For one node that waits for a worker: each worker's reason."""
    pause: Pause | None = None
    """The workflow's own, if it is paused."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a caller."""

    token: int
    shard: int
    workflow_id: str
    code: AnswerCode
    status: WorkflowStatus | None = None
    created: bool = False
    view: View | None = None
    explanation: Explanation | None = None
    message: str = ""
    pause: Pause | None = None
    """The one that began, ended, or was there already."""
    claims: bool = True
    """The client will be told something of it, so that it must be proven current."""
    digest: bytes = b""
    """Of a submit: what it asked for, should the database turn out to have the id already."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A workflow's version went up."""

    shard: int
    workflow_id: str
    version: int
    status: WorkflowStatus
    nodes: Sequence[tuple[int, int]]
    """(node, instance) of what changed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A workflow reached its terminal state."""

    shard: int
    workflow_id: str
    status: WorkflowStatus
    output: bytes | None
    failure: bytes | None
    submitted_at_us: int
    ended_at_us: int
    strategy: str


@dataclass(frozen=True, slots=True)
class LoadOutputs:
    """The engine needs outputs that it does not hold; answered by `OutputsLoaded`."""

    shard: int
    workflow_id: str
    nodes: Sequence[int]
    widths: Mapping[int, int] = field(default_factory=dict[int, int])
    """Of those that are `map` nodes: how many instances' outputs make up theirs. One that failed as a whole has null, as any node."""


@dataclass(frozen=True, slots=True)
class LoadWorkflow:
    """A workflow that was made in the database comes into memory; answered by `WorkflowLoaded` or `WorkflowAbsent`."""

    shard: int
    workflow_id: str


@dataclass(frozen=True, slots=True)
class EpochSpent:
    """A shard gets no more assignments under its epoch, and must be taken under a higher one.

    All ids of the epoch are given out, or a worker knows ids or an epoch that we do not: those of a history that the database has lost.
    """

    shard: int
    above: int = 0
    """The highest epoch that a worker says it has seen; 0: none has said so."""
    by: str = ""
    """The name of the worker that said so last."""


@dataclass(frozen=True, slots=True)
class ReportBacklog:
    """What waits for a worker turned from empty to not empty or back."""

    session: int
    waiting: int


@dataclass(frozen=True, slots=True)
class StrategyFailed:
    """A strategy raised, which is a bug: workers took turns in its stead for this one node."""

    shard: int
    workflow_id: str
    node_id: str
    strategy: str
    error: str


@dataclass(frozen=True, slots=True)
class StatePermits:
    """Tell the home of a key what a shard keeps and wants of it; comes there as `PermitsStated`."""

    shard: int
    """Whose permits they are."""
    statement: Statement


@dataclass(frozen=True, slots=True)
class GrantPermits:
    """Tell a shard's owner what the home of a key granted it; comes there as `PermitsGranted`."""

    shard: int
    """The key's home."""
    reply: Reply


@dataclass(frozen=True, slots=True)
class AskCache:
    """A node wants to know whether its output is in the result cache; answered by `CacheAnswered`, or not at all."""

    shard: int
    workflow_id: str
    node: int
    instance: int
    number: int
    """That of the question."""
    key: bytes
    """32 bytes."""


@dataclass(frozen=True, slots=True)
class KeepResult:
    """An output is to be put into the result cache, which is not in the database. Nothing depends on whether that is done."""

    shard: int
    workflow_id: str
    key: bytes
    """32 bytes."""
    output: bytes
    stored_at_us: int
    ttl_ms: int
    """How long it is to be kept."""


Effect: TypeAlias = (
    Store
    | Assign
    | Stop
    | Ack
    | EchoCredit
    | Refuse
    | Welcomed
    | Replace
    | Answer
    | Changed
    | Ended
    | LoadOutputs
    | LoadWorkflow
    | EpochSpent
    | ReportBacklog
    | StrategyFailed
    | StatePermits
    | GrantPermits
    | AskCache
    | KeepResult
)
