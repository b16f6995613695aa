"""What an error of a driver means: the one place that knows their numbers.

A statement that failed leaves its transaction in different states (a deadlock rolls all of it back, a lock wait only the statement), so
that whoever catches one of these always rolls back, or drops the connection, before the next try.
"""

import sqlite3
import threading
from collections.abc import Mapping
from enum import Enum
from typing import Final

import pymysql
from sqlalchemy.exc import DBAPIError

from mainspring.errors import SchemaError, StoreError, StoreUnavailableError


class Trouble(Enum):
    """What to do about an error."""

    RETRY = "retry"
    """A deadlock, a lock wait, a snapshot conflict: roll back, and try again soon."""
    DISCONNECTED = "disconnected"
    """The connection is gone or in an unknown state: a commit under way is ambiguous."""
    UNAVAILABLE = "unavailable"
    """The server cannot serve now: read-only, full, too many connections, shutting down."""
    DATA = "data"
    """The rows themselves are refused, each time they come."""
    SCHEMA = "schema"
    """A table or a column is missing."""
    BUG = "bug"
    """Anything else: a statement that is wrong, a right that was not granted."""


_retry: Final = frozenset({1020, 1205, 1213, 3058, 3572})
_disconnected: Final = frozenset(
    {0, 1053, 1152, 1158, 1159, 1160, 1161, 1317, 1927, 1969, 2003, 2006, 2013, 2014, 2045, 2055, 3024, 4031}
)
_unavailable: Final = frozenset(
    {
        3,
        1021,
        1026,
        1030,
        1037,
        1040,
        1041,
        1047,
        1114,
        1129,
        1135,
        1180,
        1203,
        1226,
        1290,
        1598,
        1792,
        1836,
        2002,
        3100,
        3101,
        3169,
    }
)
_data: Final = frozenset(
    {
        1048,
        1062,
        1153,
        1216,
        1217,
        1264,
        1265,
        1292,
        1300,
        1301,
        1364,
        1366,
        1406,
        1451,
        1452,
        1690,
        3140,
        3819,
        3854,
        4025,
    }
)
_schema: Final = frozenset({1049, 1054, 1146})
_sqlite_retry: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_sqlite_unavailable: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
_sqlite_data: Final = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH})

_met: Final = dict.fromkeys(Trouble, 0)
_meeting: Final = threading.Lock()

driver_errors: Final = (pymysql.Error, sqlite3.Error, DBAPIError, OSError, UnicodeError, OverflowError)
"""All that a driver may raise; what is not here is a bug of ours."""


def trouble_of(error: BaseException) -> Trouble:
    """Return what to do about a driver's error."""
    if isinstance(error, DBAPIError):
        return trouble_of(error.orig) if error.orig is not None else Trouble.BUG
    if isinstance(error, (UnicodeError, OverflowError)):
        return Trouble.DATA
    if isinstance(error, pymysql.Error):
        return _of_mysql(error)
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    return Trouble.DISCONNECTED if isinstance(error, OSError) else Trouble.BUG


def _of_mysql(error: pymysql.Error) -> Trouble:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else -1
    for numbers, trouble in (
        (_retry, Trouble.RETRY),
        (_disconnected, Trouble.DISCONNECTED),
        (_unavailable, Trouble.UNAVAILABLE),
        (_data, Trouble.DATA),
        (_schema, Trouble.SCHEMA),
    ):
        if number in numbers:
            return trouble
    if isinstance(error, pymysql.err.DataError):
        return Trouble.DATA
    # "Packet sequence number wrong" and its like: the connection's state is unknown.
    return Trouble.DISCONNECTED if isinstance(error, pymysql.err.InternalError) and number < 0 else Trouble.BUG


def _of_sqlite(error: sqlite3.Error) -> Trouble:
    if isinstance(error, sqlite3.DataError):
        return Trouble.DATA
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF if hasattr(error, "sqlite_errorcode") else -1
    if code in _sqlite_retry:
        return Trouble.RETRY
    if code in _sqlite_unavailable:
        return Trouble.UNAVAILABLE
    if code in _sqlite_data:
        return Trouble.DATA
    if code == sqlite3.SQLITE_ERROR and "no such" in str(error):
        return Trouble.SCHEMA
    if code == sqlite3.SQLITE_INTERRUPT:
        return Trouble.DISCONNECTED
    # "Cannot operate on a closed database": closed from another thread.
    return (
        Trouble.DISCONNECTED if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error) else Trouble.BUG
    )


def message_of(error: BaseException) -> str:
    """Return a driver's own words, on one line and without the statement."""
    source = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    words = source.args[1] if isinstance(source, pymysql.Error) and len(source.args) > 1 else str(source)
    number = (
        f" ({source.args[0]})"
        if isinstance(source, pymysql.Error) and source.args and isinstance(source.args[0], int)
        else ""
    )
    return " ".join(str(words).split())[:500] + number


def met(trouble: Trouble) -> None:
    """Count an error of a driver, once each, where it is translated or something is tried again because of it."""
    with _meeting:
        _met[trouble] += 1


def errors_met() -> Mapping[Trouble, int]:
    """Return how many errors of each kind this process has met."""
    return dict(_met)


def translate(error: BaseException, where: str) -> StoreError:
    """Return the error that a caller of the store sees; `where` names the database without its password."""
    trouble = trouble_of(error)
    met(trouble)
    if trouble is Trouble.SCHEMA:
        return SchemaError(f"{where}: {message_of(error)}; run: mainspring db upgrade")
    if trouble is Trouble.BUG or trouble is Trouble.DATA:
        return StoreError(f"{where}: {message_of(error)}; see what is wrong with: mainspring db check")
    return StoreUnavailableError(f"{where}: {message_of(error)}")
