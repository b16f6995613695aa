"""The revisions of the schema, run by Alembic from `store.schema`."""
