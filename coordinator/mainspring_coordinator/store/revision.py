"""The schema's revision: which one this build needs, and which one a database has.

An upgrade of the software begins with the schema, while coordinators of the version before run on it, and may be started again on it. So a
revision only adds; the database says itself from which revision on a build can use it.

Apart from `schema`, so that a coordinator that starts on a database in order need not load Alembic.
"""

from typing import Final

import structlog
from sqlalchemy import Connection, Engine, func, inspect, select
from sqlalchemy.sql import column, table

from mainspring.errors import SchemaError
from mainspring_coordinator.store import tables

_log: Final = structlog.get_logger(__name__)

revision_wanted: Final = "0011"
"""The revision that this build needs; a test holds it to the last of `migrations/versions`."""
readable_from: Final = "0005"
"""Builds that need this revision or a later one can use a schema at `revision_wanted`: that of the version before, as a rule."""
version_table: Final = "schema_revision"
"""Where Alembic keeps the revision."""


def revision_found(engine: Engine) -> str | None:
    """Return a database's revision, None when it has none yet."""
    versions = table(version_table, column("version_num"))
    with engine.connect() as connection:
        if not inspect(connection).has_table(version_table):
            return None
        return connection.execute(select(versions.c.version_num)).scalar_one_or_none()


def readable_since(connection: Connection) -> str | None:
    """Return the oldest revision whose builds can use a database's schema, None where it does not say."""
    if not inspect(connection).has_table(tables.schema_readers.name):
        return None
    found: str | None = connection.execute(select(func.max(tables.schema_readers.c.readable_from))).scalar_one()
    return found


def check_revision(engine: Engine, where: str) -> None:
    """Raise `SchemaError` when a database's revision is none that this build can use; `where` names it."""
    found = revision_found(engine)
    if found == revision_wanted:
        return
    if found is not None and found > revision_wanted:
        with engine.connect() as connection:
            oldest = readable_since(connection)
        if oldest is not None and oldest <= revision_wanted:
            _log.info("schema_is_newer", found=found, wanted=revision_wanted, action="this build can use it")
            return
        raise SchemaError(
            f"{where}: its schema is at revision {found}, newer than this build's {revision_wanted}, which cannot use it; install a "
            "newer mainspring"
        )
    has = f"is at revision {found}" if found else "has not been made"
    raise SchemaError(f"{where}: its schema {has}, this build needs {revision_wanted}; run: mainspring db upgrade")
