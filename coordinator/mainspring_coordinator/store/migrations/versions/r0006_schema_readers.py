"""Make a place for the oldest revision whose builds can use the schema; `schema.upgrade` writes it.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    """Make what is not there yet."""
    if sa.inspect(op.get_bind()).has_table("schema_readers"):
        return
    ascii_text = sa.String(16).with_variant(sa.String(16, collation="ascii_bin"), "mysql", "mariadb")
    op.create_table("schema_readers", sa.Column("readable_from", ascii_text, primary_key=True), **_options)
