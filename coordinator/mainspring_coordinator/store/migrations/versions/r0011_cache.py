"""Make a place for outputs that other nodes may take, by what they are of and the shard that stored them.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB

revision = "0011"
down_revision = "0010"

_server = ("mysql", "mariadb")
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    """Make what is not there yet."""
    if sa.inspect(op.get_bind()).has_table("result_cache"):
        return
    op.create_table(
        "result_cache",
        sa.Column("cache_key", sa.LargeBinary(32).with_variant(sa.BINARY(32), *_server), primary_key=True),
        sa.Column("shard_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("stored_at_us", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("expires_at_us", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("output", sa.LargeBinary().with_variant(LONGBLOB(), *_server), nullable=False),
        sa.Index("result_cache_expires", "shard_id", "expires_at_us"),
        **_options,
    )
