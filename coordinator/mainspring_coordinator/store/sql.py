"""The store on a SQL database: MySQL 8+, MariaDB 10.6+ or one SQLite file."""

import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from sqlalchemy import event, insert, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mainspring.errors import SettingsError, StoreError
from mainspring.limits import cluster_name_bytes_max, message_bytes_max, shards_max
from mainspring_coordinator.store import mysql_connection, tables
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.errors import driver_errors, translate
from mainspring_coordinator.store.link import Link
from mainspring_coordinator.store.mysql_link import MysqlLink
from mainspring_coordinator.store.mysql_lock import MysqlLockSession
from mainspring_coordinator.store.protocol import ClusterRow, Journal, LockSession, Reader
from mainspring_coordinator.store.revision import check_revision
from mainspring_coordinator.store.sql_journal import SqlJournal
from mainspring_coordinator.store.sql_reader import SqlReader
from mainspring_coordinator.store.sqlite_link import SqliteLink
from mainspring_coordinator.store.sqlite_lock import SqliteLockSession
from mainspring_coordinator.store.url import Address, FileAddress

if TYPE_CHECKING:
    from pymysql.connections import Connection

packet_bytes_min: Final = message_bytes_max
"""The least `max_allowed_packet`: a part of a definition must fit, without which workflows that share it could not be read again."""
_cluster_row_id: Final = 1


class SqlStore:
    """See `Store`."""

    def __init__(
        self, address: Address, *, lock_timeout_ms: int, lock_socket_timeout_ms: int, connects_max: int
    ) -> None:
        """`open_store` says what these are."""
        self._address = address
        self._where = str(address)
        self._lock_timeout_ms = lock_timeout_ms
        self._lock_socket_timeout_ms = lock_socket_timeout_ms
        self._connects_max = connects_max
        self._closed = False
        self._engine = open_engine(address, closed=lambda: self._closed)
        self._reader = SqlReader(self._engine, self._where)
        self._description = ""
        self._opened: WeakSet[SqlJournal | MysqlLockSession | SqliteLockSession] = WeakSet()
        self._for_reads: WeakSet[Connection[Any]] = WeakSet()
        """Those that the pool has made, of a server."""
        self._lock = threading.Lock()
        if not self.serves_one:
            event.listen(self._engine, "connect", self._note_for_reads)

    def __repr__(self) -> str:
        return f"SqlStore({self._where})"

    @property
    def description(self) -> str:
        """See `Store`. Empty until the database was reached for the first time."""
        return self._description

    def check(self) -> None:
        """See `Store`. `StoreError` when the server is set so that it loses what it acknowledged, or cannot take it."""
        try:
            with self._engine.connect() as connection:
                if isinstance(self._address, FileAddress):
                    self._description = f"SQLite {connection.execute(text('SELECT sqlite_version()')).scalar_one()}"
                else:
                    settings = text("SELECT VERSION(),@@innodb_flush_log_at_trx_commit,@@max_allowed_packet")
                    version, flush, packet = connection.execute(settings).one()
                    self._description = description_of(str(version))
                    if int(flush) == 0:
                        raise StoreError(
                            f"{self._where}: innodb_flush_log_at_trx_commit is 0, so that a crash of the server loses acknowledged work;"
                            " set it to 1 in the server's configuration"
                        )
                    if int(packet) < packet_bytes_min:
                        raise StoreError(
                            f"{self._where}: max_allowed_packet is {packet}, too little for a large definition;"
                            f" set it to {packet_bytes_min} or more in the server's configuration"
                        )
            check_revision(self._engine, self._where)
        except (SQLAlchemyError, *driver_errors) as error:
            raise translate(error, self._where) from error

    def create_cluster(self, wanted: ClusterRow) -> ClusterRow:
        """See `Store`."""
        if not 1 <= wanted.shards_total <= shards_max:
            raise SettingsError(f"a cluster has 1 to {shards_max} shards, not {wanted.shards_total}")
        if not 1 <= len(wanted.name.encode()) <= cluster_name_bytes_max:
            raise SettingsError(f"the cluster's name {wanted.name!r} must have 1 to {cluster_name_bytes_max} bytes")
        there = self._reader.cluster()
        if there is None:
            self._make_cluster(wanted)
            there = self._reader.cluster()
            assert there is not None, "the row that was just made"
        return there

    def _make_cluster(self, wanted: ClusterRow) -> None:
        try:
            with self._engine.connect().execution_options(
                isolation_level="READ COMMITTED" if not self.serves_one else "SERIALIZABLE"
            ) as connection:
                # The cluster's row is the gate: whoever inserts it makes the shards, in the same transaction.
                connection.execute(
                    insert(tables.cluster).values(
                        id=_cluster_row_id, name=wanted.name, shards_total=wanted.shards_total
                    )
                )
                connection.execute(insert(tables.shards), [{"shard_id": shard} for shard in range(wanted.shards_total)])
                connection.commit()
        except IntegrityError:
            # Another coordinator was faster: the row that is there wins.
            return
        except (SQLAlchemyError, *driver_errors) as error:
            raise translate(error, self._where) from error

    @property
    def serves_one(self) -> bool:
        """See `Store`."""
        return isinstance(self._address, FileAddress)

    def reader(self) -> Reader:
        """See `Store`."""
        return self._reader

    def open_journal(self, incarnation: str) -> Journal:
        """See `Store`."""
        journal = SqlJournal(self._open_link, incarnation, self._where, connects_max=self._connects_max)
        self._note(journal)
        return journal

    def _open_link(self) -> Link:
        return SqliteLink(self._address) if isinstance(self._address, FileAddress) else MysqlLink(self._address)

    def open_lock_session(self, cluster: str) -> LockSession:
        """See `Store`."""
        # Behind this address may be another server by now. What a new term reads must come from the one that it locks and writes on, not
        # over a connection to a former primary, which may go on answering reads for ever.
        self._engine.dispose()
        session: MysqlLockSession | SqliteLockSession
        if isinstance(self._address, FileAddress):
            session = SqliteLockSession(self._address)
        else:
            session = MysqlLockSession(
                self._address,
                cluster,
                socket_timeout_ms=self._lock_socket_timeout_ms,
                wait_timeout_s=max(1, -(-self._lock_timeout_ms // 1000)),
            )
        self._note(session)
        return session

    def _note(self, session: SqlJournal | MysqlLockSession | SqliteLockSession) -> None:
        with self._lock:
            self._opened.add(session)

    def _note_for_reads(self, connection: "Connection[Any]", _record: object) -> None:
        with self._lock:
            self._for_reads.add(connection)
            closed = self._closed
        if closed:  # while it was made, so that `close` has not seen it
            mysql_connection.abort(connection)

    def close(self) -> None:
        """See `Store`."""
        with self._lock:
            self._closed = True
            opened, for_reads = list(self._opened), list(self._for_reads)
        for session in opened:
            session.close()
        self._engine.dispose()
        # Those that are left read, perhaps of a server that does not answer; the process would not end before their threads do.
        for connection in for_reads:
            mysql_connection.abort(connection)


def description_of(version: str) -> str:
    """Return kind and version of a server from its `VERSION()`, such as "MariaDB 10.11.19"."""
    kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    return f"{kind} {version.split('-', maxsplit=1)[0]}"
