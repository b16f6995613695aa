"""How every connection to MySQL and MariaDB is made, and how one is told from another and ended.

No connection waits without a bound, and every session sets what the safety of our statements rests on: READ COMMITTED, strict mode,
utf8mb4, short lock waits, and no bound on the rows of a read but its own.
"""

import contextlib
import socket
from typing import Any, Final

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT

from mainspring.limits import connect_timeout_ms, lock_wait_timeout_s, query_timeout_ms
from mainspring_coordinator.store.protocol import ConnectionId
from mainspring_coordinator.store.url import ServerAddress

_no_such_thread: Final = 1094
_cannot_convert: Final = 3854
_looks_max: Final = 5
_all_rows: Final = 2**64 - 1
"""The server's own default; `DEFAULT` would be what is set globally."""
now_us_sql: Final = "TIMESTAMPDIFF(MICROSECOND,'1970-01-01 00:00:00',UTC_TIMESTAMP(6))"
"""Database time; independent of the session's time zone."""


def connect(
    address: ServerAddress,
    *,
    autocommit: bool,
    socket_timeout_ms: int = query_timeout_ms,
    row_lock_wait_s: int = lock_wait_timeout_s,
    wait_timeout_s: int | None = None,
    many_statements: bool = False,
) -> "Connection[Any]":
    """Open a connection.

    `wait_timeout_s`: after how long without a statement the server ends it. `many_statements`: whether a message may hold several,
    which only a connection may whose statements are made of literals that `sql_words` escapes.
    """
    tls: dict[str, Any] = {"ssl_disabled": True} if not address.ssl else {}
    if address.ssl and address.ssl_ca:
        tls = {"ssl_ca": address.ssl_ca, "ssl_verify_cert": True, "ssl_verify_identity": address.ssl_verify_identity}
    if address.ssl and address.ssl_cert:
        tls |= {"ssl_cert": address.ssl_cert, "ssl_key": address.ssl_key or address.ssl_cert}
    connection: Connection[Any] = pymysql.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        # As bytes: the driver would encode text as latin1 and fail on any other character.
        password=address.password.encode(),
        database=address.database,
        unix_socket=address.unix_socket or None,
        charset="utf8mb4",
        connect_timeout=connect_timeout_ms / 1000,
        read_timeout=socket_timeout_ms / 1000,
        write_timeout=socket_timeout_ms / 1000,
        sql_mode="STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
        autocommit=autocommit,
        local_infile=False,
        program_name="mainspring",
        client_flag=CLIENT.MULTI_STATEMENTS if many_statements else 0,
        **tls,
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            waits = (
                f"innodb_lock_wait_timeout={int(row_lock_wait_s)},SESSION lock_wait_timeout={int(lock_wait_timeout_s)}"
            )
            idle = f",SESSION wait_timeout={int(wait_timeout_s)}" if wait_timeout_s is not None else ""
            cursor.execute(f"SET SESSION {waits}{idle},SESSION sql_select_limit={_all_rows}")
    except BaseException:
        abort(connection)
        raise
    return connection


def identity(connection: "Connection[Any]") -> ConnectionId:
    """Return a connection's number and its peer as the server sees it."""
    number = int(connection.thread_id())  # type: ignore[no-untyped-call]  # not in the stubs
    return ConnectionId(number, _peers(connection).get(number, ""))


def kill(connection: "Connection[Any]", other: ConnectionId) -> bool:
    """End another connection, if it is still the one that is meant: numbers begin again when the server restarts."""
    if _peers(connection).get(other.id) != other.peer:
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"KILL {int(other.id)}")
    except pymysql.MySQLError as error:
        if error.args and error.args[0] == _no_such_thread:
            return False
        raise
    return True


def _peers(connection: "Connection[Any]") -> dict[int, str]:
    """Return the peers of all connections of our user, by number."""
    with connection.cursor() as cursor:
        for left in reversed(range(_looks_max)):
            try:
                # Not SHOW PROCESSLIST: it shows statements, whose payloads are bytes that the driver fails to decode.
                cursor.execute("SELECT ID,HOST FROM information_schema.PROCESSLIST")
                break
            except pymysql.MySQLError as error:
                # MySQL copies what each connection executes, which may change under its eyes to bytes that it cannot convert.
                if not left or not error.args or error.args[0] != _cannot_convert:
                    raise
        return {int(row[0]): str(row[1]) for row in cursor.fetchall()}


def abort(connection: "Connection[Any]") -> None:
    """End a connection at once, from any thread, whatever it is doing: whoever reads from it gets an error."""
    held: socket.socket | None = getattr(connection, "_sock", None)  # the driver has no public way to interrupt a read
    if held is not None:
        # Shut down, not closed: the thread that reads closes it, so that its number cannot pass to another socket meanwhile.
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)


def close(connection: "Connection[Any]") -> None:
    """Close a connection that no other thread uses; nothing happens when it is closed or broken."""
    with contextlib.suppress(pymysql.Error, OSError):
        connection.close()
