"""The journal's connection to MySQL and MariaDB."""

from collections.abc import Mapping, Sequence
from typing import Any

from mainspring_coordinator.engine.rows import NodesCopied
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.store import mysql_connection
from mainspring_coordinator.store.coalesce import TableWrite
from mainspring_coordinator.store.link import Claim, RowMissingError
from mainspring_coordinator.store.protocol import ConnectionId, ExistingWorkflow, ShardRow
from mainspring_coordinator.store.sql_words import is_short, mysql_copy, mysql_words, text_literal
from mainspring_coordinator.store.url import ServerAddress

_ids_a_statement_max = 1_000


class MysqlLink:
    """A connection without autocommit: a transaction begins with its first statement."""

    def __init__(self, address: ServerAddress) -> None:
        self._connection = mysql_connection.connect(address, autocommit=False)
        self.statements = 0
        try:
            self.connection: ConnectionId = mysql_connection.identity(self._connection)
            self._packet_bytes_max = int(self._rows(b"SELECT @@max_allowed_packet")[0][0])
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

    def begin(self) -> None:
        """See `Link`."""

    def fence(self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], *, free: bool) -> int:
        """See `Link`. Every matched row changes, so that rows matched and rows changed are the same number."""
        shards = sorted(claims)
        return self._do(
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
            rows = self._rows(b"SELECT workflow_id,digest,status FROM workflows WHERE workflow_id IN (%b)" % part)
            found += [ExistingWorkflow(name, digest, WorkflowStatus(status)) for name, digest, status in rows]
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

    def _do(self, statement: bytes) -> int:
        self.statements += 1
        return int(self._connection.query(statement))

    def _rows(self, statement: bytes) -> Sequence[tuple[Any, ...]]:
        self.statements += 1
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
        return rows
