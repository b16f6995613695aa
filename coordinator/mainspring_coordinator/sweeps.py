"""What is deleted for its age: a list of sweeps, each with a read of what is due and the kind of row that deletes it.

To let something else with a date expire, add a read to `AgedReader`, a kind of row to `engine.rows.DeleteRow` with what it means to
`store.deletes` and `store.memory_deletes`, and a sweep to `all_sweeps`; one that does not depend on RETENTION_DAYS looks at `Look.now_us`.
A read looks at a bounded number of rows by an index. What it finds is deleted by one batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mainspring import limits
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
from mainspring_coordinator.engine.status import Subject
from mainspring_coordinator.store.aged import ChunkKey, RowKey
from mainspring_coordinator.store.protocol import Reader

_things: Final = limits.retention_things_a_look_max
_rows: Final = limits.retention_rows_a_batch_max


@dataclass(frozen=True, slots=True)
class Place:
    """How far the looks of one pass have come: what is before is gone, or stays."""

    at_us: int = 0
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Look:
    """What a read has to know."""

    shard: int
    now_us: int
    """Database time."""
    before_us: int
    """What ended, or happened, before this is old; 0: RETENTION_DAYS is, and nothing is old."""
    place: Place = Place()


@dataclass(frozen=True, slots=True)
class Found:
    """What a look found."""

    rows: Sequence[DeleteRow] = ()
    """What deletes it."""
    next: Place | None = None
    """Where the next look goes on, None if nothing is left to look at in this pass."""
    oldest_us: int | None = None
    """Of workflows: when the one that ended first of those that are there did so; 0 if there is none, None if that was not looked at."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One kind of what is deleted."""

    kind: str
    """Its name in metrics and logs."""
    row: type[DeleteRow]
    """The kind of row that stands for one thing gone; others may go before it."""
    find: Callable[[Reader, Look], Found]
    everywhere: bool = False
    """Each shard has some; if not, what it deletes is the cluster's, and the owner of shard 0 does it."""


def find_workflows(reader: Reader, look: Look) -> Found:
    """Find ended workflows that are old, and those whose deletion was begun, whatever RETENTION_DAYS is by now.

    Those whose rows fit go, all of them in one transaction. One that does not fit by itself goes part by part, the row of the workflow
    last, which says from the first part on that nobody is to see it.
    """
    most = limits.retention_workflows_a_look_max
    ended = reader.ended_workflows(look.shard, look.place.at_us, most) if look.before_us else ()
    old = [(at_us, name) for at_us, name in ended if at_us < look.before_us]
    names = sorted({*reader.deletions_begun(look.shard, most), *(name for _, name in old)})
    oldest_us = (ended[0][0] if ended else 0) if look.before_us else None
    if not names:
        return Found(oldest_us=oldest_us)
    whole, part = divide(names, reader.row_keys(names, _rows + 1), _rows)
    rows: list[DeleteRow] = [WorkflowDeleted(look.shard, name) for name in whole]
    if part is not None:
        name, node, instance = part
        rows = [DeletionBegun(look.shard, name), NodesDeleted(look.shard, name, node, instance)]
    left = [at_us for at_us, name in old if name not in whole]
    # Not from the beginning: the index has what is deleted for a while, and for long beside somebody's long transaction.
    reached_us = left[0] if left else max((at_us for at_us, _ in old), default=look.place.at_us)
    return Found(rows, Place(reached_us), oldest_us)


def divide(names: Sequence[str], keys: Sequence[RowKey], most: int) -> tuple[Sequence[str], RowKey | None]:
    """Return which workflows fit into a batch with all their rows; if none does, the last key of the first one that fits.

    `names` and `keys` are in order; of the keys there is one more than `most` if they do not all fit.
    """
    if len(keys) <= most:
        return names, None
    over = keys[most]
    whole = [name for name in names if name < over[0]]
    if whole:
        return whole, None
    return (), max(key for key in keys[:most] if key < over)


def find_plans(reader: Reader, look: Look) -> Found:
    """Find definitions that no workflow of a shard uses any more."""
    if not look.before_us:
        return Found()
    page = reader.plans_used(look.shard, look.place.key, _things)
    unused = [plan for plan, is_used in page if not is_used]
    going = unused[: limits.retention_plans_a_batch_max]
    reached = going[-1] if len(going) < len(unused) else page[-1][0] if len(page) == _things else None
    rows = [PlanDeleted(look.shard, "", plan) for plan in going]
    return Found(rows, Place(key=reached) if reached is not None else None)


def find_failovers(reader: Reader, look: Look) -> Found:
    """Find failovers that are old and told. One that affected very much goes part by part, and shows less of it meanwhile."""
    names = sorted(reader.failovers_told(look.before_us, _things))
    if not names:
        return Found()
    keys: Sequence[ChunkKey] = reader.affected_keys(names, _things + 1)
    over = keys[_things] if len(keys) > _things else None
    whole = [name for name in names if over is None or name < over[0]]
    rows: list[DeleteRow] = [FailoverDeleted(look.shard, "", name) for name in whole]
    if not rows:
        event, subject, part, chunk = keys[_things - 1]
        rows = [AffectedDeleted(look.shard, "", event, Subject(subject), part, chunk)]
    return Found(rows, look.place)


def find_audit(reader: Reader, look: Look) -> Found:
    """Find entries of the audit log that are old."""
    found = reader.audit_before(look.before_us, _things)
    return _all_of([AuditDeleted(look.shard, "", name) for name in found], look)


def find_strategy_changes(reader: Reader, look: Look) -> Found:
    """Find old entries of the history of the cluster's strategy; what is in force stands elsewhere."""
    found = reader.strategy_changes_before(look.before_us, _things)
    return _all_of([StrategyChangeDeleted(look.shard, "", at_us) for at_us in found], look)


def find_results(reader: Reader, look: Look) -> Found:
    """Find outputs of the result cache whose time is over, whatever RETENTION_DAYS is."""
    found = reader.expired_results(look.shard, look.now_us, _things)
    return _all_of([ResultDropped(look.shard, "", key, at_us) for key, at_us in found], look)


def _all_of(rows: Sequence[DeleteRow], look: Look) -> Found:
    return Found(rows, look.place if len(rows) == _things else None)


all_sweeps: Final = (
    Sweep("workflows", WorkflowDeleted, find_workflows, everywhere=True),
    Sweep("plans", PlanDeleted, find_plans, everywhere=True),
    Sweep("results", ResultDropped, find_results, everywhere=True),
    Sweep("failovers", FailoverDeleted, find_failovers),
    Sweep("audit_entries", AuditDeleted, find_audit),
    Sweep("strategy_changes", StrategyChangeDeleted, find_strategy_changes),
)
