"""The store in memory: the oracle of the tests, and the database of the simulation.

Several "coordinators" open sessions on one `MemoryStore`. Time is handed in. `fail` is called with the name of each point where a real
database can fail; what it raises is what the session raises: `StoreUnavailableError` before a commit means that it was not made, after
one that only the answer is lost.
"""

import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mainspring.clock import BootClock
from mainspring.errors import FencedError, PoisonBatchError, StoreUnavailableError
from mainspring.limits import deaths_noted_chars_max
from mainspring_coordinator.engine.rows import PlanSaved, Row, WorkflowInserted
from mainspring_coordinator.store.memory_reader import MemoryReader
from mainspring_coordinator.store.memory_rows import missing_workflow, write
from mainspring_coordinator.store.memory_tables import MemoryTables
from mainspring_coordinator.store.protocol import (
    Attempts,
    Batch,
    ClusterRow,
    Committed,
    ConnectionId,
    CoordinatorRow,
    ExistingWorkflow,
    Journal,
    LockSession,
    Peer,
    Poll,
    Reader,
    ShardRow,
    no_epochs,
    none_ended,
)

before_commit = "before_commit"
after_commit = "after_commit"
before_read = "before_read"


def _never(point: str) -> None:
    """Fail nowhere."""
    del point


class MemoryStore:
    """See `Store`."""

    def __init__(self, now_us: Callable[[], int] | None = None, fail: Callable[[str], None] = _never) -> None:
        """`now_us` is database time; `fail` is called with `before_commit`, `after_commit` and `before_read`."""
        self.tables = MemoryTables()
        self.now_us = now_us if now_us is not None else BootClock().now_us
        self.fail = fail
        self.locks: dict[str, int] = {}
        """The connection that holds each incarnation's lock."""
        self.connections: set[int] = set()
        """The connections that are open."""
        self._numbers = itertools.count(1)

    @property
    def description(self) -> str:
        """See `Store`."""
        return "memory"

    @property
    def serves_one(self) -> bool:
        """See `Store`."""
        return False

    def check(self) -> None:
        """See `Store`."""

    def create_cluster(self, wanted: ClusterRow) -> ClusterRow:
        """See `Store`."""
        with self.tables.lock:
            if self.tables.cluster is None:
                self.tables.cluster = wanted
                self.tables.shards = {
                    shard: ShardRow(shard, 0, None, 0, None, 0) for shard in range(wanted.shards_total)
                }
            return self.tables.cluster

    def reader(self) -> Reader:
        """See `Store`."""
        return MemoryReader(self.tables)

    def open_journal(self, incarnation: str) -> Journal:
        """See `Store`."""
        return MemoryJournal(self, incarnation)

    def open_lock_session(self, cluster: str) -> LockSession:
        """See `Store`."""
        del cluster
        return MemoryLockSession(self)

    def close(self) -> None:
        """See `Store`."""
        for connection in list(self.connections):
            self.disconnect(connection)

    def connect(self) -> ConnectionId:
        """Open a connection."""
        with self.tables.lock:
            number = next(self._numbers)
            self.connections.add(number)
            return ConnectionId(number, "memory")

    def disconnect(self, number: int) -> bool:
        """End a connection and free its lock, as a server does when a process dies; False when it is not there."""
        with self.tables.lock:
            there = number in self.connections
            self.connections.discard(number)
            self.locks = {incarnation: holder for incarnation, holder in self.locks.items() if holder != number}
            return there


class MemoryJournal:
    """See `Journal`."""

    def __init__(self, store: MemoryStore, incarnation: str) -> None:
        self._store = store
        self._incarnation = incarnation
        self._owned: dict[int, int] = {}
        self._done: tuple[bytes, Committed] | None = None
        self._closed = False
        self._connection = store.connect()

    @property
    def connection(self) -> ConnectionId:
        """See `Journal`."""
        return self._connection

    def adopt(self, shard: ShardRow) -> None:
        """See `Journal`."""
        self._owned[shard.shard] = shard.epoch

    def drop(self, shard: int) -> None:
        """See `Journal`."""
        self._owned.pop(shard, None)

    def commit(self, batch: Batch) -> Committed:
        """See `Journal`."""
        with self._store.tables.lock:
            self._connect()
            if self._done is not None and self._done[0] == batch.batch_id:
                return self._done[1]
            self._fence(batch.epochs, adopted=True)
            existing = self._existing(batch.rows)
            rows = [row for row in batch.rows if row.workflow_id not in existing or isinstance(row, PlanSaved)]
            if (name := missing_workflow(self._store.tables, rows)) is not None:
                raise PoisonBatchError(name, "it is updated, but it is not there")
            self._store.fail(before_commit)
            self._raise_sequence(batch.batch_id, batch.epochs)
            write(self._store.tables, rows)
            committed = Committed(existing, 1)
            self._done = (batch.batch_id, committed)
            self._store.fail(after_commit)
            return committed

    def prove(self, epochs: Mapping[int, int]) -> None:
        """See `Journal`."""
        with self._store.tables.lock:
            self._connect()
            self._store.fail(before_read)
            self._fence(epochs, adopted=False)

    def release(self, epochs: Mapping[int, int], least: Mapping[int, int] = no_epochs) -> None:
        """See `Journal`."""
        with self._store.tables.lock:
            self._connect()
            lost: dict[int, int] = {}
            try:
                self._fence(epochs, adopted=True)
            except FencedError as error:
                lost = error.lost
            ours = {shard: epoch for shard, epoch in epochs.items() if shard not in lost}
            self._store.fail(before_commit)
            self._raise_sequence(secrets.token_bytes(16), ours)
            for shard, epoch in ours.items():
                raised = max(epoch, least.get(shard, 0))
                self._store.tables.shards[shard] = replace(self._store.tables.shards[shard], holder=None, epoch=raised)
            for shard in epochs:
                self.drop(shard)
            self._store.fail(after_commit)
            if lost:
                raise FencedError(lost)

    def close(self) -> None:
        """See `Journal`."""
        self._closed = True
        self._store.disconnect(self._connection.id)

    def _connect(self) -> None:
        if self._closed:
            raise StoreUnavailableError("memory: the journal was closed")
        if self._connection.id not in self._store.connections:
            self._connection = self._store.connect()
            row = self._store.tables.coordinators.get(self._incarnation)
            if row is not None:
                self._store.tables.coordinators[self._incarnation] = replace(row, writer_connection=self._connection)

    def _fence(self, epochs: Mapping[int, int], *, adopted: bool) -> None:
        lost: dict[int, int] = {}
        for shard, epoch in epochs.items():
            row = self._store.tables.shards.get(shard)
            held = row is not None and row.epoch == epoch and row.holder == self._incarnation
            if not held or (adopted and self._owned.get(shard) != epoch):
                lost[shard] = row.epoch if row is not None else 0
        if lost:
            raise FencedError(lost)

    def _raise_sequence(self, batch_id: bytes, epochs: Mapping[int, int]) -> None:
        for shard in epochs:
            row = self._store.tables.shards[shard]
            self._store.tables.shards[shard] = replace(row, batch_seq=row.batch_seq + 1, last_batch_id=batch_id)

    def _existing(self, rows: Sequence[Row]) -> Mapping[str, ExistingWorkflow]:
        inserted = [row.workflow_id for row in rows if isinstance(row, WorkflowInserted)]
        there, deleting = self._store.tables.workflows, self._store.tables.deleting
        return {
            name: ExistingWorkflow(name, there[name].digest, there[name].status, name in deleting)
            for name in inserted
            if name in there
        }


class MemoryLockSession:
    """See `LockSession`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._connection = store.connect()

    @property
    def connection(self) -> ConnectionId:
        """See `LockSession`."""
        return self._connection

    def acquire(self, row: CoordinatorRow) -> bool:
        """See `LockSession`."""
        with self._alive():
            if self._store.locks.setdefault(row.incarnation, self._connection.id) != self._connection.id:
                return False
            self._store.tables.coordinators[row.incarnation] = row
            return True

    def renew(self, incarnation: str, attached_workers: int, attempts: Attempts = none_ended) -> int:
        """See `LockSession`."""
        with self._alive():
            row = self._store.tables.coordinators.get(incarnation)
            if self._store.locks.get(incarnation) != self._connection.id or row is None:
                raise FencedError({})
            self._store.tables.coordinators[incarnation] = replace(
                row, renew_seq=row.renew_seq + 1, attached_workers=attached_workers, attempts=attempts
            )
            return self._store.now_us()

    def record_writer(self, incarnation: str, writer: ConnectionId) -> None:
        """See `LockSession`."""
        with self._alive():
            row = self._store.tables.coordinators.get(incarnation)
            if row is not None:
                self._store.tables.coordinators[incarnation] = replace(row, writer_connection=writer)

    def poll(self) -> Poll:
        """See `LockSession`."""
        with self._alive():
            reader = self._store.reader()
            peers = [Peer(row, self._store.locks.get(row.incarnation)) for row in reader.coordinators()]
            return Poll(self._store.now_us(), peers, reader.shards())

    def take(self, shard: ShardRow, incarnation: str, grace_us: int, death: str = "") -> ShardRow | None:
        """See `LockSession`."""
        with self._alive():
            row = self._store.tables.shards[shard.shard]
            if row.epoch != shard.epoch:
                return None
            now_us = self._store.now_us()
            grace_until_us = now_us + grace_us
            if row.grace_until_us > now_us:
                grace_until_us = min(row.grace_until_us, grace_until_us)
            noted = row.deaths
            if row.holder is not None and row.holder == shard.holder and len(noted + death) <= deaths_noted_chars_max:
                noted += death
            taken = replace(row, epoch=row.epoch + 1, holder=incarnation, grace_until_us=grace_until_us, deaths=noted)
            self._store.tables.shards[shard.shard] = taken
            return taken

    def free(self, incarnation: str, shards: Sequence[int], death: str) -> int:
        """See `LockSession`."""
        with self._alive():
            rows = [self._store.tables.shards[shard] for shard in shards]
            held = [row for row in rows if row.holder == incarnation]
            for row in held:
                fits = len(row.deaths + death) <= deaths_noted_chars_max
                noted = row.deaths + death if fits else row.deaths
                self._store.tables.shards[row.shard] = replace(row, holder=None, epoch=row.epoch + 1, deaths=noted)
            return len(held)

    def kill(self, connection: ConnectionId) -> bool:
        """See `LockSession`."""
        with self._alive():
            return connection.peer == self._connection.peer and self._store.disconnect(connection.id)

    def forget(self, incarnation: str) -> None:
        """See `LockSession`."""
        with self._alive():
            if all(row.holder != incarnation for row in self._store.tables.shards.values()):
                self._store.tables.coordinators.pop(incarnation, None)

    def close(self) -> None:
        """See `LockSession`."""
        self._store.disconnect(self._connection.id)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        with self._store.tables.lock:
            if self._connection.id not in self._store.connections:
                raise StoreUnavailableError("memory: the lock session was closed")
            yield
