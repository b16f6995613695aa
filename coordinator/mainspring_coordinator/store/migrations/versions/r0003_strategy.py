"""Make places for the strategy of the whole cluster and for what `dynamic` must know; find what is open in the order of its submits.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

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


def _name(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, _ascii(length), nullable=False, server_default=sa.text("''"))


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Make what is not there yet."""
    _add("shards", _name("strategy", 128))
    _add("coordinators", _name("strategy", 64), _number("attempts_ended"), _number("attempts_failed"))
    if not sa.inspect(op.get_bind()).has_table("strategy_changes"):
        op.create_table(
            "strategy_changes",
            sa.Column("changed_at_us", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("strategy_before", _ascii(64), nullable=False),
            sa.Column("strategy_after", _ascii(64), nullable=False),
            sa.Column("changed_by", _unicode(255), nullable=False),
            sa.Column("reason", _unicode(1024), nullable=False),
            **_options,
        )
    name, columns = "workflows_open", ["shard_id", "is_open", "submitted_at_us", "workflow_id"]
    there = {one["name"]: one["column_names"] for one in sa.inspect(op.get_bind()).get_indexes("workflows")}
    if there.get(name) != columns:
        if name in there:
            op.drop_index(name, "workflows")
        op.create_index(name, "workflows", columns)


def _add(table: str, *columns: sa.Column[Any]) -> None:
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    for column in columns:
        if column.name not in there:
            op.add_column(table, column)
