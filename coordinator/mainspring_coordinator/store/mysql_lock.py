"""The lock session on MySQL and MariaDB: one dedicated connection, on which the incarnation's `GET_LOCK` is held.

It never waits for a lock (a waiter that died would be granted it), takes it once (locks stack), asks on the very connection that
should hold it, and never connects again: any error means that the lock is lost.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from mainspring.errors import FencedError, RowLockedError, StoreUnavailableError
from mainspring.limits import cluster_name_bytes_max, deaths_noted_chars_max
from mainspring_coordinator.store import mysql_connection, tables
from mainspring_coordinator.store.errors import Trouble, driver_errors, message_of, met, translate, trouble_of
from mainspring_coordinator.store.mysql_connection import now_us_sql
from mainspring_coordinator.store.protocol import (
    Attempts,
    ConnectionId,
    CoordinatorRow,
    Peer,
    Poll,
    ShardRow,
    none_ended,
)
from mainspring_coordinator.store.sql_reader import coordinator_row
from mainspring_coordinator.store.tables import columns_of
from mainspring_coordinator.store.url import ServerAddress

_row_lock_wait_s: Final = 1
_writable: Final = frozenset({"0", "OFF"})  # a number, or one of several words since MariaDB 12
_shard_columns: Final = columns_of(tables.shards)
_coordinator_columns: Final = columns_of(tables.coordinators)


def lock_prefix(database: str, cluster: str) -> str:
    """Return what the names of a cluster's locks begin with; the incarnation follows.

    Locks belong to the server, not to the database, and a name has at most 64 bytes: hence the hash.
    """
    assert len(cluster.encode()) <= cluster_name_bytes_max, cluster
    return f"mainspring:{hashlib.sha256(f'{database}/{cluster}'.encode()).hexdigest()[:16]}:"


class MysqlLockSession:
    """See `LockSession`."""

    def __init__(self, address: ServerAddress, cluster: str, *, socket_timeout_ms: int, wait_timeout_s: int) -> None:
        """`wait_timeout_s`: after how long of our silence the server frees the lock by itself."""
        self._where = str(address)
        self._prefix = lock_prefix(address.database, cluster)
        self._closed = threading.Event()
        self._busy = threading.Lock()
        self._lock_name = ""
        try:
            self._raw = mysql_connection.connect(
                address,
                autocommit=True,
                socket_timeout_ms=socket_timeout_ms,
                row_lock_wait_s=_row_lock_wait_s,
                wait_timeout_s=wait_timeout_s,
            )
            self._connection = mysql_connection.identity(self._raw)
        except driver_errors as error:
            raise translate(error, self._where) from error

    @property
    def connection(self) -> ConnectionId:
        """See `LockSession`."""
        return self._connection

    def acquire(self, row: CoordinatorRow) -> bool:
        """See `LockSession`."""
        name = self._prefix + row.incarnation
        ((got, mine, read_only),) = self._rows("SELECT GET_LOCK(%s,0),CONNECTION_ID(),@@global.read_only", (name,))
        if got != 1:
            return False
        self._refuse(read_only)
        if mine != self._connection.id:
            raise StoreUnavailableError(
                f"{self._where}: connection {self._connection.id} is now {mine}: a pooling proxy is in between; connect directly"
            )
        self._lock_name = name
        marks = ",".join(["%s"] * 14)
        self._do(
            f"REPLACE INTO coordinators ({_coordinator_columns}) VALUES ({marks})",  # noqa: S608  # names of our own columns
            (
                row.incarnation,
                row.name,
                row.grpc_address,
                row.http_address,
                row.renew_seq,
                row.attached_workers,
                row.lock_connection.id,
                row.lock_connection.peer,
                row.writer_connection.id,
                row.writer_connection.peer,
                row.started_at_us,
                row.strategy,
                row.attempts.ended,
                row.attempts.failed,
            ),
        )
        return True

    def renew(self, incarnation: str, attached_workers: int, attempts: Attempts = none_ended) -> int:
        """See `LockSession`."""
        ((held, now_us, read_only),) = self._rows(
            f"SELECT IS_USED_LOCK(%s)=CONNECTION_ID(),{now_us_sql},@@global.read_only", (self._prefix + incarnation,)
        )
        if held != 1:
            raise FencedError({})
        self._refuse(read_only)
        statement = (
            "UPDATE coordinators SET renew_seq=renew_seq+1,attached_workers=%s,attempts_ended=%s,attempts_failed=%s"
            " WHERE incarnation=%s"
        )
        if self._do(statement, (attached_workers, attempts.ended, attempts.failed, incarnation)) != 1:
            raise FencedError({})
        return int(now_us)

    def _refuse(self, read_only: int | str) -> None:
        """Whoever has the right to write on a read-only server must not: it may be a primary that was demoted."""
        if str(read_only) not in _writable:
            self.close()
            raise StoreUnavailableError(f"{self._where}: the server is read-only; is another one primary now?")

    def record_writer(self, incarnation: str, writer: ConnectionId) -> None:
        """See `LockSession`."""
        statement = "UPDATE coordinators SET writer_connection=%s,writer_peer=%s WHERE incarnation=%s"
        self._do(statement, (writer.id, writer.peer, incarnation))

    def poll(self) -> Poll:
        """See `LockSession`. Shards come first: a holder that joined between the reads would otherwise seem to be no peer."""
        shards = self._rows(f"SELECT {_shard_columns} FROM shards ORDER BY shard_id")  # noqa: S608  # our own words
        peers = self._rows(
            f"SELECT {_coordinator_columns},IS_USED_LOCK(CONCAT(%s,incarnation)),{now_us_sql} FROM coordinators ORDER BY name,incarnation",  # noqa: S608  # our own words
            (self._prefix,),
        )
        now_us = peers[0][-1] if peers else self._rows(f"SELECT {now_us_sql}")[0][0]
        return Poll(
            int(now_us), [Peer(coordinator_row(row[:-2]), row[-2]) for row in peers], [ShardRow(*row) for row in shards]
        )

    def take(self, shard: ShardRow, incarnation: str, grace_us: int, death: str = "") -> ShardRow | None:
        """See `LockSession`."""
        # The server sets the columns from left to right: what looks at the old holder stands before the new one.
        statement = (
            "UPDATE shards SET deaths=IF(holder=%s AND CHAR_LENGTH(deaths)+CHAR_LENGTH(%s)<=%s,CONCAT(deaths,%s),deaths),"  # noqa: S608  # our own words
            "holder=%s,epoch=epoch+1,"
            f"grace_until_us=IF(grace_until_us>{now_us_sql},LEAST(grace_until_us,{now_us_sql}+%s),{now_us_sql}+%s)"
            " WHERE shard_id=%s AND epoch=%s"
        )
        noted = (shard.holder, death, deaths_noted_chars_max, death)
        if self._do(statement, (*noted, incarnation, grace_us, grace_us, shard.shard, shard.epoch)) != 1:
            return None
        (row,) = self._rows(f"SELECT {_shard_columns} FROM shards WHERE shard_id=%s", (shard.shard,))  # noqa: S608  # our own words
        taken = ShardRow(*row)
        return taken if taken.holder == incarnation and taken.epoch == shard.epoch + 1 else None

    def free(self, incarnation: str, shards: Sequence[int], death: str) -> int:
        """See `LockSession`. By the shards' numbers, so that no row is waited for but theirs."""
        marks = ",".join(["%s"] * len(shards))
        statement = (
            "UPDATE shards SET deaths=IF(CHAR_LENGTH(deaths)+CHAR_LENGTH(%s)<=%s,CONCAT(deaths,%s),deaths),"  # noqa: S608  # our own words
            f"holder=NULL,epoch=epoch+1 WHERE shard_id IN ({marks}) AND holder=%s"
        )
        values = (death, deaths_noted_chars_max, death, *shards, incarnation)
        return self._do(statement, values) if shards else 0

    def kill(self, connection: ConnectionId) -> bool:
        """See `LockSession`."""
        with self._working():
            return mysql_connection.kill(self._raw, connection)

    def forget(self, incarnation: str) -> None:
        """See `LockSession`."""
        self._do(
            "DELETE FROM coordinators WHERE incarnation=%s AND NOT EXISTS (SELECT 1 FROM shards WHERE holder=%s)",
            (incarnation, incarnation),
        )

    def close(self) -> None:
        """See `LockSession`. The server frees the lock with the connection."""
        self._closed.set()
        mysql_connection.abort(self._raw)
        self._close_if_idle()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Translate errors; the first that is not a mere lock wait ends the session."""
        try:
            with self._busy:
                if self._closed.is_set():
                    raise StoreUnavailableError(f"{self._where}: the lock session was closed")
                try:
                    yield
                except driver_errors as error:
                    if trouble_of(error) is Trouble.RETRY:
                        met(Trouble.RETRY)
                        raise RowLockedError(f"{self._where}: {message_of(error)}") from error
                    self._closed.set()
                    raise translate(error, self._where) from error
        finally:
            if self._closed.is_set():
                self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._busy.acquire(blocking=False):
            try:
                mysql_connection.close(self._raw)
            finally:
                self._busy.release()

    def _do(self, statement: str, values: tuple[Any, ...] = ()) -> int:
        with self._working(), self._raw.cursor() as cursor:
            return int(cursor.execute(statement, values))

    def _rows(self, statement: str, values: tuple[Any, ...] = ()) -> Sequence[tuple[Any, ...]]:
        with self._working(), self._raw.cursor() as cursor:
            cursor.execute(statement, values)
            rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
        return rows
