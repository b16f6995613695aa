"""A database of a few rows, for services that read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.status import FailoverStage, NodeStatus, Subject, node_terminal
from mainspring_coordinator.store.aged import ChunkKey, RowKey
from mainspring_coordinator.store.cached_results import StoredResult
from mainspring_coordinator.store.protocol import (
    ClusterRow,
    CoordinatorRow,
    ShardRow,
    StoredAttempt,
    StoredNode,
    StoredWorkflow,
    WorkflowFilter,
)
from mainspring_coordinator.store.stored_record import StoredAuditEntry, StoredFailover, StoredStrategyChange

shards_total = 4


@dataclass
class FakeReader:
    """A database made of dictionaries."""

    workflows: dict[str, StoredWorkflow] = field(default_factory=dict[str, StoredWorkflow])
    node_rows: dict[str, dict[tuple[int, int], StoredNode]] = field(
        default_factory=dict[str, dict[tuple[int, int], StoredNode]]
    )
    attempt_rows: dict[str, list[StoredAttempt]] = field(default_factory=dict[str, list[StoredAttempt]])
    plans: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    leases: list[CoordinatorRow] = field(default_factory=list[CoordinatorRow])
    shard_rows: list[ShardRow] = field(default_factory=list[ShardRow])
    failover_rows: list[StoredFailover] = field(default_factory=list[StoredFailover])
    strategy_rows: list[StoredStrategyChange] = field(default_factory=list[StoredStrategyChange])
    audit_rows: list[StoredAuditEntry] = field(default_factory=list[StoredAuditEntry])
    affected_ids: dict[tuple[str, Subject], list[str]] = field(default_factory=dict[tuple[str, Subject], list[str]])
    pauses_row: bytes | None = None
    paused_rows: list[tuple[str, Pause]] = field(default_factory=list[tuple[str, Pause]])
    failing: Exception | None = None
    calls: list[str] = field(default_factory=list[str])

    def _read(self, name: str) -> None:
        self.calls.append(name)
        if self.failing is not None:
            raise self.failing

    def cluster(self) -> ClusterRow | None:
        return ClusterRow("test", shards_total)

    def pauses(self) -> bytes | None:
        self._read("pauses")
        return self.pauses_row

    def paused_workflows(self, after: tuple[int, str], limit: int) -> Sequence[tuple[str, Pause]]:
        self._read("paused_workflows")
        return [one for one in self.paused_rows if (one[1].since_us, one[0]) > after][:limit]

    def shards(self) -> Sequence[ShardRow]:
        self._read("shards")
        return self.shard_rows

    def coordinators(self) -> Sequence[CoordinatorRow]:
        self._read("coordinators")
        return self.leases

    def open_workflows(self, shard: int, after: tuple[int, str], limit: int) -> Sequence[StoredWorkflow]:
        raise NotImplementedError

    def nodes_of(self, workflow_ids: Sequence[str]) -> Sequence[StoredNode]:
        raise NotImplementedError

    def workflow(self, workflow_id: str) -> StoredWorkflow | None:
        self._read("workflow")
        return self.workflows.get(workflow_id)

    def workflows_named(self, workflow_ids: Sequence[str]) -> Sequence[StoredWorkflow]:
        self._read("workflows_named")
        return [self.workflows[name] for name in sorted(set(workflow_ids)) if name in self.workflows]

    def outputs(self, workflow_id: str, nodes: Sequence[int]) -> Sequence[StoredNode]:
        self._read("outputs")
        return [row for _, row in sorted(self.node_rows[workflow_id].items()) if row.node in nodes]

    def node_page(
        self, workflow_id: str, after: tuple[int, int], limit: int, statuses: Sequence[NodeStatus] = ()
    ) -> Sequence[StoredNode]:
        self._read("node_page")
        rows = sorted(self.node_rows.get(workflow_id, {}).items())
        found = [row for key, row in rows if key > after and (not statuses or row.status in statuses)]
        return [replace(row, output=None) for row in found[:limit]]

    def row_sizes(self, workflow_id: str, after: tuple[int, int], limit: int) -> Sequence[tuple[int, int, int]]:
        self._read("row_sizes")
        rows = sorted(self.node_rows.get(workflow_id, {}).items())
        return [(*key, len(row.output or b"")) for key, row in rows if key > after][:limit]

    def instances_ended(self, workflow_id: str, node: int) -> int:
        self._read("instances_ended")
        rows = self.node_rows.get(workflow_id, {}).values()
        return sum(row.node == node and row.instance >= 0 and row.status in node_terminal for row in rows)

    def node(self, workflow_id: str, node: int, instance: int) -> StoredNode | None:
        self._read("node")
        return self.node_rows.get(workflow_id, {}).get((node, instance))

    def attempts(
        self, workflow_id: str, node: int | None = None, instance: int | None = None
    ) -> Sequence[StoredAttempt]:
        self._read("attempts")
        return [
            row
            for row in self.attempt_rows.get(workflow_id, [])
            if node is None or (row.node == node and row.instance == instance)
        ]

    def plan(self, shard: int, plan_hash: bytes) -> bytes | None:
        self._read("plan")
        return self.plans.get(plan_hash)

    def list_workflows(
        self, wanted: WorkflowFilter, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredWorkflow]:
        self._read("list_workflows")
        rows = sorted(self.workflows.values(), key=lambda row: (row.submitted_at_us, row.workflow_id), reverse=True)
        found = [
            replace(row, input=None, output=None)
            for row in rows
            if (before is None or (row.submitted_at_us, row.workflow_id) < before)
            and (not wanted.statuses or row.status in wanted.statuses)
            and (not wanted.name or row.name == wanted.name)
            and row.workflow_id.startswith(wanted.id_prefix)
        ]
        return found[:limit]

    def failovers(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredFailover]:
        self._read("failovers")
        rows = sorted(self.failover_rows, key=lambda row: (row.detected_at_us, row.event_id), reverse=True)
        return [row for row in rows if before is None or (row.detected_at_us, row.event_id) < before][:limit]

    def failover(self, event_id: str) -> StoredFailover | None:
        self._read("failover")
        assert event_id.isascii(), "a server does not compare others with ids"
        return next((row for row in self.failover_rows if row.event_id == event_id), None)

    def failovers_to_tell(self, limit: int) -> Sequence[StoredFailover]:
        self._read("failovers_to_tell")
        return [row for row in self.failover_rows if row.stage is not FailoverStage.CLOSED][:limit]

    def affected(self, event_id: str, subject: Subject, offset: int, limit: int) -> Sequence[str]:
        self._read("affected")
        return self.affected_ids.get((event_id, subject), [])[offset : offset + limit]

    def strategy_changes(self, before_us: int, limit: int) -> Sequence[StoredStrategyChange]:
        self._read("strategy_changes")
        rows = [row for row in self.strategy_rows if not before_us or row.changed_at_us < before_us]
        return sorted(rows, key=lambda row: -row.changed_at_us)[:limit]

    def audit(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredAuditEntry]:
        self._read("audit")
        rows = sorted(self.audit_rows, key=lambda row: (row.began_at_us, row.entry_id), reverse=True)
        return [row for row in rows if before is None or (row.began_at_us, row.entry_id) < before][:limit]

    def audit_entry(self, entry_id: str) -> StoredAuditEntry | None:
        self._read("audit_entry")
        return next((row for row in self.audit_rows if row.entry_id == entry_id), None)

    def is_kept(self, workflow_id: str, submitted_at_us: int) -> bool:
        self._read("is_kept")
        row = self.workflows.get(workflow_id)
        return row is not None and row.submitted_at_us == submitted_at_us

    def deletions_begun(self, shard: int, limit: int) -> Sequence[str]:
        raise NotImplementedError

    def ended_workflows(self, shard: int, since_us: int, limit: int) -> Sequence[tuple[int, str]]:
        raise NotImplementedError

    def row_keys(self, workflow_ids: Sequence[str], limit: int) -> Sequence[RowKey]:
        raise NotImplementedError

    def plans_used(self, shard: int, after: bytes, limit: int) -> Sequence[tuple[bytes, bool]]:
        raise NotImplementedError

    def failovers_told(self, before_us: int, limit: int) -> Sequence[str]:
        raise NotImplementedError

    def affected_keys(self, event_ids: Sequence[str], limit: int) -> Sequence[ChunkKey]:
        raise NotImplementedError

    def audit_before(self, before_us: int, limit: int) -> Sequence[str]:
        raise NotImplementedError

    def strategy_changes_before(self, before_us: int, limit: int) -> Sequence[int]:
        raise NotImplementedError

    def permits(self, shard: int, after: tuple[str, int], limit: int) -> Sequence[HeldPermits]:
        del shard, after, limit
        self._read("permits")
        return []

    def cached_results(self, keys: Sequence[bytes], now_us: int) -> Sequence[StoredResult]:
        del keys, now_us
        self._read("cached_results")
        return []

    def expired_results(self, shard: int, now_us: int, limit: int) -> Sequence[tuple[bytes, int]]:
        del shard, now_us, limit
        self._read("expired_results")
        return []


class CountedStrategies:
    """Keeps what is counted of the cluster's strategy."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []

    def strategy_changed(self, strategy: str, by: str) -> None:
        self.changes.append((strategy, by))
