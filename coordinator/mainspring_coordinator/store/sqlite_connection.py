"""How every connection to a SQLite file is made: WAL, each commit flushed, no implicit transactions, bounded waits."""

import sqlite3

from mainspring.limits import connect_timeout_ms
from mainspring_coordinator.store.url import FileAddress

now_us_sql = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000"
"""Database time, to the millisecond."""


def connect(address: FileAddress) -> sqlite3.Connection:
    """Open a connection for one thread at a time; the file and its folder are made if they are not there."""
    address.path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        address.path, timeout=connect_timeout_ms / 1000, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection
