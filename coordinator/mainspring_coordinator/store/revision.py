"""The schema's revision: which one this build needs, and which one a database has.

Apart from `schema`, so that a coordinator that starts on a database in order need not load Alembic.
"""

from typing import Final

from sqlalchemy import Engine, inspect, select
from sqlalchemy.sql import column, table

from mainspring.errors import SchemaError

revision_wanted: Final = "0005"
"""The revision that this build needs; a test holds it to the last of `migrations/versions`."""
version_table: Final = "schema_revision"
"""Where Alembic keeps the revision."""


def revision_found(engine: Engine) -> str | None:
    """Return a database's revision, None when it has none yet."""
    versions = table(version_table, column("version_num"))
    with engine.connect() as connection:
        if not inspect(connection).has_table(version_table):
            return None
        return connection.execute(select(versions.c.version_num)).scalar_one_or_none()


def check_revision(engine: Engine, where: str) -> None:
    """Raise `SchemaError` when a database's revision is not the one that this build needs; `where` names it."""
    found = revision_found(engine)
    if found == revision_wanted:
        return
    if found is not None and found > revision_wanted:
        raise SchemaError(
            f"{where}: its schema is at revision {found}, newer than this build's {revision_wanted}; install a newer mainspring"
        )
    has = f"is at revision {found}" if found else "has not been made"
    raise SchemaError(f"{where}: its schema {has}, this build needs {revision_wanted}; run: mainspring db upgrade")
