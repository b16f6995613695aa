"""Reads, for every SQL database: SQLAlchemy Core over a small pool, each statement a transaction of its own."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
from sqlalchemy import Engine, Executable, Select, and_, case, func, null, or_, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.status import (
    FailoverKind,
    FailoverStage,
    NodeStatus,
    Subject,
    WorkflowStatus,
    node_terminal,
)
from mainspring_coordinator.engine.strategy import home
from mainspring_coordinator.store import tables
from mainspring_coordinator.store.cached_results import StoredResult, ahead_us
from mainspring_coordinator.store.errors import driver_errors, translate
from mainspring_coordinator.store.protocol import (
    Attempts,
    ClusterRow,
    ConnectionId,
    CoordinatorRow,
    ShardRow,
    StoredAttempt,
    StoredNode,
    StoredWorkflow,
    WorkflowFilter,
)
from mainspring_coordinator.store.sql_aged import SqlAgedReader
from mainspring_coordinator.store.stored_record import StoredAuditEntry, StoredFailover, StoredStrategyChange

_w: Final = tables.workflows.c
_n: Final = tables.nodes.c
_a: Final = tables.attempts.c
_f: Final = tables.failover_events.c
_fa: Final = tables.failover_affected.c
_s: Final = tables.strategy_changes.c
_au: Final = tables.audit.c
_p: Final = tables.permits.c
_wp: Final = tables.workflow_pauses.c
_rc: Final = tables.result_cache.c
_ids_a_statement_max: Final = 1_000

_nodes_version: Final = (
    select(func.coalesce(func.max(_n.version), 0)).where(_n.workflow_id == _w.workflow_id).scalar_subquery()
)
# A node's change does not write the workflow's row; the end of a workflow does, and comes last.
_version: Final = case(
    (_w.is_open == 0, _w.version), (_nodes_version > _w.version, _nodes_version), else_=_w.version
).label("version")
_workflow_columns: Final = (
    _w.shard_id,
    _w.workflow_id,
    _w.digest,
    _w.name,
    _w.plan_hash,
    _w.status,
    _version,
    _w.submitted_at_us,
    _w.deadline_at_us,
    _w.ended_at_us,
    _w.closing_until_us,
    _w.strategy,
    _w.cancel_reason,
    _w.failure,
)
# One that an earlier workflow of the same id left behind is none.
_pause_of: Final = and_(_w.is_open == 1, _wp.workflow_id == _w.workflow_id, _wp.paused_at_us >= _w.submitted_at_us)
_pause_columns: Final = (_wp.paused_at_us, _wp.paused_by, _wp.reason)
_node_columns: Final = (
    _n.workflow_id,
    _n.node,
    _n.instance,
    _n.status,
    _n.attempt,
    _n.assignment,
    _n.worker,
    _n.incarnation,
    _n.started_at_us,
    _n.ended_at_us,
    _n.run_us,
    _n.retry_at_us,
    _n.width,
    _n.redeliveries,
    _n.version,
    _n.failure,
)


def _ids_counted(subject: Subject) -> Any:
    of_event = (_fa.event_id == _f.event_id, _fa.subject == int(subject))
    return select(func.coalesce(func.sum(_fa.ids_count), 0)).where(*of_event).scalar_subquery()


_failover_columns: Final = (
    _f.event_id,
    _f.kind,
    _f.failed_engine,
    _f.failed_incarnation,
    _f.takeover_engine,
    _f.takeover_incarnation,
    _f.detected_at_us,
    _f.settles_at_us,
    _f.stage,
    _f.announced_at_us,
    _f.alerted_at_us,
    select(func.coalesce(func.max(_fa.recorded_at_us), 0)).where(_fa.event_id == _f.event_id).scalar_subquery(),
    _ids_counted(Subject.WORKFLOWS),
    _ids_counted(Subject.NODES),
)
_node_order: Final = (_n.workflow_id, _n.node, _n.instance)


class SqlReader(SqlAgedReader):
    """See `Reader`."""

    def __init__(self, engine: Engine, where: str) -> None:
        """`where` names the database in errors."""
        self._engine = engine
        self._where = where

    def _rows(self, query: Executable) -> Sequence[tuple[Any, ...]]:
        try:
            with self._engine.connect() as connection:
                return [tuple(row) for row in connection.execute(query)]
        except (SQLAlchemyError, *driver_errors) as error:
            raise translate(error, self._where) from error

    def cluster(self) -> ClusterRow | None:
        """See `Reader`."""
        rows = self._rows(select(tables.cluster.c.name, tables.cluster.c.shards_total))
        return ClusterRow(*rows[0]) if rows else None

    def shards(self) -> Sequence[ShardRow]:
        """See `Reader`."""
        return [ShardRow(*row) for row in self._rows(select(tables.shards).order_by(tables.shards.c.shard_id))]

    def coordinators(self) -> Sequence[CoordinatorRow]:
        """See `Reader`."""
        order = (tables.coordinators.c.name, tables.coordinators.c.incarnation)
        return [coordinator_row(row) for row in self._rows(select(tables.coordinators).order_by(*order))]

    def open_workflows(self, shard: int, after: tuple[int, str], limit: int) -> Sequence[StoredWorkflow]:
        """See `Reader`."""
        at_us, name = after
        query = (
            _workflows(_w.input, null())
            # Both forms of "beyond": the first is what the index can use.
            .where(_w.shard_id == shard, _w.is_open == 1, _w.submitted_at_us >= at_us)
            .where(or_(_w.submitted_at_us > at_us, _w.workflow_id > name))
            .order_by(_w.submitted_at_us, _w.workflow_id)
            .limit(limit)
        )
        return [_stored_workflow(row) for row in self._rows(query)]

    def nodes_of(self, workflow_ids: Sequence[str]) -> Sequence[StoredNode]:
        """See `Reader`."""
        names = sorted(set(workflow_ids))
        found: list[StoredNode] = []
        for start in range(0, len(names), _ids_a_statement_max):
            part = names[start : start + _ids_a_statement_max]
            query = select(*_node_columns, null(), _n.progress).where(_n.workflow_id.in_(part)).order_by(*_node_order)
            found += [_stored_node(row) for row in self._rows(query)]
        return found

    def workflow(self, workflow_id: str) -> StoredWorkflow | None:
        """See `Reader`."""
        rows = self._rows(_workflows(_w.input, _w.output).where(_w.workflow_id == workflow_id, _w.deleting == 0))
        return _stored_workflow(rows[0]) if rows else None

    def workflows_named(self, workflow_ids: Sequence[str]) -> Sequence[StoredWorkflow]:
        """See `Reader`."""
        names = sorted(set(workflow_ids))
        found: list[StoredWorkflow] = []
        for start in range(0, len(names), _ids_a_statement_max):
            part = names[start : start + _ids_a_statement_max]
            query = (
                _workflows(_w.input, _w.output)
                .where(_w.workflow_id.in_(part), _w.deleting == 0)
                .order_by(_w.workflow_id)
            )
            found += [_stored_workflow(row) for row in self._rows(query)]
        return found

    def outputs(self, workflow_id: str, nodes: Sequence[int]) -> Sequence[StoredNode]:
        """See `Reader`."""
        wanted = sorted(set(nodes))
        found: list[StoredNode] = []
        for start in range(0, len(wanted), _ids_a_statement_max):
            part = wanted[start : start + _ids_a_statement_max]
            query = (
                select(*_node_columns, _n.output, null())
                .where(_n.workflow_id == workflow_id, _n.node.in_(part))
                .order_by(*_node_order)
            )
            found += [_stored_node(row) for row in self._rows(query)]
        return found

    def node_page(
        self, workflow_id: str, after: tuple[int, int], limit: int, statuses: Sequence[NodeStatus] = ()
    ) -> Sequence[StoredNode]:
        """See `Reader`."""
        node, instance = after
        query = (
            select(*_node_columns, null(), null())
            # Both forms of "beyond": the first is what the index can use.
            .where(_n.workflow_id == workflow_id, _n.node >= node, or_(_n.node > node, _n.instance > instance))
            .order_by(*_node_order)
            .limit(limit)
        )
        if statuses:
            query = query.where(_n.status.in_([int(status) for status in statuses]))
        return [_stored_node(row) for row in self._rows(query)]

    def row_sizes(self, workflow_id: str, after: tuple[int, int], limit: int) -> Sequence[tuple[int, int, int]]:
        """See `Reader`."""
        node, instance = after
        query = (
            select(_n.node, _n.instance, func.coalesce(func.length(_n.output), 0))
            # Both forms of "beyond", as above.
            .where(_n.workflow_id == workflow_id, _n.node >= node, or_(_n.node > node, _n.instance > instance))
            .order_by(*_node_order)
            .limit(limit)
        )
        return [(row[0], row[1], row[2]) for row in self._rows(query)]

    def instances_ended(self, workflow_id: str, node: int) -> int:
        """See `Reader`."""
        ended = _n.status.in_(sorted(int(status) for status in node_terminal))
        query = select(func.count()).where(_n.workflow_id == workflow_id, _n.node == node, _n.instance >= 0, ended)
        return int(self._rows(query)[0][0])

    def node(self, workflow_id: str, node: int, instance: int) -> StoredNode | None:
        """See `Reader`."""
        query = select(*_node_columns, _n.output, _n.progress)
        rows = self._rows(query.where(_n.workflow_id == workflow_id, _n.node == node, _n.instance == instance))
        return _stored_node(rows[0]) if rows else None

    def attempts(
        self, workflow_id: str, node: int | None = None, instance: int | None = None
    ) -> Sequence[StoredAttempt]:
        """See `Reader`."""
        columns = (_a.node, _a.instance, _a.attempt, _a.worker, _a.started_at_us, _a.ended_at_us, _a.run_us, _a.failure)
        query = select(*columns).where(_a.workflow_id == workflow_id).order_by(_a.node, _a.instance, _a.attempt)
        if node is not None:
            query = query.where(_a.node == node)
        if instance is not None:
            query = query.where(_a.instance == instance)
        return [StoredAttempt(*row) for row in self._rows(query)]

    def plan(self, shard: int, plan_hash: bytes) -> bytes | None:
        """See `Reader`."""
        chunk = tables.plan_chunks.c
        where = (chunk.shard_id == shard, chunk.plan_hash == plan_hash)
        # One chunk a statement: a large definition must not need a large packet, nor much memory at the server.
        parts: list[bytes] = []
        while rows := self._rows(select(chunk.data).where(*where, chunk.chunk == len(parts))):
            parts.append(rows[0][0])
        return b"".join(parts) if parts else None

    def list_workflows(
        self, wanted: WorkflowFilter, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredWorkflow]:
        """See `Reader`."""
        query = (
            _workflows(null(), null())
            .where(_w.deleting == 0)
            .order_by(_w.submitted_at_us.desc(), _w.workflow_id.desc())
            .limit(limit)
        )
        if wanted.statuses:
            query = query.where(_w.status.in_([int(status) for status in wanted.statuses]))
        if wanted.name:
            query = query.where(_w.name == wanted.name)
        if wanted.id_prefix:
            # A range, not LIKE: ids may hold "_", and SQLite's LIKE ignores case. "~" is above every character of an id.
            query = query.where(_w.workflow_id >= wanted.id_prefix, _w.workflow_id < wanted.id_prefix + "~")
        if wanted.submitted_from_us:
            query = query.where(_w.submitted_at_us >= wanted.submitted_from_us)
        if wanted.submitted_before_us:
            query = query.where(_w.submitted_at_us < wanted.submitted_before_us)
        if before is not None:
            at_us, name = before
            query = query.where(
                or_(_w.submitted_at_us < at_us, and_(_w.submitted_at_us == at_us, _w.workflow_id < name))
            )
        return [_stored_workflow(row) for row in self._rows(query)]

    def failovers(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredFailover]:
        """See `Reader`."""
        query = select(*_failover_columns).order_by(_f.detected_at_us.desc(), _f.event_id.desc()).limit(limit)
        if before is not None:
            at_us, event_id = before
            query = query.where(
                or_(_f.detected_at_us < at_us, and_(_f.detected_at_us == at_us, _f.event_id < event_id))
            )
        return [_stored_failover(row) for row in self._rows(query)]

    def failover(self, event_id: str) -> StoredFailover | None:
        """See `Reader`."""
        rows = self._rows(select(*_failover_columns).where(_f.event_id == event_id))
        return _stored_failover(rows[0]) if rows else None

    def failovers_to_tell(self, limit: int) -> Sequence[StoredFailover]:
        """See `Reader`."""
        query = (
            select(*_failover_columns)
            .where(_f.stage < int(FailoverStage.CLOSED))
            .order_by(_f.stage, _f.detected_at_us, _f.event_id)
            .limit(limit)
        )
        return [_stored_failover(row) for row in self._rows(query)]

    def affected(self, event_id: str, subject: Subject, offset: int, limit: int) -> Sequence[str]:
        """See `Reader`. The counts say which chunks hold the page, so that no other is read."""
        of_event = (_fa.event_id == event_id, _fa.subject == int(subject))
        order = (_fa.shard_id, _fa.chunk)
        wanted: list[tuple[int, int]] = []
        start = skipped = 0
        for shard, chunk, count in self._rows(select(*order, _fa.ids_count).where(*of_event).order_by(*order)):
            if start + count <= offset:
                skipped = start + count
            elif start < offset + limit:
                wanted.append((shard, chunk))
            start += count
        found: list[str] = []
        for begin in range(0, len(wanted), _ids_a_statement_max):
            part = tuple_(*order).in_(wanted[begin : begin + _ids_a_statement_max])
            for (ids,) in self._rows(select(_fa.ids).where(*of_event, part).order_by(*order)):
                found += orjson.loads(ids)
        return found[offset - skipped :][:limit]

    def strategy_changes(self, before_us: int, limit: int) -> Sequence[StoredStrategyChange]:
        """See `Reader`."""
        query = select(tables.strategy_changes).order_by(_s.changed_at_us.desc()).limit(limit)
        if before_us:
            query = query.where(_s.changed_at_us < before_us)
        return [StoredStrategyChange(*row) for row in self._rows(query)]

    def audit(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredAuditEntry]:
        """See `Reader`."""
        query = select(tables.audit).order_by(_au.began_at_us.desc(), _au.entry_id.desc()).limit(limit)
        if before is not None:
            at_us, entry_id = before
            query = query.where(or_(_au.began_at_us < at_us, and_(_au.began_at_us == at_us, _au.entry_id < entry_id)))
        return [StoredAuditEntry(*row) for row in self._rows(query)]

    def audit_entry(self, entry_id: str) -> StoredAuditEntry | None:
        """See `Reader`."""
        rows = self._rows(select(tables.audit).where(_au.entry_id == entry_id))
        return StoredAuditEntry(*rows[0]) if rows else None

    def pauses(self) -> bytes | None:
        """See `Reader`."""
        rows = self._rows(select(tables.shards.c.pauses).where(tables.shards.c.shard_id == home))
        return rows[0][0] if rows else None

    def paused_workflows(self, after: tuple[int, str], limit: int) -> Sequence[tuple[str, Pause]]:
        """See `Reader`."""
        at_us, name = after
        query = (
            select(_wp.workflow_id, *_pause_columns)
            .select_from(tables.workflow_pauses.join(tables.workflows, _pause_of))
            # Both forms of "beyond", as above.
            .where(_wp.paused_at_us >= at_us, or_(_wp.paused_at_us > at_us, _wp.workflow_id > name))
            .order_by(_wp.paused_at_us, _wp.workflow_id)
            .limit(limit)
        )
        return [(row[0], Pause(*row[1:])) for row in self._rows(query)]

    def permits(self, shard: int, after: tuple[str, int], limit: int) -> Sequence[HeldPermits]:
        """See `Reader`."""
        key, holder = after[0].encode(), after[1]
        query = (
            select(_p.concurrency_key, _p.holder, _p.epoch, _p.permits_count)
            # Both forms of "beyond", as above.
            .where(
                _p.shard_id == shard,
                _p.concurrency_key >= key,
                or_(_p.concurrency_key > key, _p.holder > holder),
            )
            .order_by(_p.concurrency_key, _p.holder)
            .limit(limit)
        )
        return [HeldPermits(row[0].decode(), *row[1:]) for row in self._rows(query)]

    def cached_results(self, keys: Sequence[bytes], now_us: int) -> Sequence[StoredResult]:
        """See `Reader`. Several shards may have an output of a key; only the youngest one is read."""
        counts = and_(_rc.expires_at_us > now_us, _rc.stored_at_us <= now_us + ahead_us)
        where = (_rc.cache_key.in_(sorted(set(keys))), counts)
        there = self._rows(select(_rc.cache_key, _rc.stored_at_us, _rc.shard_id).where(*where))
        youngest = {key: shard for key, _, shard in sorted(there)}
        if not youngest:
            return []
        chosen = or_(*(and_(_rc.cache_key == key, _rc.shard_id == shard) for key, shard in youngest.items()))
        query = select(_rc.cache_key, _rc.output, _rc.stored_at_us).where(chosen).order_by(_rc.cache_key)
        return [StoredResult(*row) for row in self._rows(query)]

    def expired_results(self, shard: int, now_us: int, limit: int) -> Sequence[tuple[bytes, int]]:
        """See `Reader`."""
        query = (
            select(_rc.cache_key, _rc.expires_at_us)
            .where(_rc.shard_id == shard, _rc.expires_at_us <= now_us)
            .order_by(_rc.expires_at_us, _rc.cache_key)
            .limit(limit)
        )
        return [(key, at_us) for key, at_us in self._rows(query)]


def _stored_failover(row: tuple[Any, ...]) -> StoredFailover:
    event_id, kind, *rest, recovered_at_us, workflows, nodes = row
    failed, incarnation, taker, taker_incarnation, detected, settles, stage, announced, alerted = rest
    return StoredFailover(
        event_id,
        FailoverKind(kind),
        failed,
        incarnation,
        taker,
        taker_incarnation,
        detected,
        settles,
        FailoverStage(stage),
        announced,
        alerted,
        int(recovered_at_us),
        int(workflows),
        int(nodes),
    )


def coordinator_row(row: tuple[Any, ...]) -> CoordinatorRow:
    """Return a lease row from its columns in the table's order."""
    incarnation, name, grpc, http, seq, workers, lock, lock_peer, writer, writer_peer, started, *rest = row
    strategy, ended, failed = rest
    return CoordinatorRow(
        incarnation,
        name,
        grpc,
        http,
        seq,
        workers,
        ConnectionId(lock, lock_peer),
        ConnectionId(writer, writer_peer),
        started,
        strategy,
        Attempts(ended, failed),
    )


def _workflows(workflow_input: Any, output: Any) -> "Select[*tuple[Any, ...]]":
    paused = tables.workflows.outerjoin(tables.workflow_pauses, _pause_of)
    return select(*_workflow_columns, workflow_input, output, _w.rerun_of, *_pause_columns).select_from(paused)


def _stored_workflow(row: tuple[Any, ...]) -> StoredWorkflow:
    values = list(row)
    values[5] = WorkflowStatus(values[5])
    values[-3:] = [Pause(*row[-3:]) if row[-3] else None]
    return StoredWorkflow(*values)


def _stored_node(row: tuple[Any, ...]) -> StoredNode:
    values = list(row)
    values[3] = NodeStatus(values[3])
    return StoredNode(*values)
