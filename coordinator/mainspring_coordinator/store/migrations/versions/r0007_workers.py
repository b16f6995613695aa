"""Make a place in the fence rows for the workers that operators evicted: every coordinator reads them with each look at its peers.

Written out, not taken from `store.tables`: a revision stays what it was while the tables go on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make what is not there yet."""
    if "evicted" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("shards")}:
        return
    ascii_text = sa.String(2112).with_variant(sa.String(2112, collation="ascii_bin"), "mysql", "mariadb")
    op.add_column("shards", sa.Column("evicted", ascii_text, nullable=False, server_default=sa.text("''")))
