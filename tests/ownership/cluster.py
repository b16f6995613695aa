"""A cluster in memory, whose database, clocks and faults the test holds in its hands."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mainspring.errors import FencedError, RowLockedError, StoreUnavailableError
from mainspring.naming import new_incarnation
from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.epoch import Anchor, Health, Lease, Times, View
from mainspring_coordinator.store.protocol import (
    Attempts,
    Batch,
    ClusterRow,
    Committed,
    ConnectionId,
    CoordinatorRow,
    Peer,
    Poll,
    Reader,
    ShardRow,
    no_epochs,
    none_ended,
)
from mainspring_coordinator.term import Term, TermLost, Who

SECOND = 1_000_000
TIMES = Times.of(CoordinatorSettings.of())


class FakeClock:
    """A boot clock that moves when it is told to."""

    def __init__(self) -> None:
        self.us = 1_000 * SECOND

    def now_us(self) -> int:
        return self.us


@dataclass
class Database:
    """What a server keeps: rows, connections and the locks that they hold."""

    clock: FakeClock
    shards: dict[int, ShardRow]
    coordinators: dict[str, CoordinatorRow] = field(default_factory=dict[str, CoordinatorRow])
    connections: set[int] = field(default_factory=set[int])
    locks: dict[str, int] = field(default_factory=dict[str, int])
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    killed: list[int] = field(default_factory=list[int])
    row_locks: dict[int, ConnectionId] = field(default_factory=dict[int, ConnectionId])
    """Shards whose fence row an open transaction of this connection holds."""
    lease_locks: set[str] = field(default_factory=set[str])
    """Incarnations whose lease row an open transaction holds."""
    down: bool = False
    offset_us: int = 5_000_000 * SECOND

    def connect(self) -> ConnectionId:
        self.answer()
        number = next(self.numbers)
        self.connections.add(number)
        return ConnectionId(number, f"host:{number}")

    def disconnect(self, number: int) -> None:
        self.connections.discard(number)
        self.locks = {name: holder for name, holder in self.locks.items() if holder != number}

    def answer(self, connection: ConnectionId | None = None) -> None:
        if self.down or (connection is not None and connection.id not in self.connections):
            raise StoreUnavailableError("the database does not answer")

    def now_us(self) -> int:
        return self.clock.us + self.offset_us

    def wait_for_lease_row(self, incarnation: str) -> None:
        if incarnation in self.lease_locks:
            self.clock.us += SECOND  # as long as we wait for it
            raise RowLockedError("lock wait timeout")

    def held_by(self, incarnation: str) -> list[int]:
        return [row.shard for row in self.shards.values() if row.holder == incarnation]


class FakeJournal:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.connection = database.connect()

    def close(self) -> None:
        self.database.disconnect(self.connection.id)

    def release(self, epochs: Any, least: Any = no_epochs) -> None:
        assert not any(least.values())
        for shard, epoch in epochs.items():
            row = self.database.shards[shard]
            assert row.epoch == epoch
            self.database.shards[shard] = replace(row, holder=None)

    def adopt(self, shard: ShardRow) -> None:
        raise NotImplementedError

    def drop(self, shard: int) -> None:
        raise NotImplementedError

    def commit(self, batch: Batch) -> Committed:
        raise NotImplementedError

    def prove(self, epochs: Any) -> None:
        raise NotImplementedError


class FakeLockSession:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.connection = database.connect()

    def acquire(self, row: CoordinatorRow) -> bool:
        self.database.answer(self.connection)
        self.database.locks[row.incarnation] = self.connection.id
        self.database.coordinators[row.incarnation] = row
        return True

    def renew(self, incarnation: str, attached_workers: int, attempts: Attempts = none_ended) -> int:
        self.database.answer(self.connection)
        row = self.database.coordinators.get(incarnation)
        if row is None or self.database.locks.get(incarnation) != self.connection.id:
            raise FencedError({})
        self.database.wait_for_lease_row(incarnation)
        self.database.coordinators[incarnation] = replace(
            row, renew_seq=row.renew_seq + 1, attached_workers=attached_workers, attempts=attempts
        )
        return self.database.now_us()

    def record_writer(self, incarnation: str, writer: ConnectionId) -> None:
        self.database.answer(self.connection)
        self.database.wait_for_lease_row(incarnation)
        row = self.database.coordinators[incarnation]
        self.database.coordinators[incarnation] = replace(row, writer_connection=writer)

    def poll(self) -> Poll:
        self.database.answer(self.connection)
        peers = [Peer(row, self.database.locks.get(who)) for who, row in self.database.coordinators.items()]
        return Poll(self.database.now_us(), peers, list(self.database.shards.values()))

    def take(self, shard: ShardRow, incarnation: str, grace_us: int, death: str = "") -> ShardRow | None:
        self.database.answer(self.connection)
        row = self.database.shards[shard.shard]
        holding = self.database.row_locks.get(shard.shard)
        if holding is not None and holding.id in self.database.connections:
            self.database.clock.us += SECOND  # as long as we wait for it
            raise RowLockedError("lock wait timeout")
        if row.epoch != shard.epoch:
            return None
        taken = replace(
            row,
            holder=incarnation,
            epoch=row.epoch + 1,
            grace_until_us=self.database.now_us() + grace_us,
            deaths=row.deaths + death,
        )
        self.database.shards[shard.shard] = taken
        return taken

    def free(self, incarnation: str, shards: Sequence[int], death: str) -> int:
        self.database.answer(self.connection)
        held = [row for row in self.database.shards.values() if row.shard in shards and row.holder == incarnation]
        for row in held:
            holding = self.database.row_locks.get(row.shard)
            if holding is not None and holding.id in self.database.connections:
                self.database.clock.us += SECOND  # as long as we wait for it
                raise RowLockedError("lock wait timeout")
        for row in held:
            freed = replace(row, holder=None, epoch=row.epoch + 1, deaths=row.deaths + death)
            self.database.shards[row.shard] = freed
        return len(held)

    def kill(self, connection: ConnectionId) -> bool:
        self.database.answer(self.connection)
        self.database.killed.append(connection.id)
        found = connection.id in self.database.connections
        self.database.disconnect(connection.id)
        return found

    def forget(self, incarnation: str) -> None:
        self.database.answer(self.connection)
        self.database.wait_for_lease_row(incarnation)
        del self.database.coordinators[incarnation]

    def close(self) -> None:
        self.database.disconnect(self.connection.id)


class FakeStore:
    description = "a fake"
    serves_one = False

    def __init__(self, database: Database) -> None:
        self.database = database

    def check(self) -> None:
        self.database.answer()

    def create_cluster(self, wanted: ClusterRow) -> ClusterRow:
        self.database.answer()
        return replace(wanted, shards_total=len(self.database.shards))

    def reader(self) -> Reader:
        raise NotImplementedError

    def open_journal(self, incarnation: str) -> FakeJournal:
        return FakeJournal(self.database)

    def open_lock_session(self, cluster: str) -> FakeLockSession:
        return FakeLockSession(self.database)

    def close(self) -> None:
        pass


class Node:
    """A coordinator's term, its right to act, and all that it was told."""

    def __init__(self, cluster: "Cluster", name: str, *, lone: bool, workers: int) -> None:
        self.cluster = cluster
        self.name = name
        self.workers = workers
        self.loop_hangs_since_us: int | None = None
        self.oldest_batch_us = 0
        self.views: list[View] = []
        self.anchors: list[Anchor] = []
        self.takes: list[tuple[int, int]] = []
        self.forgot: set[int] = set()
        """Shards that the control loop does not have, whatever their rows say."""
        self.asked: list[tuple[int, Sequence[int]]] = []
        self.alive = True
        self.frozen = False
        self.obeys = True
        self.lost: str | None = None
        self.due_us = 0
        self.lease = Lease(TIMES)
        self.term = Term(
            FakeStore(cluster.database),
            "test",
            Who(name, f"{name}:1", f"{name}:2"),
            TIMES,
            incarnation=new_incarnation(),
            lease=self.lease,
            health=self.health,
            witness=self,
            clock=cluster.clock,
            lone=lone,
            failover=cluster.failover,
            chance=random.Random(1),
        )

    @property
    def incarnation(self) -> str:
        return self.term.incarnation

    @property
    def shards(self) -> list[int]:
        return self.cluster.database.held_by(self.incarnation)

    def health(self) -> Health:
        now_us = self.cluster.clock.us
        rows = self.cluster.database.shards
        owned = {shard: epoch for shard, epoch in self.takes if shard not in self.forgot and rows[shard].epoch == epoch}
        return Health(self.loop_hangs_since_us or now_us, self.oldest_batch_us, self.workers, owned)

    def begin(self) -> "Node":
        self.term.begin(self.cluster.pass_time)
        return self

    def step(self) -> None:
        if not self.alive or self.frozen or self.cluster.clock.us < self.due_us:
            return
        try:
            self.due_us = self.term.step()
        except (TermLost, StoreUnavailableError) as error:
            self.lost, self.alive = str(error), False
            self.term.end(clean=False)

    def kill(self) -> None:
        """kill -9: the server sees both sockets close."""
        self.alive = False
        for connection in (
            self.term.journal.connection,
            self.cluster.database.coordinators[self.incarnation].lock_connection,
        ):
            self.cluster.database.disconnect(connection.id)

    # Witness
    def anchored(self, anchor: Anchor) -> None:
        self.anchors.append(anchor)

    def looked(self, view: View) -> None:
        self.views.append(view)

    def taken(self, row: ShardRow, seconds: float) -> None:
        self.takes.append((row.shard, row.epoch))
        self.forgot.discard(row.shard)

    def release_wanted(self, shards: Sequence[int]) -> None:
        self.asked.append((self.cluster.clock.us, shards))
        if self.obeys:
            database = self.cluster.database
            self.term.journal.release({shard: database.shards[shard].epoch for shard in shards})


class Cluster:
    """Nodes on one database, under one clock."""

    def __init__(self, shards: int = 16, *, failover: bool = True) -> None:
        self.failover = failover
        self.clock = FakeClock()
        rows = {shard: ShardRow(shard, 0, None, 0, None, 0) for shard in range(shards)}
        self.database = Database(self.clock, rows)
        self.nodes: list[Node] = []

    def add(self, name: str, *, lone: bool = False, workers: int = 1) -> Node:
        """Let a coordinator begin and take its first step."""
        node = Node(self, name, lone=lone, workers=workers).begin()
        self.nodes.append(node)
        node.step()
        return node

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Let time pass in steps of 10 ms; return how much has passed when `until` came true, or all of it."""
        began_us = self.clock.us
        while self.clock.us - began_us < seconds * SECOND and not until():
            self.pass_time(10_000)
        return (self.clock.us - began_us) / SECOND

    def pass_time(self, us: int) -> None:
        self.clock.us += us
        for node in self.nodes:
            node.step()
