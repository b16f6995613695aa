"""The tables.

InnoDB, utf8mb4. Ids compare byte by byte, payloads are opaque bytes, times are microseconds in database time, states are the numbers
of `engine.status`. `migrations/` makes them; a test compares both.
"""

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table, text
from sqlalchemy.dialects.mysql import LONGBLOB, TINYINT
from sqlalchemy.types import BINARY, VARBINARY, TypeEngine

from mainspring.limits import (
    audit_subject_bytes_max,
    concurrency_key_bytes_max,
    deaths_noted_chars_max,
    evictions_a_shard_max,
)

metadata: Final = MetaData()
"""All tables of Mainspring except Alembic's own."""

_on_server: Final = ("mysql", "mariadb")


def ascii_text(length: int) -> TypeEngine[str]:
    """Return the type of ids: compared byte by byte."""
    return String(length).with_variant(String(length, collation="ascii_bin"), *_on_server)


def unicode_text(length: int) -> TypeEngine[str]:
    """Return the type of names and reasons that people write."""
    return String(length).with_variant(String(length, collation="utf8mb4_bin"), *_on_server)


def blob() -> TypeEngine[bytes]:
    """Return the type of payloads."""
    return LargeBinary().with_variant(LONGBLOB(), *_on_server)


def digest() -> TypeEngine[bytes]:
    """Return the type of SHA-256 digests."""
    return LargeBinary(32).with_variant(BINARY(32), *_on_server)


def status() -> TypeEngine[int]:
    """Return the type of states."""
    return SmallInteger().with_variant(TINYINT(), *_on_server)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


_options: Final[dict[str, Any]] = {
    f"{dialect}_{key}": value for dialect in _on_server for key, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}

cluster: Final = Table(
    "cluster",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", unicode_text(64), nullable=False),
    Column("shards_total", Integer, nullable=False),
    **_options,
)

# One row: the oldest revision whose builds can use this schema.
schema_readers: Final = Table(
    "schema_readers",
    metadata,
    Column("readable_from", ascii_text(16), primary_key=True),
    **_options,
)

shards: Final = Table(
    "shards",
    metadata,
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    _number("epoch"),
    Column("holder", ascii_text(32)),
    _number("batch_seq"),
    Column("last_batch_id", LargeBinary(16).with_variant(BINARY(16), *_on_server)),
    _number("grace_until_us"),
    Column("deaths", unicode_text(deaths_noted_chars_max), nullable=False, server_default=text("''")),
    Column("strategy", ascii_text(128), nullable=False, server_default=text("''")),
    Column("evicted", ascii_text(33 * evictions_a_shard_max), nullable=False, server_default=text("''")),
    Column("pauses", blob()),
    **_options,
)

coordinators: Final = Table(
    "coordinators",
    metadata,
    Column("incarnation", ascii_text(32), primary_key=True),
    Column("name", unicode_text(255), nullable=False),
    Column("grpc_address", unicode_text(255), nullable=False),
    Column("http_address", unicode_text(255), nullable=False),
    _number("renew_seq"),
    _number("attached_workers"),
    _number("lock_connection"),
    Column("lock_peer", unicode_text(255), nullable=False),
    _number("writer_connection"),
    Column("writer_peer", unicode_text(255), nullable=False),
    _number("started_at_us"),
    Column("strategy", ascii_text(64), nullable=False, server_default=text("''")),
    _number("attempts_ended"),
    _number("attempts_failed"),
    **_options,
)

plan_chunks: Final = Table(
    "plan_chunks",
    metadata,
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column("plan_hash", digest(), primary_key=True),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    Column("data", blob(), nullable=False),
    **_options,
)

workflows: Final = Table(
    "workflows",
    metadata,
    Column("workflow_id", ascii_text(200), primary_key=True),
    Column("shard_id", Integer, nullable=False, server_default=text("0")),
    Column("digest", digest(), nullable=False, server_default=text("''")),
    Column("name", unicode_text(128), nullable=False, server_default=text("''")),
    Column("plan_hash", digest(), nullable=False, server_default=text("''")),
    Column("status", status(), nullable=False, server_default=text("0")),
    Column("is_open", status(), nullable=False, server_default=text("0")),
    _number("version"),
    _number("submitted_at_us"),
    _number("deadline_at_us"),
    _number("ended_at_us"),
    _number("closing_until_us"),
    Column("strategy", unicode_text(64), nullable=False, server_default=text("''")),
    Column("cancel_reason", unicode_text(1024), nullable=False, server_default=text("''")),
    Column("failure", blob()),
    Column("input", blob()),
    Column("output", blob()),
    # 1 once it is being deleted, in several transactions.
    Column("deleting", status(), nullable=False, server_default=text("0")),
    Column("rerun_of", ascii_text(200), nullable=False, server_default=text("''")),
    Index("workflows_open", "shard_id", "is_open", "submitted_at_us", "workflow_id"),
    Index("workflows_submitted", "submitted_at_us", "workflow_id"),
    Index("workflows_ended", "shard_id", "deleting", "ended_at_us", "workflow_id"),
    Index("workflows_plan", "shard_id", "plan_hash"),
    **_options,
)

nodes: Final = Table(
    "nodes",
    metadata,
    Column("workflow_id", ascii_text(200), primary_key=True),
    Column("node", Integer, primary_key=True, autoincrement=False),
    Column("instance", Integer, primary_key=True, autoincrement=False),
    Column("status", status(), nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    _number("version"),
    _number("assignment"),
    Column("worker", unicode_text(255), nullable=False, server_default=text("''")),
    Column("incarnation", ascii_text(32), nullable=False, server_default=text("''")),
    _number("started_at_us"),
    _number("ended_at_us"),
    _number("run_us"),
    _number("retry_at_us"),
    Column("width", Integer, nullable=False, server_default=text("0")),
    Column("redeliveries", Integer, nullable=False, server_default=text("0")),
    Column("failure", blob()),
    Column("output", blob()),
    Column("progress", blob()),
    **_options,
)

attempts: Final = Table(
    "attempts",
    metadata,
    Column("workflow_id", ascii_text(200), primary_key=True),
    Column("node", Integer, primary_key=True, autoincrement=False),
    Column("instance", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("worker", unicode_text(255), nullable=False),
    _number("started_at_us"),
    _number("ended_at_us"),
    _number("run_us"),
    Column("failure", blob(), nullable=False),
    **_options,
)

# Neither read nor written: coordinators of the version before, which may still run beside ours, do both. The next version drops it.
lost_incarnations: Final = Table(
    "lost_incarnations",
    metadata,
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column("incarnation", ascii_text(32), primary_key=True),
    Column("worker", unicode_text(255), nullable=False),
    _number("lost_at_us"),
    **_options,
)

failover_events: Final = Table(
    "failover_events",
    metadata,
    Column("event_id", ascii_text(32), primary_key=True),
    Column("kind", status(), nullable=False),
    Column("failed_engine", unicode_text(255), nullable=False),
    Column("failed_incarnation", ascii_text(32), nullable=False),
    Column("takeover_engine", unicode_text(255), nullable=False),
    Column("takeover_incarnation", ascii_text(32), nullable=False),
    _number("detected_at_us"),
    _number("settles_at_us"),
    Column("stage", status(), nullable=False, server_default=text("0")),
    _number("announced_at_us"),
    _number("alerted_at_us"),
    Index("failover_events_detected", "detected_at_us", "event_id"),
    Index("failover_events_stage", "stage", "detected_at_us", "event_id"),
    **_options,
)

failover_affected: Final = Table(
    "failover_affected",
    metadata,
    Column("event_id", ascii_text(32), primary_key=True),
    Column("subject", status(), primary_key=True, autoincrement=False),
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    Column("ids_count", Integer, nullable=False),
    _number("recorded_at_us"),
    Column("ids", blob(), nullable=False),
    **_options,
)

strategy_changes: Final = Table(
    "strategy_changes",
    metadata,
    Column("changed_at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("strategy_before", ascii_text(64), nullable=False),
    Column("strategy_after", ascii_text(64), nullable=False),
    Column("changed_by", unicode_text(255), nullable=False),
    Column("reason", unicode_text(1024), nullable=False),
    **_options,
)

audit: Final = Table(
    "audit",
    metadata,
    Column("entry_id", ascii_text(32), primary_key=True),
    _number("began_at_us"),
    _number("ended_at_us"),
    Column("act", ascii_text(64), nullable=False),
    Column("subject", unicode_text(audit_subject_bytes_max), nullable=False),
    Column("reason", unicode_text(1024), nullable=False),
    Column("who", unicode_text(255), nullable=False),
    Column("coordinator", unicode_text(255), nullable=False),
    Column("outcome", unicode_text(1024), nullable=False),
    Index("audit_began", "began_at_us", "entry_id"),
    **_options,
)

# Beside the workflows, because hardly any is paused: nothing is written for the others, and those that are can be found.
workflow_pauses: Final = Table(
    "workflow_pauses",
    metadata,
    Column("workflow_id", ascii_text(200), primary_key=True),
    _number("paused_at_us"),
    Column("paused_by", unicode_text(255), nullable=False),
    Column("reason", unicode_text(1024), nullable=False),
    Index("workflow_pauses_time", "paused_at_us", "workflow_id"),
    **_options,
)

# Keys as bytes: they are text that people write, and as text "a" and "a " would be one key.
permits: Final = Table(
    "permits",
    metadata,
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column(
        "concurrency_key",
        LargeBinary(concurrency_key_bytes_max).with_variant(VARBINARY(concurrency_key_bytes_max), *_on_server),
        primary_key=True,
    ),
    Column("holder", Integer, primary_key=True, autoincrement=False),
    _number("epoch"),
    Column("permits_count", Integer, nullable=False),
    **_options,
)


# A row a shard, so that no two coordinators ever write the same one and wait for each other.
result_cache: Final = Table(
    "result_cache",
    metadata,
    Column("cache_key", digest(), primary_key=True),
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    _number("stored_at_us"),
    _number("expires_at_us"),
    Column("output", blob(), nullable=False),
    Index("result_cache_expires", "shard_id", "expires_at_us"),
    **_options,
)


def columns_of(table: Table) -> str:
    """Return the names of a table's columns as this build knows them, for statements written by hand; the database may have more."""
    return ",".join(column.name for column in table.columns)
