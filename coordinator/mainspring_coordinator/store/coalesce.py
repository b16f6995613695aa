"""From the rows of a batch to what is written: pure, the same for every database.

A batch may hold several rows of one node or workflow, because two batches were gathered into one. Their order matters, and a statement
writes many rows in the order of their keys; so rows of one key are folded into the final value of each column before anything is
written. Then rows are grouped by shape, which is a table with the columns that change, and sorted by primary key: transactions that
take their locks in one order cannot deadlock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, TypeAlias

from mainspring.limits import statement_bytes_max
from mainspring_coordinator.engine.rows import (
    AttemptEnded,
    AuditEntry,
    DeathsRecorded,
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
    PlanSaved,
    ProgressSaved,
    ResultCached,
    RetryDue,
    Row,
    StrategyChanged,
    WorkersEvicted,
    WorkflowInserted,
    WorkflowPaused,
    WorkflowUpdated,
    WriteRow,
)
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, workflow_terminal
from mainspring_coordinator.store.shapes import (
    Mode,
    Shape,
    TableWrite,
    Value,
    Values,
    affected_shape,
    assigned_columns,
    assigned_shape,
    attempt_shape,
    audit_outcome_shape,
    audit_shape,
    changed_columns,
    changed_shape,
    deaths_shape,
    evicted_shape,
    expanded_columns,
    failover_shape,
    goes_on_shape,
    grace_shape,
    inserted_columns,
    inserted_shape,
    marked_shape,
    no_permits_shape,
    node_keys,
    paused_shape,
    pauses_shape,
    permits_shape,
    plan_shape,
    result_shape,
    strategy_change_shape,
    strategy_shape,
    updated_columns,
    updated_shape,
)

_reset_values: Final[Mapping[str, Value]] = {
    "ended_at_us": 0,
    "run_us": 0,
    "retry_at_us": 0,
    "failure": None,
    "output": None,
}

_of_rows_that_are_there: Final = frozenset({"progress", "retry_at_us", "version"})
"""If nothing else of a node's row is known, its row is not made."""
_Key: TypeAlias = tuple[str, int, int]
_Folded: TypeAlias = dict[str, Value]
_running: Final = int(NodeStatus.RUNNING)


def coalesce(rows: Iterable[WriteRow]) -> Sequence[TableWrite]:
    """Return what to write for these rows, in the order in which to write it. What is copied comes before, see `copies`."""
    folding = _Folding()
    by_kind = folding.by_kind
    for row in rows:
        by_kind[type(row)](row)
    return [write for write in folding.writes() if write.rows]


def copies(rows: Iterable[Row]) -> Sequence[NodesCopied]:
    """Return what is to be copied within the database, before anything is written."""
    return [row for row in rows if type(row) is NodesCopied]


def _assigned(row: NodeAssigned) -> Values:
    return (
        row.workflow_id,
        row.node,
        row.instance,
        row.version,
        _running,
        row.attempt,
        row.assignment,
        row.worker,
        row.incarnation,
        row.started_at_us,
        row.redeliveries,
    )


def _changed(row: NodeChanged) -> Values:
    return (
        row.workflow_id,
        row.node,
        row.instance,
        row.version,
        row.status,
        row.attempt,
        row.output,
        row.failure,
        row.ended_at_us,
        row.run_us,
        row.retry_at_us,
        row.redeliveries,
    )


def _fold(row: "NodeAssigned | NodeChanged | _Folded") -> _Folded:
    if isinstance(row, dict):
        return row
    if isinstance(row, NodeAssigned):
        return dict(zip(assigned_columns, _assigned(row)[3:], strict=True)) | dict(_reset_values)
    return dict(zip(changed_columns, _changed(row)[3:], strict=True))


@dataclass(slots=True)
class _Folding:
    """Rows of a batch under way, by key."""

    nodes: "dict[_Key, NodeAssigned | NodeChanged | _Folded]" = field(default_factory=dict)
    """A hot row stays what it is; it is folded into columns only when another kind of row has the same key."""
    inserted: dict[str, _Folded] = field(default_factory=dict[str, _Folded])
    updated: dict[str, WorkflowUpdated] = field(default_factory=dict[str, WorkflowUpdated])
    once: dict[Shape, dict[Values, Values]] = field(
        default_factory=lambda: {
            plan_shape: {},
            attempt_shape: {},
            failover_shape: {},
            affected_shape: {},
            strategy_change_shape: {},
            audit_shape: {},
        }
    )
    last: dict[Shape, dict[Values, Values]] = field(
        default_factory=lambda: {
            marked_shape: {},
            deaths_shape: {},
            grace_shape: {},
            strategy_shape: {},
            evicted_shape: {},
            pauses_shape: {},
            audit_outcome_shape: {},
        }
    )
    """Of these the last row of a key counts."""
    permits: dict[Values, PermitsHeld] = field(default_factory=dict[Values, PermitsHeld])
    """Here, too; it says whether there is to be one at all."""
    paused: dict[Values, WorkflowPaused] = field(default_factory=dict[Values, WorkflowPaused])
    """As well."""
    results: dict[Values, ResultCached] = field(default_factory=dict[Values, ResultCached])
    """Here, too."""

    @property
    def by_kind(self) -> Mapping[type[WriteRow], Callable[[Any], None]]:
        """Return what takes in a row, by its class."""
        return {
            NodeAssigned: self._add_assigned,
            NodeChanged: self._add_changed,
            RetryDue: self._add_due,
            NodesCopied: lambda _: None,
            MapExpanded: self._add_expanded,
            ProgressSaved: self._add_progress,
            WorkflowInserted: self._add_inserted,
            WorkflowUpdated: self._add_updated,
            AttemptEnded: self._add_attempt,
            PlanSaved: self._add_plan,
            FailoverRecorded: self._add_failover,
            FailoverAffected: self._add_affected,
            FailoverMarked: self._add_marked,
            DeathsRecorded: self._add_deaths,
            GraceEnded: self._add_grace,
            StrategyChanged: self._add_strategy,
            PermitsHeld: self._add_permits,
            PausesChanged: self._add_pauses,
            WorkflowPaused: self._add_paused,
            AuditEntry: self._add_audit,
            WorkersEvicted: self._add_evicted,
            ResultCached: self._add_result,
        }

    def _add_assigned(self, row: NodeAssigned) -> None:
        key = (row.workflow_id, row.node, row.instance)
        before = self.nodes.get(key)
        # An assignment sets every column that a change sets, so that it replaces one.
        self.nodes[key] = before | _fold(row) if isinstance(before, dict) else row

    def _add_changed(self, row: NodeChanged) -> None:
        key = (row.workflow_id, row.node, row.instance)
        before = self.nodes.get(key)
        self.nodes[key] = row if before is None or type(before) is NodeChanged else _fold(before) | _fold(row)

    def _add_expanded(self, row: MapExpanded) -> None:
        values: _Folded = dict(
            zip(expanded_columns, (row.version, _running, row.width, row.started_at_us), strict=True)
        )
        self._merge((row.workflow_id, row.node, -1), values)

    def _add_due(self, row: RetryDue) -> None:
        self._merge((row.workflow_id, row.node, row.instance), {"retry_at_us": row.retry_at_us, "version": row.version})

    def _add_progress(self, row: ProgressSaved) -> None:
        self._merge((row.workflow_id, row.node, row.instance), {"progress": row.progress, "version": row.version})

    def _merge(self, key: _Key, values: _Folded) -> None:
        before = self.nodes.get(key)
        self.nodes[key] = values if before is None else _fold(before) | values

    def _add_inserted(self, row: WorkflowInserted) -> None:
        assert row.workflow_id not in self.inserted, f"workflow {row.workflow_id} is inserted twice in one batch"
        values: Values = (
            row.shard,
            row.digest,
            row.name,
            row.plan_hash,
            int(WorkflowStatus.RUNNING),
            1,
            1,
            row.submitted_at_us,
            row.deadline_at_us,
            0,
            0,
            row.strategy,
            "",
            None,
            row.input,
            None,
            row.rerun_of,
        )
        self.inserted[row.workflow_id] = dict(zip(inserted_columns, values, strict=True))

    def _add_updated(self, row: WorkflowUpdated) -> None:
        new = self.inserted.get(row.workflow_id)
        if new is None:
            self.updated[row.workflow_id] = row
        else:
            new.update(zip(updated_columns, _updated(row)[1:], strict=True))

    def _add_attempt(self, row: AttemptEnded) -> None:
        key = (row.workflow_id, row.node, row.instance, row.attempt)
        self.once[attempt_shape].setdefault(
            key, (*key, row.worker, row.started_at_us, row.ended_at_us, row.run_us, row.failure)
        )

    def _add_plan(self, row: PlanSaved) -> None:
        chunks = self.once[plan_shape]
        for number, start in enumerate(range(0, len(row.definition) or 1, statement_bytes_max)):
            key = (row.shard, row.plan_hash, number)
            chunks.setdefault(key, (*key, row.definition[start : start + statement_bytes_max]))

    def _add_failover(self, row: FailoverRecorded) -> None:
        values = (row.event_id, int(row.kind), row.failed_engine, row.failed_incarnation)
        taken = (row.takeover_engine, row.takeover_incarnation, row.detected_at_us, row.settles_at_us)
        self.once[failover_shape].setdefault((row.event_id,), (*values, *taken))

    def _add_affected(self, row: FailoverAffected) -> None:
        key = (row.event_id, int(row.subject), row.part, row.chunk)
        self.once[affected_shape].setdefault(key, (*key, row.ids_count, row.recorded_at_us, row.ids))

    def _add_marked(self, row: FailoverMarked) -> None:
        values = (row.event_id, int(row.stage), row.announced_at_us, row.alerted_at_us)
        self.last[marked_shape][row.event_id,] = values

    def _add_deaths(self, row: DeathsRecorded) -> None:
        self.last[deaths_shape][row.shard,] = (row.shard, "")

    def _add_grace(self, row: GraceEnded) -> None:
        self.last[grace_shape][row.shard,] = (row.shard, 0)

    def _add_strategy(self, row: StrategyChanged) -> None:
        self.last[strategy_shape][row.shard,] = (row.shard, row.standing)
        key = (row.changed_at_us,)
        self.once[strategy_change_shape].setdefault(key, (*key, row.before, row.after, row.by, row.reason))

    def _add_audit(self, row: AuditEntry) -> None:
        said = (row.act, row.subject, row.reason, row.who, row.coordinator)
        self.once[audit_shape].setdefault((row.entry_id,), (row.entry_id, row.began_at_us, 0, *said, ""))
        if row.outcome:
            self.last[audit_outcome_shape][row.entry_id,] = (row.entry_id, row.ended_at_us, row.outcome)

    def _add_evicted(self, row: WorkersEvicted) -> None:
        self.last[evicted_shape][row.shard,] = (row.shard, row.evicted)

    def _add_permits(self, row: PermitsHeld) -> None:
        self.permits[row.shard, row.key.encode(), row.holder] = row

    def _add_pauses(self, row: PausesChanged) -> None:
        self.last[pauses_shape][row.shard,] = (row.shard, row.standing)

    def _add_paused(self, row: WorkflowPaused) -> None:
        self.paused[row.workflow_id,] = row

    def _add_result(self, row: ResultCached) -> None:
        self.results[row.key, row.shard] = row

    def writes(self) -> Iterable[TableWrite]:
        """Return the writes: what is referred to before what refers to it."""
        yield self._once(plan_shape)
        yield TableWrite(
            inserted_shape,
            [(key, *values.values()) for key, values in sorted(self.inserted.items(), key=itemgetter(0))],
        )
        yield TableWrite(updated_shape, [_updated(row) for _, row in sorted(self.updated.items(), key=itemgetter(0))])
        yield from self._node_writes()
        for shape in (attempt_shape, failover_shape, affected_shape, strategy_change_shape, audit_shape):
            yield self._once(shape)
        for shape, found in self.last.items():
            yield TableWrite(shape, [found[key] for key in sorted(found)])
        permits = sorted(self.permits.items(), key=itemgetter(0))
        yield TableWrite(permits_shape, [(*key, row.epoch, row.count) for key, row in permits if row.count])
        yield TableWrite(no_permits_shape, [key for key, row in permits if not row.count])
        pauses = sorted(self.paused.items(), key=itemgetter(0))
        yield TableWrite(
            paused_shape, [(*key, row.since_us, row.who, row.reason) for key, row in pauses if row.since_us]
        )
        yield TableWrite(goes_on_shape, [key for key, row in pauses if not row.since_us])
        results = sorted(self.results.items(), key=itemgetter(0))
        yield TableWrite(
            result_shape, [(*key, row.stored_at_us, row.expires_at_us, row.output) for key, row in results]
        )

    def _once(self, shape: Shape) -> TableWrite:
        found = self.once[shape]
        return TableWrite(shape, [found[key] for key in sorted(found)])

    def _node_writes(self) -> Iterable[TableWrite]:
        assigned: list[Values] = []
        changed: list[Values] = []
        folded: dict[Shape, list[Values]] = {}
        for key in sorted(self.nodes):
            row = self.nodes[key]
            if type(row) is NodeAssigned:
                assigned.append(_assigned(row))
            elif type(row) is NodeChanged:
                changed.append(_changed(row))
            else:
                assert isinstance(row, dict)
                mode = Mode.UPDATE_IF_THERE if row.keys() <= _of_rows_that_are_there else Mode.UPSERT
                shape = Shape("nodes", mode, node_keys, tuple(sorted(row)))
                folded.setdefault(shape, []).append((*key, *(row[column] for column in shape.columns)))
        yield TableWrite(changed_shape, changed)
        yield TableWrite(assigned_shape, assigned)
        for shape in sorted(folded, key=lambda shape: shape.columns):
            yield TableWrite(shape, folded[shape])


def _updated(row: WorkflowUpdated) -> Values:
    return (
        row.workflow_id,
        row.version,
        int(row.status),
        int(row.status not in workflow_terminal),
        row.cancel_reason,
        row.failure,
        row.output,
        row.ended_at_us,
        row.closing_until_us,
    )
