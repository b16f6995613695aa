"""Make a place for the permits of concurrency keys, by home, key and the shard that has them.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_server = ("mysql", "mariadb")
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    """Make what is not there yet."""
    if sa.inspect(op.get_bind()).has_table("permits"):
        return
    op.create_table(
        "permits",
        sa.Column("shard_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("concurrency_key", sa.LargeBinary(128).with_variant(sa.VARBINARY(128), *_server), primary_key=True),
        sa.Column("holder", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("permits_count", sa.Integer, nullable=False),
        **_options,
    )
