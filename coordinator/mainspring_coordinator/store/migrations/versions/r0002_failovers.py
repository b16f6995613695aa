"""Make the record of failovers, and a place in the fence rows for the deaths that are not in it yet.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

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


def _blob() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), *_server)


def _tiny() -> sa.types.TypeEngine[int]:
    return sa.SmallInteger().with_variant(mysql.TINYINT(), *_server)


def _key(name: str, kind: sa.types.TypeEngine[Any] | type[sa.Integer] = sa.Integer) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _filled(name: str, kind: sa.types.TypeEngine[Any] | type[sa.Integer]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _number(name: str, kind: sa.types.TypeEngine[int] | type[sa.BigInteger] = sa.BigInteger) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Make what is not there yet."""
    found = sa.inspect(op.get_bind())
    if "deaths" not in {column["name"] for column in found.get_columns("shards")}:
        op.add_column("shards", sa.Column("deaths", _unicode(4_000), nullable=False, server_default=sa.text("''")))
    there = set(found.get_table_names())
    for name, columns in _tables().items():
        if name not in there:
            op.create_table(name, *columns, **_options)


def _tables() -> dict[str, list[sa.schema.SchemaItem]]:
    return {
        "failover_events": [
            _key("event_id", _ascii(32)),
            _filled("kind", _tiny()),
            _filled("failed_engine", _unicode(255)),
            _filled("failed_incarnation", _ascii(32)),
            _filled("takeover_engine", _unicode(255)),
            _filled("takeover_incarnation", _ascii(32)),
            _number("detected_at_us"),
            _number("settles_at_us"),
            _number("stage", _tiny()),
            _number("announced_at_us"),
            _number("alerted_at_us"),
            sa.Index("failover_events_detected", "detected_at_us", "event_id"),
            sa.Index("failover_events_stage", "stage", "detected_at_us", "event_id"),
        ],
        "failover_affected": [
            _key("event_id", _ascii(32)),
            _key("subject", _tiny()),
            _key("shard_id"),
            _key("chunk"),
            _filled("ids_count", sa.Integer),
            _number("recorded_at_us"),
            _filled("ids", _blob()),
        ],
    }
