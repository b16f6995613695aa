"""Make what retention looks by: which workflows of a shard ended first, which are being deleted, and which use a definition.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0009"
down_revision = "0008"

_indexes: Final = {
    "workflows_ended": ("shard_id", "deleting", "ended_at_us", "workflow_id"),
    "workflows_plan": ("shard_id", "plan_hash"),
}


def upgrade() -> None:
    """Make what is not there yet."""
    found = sa.inspect(op.get_bind())
    if "deleting" not in {column["name"] for column in found.get_columns("workflows")}:
        tiny = sa.SmallInteger().with_variant(mysql.TINYINT(), "mysql", "mariadb")
        op.add_column("workflows", sa.Column("deleting", tiny, nullable=False, server_default=sa.text("0")))
    there = {index["name"] for index in found.get_indexes("workflows")}
    for name, columns in _indexes.items():
        if name not in there:
            op.create_index(name, "workflows", list(columns))
