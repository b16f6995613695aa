"""The journal's connection to a SQLite file."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainspring_coordinator.engine.rows import NodesCopied
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.store import sqlite_connection
from mainspring_coordinator.store.link import Claim, RowMissingError
from mainspring_coordinator.store.protocol import ConnectionId, ExistingWorkflow, ShardRow
from mainspring_coordinator.store.shapes import Mode, TableWrite
from mainspring_coordinator.store.sql_words import sqlite_copy, sqlite_words
from mainspring_coordinator.store.url import FileAddress

_numbers: Final = itertools.count(1)


class SqliteLink:
    """A connection whose transactions are `BEGIN IMMEDIATE`: the write lock is taken at once, or not at all."""

    def __init__(self, address: FileAddress) -> None:
        self._connection = sqlite_connection.connect(address)
        self.connection = ConnectionId(next(_numbers), "")
        self.round_trips = 0

    def record(self, incarnation: str) -> None:
        """See `Link`."""
        self._do(
            "UPDATE coordinators SET writer_connection=?,writer_peer='' WHERE incarnation=?",
            (self.connection.id, incarnation),
        )

    def at_once(
        self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], writes: Sequence[TableWrite]
    ) -> bool:
        """See `Link`. There is no wire to wait for."""
        del incarnation, batch_id, claims, writes
        return False

    def begin(self) -> None:
        """See `Link`."""
        self._do("BEGIN IMMEDIATE")

    def fence(self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], *, free: bool) -> int:
        """See `Link`."""
        proof = json.dumps([[shard, claim.epoch, claim.batch_seq] for shard, claim in sorted(claims.items())])
        freed = ",holder=NULL" if free else ""
        return self._do(
            f"UPDATE shards SET batch_seq=batch_seq+1,last_batch_id=?{freed} WHERE holder=? AND (shard_id,epoch,batch_seq)"  # noqa: S608  # our own words
            " IN (SELECT json_extract(value,'$[0]'),json_extract(value,'$[1]'),json_extract(value,'$[2]') FROM json_each(?))",
            (batch_id, incarnation, proof),
        )

    def raise_epoch(self, shard: int, least: int) -> None:
        """See `Link`."""
        self._do("UPDATE shards SET epoch=? WHERE shard_id=? AND epoch<?", (least, shard, least))

    def fence_rows(self, shards: Sequence[int], *, lock: bool) -> Mapping[int, ShardRow]:
        """See `Link`. There is no row to wait for: a second transaction cannot have begun."""
        del lock
        rows = self._rows(
            "SELECT shard_id,epoch,holder,batch_seq,last_batch_id,grace_until_us,deaths FROM shards"
            " WHERE shard_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(shards)),),
        )
        return {row[0]: ShardRow(*row) for row in rows}

    def existing(self, workflow_ids: Sequence[str]) -> Sequence[ExistingWorkflow]:
        """See `Link`."""
        rows = self._rows(
            "SELECT workflow_id,digest,status,deleting FROM workflows WHERE workflow_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(workflow_ids)),),
        )
        return [
            ExistingWorkflow(name, digest, WorkflowStatus(status), bool(gone)) for name, digest, status, gone in rows
        ]

    def write(self, write: TableWrite) -> None:
        """See `Link`."""
        self.round_trips += 1
        count = self._connection.executemany(sqlite_words(write.shape), write.rows).rowcount
        if write.shape.mode is Mode.UPDATE and count != len(write.rows):
            raise RowMissingError(f"{write.shape.table}: a row that was to be updated is not there")

    def copy(self, copied: NodesCopied) -> None:
        """See `Link`."""
        self._do(sqlite_copy(copied), (copied.workflow_id, copied.source))

    def commit(self) -> None:
        """See `Link`."""
        self._do("COMMIT")

    def rollback(self) -> None:
        """See `Link`."""
        if self._connection.in_transaction:
            self._do("ROLLBACK")

    def kill(self, other: ConnectionId) -> None:
        """See `Link`: an older connection was of this process, and is closed."""

    def abort(self) -> None:
        """See `Link`."""
        self._connection.interrupt()

    def close(self) -> None:
        """See `Link`."""
        self._connection.close()

    def _do(self, statement: str, values: Sequence[Any] = ()) -> int:
        self.round_trips += 1
        return self._connection.execute(statement, values).rowcount

    def _rows(self, statement: str, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        self.round_trips += 1
        return self._connection.execute(statement, values).fetchall()
