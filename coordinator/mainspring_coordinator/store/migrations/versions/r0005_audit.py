"""Make a place for what operators do: who did what to what, why, and what came of it.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_server = ("mysql", "mariadb")
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def _ascii(length: int) -> Any:
    return sa.String(length).with_variant(sa.String(length, collation="ascii_bin"), *_server)


def _text(length: int) -> Any:
    return sa.String(length).with_variant(sa.String(length, collation="utf8mb4_bin"), *_server)


def _number(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Make what is not there yet."""
    if sa.inspect(op.get_bind()).has_table("audit"):
        return
    op.create_table(
        "audit",
        sa.Column("entry_id", _ascii(32), primary_key=True),
        _number("began_at_us"),
        _number("ended_at_us"),
        sa.Column("act", _ascii(64), nullable=False),
        sa.Column("subject", _text(512), nullable=False),
        sa.Column("reason", _text(1024), nullable=False),
        sa.Column("who", _text(255), nullable=False),
        sa.Column("coordinator", _text(255), nullable=False),
        sa.Column("outcome", _text(1024), nullable=False),
        sa.Index("audit_began", "began_at_us", "entry_id"),
        **_options,
    )
