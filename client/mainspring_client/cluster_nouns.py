"""What operators get of a cluster: its members, its strategy, what was done to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mainspring_client.nouns import Pause


@dataclass(frozen=True, slots=True)
class PausedDispatch:
    """Something that is paused: a workflow, an executor, or, where neither is named, the whole cluster."""

    pause: Pause
    executor: str = ""
    workflow_id: str = ""


@dataclass(frozen=True, slots=True)
class PauseOutcome:
    """What came of a call that pauses something or lets it go on."""

    changed: bool
    """Whether it was otherwise before."""
    pause: Pause | None
    """The one in force, or that has ended; None: there was none."""
    unseen_by: tuple[str, ...]
    """Live coordinators that have not confirmed within a second that they know; they learn of it with their next look at their peers."""
    workers: int = 0
    """How many workers run the executor that is paused."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as the coordinator that answers sees it."""

    name: str
    """Its name."""
    incarnation: str
    """Its incarnation."""
    host: str
    """Its host."""
    zone: str
    """Its zone."""
    status: str
    """ACTIVE, DRAINING or ABSENT."""
    executors: tuple[str, ...]
    """What it runs."""
    slots: int
    """How many nodes it runs at once."""
    assigned: int
    """How many assignments it has of the coordinator that answers."""
    credit: int
    """The bound that it set this coordinator."""
    cpu_percent: float
    """As it reported last."""
    memory_percent: float
    """As it reported last."""
    round_trip_us: int
    """Of the last heartbeat."""
    silent_ms: int
    """Since its last message."""
    version: str
    """Of its software."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Its labels."""
    stays: bool = False
    """It drains because an operator said so: it does not end, and can take work again."""
    busy: int = 0
    """How many assignments it has of all coordinators, queued, running or not acknowledged, as far as the one that answers knows."""

    @property
    def drained(self) -> bool:
        """Whether an operator drained it, and it has nothing any more."""
        return self.stays and not self.busy


@dataclass(frozen=True, slots=True)
class DrainedWorker:
    """A worker that takes no more work."""

    name: str
    """Its name."""
    incarnation: str
    """Its incarnation."""
    assigned: int
    """How many assignments it still has of the coordinator that told it."""
    running: int = 0
    """How many nodes it runs, of all coordinators."""
    already: bool = False
    """Whether an operator had drained it before."""


@dataclass(frozen=True, slots=True)
class UndrainedWorker:
    """A worker that takes work again."""

    name: str
    """Its name."""
    incarnation: str
    """Its incarnation."""
    already: bool = False
    """Whether it was not drained, so that there was nothing to end."""


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """A coordinator that steps down, or comes back."""

    coordinator: str
    """Its name."""
    shards: int
    """How many shards it owned."""
    already: bool = False
    """Whether it had stepped down before, so that only the time is another one; or, asked to come back, had not."""


@dataclass(frozen=True, slots=True)
class EvictedWorker:
    """An incarnation of a worker that is treated as gone."""

    name: str
    """The worker's name."""
    incarnation: str
    """The incarnation."""
    known: bool
    """Whether some coordinator had it attached, or waited for it."""
    unasked: tuple[str, ...]
    """The live coordinators that could not be asked whether they had it; they learn of the eviction all the same."""
    others: tuple[str, ...] = ()
    """Other incarnations that coordinators have by this name."""


@dataclass(frozen=True, slots=True)
class ReleasedInstance:
    """A coordinator's incarnation whose shards were freed."""

    name: str
    """The coordinator's name."""
    incarnation: str
    """The incarnation."""
    shards: int
    """How many shards it held."""
    was_live: bool
    """Whether it lived, and so had to be ended."""


@dataclass(frozen=True, slots=True)
class CoordinatorInfo:
    """A coordinator that the database knows."""

    name: str
    """Its name."""
    incarnation: str
    """Its incarnation."""
    address: str
    """Of its gRPC server."""
    http_address: str
    """Of its probes."""
    live: bool
    """Whether it counts as live."""
    shards: int
    """How many shards it owns."""
    workers: int
    """How many workers are attached to it."""
    stepped_down_until_us: int = 0
    """Until when it takes no shards because it stepped down; 0: it has not, or could not be asked."""


@dataclass(frozen=True, slots=True)
class CoordinatorStrategy:
    """By which strategy a coordinator places nodes where neither node nor definition names one."""

    name: str
    """The coordinator's."""
    incarnation: str
    """Its incarnation."""
    own: str
    """Its ASSIGNMENT_STRATEGY."""
    in_force: str
    """What it does now; never `dynamic`."""


@dataclass(frozen=True, slots=True)
class StrategyInfo:
    """By which strategy the cluster places nodes."""

    wanted: str
    """What an operator set for the whole cluster, a strategy or `dynamic`; empty: each coordinator has its own."""
    chosen: str
    """What `dynamic` chose last; empty before the first time."""
    changed_at_us: int
    """When one of both changed; 0: never."""
    coordinators: tuple[CoordinatorStrategy, ...]
    """The live ones."""


@dataclass(frozen=True, slots=True)
class StrategyChange:
    """A change of the strategy of the whole cluster."""

    changed_at_us: int
    """When."""
    before: str
    """What it was; empty: each coordinator's own."""
    after: str
    """What it is from then on."""
    by: str
    """`operator` or `dynamic`."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that an operator did."""

    entry_id: str
    began_at_us: int
    """When it began."""
    ended_at_us: int
    """When it had been done or refused; 0: not known."""
    act: str
    """The name of the call."""
    subject: str
    """What it was done to."""
    reason: str
    """Why."""
    who: str
    coordinator: str
    """The name of the coordinator that did it."""
    outcome: str
    """`done`, or why it was not; empty: not known."""


@dataclass(frozen=True, slots=True)
class CancelledPage:
    """What became of some of the workflows that were to stop."""

    asked: tuple[str, ...]
    """Those that were asked to stop, or would be."""
    ended: tuple[str, ...]
    """Those that had ended when they were asked."""


@dataclass(frozen=True, slots=True)
class RerunInfo:
    """A workflow that runs another one again."""

    workflow_id: str
    """Its id."""
    created: bool
    """Whether the call made it."""
    nodes_kept: int
    """How many nodes it took over."""
    nodes_anew: int
    """How many are run again."""


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """A shard."""

    shard: int
    """Its number."""
    epoch: int
    """Its epoch."""
    holder: str
    """The incarnation of its holder, empty if it has none."""
    holder_name: str
    """The name of its holder."""
    batch_seq: int
    """How many commits it has seen."""
