"""What is written, and how: a table, the columns that change, and what becomes of a row that is there or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

Value: TypeAlias = int | str | bytes | None


Values: TypeAlias = tuple[Any, ...]
"""One row to be written, as its shape's columns; `Any` because each column has a type of its own."""


class Mode(Enum):
    """What a write does about a row that is there, or is not."""

    INSERT = "insert"
    """It is not there."""
    INSERT_ONCE = "insert once"
    """If it is there, nothing changes."""
    UPSERT = "upsert"
    """It is made if it is not there."""
    UPDATE = "update"
    """It is there; if not, that is a bug."""
    UPDATE_IF_THERE = "update if there"
    """If it is not there, nothing happens."""
    DELETE = "delete"
    """It goes, if it is there; with a part of the primary key, all rows that begin so go."""
    DELETE_UP_TO = "delete up to"
    """All rows go that have the first of these keys, and of which the others are, in order, at most these."""
    DELETE_UNUSED = "delete unused"
    """A plan goes, unless a workflow of its shard uses it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which columns of a table are written, and how."""

    table: str
    mode: Mode
    keys: tuple[str, ...]
    """The primary key, first in every row."""
    columns: tuple[str, ...]
    """The columns beside the key."""
    resets: tuple[str, ...] = ()
    """Columns that a row that is there gets their default for; a new row has it anyway."""


@dataclass(frozen=True, slots=True)
class TableWrite:
    """Rows of one shape, sorted by primary key."""

    shape: Shape
    rows: Sequence[Values]


node_keys: Final = ("workflow_id", "node", "instance")


inserted_columns: Final = (
    "shard_id",
    "digest",
    "name",
    "plan_hash",
    "status",
    "is_open",
    "version",
    "submitted_at_us",
    "deadline_at_us",
    "ended_at_us",
    "closing_until_us",
    "strategy",
    "cancel_reason",
    "failure",
    "input",
    "output",
    "rerun_of",
)


updated_columns: Final = (
    "version",
    "status",
    "is_open",
    "cancel_reason",
    "failure",
    "output",
    "ended_at_us",
    "closing_until_us",
)


assigned_columns: Final = (
    "version",
    "status",
    "attempt",
    "assignment",
    "worker",
    "incarnation",
    "started_at_us",
    "redeliveries",
)


assigned_resets: Final = ("ended_at_us", "run_us", "retry_at_us", "failure", "output")


changed_columns: Final = (
    "version",
    "status",
    "attempt",
    "output",
    "failure",
    "ended_at_us",
    "run_us",
    "retry_at_us",
    "redeliveries",
)


expanded_columns: Final = ("version", "status", "width", "started_at_us")


plan_shape: Final = Shape("plan_chunks", Mode.INSERT_ONCE, ("shard_id", "plan_hash", "chunk"), ("data",))


inserted_shape: Final = Shape("workflows", Mode.INSERT, ("workflow_id",), inserted_columns)


updated_shape: Final = Shape("workflows", Mode.UPDATE, ("workflow_id",), updated_columns)


assigned_shape: Final = Shape("nodes", Mode.UPSERT, node_keys, assigned_columns, assigned_resets)


changed_shape: Final = Shape("nodes", Mode.UPSERT, node_keys, changed_columns)


copied_columns: Final = (
    "status",
    "attempt",
    "worker",
    "incarnation",
    "started_at_us",
    "ended_at_us",
    "run_us",
    "width",
    "failure",
    "output",
)
"""What a copy of a node's row has of it, beside its key; the rest has its default."""


attempt_shape: Final = Shape(
    "attempts",
    Mode.INSERT_ONCE,
    (*node_keys, "attempt"),
    ("worker", "started_at_us", "ended_at_us", "run_us", "failure"),
)


failover_shape: Final = Shape(
    "failover_events",
    Mode.INSERT_ONCE,
    ("event_id",),
    (
        "kind",
        "failed_engine",
        "failed_incarnation",
        "takeover_engine",
        "takeover_incarnation",
        "detected_at_us",
        "settles_at_us",
    ),
)


affected_shape: Final = Shape(
    "failover_affected",
    Mode.INSERT_ONCE,
    ("event_id", "subject", "shard_id", "chunk"),
    ("ids_count", "recorded_at_us", "ids"),
)


marked_shape: Final = Shape(
    "failover_events", Mode.UPDATE_IF_THERE, ("event_id",), ("stage", "announced_at_us", "alerted_at_us")
)


strategy_shape: Final = Shape("shards", Mode.UPDATE_IF_THERE, ("shard_id",), ("strategy",))


evicted_shape: Final = Shape("shards", Mode.UPDATE_IF_THERE, ("shard_id",), ("evicted",))


strategy_change_shape: Final = Shape(
    "strategy_changes",
    Mode.INSERT_ONCE,
    ("changed_at_us",),
    ("strategy_before", "strategy_after", "changed_by", "reason"),
)


audit_shape: Final = Shape(
    "audit",
    Mode.INSERT_ONCE,
    ("entry_id",),
    ("began_at_us", "ended_at_us", "act", "subject", "reason", "who", "coordinator", "outcome"),
)


audit_outcome_shape: Final = Shape("audit", Mode.UPDATE_IF_THERE, ("entry_id",), ("ended_at_us", "outcome"))


deaths_shape: Final = Shape("shards", Mode.UPDATE_IF_THERE, ("shard_id",), ("deaths",))


grace_shape: Final = Shape("shards", Mode.UPDATE_IF_THERE, ("shard_id",), ("grace_until_us",))


permits_shape: Final = Shape(
    "permits", Mode.UPSERT, ("shard_id", "concurrency_key", "holder"), ("epoch", "permits_count")
)


pauses_shape: Final = Shape("shards", Mode.UPDATE_IF_THERE, ("shard_id",), ("pauses",))


paused_shape: Final = Shape("workflow_pauses", Mode.UPSERT, ("workflow_id",), ("paused_at_us", "paused_by", "reason"))


goes_on_shape: Final = Shape("workflow_pauses", Mode.DELETE, paused_shape.keys, ())


no_permits_shape: Final = Shape("permits", Mode.DELETE, permits_shape.keys, ())


result_shape: Final = Shape(
    "result_cache", Mode.UPSERT, ("cache_key", "shard_id"), ("stored_at_us", "expires_at_us", "output")
)


no_result_shape: Final = Shape("result_cache", Mode.DELETE, (*result_shape.keys, "expires_at_us"), ())
