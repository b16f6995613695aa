"""Drop the table of incarnations that were given up: a worker that comes back is like any other."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Drop it where it is."""
    if "lost_incarnations" in sa.inspect(op.get_bind()).get_table_names():
        op.drop_table("lost_incarnations")
