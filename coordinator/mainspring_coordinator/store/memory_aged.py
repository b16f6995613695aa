"""The reads of retention, of the store in memory."""

from collections.abc import Sequence

from mainspring_coordinator.engine.status import FailoverStage
from mainspring_coordinator.store.aged import ChunkKey, RowKey
from mainspring_coordinator.store.memory_tables import MemoryTables


class MemoryAgedReader:
    """See `AgedReader`."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    def is_kept(self, workflow_id: str, submitted_at_us: int) -> bool:
        """See `AgedReader`."""
        with self._tables.lock:
            row = self._tables.shown(workflow_id)
            return row is not None and row.submitted_at_us == submitted_at_us

    def deletions_begun(self, shard: int, limit: int) -> Sequence[str]:
        """See `AgedReader`."""
        with self._tables.lock:
            rows = (self._tables.workflows[name] for name in self._tables.deleting)
            found = sorted((row.ended_at_us, row.workflow_id) for row in rows if row.shard == shard)
            return [name for _, name in found[:limit]]

    def ended_workflows(self, shard: int, since_us: int, limit: int) -> Sequence[tuple[int, str]]:
        """See `AgedReader`."""
        with self._tables.lock:
            rows = [row for name, row in self._tables.workflows.items() if name not in self._tables.deleting]
        found = [(row.ended_at_us, row.workflow_id) for row in rows if row.shard == shard]
        return sorted(one for one in found if one[0] >= max(1, since_us))[:limit]

    def row_keys(self, workflow_ids: Sequence[str], limit: int) -> Sequence[RowKey]:
        """See `AgedReader`."""
        with self._tables.lock:
            keys = [*self._tables.nodes, *(key[:3] for key in self._tables.attempts)]
        return sorted(key for key in keys if key[0] in workflow_ids)[:limit]

    def plans_used(self, shard: int, after: bytes, limit: int) -> Sequence[tuple[bytes, bool]]:
        """See `AgedReader`."""
        with self._tables.lock:
            used = {row.plan_hash for row in self._tables.workflows.values() if row.shard == shard}
            hashes = sorted(name for home, name in self._tables.plans if home == shard and name > after)
        return [(name, name in used) for name in hashes[:limit]]

    def failovers_told(self, before_us: int, limit: int) -> Sequence[str]:
        """See `AgedReader`."""
        with self._tables.lock:
            closed = {name for name, mark in self._tables.marked.items() if mark.stage is FailoverStage.CLOSED}
            rows = [row for row in self._tables.failovers.values() if row.event_id in closed]
        return [name for at, name in sorted((row.detected_at_us, row.event_id) for row in rows) if at < before_us][
            :limit
        ]

    def affected_keys(self, event_ids: Sequence[str], limit: int) -> Sequence[ChunkKey]:
        """See `AgedReader`."""
        with self._tables.lock:
            keys = sorted(self._tables.affected)
        return [(event, int(subject), part, chunk) for event, subject, part, chunk in keys if event in event_ids][
            :limit
        ]

    def audit_before(self, before_us: int, limit: int) -> Sequence[str]:
        """See `AgedReader`."""
        with self._tables.lock:
            rows = sorted((row.began_at_us, row.entry_id) for row in self._tables.audit.values())
        return [name for at, name in rows if at < before_us][:limit]

    def strategy_changes_before(self, before_us: int, limit: int) -> Sequence[int]:
        """See `AgedReader`."""
        with self._tables.lock:
            times = sorted(self._tables.strategy_changes)
        return [at for at in times if at < before_us][:limit]
