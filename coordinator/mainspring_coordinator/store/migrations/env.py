"""Alembic's entrance: run the revisions on the connection that `store.schema` hands over."""

from alembic import context

from mainspring_coordinator.store.revision import version_table

context.configure(
    connection=context.config.attributes["connection"],
    version_table=version_table,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
