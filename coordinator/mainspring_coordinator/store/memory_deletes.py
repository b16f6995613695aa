"""What each row means that deletes, said as plainly as can be."""

from collections.abc import Callable
from typing import Any

from mainspring_coordinator.engine.rows import (
    AffectedDeleted,
    AuditDeleted,
    DeleteRow,
    DeletionBegun,
    FailoverDeleted,
    NodesDeleted,
    PlanDeleted,
    ResultDropped,
    StrategyChangeDeleted,
    WorkflowDeleted,
)
from mainspring_coordinator.store.memory_tables import MemoryTables


def delete(tables: MemoryTables, row: DeleteRow) -> None:
    """Write one row that deletes."""
    match row:
        case DeletionBegun():
            if row.workflow_id in tables.workflows:
                tables.deleting.add(row.workflow_id)
        case NodesDeleted():
            last = (row.node, row.instance)
            for rows in (tables.nodes, tables.attempts):
                _drop(rows, lambda key: key[0] == row.workflow_id and key[1:3] <= last)
        case WorkflowDeleted():
            for rows in (tables.nodes, tables.attempts):
                _drop(rows, lambda key: key[0] == row.workflow_id)
            tables.workflows.pop(row.workflow_id, None)
            tables.pauses.pop(row.workflow_id, None)
            tables.deleting.discard(row.workflow_id)
        case PlanDeleted():
            shard, plan = row.shard, row.plan_hash
            if not any((one.shard, one.plan_hash) == (shard, plan) for one in tables.workflows.values()):
                tables.plans.pop((shard, plan), None)
        case ResultDropped():
            stored = tables.results.get((row.key, row.shard))
            if stored is not None and stored.expires_at_us == row.expires_at_us:
                del tables.results[row.key, row.shard]
        case AffectedDeleted() | FailoverDeleted() | AuditDeleted() | StrategyChangeDeleted():
            _delete_of_record(tables, row)


def _delete_of_record(
    tables: MemoryTables, row: AffectedDeleted | FailoverDeleted | AuditDeleted | StrategyChangeDeleted
) -> None:
    match row:
        case AffectedDeleted():
            chunk = (int(row.subject), row.part, row.chunk)
            _drop(tables.affected, lambda key: key[0] == row.event_id and (int(key[1]), *key[2:]) <= chunk)
        case FailoverDeleted():
            _drop(tables.affected, lambda key: key[0] == row.event_id)
            tables.failovers.pop(row.event_id, None)
            tables.marked.pop(row.event_id, None)
        case AuditDeleted():
            tables.audit.pop(row.entry_id, None)
        case StrategyChangeDeleted():
            tables.strategy_changes.pop(row.changed_at_us, None)


def _drop(rows: dict[Any, Any], belongs: Callable[[Any], bool]) -> None:
    for key in [key for key in rows if belongs(key)]:
        del rows[key]
