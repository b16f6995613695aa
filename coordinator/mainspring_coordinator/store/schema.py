"""How a database gets to the schema's revision that this build needs.

The revisions themselves are Alembic's, in `migrations/`. Each is one idempotent step that looks before it makes, because MySQL does not
undo a step that failed half-way. On a server, one upgrade at a time: a lock of its own keeps others waiting, bounded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, delete, insert, text
from sqlalchemy.exc import SQLAlchemyError

from mainspring.errors import StoreUnavailableError
from mainspring_coordinator.store import tables
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.errors import driver_errors, translate
from mainspring_coordinator.store.mysql_lock import lock_prefix
from mainspring_coordinator.store.revision import (
    check_revision,
    readable_from,
    readable_since,
    revision_found,
    revision_wanted,
)
from mainspring_coordinator.store.url import ServerAddress, parse_url

_lock_wait_s: Final = 30


def upgrade(url: str) -> tuple[str | None, str]:
    """Bring a database to the revision that this build needs; return the revisions before and after.

    One at a later revision stays as it is if this build can use it, and is a `SchemaError` otherwise.
    """
    address = parse_url(url)
    engine = open_engine(address)
    try:
        before = revision_found(engine)
        if before is not None and before > revision_wanted:
            check_revision(engine, str(address))
            return before, before
        with (
            engine.connect() as connection,
            _alone(connection, address.database if isinstance(address, ServerAddress) else ""),
        ):
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, revision_wanted)
            _say_who_can_read(connection)
    except (SQLAlchemyError, *driver_errors) as error:
        raise translate(error, str(address)) from error
    finally:
        engine.dispose()
    return before, revision_wanted


def _say_who_can_read(connection: Connection) -> None:
    # In this order, so that there is always a row; of two the higher one counts.
    if readable_since(connection) != readable_from:
        connection.execute(insert(tables.schema_readers).values(readable_from=readable_from))
        connection.execute(delete(tables.schema_readers).where(tables.schema_readers.c.readable_from != readable_from))


@contextmanager
def _alone(connection: Connection, database: str) -> Iterator[None]:
    if not database:
        # SQLite: one process owns the file.
        yield
        return
    name = f"{lock_prefix(database, '')}upgrade"
    if connection.execute(text("SELECT GET_LOCK(:name,:wait)"), {"name": name, "wait": _lock_wait_s}).scalar() != 1:
        raise StoreUnavailableError(
            f"another upgrade of {database!r} has been running for {_lock_wait_s} s; wait for its end and try again"
        )
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})
