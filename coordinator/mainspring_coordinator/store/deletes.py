"""What is deleted for its age: pure, the same for every database.

It goes before anything else of its batch is written, children first, so that an id may be used again at once. A definition goes last,
unless a row of a workflow that is there by then has it; and not at all if its batch stores it, because whoever does so needs it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from mainspring_coordinator.engine.rows import (
    AffectedDeleted,
    AuditDeleted,
    DeleteRow,
    DeletionBegun,
    FailoverDeleted,
    NodesDeleted,
    PlanDeleted,
    PlanSaved,
    ResultDropped,
    Row,
    StrategyChangeDeleted,
    WorkflowDeleted,
    WriteRow,
)
from mainspring_coordinator.store.coalesce import coalesce
from mainspring_coordinator.store.shapes import Mode, Shape, TableWrite, Values, no_result_shape

begun_shape: Final = Shape("workflows", Mode.UPDATE_IF_THERE, ("workflow_id",), ("deleting",))
_of_workflow: Final = [
    Shape(table, Mode.DELETE, ("workflow_id",), ()) for table in ("attempts", "nodes", "workflow_pauses", "workflows")
]
_of_nodes: Final = [
    Shape(table, Mode.DELETE_UP_TO, ("workflow_id", "node", "instance"), ()) for table in ("attempts", "nodes")
]
_of_affected: Final = Shape("failover_affected", Mode.DELETE_UP_TO, ("event_id", "subject", "shard_id", "chunk"), ())
_of_failover: Final = [
    Shape(table, Mode.DELETE, ("event_id",), ()) for table in ("failover_affected", "failover_events")
]
_of_audit: Final = Shape("audit", Mode.DELETE, ("entry_id",), ())
_of_strategy: Final = Shape("strategy_changes", Mode.DELETE, ("changed_at_us",), ())
unused_plan_shape: Final = Shape("plan_chunks", Mode.DELETE_UNUSED, ("shard_id", "plan_hash"), ())

_writes: Final[Mapping[type[Any], tuple[Sequence[Shape], Callable[[Any], Values]]]] = {
    DeletionBegun: ([begun_shape], lambda row: (row.workflow_id, 1)),
    NodesDeleted: (_of_nodes, lambda row: (row.workflow_id, row.node, row.instance)),
    WorkflowDeleted: (_of_workflow, lambda row: (row.workflow_id,)),
    AffectedDeleted: ([_of_affected], lambda row: (row.event_id, int(row.subject), row.part, row.chunk)),
    FailoverDeleted: (_of_failover, lambda row: (row.event_id,)),
    AuditDeleted: ([_of_audit], lambda row: (row.entry_id,)),
    StrategyChangeDeleted: ([_of_strategy], lambda row: (row.changed_at_us,)),
    ResultDropped: ([no_result_shape], lambda row: (row.key, row.shard, row.expires_at_us)),
}
"""By kind of row: what is written of it, in this order."""
_kinds: Final = frozenset((*_writes, PlanDeleted))


def writes_of(rows: Sequence[Row]) -> Sequence[TableWrite]:
    """Return what to write for the rows of a batch, in the order in which to write it."""
    deletes: list[DeleteRow] = []
    others: list[WriteRow] = []
    for row in rows:
        if type(row) in _kinds:
            deletes.append(cast("DeleteRow", row))
        else:
            others.append(cast("WriteRow", row))
    plans = unused_plans(rows) if deletes else ()
    last = [TableWrite(unused_plan_shape, plans)] if plans else []
    return [*_first(deletes), *coalesce(others), *last]


def unused_plans(rows: Iterable[Row]) -> Sequence[tuple[int, bytes]]:
    """Return shard and hash of the definitions that are to go if they are not used."""
    wanted, saved = set[tuple[int, bytes]](), set[tuple[int, bytes]]()
    for row in rows:
        if isinstance(row, PlanDeleted):
            wanted.add((row.shard, row.plan_hash))
        elif isinstance(row, PlanSaved):
            saved.add((row.shard, row.plan_hash))
    return sorted(wanted - saved)


def _first(deletes: Iterable[DeleteRow]) -> Iterable[TableWrite]:
    found: dict[type[Any], set[Values]] = {kind: set() for kind in _writes}
    for row in deletes:
        if type(row) is not PlanDeleted:
            found[type(row)].add(_writes[type(row)][1](row))
    for kind, (shapes, _) in _writes.items():
        for shape in shapes if found[kind] else ():
            yield TableWrite(shape, sorted(found[kind]))
