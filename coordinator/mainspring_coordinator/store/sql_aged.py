"""The reads of retention, for every SQL database. `workflows_ended` and its neighbours are the indexes that make them cheap."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Column, Executable, select

from mainspring_coordinator.engine.status import FailoverStage
from mainspring_coordinator.store import tables
from mainspring_coordinator.store.aged import ChunkKey, RowKey

_w: Final = tables.workflows.c
_f: Final = tables.failover_events.c
_fa: Final = tables.failover_affected.c
_au: Final = tables.audit.c
_s: Final = tables.strategy_changes.c
_pl: Final = tables.plan_chunks.c


class SqlAgedReader:
    """See `AgedReader`."""

    def _rows(self, query: Executable) -> Sequence[tuple[Any, ...]]:
        raise NotImplementedError

    def is_kept(self, workflow_id: str, submitted_at_us: int) -> bool:
        """See `AgedReader`."""
        query = select(_w.submitted_at_us).where(_w.workflow_id == workflow_id, _w.deleting == 0)
        return self._rows(query) == [(submitted_at_us,)]

    def deletions_begun(self, shard: int, limit: int) -> Sequence[str]:
        """See `AgedReader`."""
        query = select(_w.workflow_id).where(_w.shard_id == shard, _w.deleting == 1)
        return _first_column(self._rows(query.order_by(_w.ended_at_us, _w.workflow_id).limit(limit)))

    def ended_workflows(self, shard: int, since_us: int, limit: int) -> Sequence[tuple[int, str]]:
        """See `AgedReader`."""
        query = (
            select(_w.ended_at_us, _w.workflow_id)
            # Those that are open have 0.
            .where(_w.shard_id == shard, _w.deleting == 0, _w.ended_at_us >= max(1, since_us))
            .order_by(_w.ended_at_us, _w.workflow_id)
            .limit(limit)
        )
        return [(row[0], row[1]) for row in self._rows(query)]

    def row_keys(self, workflow_ids: Sequence[str], limit: int) -> Sequence[RowKey]:
        """See `AgedReader`. Two statements that stop at the limit, because one over both tables would first read all."""
        found: list[RowKey] = []
        for table in (tables.nodes.c, tables.attempts.c):
            keys = (table.workflow_id, table.node, table.instance)
            query = select(*keys).where(table.workflow_id.in_(workflow_ids)).order_by(*_primary_key(table.values()))
            found += [(row[0], row[1], row[2]) for row in self._rows(query.limit(limit))]
        return sorted(found)[:limit]

    def plans_used(self, shard: int, after: bytes, limit: int) -> Sequence[tuple[bytes, bool]]:
        """See `AgedReader`. The inner select has a limit, so that no server makes one look at all workflows of it."""
        user = select(_w.is_open).where(_w.shard_id == shard, _w.plan_hash == _pl.plan_hash).limit(1).scalar_subquery()
        query = (
            select(_pl.plan_hash, user)
            .where(_pl.shard_id == shard, _pl.plan_hash > after, _pl.chunk == 0)
            .order_by(_pl.plan_hash)
            .limit(limit)
        )
        return [(row[0], row[1] is not None) for row in self._rows(query)]

    def failovers_told(self, before_us: int, limit: int) -> Sequence[str]:
        """See `AgedReader`."""
        query = select(_f.event_id).where(_f.stage == int(FailoverStage.CLOSED), _f.detected_at_us < before_us)
        return _first_column(self._rows(query.order_by(_f.detected_at_us, _f.event_id).limit(limit)))

    def affected_keys(self, event_ids: Sequence[str], limit: int) -> Sequence[ChunkKey]:
        """See `AgedReader`."""
        keys = (_fa.event_id, _fa.subject, _fa.shard_id, _fa.chunk)
        query = select(*keys).where(_fa.event_id.in_(event_ids)).order_by(*keys).limit(limit)
        return [(row[0], row[1], row[2], row[3]) for row in self._rows(query)]

    def audit_before(self, before_us: int, limit: int) -> Sequence[str]:
        """See `AgedReader`."""
        query = select(_au.entry_id).where(_au.began_at_us < before_us).order_by(_au.began_at_us, _au.entry_id)
        return _first_column(self._rows(query.limit(limit)))

    def strategy_changes_before(self, before_us: int, limit: int) -> Sequence[int]:
        """See `AgedReader`."""
        query = select(_s.changed_at_us).where(_s.changed_at_us < before_us).order_by(_s.changed_at_us)
        return _first_column(self._rows(query.limit(limit)))


def _primary_key(columns: "Iterable[Column[Any]]") -> "list[Column[Any]]":
    return [column for column in columns if column.primary_key]


def _first_column(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [row[0] for row in rows]
