"""Make the first tables.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_server = ("mysql", "mariadb")
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def _ascii(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="ascii_bin"), *_server)


def _unicode(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="utf8mb4_bin"), *_server)


def _binary(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(sa.BINARY(length), *_server)


def _blob() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), *_server)


def _tiny() -> sa.types.TypeEngine[int]:
    return sa.SmallInteger().with_variant(mysql.TINYINT(), *_server)


def _key(name: str, kind: sa.types.TypeEngine[Any] | type[sa.Integer] = sa.Integer) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _number(name: str, kind: type[sa.Integer] = sa.BigInteger) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False, server_default=sa.text("0"))


def _with_default(name: str, kind: sa.types.TypeEngine[Any], default: str = "''") -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, server_default=sa.text(default))


def upgrade() -> None:
    """Make what is not there yet."""
    there = set(sa.inspect(op.get_bind()).get_table_names())
    for name, columns in _tables().items():
        if name not in there:
            op.create_table(name, *columns, **_options)


def _tables() -> dict[str, list[sa.schema.SchemaItem]]:
    return {
        "cluster": [
            _key("id"),
            sa.Column("name", _unicode(64), nullable=False),
            sa.Column("shards_total", sa.Integer, nullable=False),
        ],
        "shards": [
            _key("shard_id"),
            _number("epoch"),
            sa.Column("holder", _ascii(32)),
            _number("batch_seq"),
            sa.Column("last_batch_id", _binary(16)),
            _number("grace_until_us"),
        ],
        "coordinators": [
            _key("incarnation", _ascii(32)),
            sa.Column("name", _unicode(255), nullable=False),
            sa.Column("grpc_address", _unicode(255), nullable=False),
            sa.Column("http_address", _unicode(255), nullable=False),
            _number("renew_seq"),
            _number("attached_workers"),
            _number("lock_connection"),
            sa.Column("lock_peer", _unicode(255), nullable=False),
            _number("writer_connection"),
            sa.Column("writer_peer", _unicode(255), nullable=False),
            _number("started_at_us"),
        ],
        "plan_chunks": [
            _key("shard_id"),
            _key("plan_hash", _binary(32)),
            _key("chunk"),
            sa.Column("data", _blob(), nullable=False),
        ],
        "workflows": _workflows(),
        "nodes": _nodes(),
        "attempts": [
            _key("workflow_id", _ascii(200)),
            _key("node"),
            _key("instance"),
            _key("attempt"),
            sa.Column("worker", _unicode(255), nullable=False),
            _number("started_at_us"),
            _number("ended_at_us"),
            _number("run_us"),
            sa.Column("failure", _blob(), nullable=False),
        ],
        "lost_incarnations": [
            _key("shard_id"),
            _key("incarnation", _ascii(32)),
            sa.Column("worker", _unicode(255), nullable=False),
            _number("lost_at_us"),
        ],
    }


def _workflows() -> list[sa.schema.SchemaItem]:
    return [
        _key("workflow_id", _ascii(200)),
        _number("shard_id", sa.Integer),
        _with_default("digest", _binary(32)),
        _with_default("name", _unicode(128)),
        _with_default("plan_hash", _binary(32)),
        _with_default("status", _tiny(), "0"),
        _with_default("is_open", _tiny(), "0"),
        _number("version"),
        _number("submitted_at_us"),
        _number("deadline_at_us"),
        _number("ended_at_us"),
        _number("closing_until_us"),
        _with_default("strategy", _unicode(64)),
        _with_default("cancel_reason", _unicode(1024)),
        sa.Column("failure", _blob()),
        sa.Column("input", _blob()),
        sa.Column("output", _blob()),
        sa.Index("workflows_open", "shard_id", "is_open", "workflow_id"),
        sa.Index("workflows_submitted", "submitted_at_us", "workflow_id"),
    ]


def _nodes() -> list[sa.schema.SchemaItem]:
    return [
        _key("workflow_id", _ascii(200)),
        _key("node"),
        _key("instance"),
        _with_default("status", _tiny(), "0"),
        _number("attempt", sa.Integer),
        _number("version"),
        _number("assignment"),
        _with_default("worker", _unicode(255)),
        _with_default("incarnation", _ascii(32)),
        _number("started_at_us"),
        _number("ended_at_us"),
        _number("run_us"),
        _number("retry_at_us"),
        _number("width", sa.Integer),
        _number("redeliveries", sa.Integer),
        sa.Column("failure", _blob()),
        sa.Column("output", _blob()),
        sa.Column("progress", _blob()),
    ]
