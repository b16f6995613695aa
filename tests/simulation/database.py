"""The database server, and the sessions by which the processes speak with it.

The server is the store in memory. A statement travels to it, is applied there whether or not its sender still lives, and its answer
travels back; each of the three can fail by itself, so that a commit may be made though its caller learns of an error, or never learns.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from mainspring.errors import MainspringError, PoisonBatchError, StoreUnavailableError
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.store.memory import MemoryJournal, MemoryLockSession, MemoryStore
from mainspring_coordinator.store.protocol import (
    Attempts,
    Batch,
    ClusterRow,
    Committed,
    ConnectionId,
    CoordinatorRow,
    Poll,
    Reader,
    ShardRow,
    no_epochs,
    none_ended,
)
from tests.simulation.network import Network
from tests.simulation.process import Parked, Process
from tests.simulation.witness import Witness
from tests.simulation.world import MS, SECOND, World

_T = TypeVar("_T")
host = "db"
_read_timeout_us = 10 * SECOND


class Server:
    """What all processes share, and what can go wrong with it."""

    def __init__(self, world: World, network: Network, witness: Witness, shards: int) -> None:
        self.world = world
        self.network = network
        self.witness = witness
        self.ahead_us = 5_000_000 * SECOND
        """By how much its clock is ahead of the world's."""
        self.store = MemoryStore(lambda: world.now_us + self.ahead_us)
        self.store.create_cluster(ClusterRow("mainspring", shards))
        self.up = True
        self.slow_us = 0
        """What each statement takes longer."""
        self.fail_before = self.fail_after = 0.0
        """How likely a statement fails before, or only its answer after, it was done."""
        self.poison = 0.0
        """How likely the rows of one workflow of a batch are refused."""
        self.faults = 0

    def restart(self) -> None:
        """Go down: every connection is lost, and every lock with it."""
        self.up = False
        for connection in sorted(self.store.connections):
            self.store.disconnect(connection)

    def work_us(self) -> int:
        """Draw how long a statement takes."""
        return 100 + self.world.soon_us(1 * MS) + (self.world.chance.randrange(self.slow_us) if self.slow_us else 0)

    def strikes(self, likely: float) -> bool:
        """Draw whether a fault happens now."""
        if not likely or self.world.chance.random() >= likely:
            return False
        self.faults += 1
        return True


class Request:
    """A statement on its way."""

    def __init__(self, client: "Client", parked: Parked, what: str) -> None:
        self.client = client
        self.what = what
        self._parked = parked

    def answer(self, value: Any) -> None:
        """Let the answer travel back, if the way is open by then."""
        client = self.client
        client.server.network.send(host, client.process.name, partial(self._parked.wake, value))

    def fail(self, why: str) -> None:
        """Let the caller learn of a failure."""
        self._parked.wake(StoreUnavailableError(f"simulated: {why}"))


class Client:
    """One process's driver."""

    def __init__(self, server: Server, process: Process) -> None:
        self.server = server
        self.process = process
        self.connections: list[int] = []

    def ask(
        self,
        what: str,
        act: Callable[[], _T],
        *,
        timeout_us: int = _read_timeout_us,
        alive: Callable[[], bool] = lambda: True,
        under_way: "list[Request] | None" = None,
        told: bool = True,
    ) -> _T:
        """Block until the server has answered; raises what it raised, or `StoreUnavailableError`.

        `alive` tells at the server whether the connection is still there. `under_way` holds the request meanwhile.
        """
        parked = Parked(self.process)
        request = Request(self, parked, what)
        if under_way is not None:
            under_way.append(request)
        server = self.server

        def arrive() -> None:
            if not server.up:
                request.fail("the database is down")
            else:
                server.world.at(server.work_us(), apply)

        def apply() -> None:
            if not server.up or not alive():
                request.fail("the connection is gone")
                return
            if server.strikes(server.fail_before):
                server.world.tell(self.process.name, f"{what} failed")
                request.fail("it failed")
                return
            value: Any
            try:
                value = act()
            except MainspringError as error:
                value = error
            if told:
                server.world.tell(self.process.name, f"{what} -> {type(value).__name__}")
            if server.strikes(server.fail_after):
                server.world.tell(self.process.name, f"{what} unanswered")
                request.fail("the answer was lost")
            else:
                request.answer(value)

        server.network.send(self.process.name, host, arrive)
        late = StoreUnavailableError(f"simulated: {what} was not answered in time")
        parked.wake(late, delay_us=timeout_us)
        value = parked.wait()
        if under_way is not None:
            under_way.remove(request)
        if isinstance(value, MainspringError):
            raise value
        return value  # type: ignore[no-any-return]

    def end(self, connection: int) -> None:
        """Close a connection: the server learns of it when it can be reached."""
        self.server.network.send(self.process.name, host, lambda: self._gone(connection))

    def _gone(self, connection: int) -> None:
        self.server.store.disconnect(connection)

    def died(self) -> None:
        """The process is dead: its host closes its connections, after what is under way on each."""
        for connection in self.connections:
            self.end(connection)


class SimStore:
    """See `Store`."""

    description = "simulated"
    serves_one = False

    def __init__(self, server: Server, process: Process, lock_timeout_us: int) -> None:
        self._server = server
        self._lock_timeout_us = lock_timeout_us
        self.client = Client(server, process)

    def check(self) -> None:
        """See `Store`."""
        self.client.ask("check", lambda: None, told=False)

    def create_cluster(self, wanted: ClusterRow) -> ClusterRow:
        """See `Store`."""
        return self.client.ask("create cluster", lambda: self._server.store.create_cluster(wanted), told=False)

    def reader(self) -> Reader:
        """See `Store`."""
        return cast("Reader", SimReader(self.client))

    def open_journal(self, incarnation: str) -> "SimJournal":
        """See `Store`."""
        inner = self.client.ask("connect writer", lambda: MemoryJournal(self._server.store, incarnation))
        return SimJournal(self.client, inner, incarnation)

    def open_lock_session(self, cluster: str) -> "SimLockSession":
        """See `Store`."""
        del cluster
        inner = self.client.ask("connect lock", lambda: MemoryLockSession(self._server.store))
        return SimLockSession(self.client, inner, self._lock_timeout_us)

    def close(self) -> None:
        """See `Store`."""


class SimReader:
    """See `Reader`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inner = client.server.store.reader()

    def permits(self, shard: int, after: tuple[str, int], limit: int) -> Sequence[HeldPermits]:
        """See `Reader`. As long as there are none it costs nothing, so that runs without limits are as they would be without permits."""
        tables = self._client.server.store.tables
        if not any(home == shard for home, _, _ in tables.permits):
            return []
        return self._client.ask("read permits", lambda: self._inner.permits(shard, after, limit))

    def __getattr__(self, name: str) -> Any:
        read = getattr(self._inner, name)
        return lambda *args: self._client.ask(f"read {name}", lambda: read(*args))


class SimJournal:
    """See `Journal`."""

    def __init__(self, client: Client, inner: MemoryJournal, incarnation: str) -> None:
        self._client = client
        self._inner = inner
        self._incarnation = incarnation
        self._closed = False
        self._under_way: list[Request] = []
        self._known = inner.connection.id
        client.connections.append(self._known)

    @property
    def connection(self) -> ConnectionId:
        """See `Journal`."""
        return self._inner.connection

    def adopt(self, shard: ShardRow) -> None:
        """See `Journal`."""
        self._inner.adopt(shard)

    def drop(self, shard: int) -> None:
        """See `Journal`."""
        self._inner.drop(shard)

    def commit(self, batch: Batch) -> Committed:
        """See `Journal`."""
        return self._ask(f"commit of {len(batch.rows)} rows", lambda: self._commit(batch))

    def _commit(self, batch: Batch) -> Committed:
        server = self._client.server
        names = sorted({row.workflow_id for row in batch.rows if row.workflow_id})
        if names and server.strikes(server.poison):
            raise PoisonBatchError(server.world.chance.choice(names), "simulated: no such value")
        tables = server.store.tables
        before = dict(tables.shards)
        committed = self._inner.commit(batch)
        # A try whose answer was lost is told again what it did, and does nothing.
        if any(tables.shards[shard].batch_seq != before[shard].batch_seq for shard in batch.epochs):
            server.witness.committed(self._incarnation, batch, committed, before)
        return committed

    def prove(self, epochs: Mapping[int, int]) -> None:
        """See `Journal`."""
        self._ask(f"proof of {sorted(epochs)}", lambda: self._inner.prove(epochs))

    def release(self, epochs: Mapping[int, int], least: Mapping[int, int] = no_epochs) -> None:
        """See `Journal`."""
        self._ask(f"release of {sorted(epochs)}", lambda: self._inner.release(epochs, least))

    def close(self) -> None:
        """See `Journal`."""
        if not self._closed:
            self._closed = True
            self._client.end(self._inner.connection.id)
            for request in self._under_way:
                request.fail("the journal was closed")

    def _ask(self, what: str, act: Callable[[], _T]) -> _T:
        if self._closed:
            raise StoreUnavailableError("simulated: the journal was closed")
        return self._client.ask(what, partial(self._apply, act), alive=self._alive, under_way=self._under_way)

    def _apply(self, act: Callable[[], _T]) -> _T:
        value = act()
        self._note_connection()
        return value

    def _note_connection(self) -> None:
        known = self._inner.connection.id
        if known != self._known:
            self._known = known
            self._client.connections.append(known)

    def _alive(self) -> bool:
        # A journal that lives opens a new connection in place of one that is gone; a dead or closed one does not.
        there = self._inner.connection.id in self._client.server.store.connections
        return there or (self._client.process.alive and not self._closed)


class SimLockSession:
    """See `LockSession`."""

    def __init__(self, client: Client, inner: MemoryLockSession, timeout_us: int) -> None:
        self._client = client
        self._inner = inner
        self._timeout_us = timeout_us
        self._closed = False
        client.connections.append(inner.connection.id)

    @property
    def connection(self) -> ConnectionId:
        """See `LockSession`."""
        return self._inner.connection

    def acquire(self, row: CoordinatorRow) -> bool:
        """See `LockSession`."""
        return self._ask("acquire", lambda: self._inner.acquire(row))

    def renew(self, incarnation: str, attached_workers: int, attempts: Attempts = none_ended) -> int:
        """See `LockSession`."""
        sent_us = self._client.process.world.now_us
        db_us = self._ask("renew", lambda: self._inner.renew(incarnation, attached_workers, attempts), told=False)
        self._client.server.witness.renewed(incarnation, sent_us, attached_workers)
        return db_us

    def record_writer(self, incarnation: str, writer: ConnectionId) -> None:
        """See `LockSession`."""
        self._ask("record writer", lambda: self._inner.record_writer(incarnation, writer))

    def poll(self) -> Poll:
        """See `LockSession`."""
        return self._ask("poll", self._inner.poll, told=False)

    def take(self, shard: ShardRow, incarnation: str, grace_us: int, death: str = "") -> ShardRow | None:
        """See `LockSession`."""
        server = self._client.server

        def act() -> ShardRow | None:
            before = server.store.tables.shards[shard.shard]
            row = self._inner.take(shard, incarnation, grace_us, death)
            if row is not None:
                server.witness.took(before, row)
            return row

        return self._ask(f"take {shard.shard} above {shard.epoch}", act)

    def free(self, incarnation: str, shards: Sequence[int], death: str) -> int:
        """See `LockSession`."""
        return self._ask(f"free those of {incarnation[:8]}", lambda: self._inner.free(incarnation, shards, death))

    def kill(self, connection: ConnectionId) -> bool:
        """See `LockSession`."""
        return self._ask(f"kill {connection.id}", lambda: self._inner.kill(connection))

    def forget(self, incarnation: str) -> None:
        """See `LockSession`."""
        self._ask("forget", lambda: self._inner.forget(incarnation))

    def close(self) -> None:
        """See `LockSession`."""
        if not self._closed:
            self._closed = True
            self._client.end(self._inner.connection.id)

    def _ask(self, what: str, act: Callable[[], _T], *, told: bool = True) -> _T:
        if self._closed:
            raise StoreUnavailableError("simulated: the lock session was closed")
        return self._client.ask(what, act, timeout_us=self._timeout_us, told=told)
