"""The lock session on SQLite: an operating system's lock on a file beside the database stands in for `GET_LOCK`.

One coordinator process owns the database: there is one lock for all incarnations. It is held as long as its file is open, so that a
killed process frees it. The file holds the incarnation and the number of the session that hold the lock, for those who ask.
"""

import fcntl
import itertools
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mainspring.errors import FencedError, StoreUnavailableError
from mainspring.limits import deaths_noted_chars_max
from mainspring_coordinator.store import sqlite_connection, tables
from mainspring_coordinator.store.errors import driver_errors, translate
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
from mainspring_coordinator.store.sqlite_connection import now_us_sql
from mainspring_coordinator.store.tables import columns_of
from mainspring_coordinator.store.url import FileAddress

_shards: Final = f"SELECT {columns_of(tables.shards)} FROM shards"  # noqa: S608  # our own words, as below
_coordinator_columns: Final = columns_of(tables.coordinators)
_coordinators: Final = f"SELECT {_coordinator_columns} FROM coordinators ORDER BY name,incarnation"  # noqa: S608
_numbers: Final = itertools.count(1)


class SqliteLockSession:
    """See `LockSession`."""

    def __init__(self, address: FileAddress) -> None:
        self._where = str(address)
        self._path = Path(f"{address.path}.lock")
        self._connection = ConnectionId(next(_numbers), "")
        self._busy = threading.Lock()
        self._closed = False
        self._held: int | None = None
        self._incarnation = ""
        try:
            self._raw: sqlite3.Connection = sqlite_connection.connect(address)
        except driver_errors as error:
            raise translate(error, self._where) from error

    @property
    def connection(self) -> ConnectionId:
        """See `LockSession`."""
        return self._connection

    def acquire(self, row: CoordinatorRow) -> bool:
        """See `LockSession`."""
        with self._working():
            if self._held is None:
                self._held = _locked(self._path, fcntl.LOCK_EX)
                if self._held is None:
                    return False
            self._incarnation = row.incarnation
            os.ftruncate(self._held, 0)
            os.pwrite(self._held, f"{row.incarnation} {self._connection.id}\n".encode(), 0)
            self._raw.execute(
                f"INSERT OR REPLACE INTO coordinators ({_coordinator_columns}) VALUES ({','.join('?' * 14)})",  # noqa: S608  # our own words
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
        with self._working():
            statement = (
                "UPDATE coordinators SET renew_seq=renew_seq+1,attached_workers=?,attempts_ended=?,attempts_failed=?"
                " WHERE incarnation=?"
            )
            values = (attached_workers, attempts.ended, attempts.failed, incarnation)
            if incarnation != self._incarnation or self._raw.execute(statement, values).rowcount != 1:
                raise FencedError({})
            return self._now_us()

    def record_writer(self, incarnation: str, writer: ConnectionId) -> None:
        """See `LockSession`."""
        statement = "UPDATE coordinators SET writer_connection=?,writer_peer=? WHERE incarnation=?"
        with self._working():
            self._raw.execute(statement, (writer.id, writer.peer, incarnation))

    def poll(self) -> Poll:
        """See `LockSession`."""
        with self._working():
            shards = self._rows(f"{_shards} ORDER BY shard_id")
            peers = self._rows(_coordinators)
            holder = self._holder()
            return Poll(
                self._now_us(),
                [
                    Peer(coordinator_row(row), holder[1] if holder is not None and holder[0] == row[0] else None)
                    for row in peers
                ],
                [ShardRow(*row) for row in shards],
            )

    def take(self, shard: ShardRow, incarnation: str, grace_us: int, death: str = "") -> ShardRow | None:
        """See `LockSession`."""
        statement = (
            "UPDATE shards SET deaths=CASE WHEN holder=? AND LENGTH(deaths)+LENGTH(?)<=? THEN deaths||? ELSE deaths END,"  # noqa: S608  # our own words
            "holder=?,epoch=epoch+1,"
            f"grace_until_us=CASE WHEN grace_until_us>{now_us_sql} THEN MIN(grace_until_us,{now_us_sql}+?) ELSE {now_us_sql}+? END"
            " WHERE shard_id=? AND epoch=?"
        )
        with self._working():
            noted = (shard.holder, death, deaths_noted_chars_max, death)
            values = (*noted, incarnation, grace_us, grace_us, shard.shard, shard.epoch)
            if self._raw.execute(statement, values).rowcount != 1:
                return None
            return ShardRow(*self._rows(f"{_shards} WHERE shard_id=?", (shard.shard,))[0])

    def free(self, incarnation: str, shards: Sequence[int], death: str) -> int:
        """See `LockSession`."""
        marks = ",".join("?" * len(shards))
        statement = (
            "UPDATE shards SET deaths=CASE WHEN LENGTH(deaths)+LENGTH(?)<=? THEN deaths||? ELSE deaths END,"  # noqa: S608  # our own words
            f"holder=NULL,epoch=epoch+1 WHERE shard_id IN ({marks}) AND holder=?"
        )
        with self._working():
            return self._raw.execute(statement, (death, deaths_noted_chars_max, death, *shards, incarnation)).rowcount

    def kill(self, connection: ConnectionId) -> bool:
        """See `LockSession`. There are no connections that outlive their process."""
        del connection
        return False

    def forget(self, incarnation: str) -> None:
        """See `LockSession`."""
        statement = "DELETE FROM coordinators WHERE incarnation=? AND NOT EXISTS (SELECT 1 FROM shards WHERE holder=?)"
        with self._working():
            self._raw.execute(statement, (incarnation, incarnation))

    def close(self) -> None:
        """See `LockSession`. Waits for an act under way, which is bounded."""
        with self._busy:
            if self._closed:
                return
            self._closed = True
            if self._held is not None:
                os.close(self._held)
            self._raw.close()

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._busy:
            if self._closed:
                raise StoreUnavailableError(f"{self._where}: the lock session was closed")
            try:
                yield
            except driver_errors as error:
                raise translate(error, self._where) from error

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        return self._raw.execute(statement, values).fetchall()

    def _now_us(self) -> int:
        return int(self._rows(f"SELECT {now_us_sql}")[0][0])

    def _holder(self) -> tuple[str, int] | None:
        """Return the incarnation and the session that hold the lock."""
        if self._held is not None:
            return self._incarnation, self._connection.id
        probe = _locked(self._path, fcntl.LOCK_SH)
        if probe is not None:
            os.close(probe)
            return None
        words = self._path.read_text().split()
        return (words[0], int(words[1])) if len(words) == 2 else None


def _locked(path: Path, kind: int) -> int | None:
    """Open and lock a file without waiting; None when someone else has the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
