"""The journal's connection to MySQL and MariaDB."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pymysql

from mainspring.limits import statement_bytes_max
from mainspring_coordinator.engine.rows import NodesCopied
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.store import mysql_connection
from mainspring_coordinator.store.errors import Trouble, message_of, trouble_of
from mainspring_coordinator.store.link import Claim, RowMissingError
from mainspring_coordinator.store.protocol import ConnectionId, ExistingWorkflow, ShardRow
from mainspring_coordinator.store.shapes import Mode, TableWrite
from mainspring_coordinator.store.sql_words import affected_by_updates, is_short, mysql_copy, mysql_words, text_literal
from mainspring_coordinator.store.url import ServerAddress

_ids_a_statement_max: Final = 1_000
_no_row: Final = b"UPDATE shards SET batch_seq=batch_seq WHERE shard_id<0"
_demand_failed: Final = 1242
"""Subquery returns more than 1 row."""


def _demand(rows: int) -> bytes:
    """Return a statement that fails, and so ends its message, unless the one before it affected so many rows.

    Not `DO`: MariaDB lets that pass. Each connection tries it before it is relied on.
    """
    return b"SET @mainspring=(SELECT 1 UNION ALL SELECT 1 FROM DUAL WHERE ROW_COUNT()<>%d)" % rows


class MysqlLink:
    """A connection without autocommit: a transaction begins with its first statement."""

    def __init__(self, address: ServerAddress) -> None:
        self._connection = mysql_connection.connect(address, autocommit=False, many_statements=True)
        self.round_trips = 0
        try:
            self.connection: ConnectionId = mysql_connection.identity(self._connection)
            self._packet_bytes_max = int(self._rows(b"SELECT @@max_allowed_packet")[0][0])
            self._can_demand = self._try_demands()
        except BaseException:
            self.close()
            raise

    def record(self, incarnation: str) -> None:
        """See `Link`. Without a transaction: one that stayed open would lock the lease row, and nobody knows this connection yet."""
        self._connection.autocommit(True)
        self._do(
            b"UPDATE coordinators SET writer_connection=%d,writer_peer=%b WHERE incarnation=%b"
            % (self.connection.id, text_literal(self.connection.peer), text_literal(incarnation))
        )
        self._connection.autocommit(False)

    def at_once(
        self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], writes: Sequence[TableWrite]
    ) -> bool:
        """See `Link`. The server ends a message at the first statement that fails, and so does not come to the COMMIT."""
        if not self._can_demand:
            return False
        statements = [_fence(incarnation, batch_id, claims, free=False), _demand(len(claims))]
        for write in writes:
            for text, count in mysql_words(write.shape).statements(write.rows, self._packet_bytes_max):
                statements.append(text)
                if write.shape.mode is Mode.UPDATE:
                    statements.append(_demand(affected_by_updates(count)))
        statements.append(b"COMMIT")
        if sum(map(len, statements)) + len(statements) > min(statement_bytes_max, self._packet_bytes_max):
            return False
        affected, error = self._send(statements)
        if error is not None:
            if len(affected) == len(statements) - 1:
                # COMMIT itself. Whatever it says, what became of it is open, as if the connection had broken.
                raise ConnectionAbortedError(f"COMMIT: {message_of(error)}") from error
            if error.args[0] == _demand_failed or trouble_of(error) is Trouble.DATA:
                self.rollback()
                return False
            raise error
        if affected[0] != len(claims):
            raise AssertionError(f"the fence of a committed batch held for {affected[0]} of {len(claims)} shards")
        return True

    def begin(self) -> None:
        """See `Link`."""

    def fence(self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], *, free: bool) -> int:
        """See `Link`. Every matched row changes, so that rows matched and rows changed are the same number."""
        return self._do(_fence(incarnation, batch_id, claims, free=free))

    def raise_epoch(self, shard: int, least: int) -> None:
        """See `Link`."""
        self._do(b"UPDATE shards SET epoch=%d WHERE shard_id=%d AND epoch<%d" % (least, shard, least))

    def fence_rows(self, shards: Sequence[int], *, lock: bool) -> Mapping[int, ShardRow]:
        """See `Link`."""
        rows = self._rows(
            b"SELECT shard_id,epoch,holder,batch_seq,last_batch_id,grace_until_us,deaths FROM shards WHERE shard_id IN (%b)%b"
            % (b",".join(b"%d" % shard for shard in sorted(shards)), b" FOR UPDATE" if lock else b"")
        )
        return {row[0]: ShardRow(*row) for row in rows}

    def existing(self, workflow_ids: Sequence[str]) -> Sequence[ExistingWorkflow]:
        """See `Link`. A plain read is enough: after the fence nobody else writes workflows of these shards."""
        found: list[ExistingWorkflow] = []
        for start in range(0, len(workflow_ids), _ids_a_statement_max):
            part = b",".join(text_literal(name) for name in workflow_ids[start : start + _ids_a_statement_max])
            rows = self._rows(
                b"SELECT workflow_id,digest,status,deleting FROM workflows WHERE workflow_id IN (%b)" % part
            )
            found += [
                ExistingWorkflow(name, digest, WorkflowStatus(status), bool(gone))
                for name, digest, status, gone in rows
            ]
        return found

    def write(self, write: TableWrite) -> None:
        """See `Link`."""
        affected = sum(
            self._do(text) for text, _ in mysql_words(write.shape).statements(write.rows, self._packet_bytes_max)
        )
        if is_short(write, affected):
            raise RowMissingError(f"{write.shape.table}: a row that was to be updated is not there, or did not change")

    def copy(self, copied: NodesCopied) -> None:
        """See `Link`."""
        self._do(mysql_copy(copied))

    def commit(self) -> None:
        """See `Link`."""
        self._do(b"COMMIT")

    def rollback(self) -> None:
        """See `Link`."""
        self._do(b"ROLLBACK")

    def kill(self, other: ConnectionId) -> None:
        """See `Link`."""
        mysql_connection.kill(self._connection, other)

    def abort(self) -> None:
        """See `Link`."""
        mysql_connection.abort(self._connection)

    def close(self) -> None:
        """See `Link`."""
        mysql_connection.close(self._connection)

    def _try_demands(self) -> bool:
        """Tell whether this server, and what may be between it and us, ends a message where it must, and only there."""
        affected, error = self._send([_no_row, _demand(0), _no_row, _demand(1), b"DO 0"])
        if error is not None and trouble_of(error) is not Trouble.BUG:
            raise error
        self.rollback()
        return error is not None and error.args[0] == _demand_failed and len(affected) == 3

    def _send(self, statements: Sequence[bytes]) -> tuple[Sequence[int], pymysql.MySQLError | None]:
        """Send statements in one message; return how many rows each one affected, up to the one that failed, and its error."""
        self.round_trips += 1
        affected: list[int] = []
        try:
            affected.append(int(self._connection.query(b";".join(statements))))
            while len(affected) < len(statements):
                affected.append(int(self._connection.next_result()))
        except pymysql.MySQLError as error:
            return affected, error
        return affected, None

    def _do(self, statement: bytes) -> int:
        self.round_trips += 1
        return int(self._connection.query(statement))

    def _rows(self, statement: bytes) -> Sequence[tuple[Any, ...]]:
        self.round_trips += 1
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _fence(incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], *, free: bool) -> bytes:
    shards = sorted(claims)
    return (
        b"UPDATE shards SET batch_seq=batch_seq+1,last_batch_id=x'%b'%b WHERE shard_id IN (%b) AND holder=%b"
        b" AND (shard_id,epoch,batch_seq) IN (%b)"
        % (
            batch_id.hex().encode(),
            b",holder=NULL" if free else b"",
            b",".join(b"%d" % shard for shard in shards),
            text_literal(incarnation),
            b",".join(b"(%d,%d,%d)" % (shard, claims[shard].epoch, claims[shard].batch_seq) for shard in shards),
        )
    )
