"""What `mainspring db check` asks of a database: each thing that Mainspring rests on, tried, with what to do when it fails."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymysql.connections import Connection

from mainspring.errors import MainspringError
from mainspring_coordinator.store import mysql_connection, sqlite_connection
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.errors import driver_errors, message_of
from mainspring_coordinator.store.mysql_lock import lock_prefix
from mainspring_coordinator.store.revision import check_revision
from mainspring_coordinator.store.sql import description_of, packet_bytes_min
from mainspring_coordinator.store.url import Address, FileAddress, ServerAddress, parse_url

_mysql_floor: Final = (8, 0)
_mariadb_floor: Final = (10, 6)
_sqlite_fixed: Final = (3, 51, 3)
_scratch_table: Final = "mainspring_db_check"
_network_file_systems: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    next_step: str = ""
    """What to do; may also be advice when all is well."""


def check_database(url: str) -> list[Finding]:
    """Look at everything; one failure does not keep the rest from being looked at. `SettingsError` when the URL cannot be read."""
    address = parse_url(url)
    found = list(_of_file(address) if isinstance(address, FileAddress) else _of_server(address))
    if all(finding.name != "connect" or finding.ok for finding in found):
        found.append(_schema(address))
    return found


def _schema(address: Address) -> Finding:
    engine = open_engine(address)
    try:
        check_revision(engine, str(address))
    except MainspringError as error:
        return Finding("schema", False, str(error), "run: mainspring db upgrade")
    except driver_errors as error:
        return Finding("schema", False, message_of(error), "see the findings above")
    finally:
        engine.dispose()
    return Finding("schema", True, "at the revision that this build needs")


# -- a server --------------------------------------------------------------------------------------------------------------------


def _of_server(address: ServerAddress) -> Iterator[Finding]:
    try:
        connection = mysql_connection.connect(address, autocommit=True)
    except driver_errors as error:
        step = f"see that the server runs and that DATABASE_URL's user, password and database fit: {address}"
        yield Finding("connect", False, message_of(error), step)
        return
    with contextlib.closing(connection):
        yield Finding("connect", True, str(address))
        for name, look in _server_checks:
            try:
                yield look(address, connection)
            except driver_errors as error:
                yield Finding(
                    name, False, message_of(error), "see the server's error log, and the right named in the message"
                )
            if not connection.open:
                return


def _one(connection: "Connection[Any]", statement: str, values: Sequence[object] = ()) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, tuple(values))
        row = cursor.fetchone()
    assert row is not None, statement
    return row[0] if len(row) == 1 else row


def _version(_: ServerAddress, connection: "Connection[Any]") -> Finding:
    text = str(_one(connection, "SELECT VERSION()"))
    found = description_of(text)
    floor = _mariadb_floor if found.startswith("MariaDB") else _mysql_floor
    parts = tuple(int(part) for part in found.split(" ")[1].split(".")[:2])
    return Finding(
        "version", parts >= floor, found, "use MySQL 8.0 or later, or MariaDB 10.6 or later" if parts < floor else ""
    )


def _grants(_: ServerAddress, connection: "Connection[Any]") -> Finding:
    """Do with a scratch table all that an upgrade and a coordinator do: what is granted by a role or a pattern counts too."""
    statements = (
        ("CREATE", f"CREATE TABLE IF NOT EXISTS {_scratch_table} (id INT PRIMARY KEY) ENGINE=InnoDB"),
        ("ALTER", f"ALTER TABLE {_scratch_table} ADD COLUMN value INT"),
        ("INDEX", f"CREATE INDEX {_scratch_table}_value ON {_scratch_table} (value)"),
        ("INSERT", f"INSERT INTO {_scratch_table} VALUES (1,1)"),  # noqa: S608  # our own words
        ("UPDATE", f"UPDATE {_scratch_table} SET value=2 WHERE id=1"),  # noqa: S608  # our own words
        ("SELECT", f"SELECT value FROM {_scratch_table} WHERE id=1 FOR UPDATE"),  # noqa: S608  # our own words
        ("DELETE", f"DELETE FROM {_scratch_table} WHERE id=1"),  # noqa: S608  # our own words
        ("DROP", f"DROP TABLE {_scratch_table}"),
    )
    missing: list[str] = []
    with connection.cursor() as cursor:
        for right, statement in statements:
            try:
                cursor.execute(statement)
            except driver_errors as error:
                missing.append(f"{right}: {message_of(error)}")
    if not missing:
        return Finding("grants", True, ", ".join(right for right, _ in statements))
    step = "as an administrator: GRANT ALL ON the database.* TO the user (README shows the exact lines)"
    return Finding("grants", False, "; ".join(missing), step)


def _writable(_: ServerAddress, connection: "Connection[Any]") -> Finding:
    read_only = int(_one(connection, "SELECT @@read_only"))
    return Finding(
        "read_only",
        not read_only,
        "on" if read_only else "off",
        "connect to the primary server, or SET GLOBAL read_only=0 there" if read_only else "",
    )


def _lock(address: ServerAddress, connection: "Connection[Any]") -> Finding:
    name = f"{lock_prefix(address.database, '')}check{connection.thread_id()}"  # type: ignore[no-untyped-call]  # not in the stubs
    got, mine = _one(connection, "SELECT GET_LOCK(%s,0),CONNECTION_ID()", [name])
    holder, still = _one(connection, "SELECT IS_USED_LOCK(%s),CONNECTION_ID()", [name])
    _one(connection, "SELECT RELEASE_LOCK(%s)", [name])
    held = got == 1 and holder == mine == still == int(connection.thread_id())  # type: ignore[no-untyped-call]  # as above
    detail = f"held by connection {holder}, asked on {still}, taken on {mine}"
    step = "connect to the server itself: a pooling proxy gives each statement another connection" if not held else ""
    return Finding("lock", held, detail, step)


def _kill(address: ServerAddress, connection: "Connection[Any]") -> Finding:
    other = mysql_connection.connect(address, autocommit=True)
    try:
        ended = mysql_connection.kill(connection, mysql_connection.identity(other))
    finally:
        mysql_connection.close(other)
    step = "let all coordinators use one database user, and connect without a proxy" if not ended else ""
    return Finding(
        "kill",
        ended,
        "a second connection of the same user was ended" if ended else "the second connection was not seen",
        step,
    )


def _packet(_: ServerAddress, connection: "Connection[Any]") -> Finding:
    size = int(_one(connection, "SELECT @@max_allowed_packet"))
    enough = size >= packet_bytes_min
    step = (
        f"SET GLOBAL max_allowed_packet={packet_bytes_min} or more, and in the server's configuration"
        if not enough
        else ""
    )
    return Finding("max_allowed_packet", enough, f"{size} bytes", step)


def _durable(_: ServerAddress, connection: "Connection[Any]") -> Finding:
    flush = int(_one(connection, "SELECT @@innodb_flush_log_at_trx_commit"))
    binlog, sync = (int(value) for value in _one(connection, "SELECT @@log_bin,@@sync_binlog"))
    step = ""
    if flush != 1:
        step = "set innodb_flush_log_at_trx_commit=1: " + (
            "a crash loses acknowledged work" if flush == 0 else "a power cut can lose it"
        )
    elif binlog and sync != 1:
        step = "set sync_binlog=1: after a power cut replicas may miss, or have more than, what was acknowledged"
    return Finding(
        "durability", flush != 0, f"innodb_flush_log_at_trx_commit={flush}, log_bin={binlog}, sync_binlog={sync}", step
    )


def _binlog(_: ServerAddress, connection: "Connection[Any]") -> Finding:
    logs, form = _one(connection, "SELECT @@log_bin,@@binlog_format")
    ok = not int(logs) or str(form) != "STATEMENT"
    return Finding(
        "binlog_format", ok, str(form) if int(logs) else "no binary log", "" if ok else "set binlog_format=ROW or MIXED"
    )


_Check = Callable[[ServerAddress, "Connection[Any]"], Finding]
_server_checks: Final[Sequence[tuple[str, _Check]]] = (
    ("version", _version),
    ("read_only", _writable),
    ("grants", _grants),
    ("lock", _lock),
    ("kill", _kill),
    ("max_allowed_packet", _packet),
    ("durability", _durable),
    ("binlog_format", _binlog),
)


# -- a file ----------------------------------------------------------------------------------------------------------------------


def _of_file(address: FileAddress) -> Iterator[Finding]:
    # To connect would make it: a check changes nothing.
    if not address.path.exists():
        step = "set DATABASE_URL to the database that is meant, or make this one with: mainspring db upgrade"
        yield Finding("connect", False, f"there is no file {address.path}", step)
        return
    try:
        connection = sqlite_connection.connect(address)
        with contextlib.closing(connection):
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except driver_errors as error:
        yield Finding(
            "connect", False, message_of(error), f"see that {address.path.parent} exists and that we may write there"
        )
        return
    yield Finding("connect", True, str(address))
    yield Finding(
        "journal_mode",
        mode == "wal",
        str(mode),
        "" if mode == "wal" else "put the file on a local disk: WAL is not possible here",
    )
    warn = sqlite3.sqlite_version_info < _sqlite_fixed
    step = (
        f"SQLite before {'.'.join(map(str, _sqlite_fixed))} has a rare fault when a WAL is reset; for production use MySQL"
        if warn
        else ""
    )
    yield Finding("version", True, f"SQLite {sqlite3.sqlite_version}", step)
    kind = _file_system(os.path.realpath(address.path))
    local = kind not in _network_file_systems
    yield Finding(
        "file_system",
        local,
        kind or "unknown",
        "" if local else "put the file on a local disk: locks do not hold on a network one",
    )


def _file_system(path: str) -> str:
    """Return the type of the file system that holds a path, "" where it cannot be told."""
    best, kind = "", ""
    with contextlib.suppress(OSError), open("/proc/self/mounts", encoding="utf-8") as mounts:  # noqa: PTH123  # no file of ours
        for line in mounts:
            _, point, found, *_ = line.split()
            if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
                best, kind = point, found
    return kind
