"""Make places for what is paused: in the fence row of shard 0, and beside the workflows.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB

revision = "0008"
down_revision = "0007"

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


def upgrade() -> None:
    """Make what is not there yet."""
    found = sa.inspect(op.get_bind())
    if "pauses" not in {column["name"] for column in found.get_columns("shards")}:
        op.add_column("shards", sa.Column("pauses", sa.LargeBinary().with_variant(LONGBLOB(), *_server)))
    if not found.has_table("workflow_pauses"):
        op.create_table(
            "workflow_pauses",
            sa.Column("workflow_id", _ascii(200), primary_key=True),
            sa.Column("paused_at_us", sa.BigInteger, nullable=False, server_default=sa.text("0")),
            sa.Column("paused_by", _unicode(255), nullable=False),
            sa.Column("reason", _unicode(1024), nullable=False),
            sa.Index("workflow_pauses_time", "paused_at_us", "workflow_id"),
            **_options,
        )
