"""The small pool of connections for reads and for the schema. The journal and the lock never come from it."""

from collections.abc import Callable
from typing import Any, Final

import pymysql
from sqlalchemy import Engine, QueuePool, create_engine

from mainspring.limits import query_timeout_ms
from mainspring_coordinator.store import mysql_connection, sqlite_connection
from mainspring_coordinator.store.url import Address, FileAddress

_connections_max: Final = 2
"""With the journal's and the lock's a coordinator has four. Reads take a millisecond or two, and wait for each other in their threads."""
_pool_wait_s: Final = 10
_recycle_s: Final = 240


def open_engine(
    address: Address, *, socket_timeout_ms: int = query_timeout_ms, closed: Callable[[], bool] = lambda: False
) -> Engine:
    """Make an engine whose every statement is a transaction of its own; nothing is connected yet, nor any more once it is `closed`."""

    def connect() -> Any:
        if closed():
            raise pymysql.InterfaceError(0, "no connection is made any more")
        if isinstance(address, FileAddress):
            return sqlite_connection.connect(address)
        return mysql_connection.connect(address, autocommit=True, socket_timeout_ms=socket_timeout_ms)

    return create_engine(
        "sqlite+pysqlite://" if isinstance(address, FileAddress) else "mysql+pymysql://",
        creator=connect,
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=_connections_max,
        max_overflow=0,
        pool_timeout=_pool_wait_s,
        pool_pre_ping=True,
        pool_recycle=_recycle_s,
    )
