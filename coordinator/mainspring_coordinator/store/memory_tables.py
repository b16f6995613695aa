"""What the store in memory holds."""

from dataclasses import dataclass, field
from threading import RLock

from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.rows import (
    AuditEntry,
    FailoverAffected,
    FailoverMarked,
    FailoverRecorded,
    ResultCached,
    StrategyChanged,
)
from mainspring_coordinator.engine.status import Subject, workflow_terminal
from mainspring_coordinator.store.protocol import (
    ClusterRow,
    CoordinatorRow,
    ShardRow,
    StoredAttempt,
    StoredNode,
    StoredWorkflow,
)

NodeKey = tuple[str, int, int]


@dataclass(slots=True)
class MemoryTables:
    """Everything that is stored; whoever touches it holds `lock`."""

    lock: RLock = field(default_factory=RLock)
    cluster: ClusterRow | None = None
    shards: dict[int, ShardRow] = field(default_factory=dict[int, ShardRow])
    coordinators: dict[str, CoordinatorRow] = field(default_factory=dict[str, CoordinatorRow])
    plans: dict[tuple[int, bytes], bytes] = field(default_factory=dict[tuple[int, bytes], bytes])
    workflows: dict[str, StoredWorkflow] = field(default_factory=dict[str, StoredWorkflow])
    """Their `version` is that of the workflow's own row."""
    deleting: set[str] = field(default_factory=set[str])
    """Those of them that are being deleted, which no reader shows."""
    nodes: dict[NodeKey, StoredNode] = field(default_factory=dict[NodeKey, StoredNode])
    attempts: dict[tuple[str, int, int, int], StoredAttempt] = field(
        default_factory=dict[tuple[str, int, int, int], StoredAttempt]
    )
    failovers: dict[str, FailoverRecorded] = field(default_factory=dict[str, FailoverRecorded])
    marked: dict[str, FailoverMarked] = field(default_factory=dict[str, FailoverMarked])
    affected: dict[tuple[str, Subject, int, int], FailoverAffected] = field(
        default_factory=dict[tuple[str, Subject, int, int], FailoverAffected]
    )
    strategy_changes: dict[int, StrategyChanged] = field(default_factory=dict[int, StrategyChanged])
    audit: dict[str, AuditEntry] = field(default_factory=dict[str, AuditEntry])
    permits: dict[tuple[int, str, int], HeldPermits] = field(default_factory=dict[tuple[int, str, int], HeldPermits])
    """By home, key and the shard that has them."""
    results: dict[tuple[bytes, int], ResultCached] = field(default_factory=dict[tuple[bytes, int], ResultCached])
    """By key and the shard that stored them."""
    pauses: dict[str, Pause] = field(default_factory=dict[str, Pause])
    """By workflow."""

    def pause_of(self, row: StoredWorkflow) -> Pause | None:
        """Return the pause of an unfinished workflow; one that an earlier workflow of its id left behind is none."""
        pause = self.pauses.get(row.workflow_id) if row.status not in workflow_terminal else None
        return pause if pause is not None and pause.since_us >= row.submitted_at_us else None

    def shown(self, workflow_id: str) -> StoredWorkflow | None:
        """Return a workflow's own row unless it is being deleted."""
        return self.workflows.get(workflow_id) if workflow_id not in self.deleting else None
