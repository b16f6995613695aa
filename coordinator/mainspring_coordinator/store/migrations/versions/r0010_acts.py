"""Let a workflow say which one it runs again.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add what is not there yet."""
    if any(column["name"] == "rerun_of" for column in sa.inspect(op.get_bind()).get_columns("workflows")):
        return
    ascii_text = sa.String(200).with_variant(sa.String(200, collation="ascii_bin"), "mysql", "mariadb")
    op.add_column("workflows", sa.Column("rerun_of", ascii_text, nullable=False, server_default=sa.text("''")))
