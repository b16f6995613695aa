"""What each row means, said as plainly as can be: the oracle that the SQL databases are compared with.

Rows are applied one by one in their order; nothing is folded or grouped.
"""

from collections.abc import Sequence
from dataclasses import replace

from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.rows import (
    AttemptEnded,
    AuditEntry,
    DeathsRecorded,
    DeleteRow,
    FailoverAffected,
    FailoverMarked,
    FailoverRecorded,
    GraceEnded,
    MapExpanded,
    NodeAssigned,
    NodeChanged,
    NodesCopied,
    PausesChanged,
    PermitsHeld,
    PlanDeleted,
    PlanSaved,
    ProgressSaved,
    ResultCached,
    RetryDue,
    Row,
    StrategyChanged,
    WorkersEvicted,
    WorkflowDeleted,
    WorkflowInserted,
    WorkflowPaused,
    WorkflowUpdated,
    WriteRow,
)
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.store.memory_deletes import delete
from mainspring_coordinator.store.memory_tables import MemoryTables, NodeKey
from mainspring_coordinator.store.protocol import StoredAttempt, StoredNode, StoredWorkflow


def missing_workflow(tables: MemoryTables, rows: Sequence[Row]) -> str | None:
    """Return the first workflow, by id, that is updated though it is not there."""
    gone = {row.workflow_id for row in rows if isinstance(row, WorkflowDeleted)}
    there = (tables.workflows.keys() - gone) | {row.workflow_id for row in rows if isinstance(row, WorkflowInserted)}
    return min(
        (row.workflow_id for row in rows if isinstance(row, WorkflowUpdated) and row.workflow_id not in there),
        default=None,
    )


def write(tables: MemoryTables, rows: Sequence[Row]) -> None:
    """Write the rows of a batch: what deletes first, definitions last, unless the batch stores them."""
    saved = {(row.shard, row.plan_hash) for row in rows if isinstance(row, PlanSaved)}
    plans = [row for row in rows if isinstance(row, PlanDeleted) and (row.shard, row.plan_hash) not in saved]
    first = [row for row in rows if isinstance(row, DeleteRow) and not isinstance(row, PlanDeleted)]
    for one in first:
        delete(tables, one)
    for row in rows:
        if not isinstance(row, DeleteRow):
            _apply(tables, row)
    for plan in plans:
        delete(tables, plan)


def _apply(tables: MemoryTables, row: WriteRow) -> None:
    """Write one row."""
    match row:
        case PlanSaved():
            tables.plans.setdefault((row.shard, row.plan_hash), row.definition)
        case WorkflowInserted():
            tables.workflows[row.workflow_id] = _new_workflow(row)
        case WorkflowUpdated():
            tables.workflows[row.workflow_id] = replace(
                tables.workflows[row.workflow_id],
                version=row.version,
                status=row.status,
                cancel_reason=row.cancel_reason,
                failure=row.failure,
                output=row.output,
                ended_at_us=row.ended_at_us,
                closing_until_us=row.closing_until_us,
            )
        case AttemptEnded():
            key = (row.workflow_id, row.node, row.instance, row.attempt)
            ended = StoredAttempt(*key[1:], row.worker, row.started_at_us, row.ended_at_us, row.run_us, row.failure)
            tables.attempts.setdefault(key, ended)
        case GraceEnded() | DeathsRecorded() | WorkersEvicted() | StrategyChanged() | PausesChanged():
            _apply_to_fence(tables, row)
        case WorkflowPaused() | AuditEntry():
            _apply_beside(tables, row)
        case PermitsHeld() | ResultCached():
            _apply_to_keys(tables, row)
        case FailoverRecorded() | FailoverAffected() | FailoverMarked():
            _apply_to_record(tables, row)
        case _:
            _apply_to_node(tables, row)


def _apply_beside(tables: MemoryTables, row: WorkflowPaused | AuditEntry) -> None:
    match row:
        case WorkflowPaused():
            tables.pauses.pop(row.workflow_id, None)
            if row.since_us:
                tables.pauses[row.workflow_id] = Pause(row.since_us, row.who, row.reason)
        case AuditEntry():
            entry = tables.audit.setdefault(row.entry_id, replace(row, ended_at_us=0, outcome=""))
            if row.outcome:
                tables.audit[row.entry_id] = replace(entry, ended_at_us=row.ended_at_us, outcome=row.outcome)


def _apply_to_keys(tables: MemoryTables, row: PermitsHeld | ResultCached) -> None:
    match row:
        case PermitsHeld():
            tables.permits.pop((row.shard, row.key, row.holder), None)
            if row.count:
                held = HeldPermits(row.key, row.holder, row.epoch, row.count)
                tables.permits[row.shard, row.key, row.holder] = held
        case ResultCached():
            tables.results[row.key, row.shard] = row


def _apply_to_fence(
    tables: MemoryTables, row: GraceEnded | DeathsRecorded | WorkersEvicted | StrategyChanged | PausesChanged
) -> None:
    fence = tables.shards[row.shard]
    match row:
        case GraceEnded():
            tables.shards[row.shard] = replace(fence, grace_until_us=0)
        case DeathsRecorded():
            tables.shards[row.shard] = replace(fence, deaths="")
        case WorkersEvicted():
            tables.shards[row.shard] = replace(fence, evicted=row.evicted)
        case StrategyChanged():
            tables.shards[row.shard] = replace(fence, strategy=row.standing)
            tables.strategy_changes.setdefault(row.changed_at_us, row)
        case PausesChanged():
            tables.shards[row.shard] = replace(fence, pauses=row.standing)


def _apply_to_record(tables: MemoryTables, row: FailoverRecorded | FailoverAffected | FailoverMarked) -> None:
    match row:
        case FailoverRecorded():
            tables.failovers.setdefault(row.event_id, row)
        case FailoverAffected():
            tables.affected.setdefault((row.event_id, row.subject, row.part, row.chunk), row)
        case FailoverMarked():
            if row.event_id in tables.failovers:
                tables.marked[row.event_id] = row


def _copy(tables: MemoryTables, row: NodesCopied) -> None:
    for (name, node, instance), stored in list(tables.nodes.items()):
        if name == row.source and node in row.nodes and row.after < (node, instance) <= row.until:
            copy = replace(
                stored,
                workflow_id=row.workflow_id,
                version=1,
                assignment=0,
                retry_at_us=0,
                redeliveries=0,
                progress=None,
            )
            tables.nodes.setdefault((row.workflow_id, node, instance), copy)


def _apply_to_node(
    tables: MemoryTables, row: NodeAssigned | NodeChanged | MapExpanded | ProgressSaved | RetryDue | NodesCopied
) -> None:
    if isinstance(row, NodesCopied):
        _copy(tables, row)
        return
    key = (row.workflow_id, row.node, -1 if isinstance(row, MapExpanded) else row.instance)
    match row:
        case ProgressSaved():
            if key in tables.nodes:
                tables.nodes[key] = replace(tables.nodes[key], progress=row.progress, version=row.version)
            return
        case RetryDue():
            if key in tables.nodes:
                tables.nodes[key] = replace(tables.nodes[key], retry_at_us=row.retry_at_us, version=row.version)
            return
        case MapExpanded():
            before = tables.nodes.get(key) or _new_node(key)
            after = replace(
                before, version=row.version, status=NodeStatus.RUNNING, width=row.width, started_at_us=row.started_at_us
            )
        case NodeAssigned():
            after = replace(
                tables.nodes.get(key) or _new_node(key),
                version=row.version,
                status=NodeStatus.RUNNING,
                attempt=row.attempt,
                assignment=row.assignment,
                worker=row.worker,
                incarnation=row.incarnation,
                started_at_us=row.started_at_us,
                redeliveries=row.redeliveries,
                # What the attempt before left is in a row of its own.
                ended_at_us=0,
                run_us=0,
                retry_at_us=0,
                failure=None,
                output=None,
            )
        case NodeChanged():
            after = replace(
                tables.nodes.get(key) or _new_node(key),
                version=row.version,
                status=row.status,
                attempt=row.attempt,
                output=row.output,
                failure=row.failure,
                ended_at_us=row.ended_at_us,
                run_us=row.run_us,
                retry_at_us=row.retry_at_us,
                redeliveries=row.redeliveries,
            )
    tables.nodes[key] = after


def _new_workflow(row: WorkflowInserted) -> StoredWorkflow:
    return StoredWorkflow(
        shard=row.shard,
        workflow_id=row.workflow_id,
        digest=row.digest,
        name=row.name,
        plan_hash=row.plan_hash,
        status=WorkflowStatus.RUNNING,
        version=1,
        submitted_at_us=row.submitted_at_us,
        deadline_at_us=row.deadline_at_us,
        ended_at_us=0,
        closing_until_us=0,
        strategy=row.strategy,
        cancel_reason="",
        failure=None,
        input=row.input,
        output=None,
        rerun_of=row.rerun_of,
    )


def _new_node(key: NodeKey) -> StoredNode:
    return StoredNode(
        workflow_id=key[0],
        node=key[1],
        instance=key[2],
        status=NodeStatus.WAITING,
        attempt=0,
        assignment=0,
        worker="",
        incarnation="",
        started_at_us=0,
        ended_at_us=0,
        run_us=0,
        retry_at_us=0,
        width=0,
        redeliveries=0,
        version=0,
        failure=None,
    )
