"""The reads of the store in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import orjson

from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.rows import (
    AuditEntry,
    FailoverAffected,
    FailoverRecorded,
)
from mainspring_coordinator.engine.status import FailoverStage, NodeStatus, Subject, node_terminal, workflow_terminal
from mainspring_coordinator.engine.strategy import home
from mainspring_coordinator.store.cached_results import StoredResult, ahead_us
from mainspring_coordinator.store.memory_aged import MemoryAgedReader
from mainspring_coordinator.store.memory_tables import MemoryTables
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

__all__ = ["MemoryReader", "MemoryTables"]


class MemoryReader(MemoryAgedReader):
    """See `Reader`."""

    def cluster(self) -> ClusterRow | None:
        """See `Reader`."""
        with self._tables.lock:
            return self._tables.cluster

    def shards(self) -> Sequence[ShardRow]:
        """See `Reader`."""
        with self._tables.lock:
            return [row for _, row in sorted(self._tables.shards.items())]

    def coordinators(self) -> Sequence[CoordinatorRow]:
        """See `Reader`."""
        with self._tables.lock:
            return sorted(self._tables.coordinators.values(), key=lambda row: (row.name, row.incarnation))

    def open_workflows(self, shard: int, after: tuple[int, str], limit: int) -> Sequence[StoredWorkflow]:
        """See `Reader`."""
        with self._tables.lock:
            found = [
                row
                for row in self._tables.workflows.values()
                if row.shard == shard and row.status not in workflow_terminal and _age(row) > after
            ]
            return [replace(self._whole(row), output=None) for row in sorted(found, key=_age)[:limit]]

    def nodes_of(self, workflow_ids: Sequence[str]) -> Sequence[StoredNode]:
        """See `Reader`."""
        wanted = set(workflow_ids)
        return [replace(row, output=None) for row in self._nodes() if row.workflow_id in wanted]

    def workflow(self, workflow_id: str) -> StoredWorkflow | None:
        """See `Reader`."""
        with self._tables.lock:
            row = self._tables.shown(workflow_id)
            return self._whole(row) if row is not None else None

    def workflows_named(self, workflow_ids: Sequence[str]) -> Sequence[StoredWorkflow]:
        """See `Reader`."""
        with self._tables.lock:
            rows = (self._tables.shown(name) for name in sorted(set(workflow_ids)))
            return [self._whole(row) for row in rows if row is not None]

    def outputs(self, workflow_id: str, nodes: Sequence[int]) -> Sequence[StoredNode]:
        """See `Reader`."""
        return [
            replace(row, progress=None) for row in self._nodes() if row.workflow_id == workflow_id and row.node in nodes
        ]

    def node_page(
        self, workflow_id: str, after: tuple[int, int], limit: int, statuses: Sequence[NodeStatus] = ()
    ) -> Sequence[StoredNode]:
        """See `Reader`."""
        found = [
            replace(row, output=None, progress=None)
            for row in self._nodes()
            if row.workflow_id == workflow_id
            and (row.node, row.instance) > after
            and (not statuses or row.status in statuses)
        ]
        return found[:limit]

    def row_sizes(self, workflow_id: str, after: tuple[int, int], limit: int) -> Sequence[tuple[int, int, int]]:
        """See `Reader`."""
        rows = [row for row in self._nodes() if row.workflow_id == workflow_id and (row.node, row.instance) > after]
        return [(row.node, row.instance, len(row.output or b"")) for row in rows[:limit]]

    def instances_ended(self, workflow_id: str, node: int) -> int:
        """See `Reader`."""
        return sum(
            row.workflow_id == workflow_id and row.node == node and row.instance >= 0 and row.status in node_terminal
            for row in self._nodes()
        )

    def node(self, workflow_id: str, node: int, instance: int) -> StoredNode | None:
        """See `Reader`."""
        with self._tables.lock:
            return self._tables.nodes.get((workflow_id, node, instance))

    def attempts(
        self, workflow_id: str, node: int | None = None, instance: int | None = None
    ) -> Sequence[StoredAttempt]:
        """See `Reader`."""
        with self._tables.lock:
            return [
                row
                for key, row in sorted(self._tables.attempts.items())
                if key[0] == workflow_id
                and (node is None or row.node == node)
                and (instance is None or row.instance == instance)
            ]

    def plan(self, shard: int, plan_hash: bytes) -> bytes | None:
        """See `Reader`."""
        with self._tables.lock:
            return self._tables.plans.get((shard, plan_hash))

    def list_workflows(
        self, wanted: WorkflowFilter, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredWorkflow]:
        """See `Reader`."""
        with self._tables.lock:
            shown = (row for name, row in self._tables.workflows.items() if name not in self._tables.deleting)
            rows = sorted(shown, key=_age, reverse=True)
            found = [row for row in rows if _shows(wanted, row) and (before is None or _age(row) < before)]
            return [replace(self._whole(row), input=None, output=None) for row in found[:limit]]

    def failovers(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredFailover]:
        """See `Reader`."""
        found = sorted(self._failovers(), key=_detection, reverse=True)
        return [event for event in found if before is None or _detection(event) < before][:limit]

    def failover(self, event_id: str) -> StoredFailover | None:
        """See `Reader`."""
        return next((event for event in self._failovers() if event.event_id == event_id), None)

    def failovers_to_tell(self, limit: int) -> Sequence[StoredFailover]:
        """See `Reader`."""
        found = [event for event in self._failovers() if event.stage is not FailoverStage.CLOSED]
        return sorted(found, key=lambda event: (event.stage, *_detection(event)))[:limit]

    def affected(self, event_id: str, subject: Subject, offset: int, limit: int) -> Sequence[str]:
        """See `Reader`."""
        ids = [name for row in self._parts(event_id, subject) for name in orjson.loads(row.ids)]
        return ids[offset : offset + limit]

    def audit(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredAuditEntry]:
        """See `Reader`."""
        with self._tables.lock:
            rows = sorted(self._tables.audit.values(), key=lambda row: (row.began_at_us, row.entry_id), reverse=True)
        older = [row for row in rows if before is None or (row.began_at_us, row.entry_id) < before]
        return [_stored(row) for row in older[:limit]]

    def audit_entry(self, entry_id: str) -> StoredAuditEntry | None:
        """See `Reader`."""
        with self._tables.lock:
            row = self._tables.audit.get(entry_id)
        return _stored(row) if row is not None else None

    def strategy_changes(self, before_us: int, limit: int) -> Sequence[StoredStrategyChange]:
        """See `Reader`."""
        with self._tables.lock:
            rows = [row for at_us, row in self._tables.strategy_changes.items() if not before_us or at_us < before_us]
        rows.sort(key=lambda row: -row.changed_at_us)
        return [
            StoredStrategyChange(row.changed_at_us, row.before, row.after, row.by, row.reason) for row in rows[:limit]
        ]

    def pauses(self) -> bytes | None:
        """See `Reader`."""
        with self._tables.lock:
            row = self._tables.shards.get(home)
            return row.pauses if row is not None else None

    def paused_workflows(self, after: tuple[int, str], limit: int) -> Sequence[tuple[str, Pause]]:
        """See `Reader`."""
        with self._tables.lock:
            known = ((row.workflow_id, self._tables.pause_of(row)) for row in self._tables.workflows.values())
            found = [(name, pause) for name, pause in known if pause is not None and (pause.since_us, name) > after]
        return sorted(found, key=lambda one: (one[1].since_us, one[0]))[:limit]

    def permits(self, shard: int, after: tuple[str, int], limit: int) -> Sequence[HeldPermits]:
        """See `Reader`."""
        with self._tables.lock:
            found = [row for (home, _, _), row in self._tables.permits.items() if home == shard]
        beyond = [row for row in found if (row.key.encode(), row.holder) > (after[0].encode(), after[1])]
        return sorted(beyond, key=lambda row: (row.key.encode(), row.holder))[:limit]

    def cached_results(self, keys: Sequence[bytes], now_us: int) -> Sequence[StoredResult]:
        """See `Reader`."""
        with self._tables.lock:
            rows = [row for row in self._tables.results.values() if row.key in keys]
        rows = [row for row in rows if row.expires_at_us > now_us and row.stored_at_us <= now_us + ahead_us]
        youngest = {row.key: row for row in sorted(rows, key=lambda row: (row.stored_at_us, row.shard))}
        return [StoredResult(key, row.output, row.stored_at_us) for key, row in sorted(youngest.items())]

    def expired_results(self, shard: int, now_us: int, limit: int) -> Sequence[tuple[bytes, int]]:
        """See `Reader`."""
        with self._tables.lock:
            rows = [row for row in self._tables.results.values() if row.shard == shard]
        over = [(row.key, row.expires_at_us) for row in rows if row.expires_at_us <= now_us]
        return sorted(over, key=lambda one: (one[1], one[0]))[:limit]

    def _failovers(self) -> list[StoredFailover]:
        with self._tables.lock:
            return [self._failover(row) for row in self._tables.failovers.values()]

    def _failover(self, row: FailoverRecorded) -> StoredFailover:
        mark = self._tables.marked.get(row.event_id)
        workflows, nodes = (self._parts(row.event_id, subject) for subject in (Subject.WORKFLOWS, Subject.NODES))
        return StoredFailover(
            row.event_id,
            row.kind,
            row.failed_engine,
            row.failed_incarnation,
            row.takeover_engine,
            row.takeover_incarnation,
            row.detected_at_us,
            row.settles_at_us,
            mark.stage if mark is not None else FailoverStage.RECORDED,
            mark.announced_at_us if mark is not None else 0,
            mark.alerted_at_us if mark is not None else 0,
            recovered_at_us=max((part.recorded_at_us for part in (*workflows, *nodes)), default=0),
            workflows_count=sum(part.ids_count for part in workflows),
            nodes_count=sum(part.ids_count for part in nodes),
        )

    def _parts(self, event_id: str, subject: Subject) -> list[FailoverAffected]:
        with self._tables.lock:
            return [row for key, row in sorted(self._tables.affected.items()) if key[:2] == (event_id, subject)]

    def _nodes(self) -> Iterable[StoredNode]:
        with self._tables.lock:
            return [row for _, row in sorted(self._tables.nodes.items())]

    def _whole(self, row: StoredWorkflow) -> StoredWorkflow:
        if row.status in workflow_terminal:
            return row
        nodes = (node.version for node in self._tables.nodes.values() if node.workflow_id == row.workflow_id)
        return replace(row, version=max((row.version, *nodes)), pause=self._tables.pause_of(row))


def _detection(event: StoredFailover) -> tuple[int, str]:
    return event.detected_at_us, event.event_id


def _age(row: StoredWorkflow) -> tuple[int, str]:
    return row.submitted_at_us, row.workflow_id


def _shows(wanted: WorkflowFilter, row: StoredWorkflow) -> bool:
    return (
        (not wanted.statuses or row.status in wanted.statuses)
        and (not wanted.name or row.name == wanted.name)
        and row.workflow_id.startswith(wanted.id_prefix)
        and row.submitted_at_us >= wanted.submitted_from_us
        and (not wanted.submitted_before_us or row.submitted_at_us < wanted.submitted_before_us)
    )


def _stored(row: AuditEntry) -> StoredAuditEntry:
    said = (row.act, row.subject, row.reason, row.who, row.coordinator, row.outcome)
    return StoredAuditEntry(row.entry_id, row.began_at_us, row.ended_at_us, *said)
