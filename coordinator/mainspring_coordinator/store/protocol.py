"""The one seam to the database.

Three sessions, each used by one thread at a time, because drivers are synchronous and must never be cancelled half-way:

* `Reader`: reads, from a small pool; any thread.
* `Journal`: the one writer. Its `commit` is the only way that workflow state is ever changed, and it proves every shard's epoch.
* `LockSession`: elects and renews. Its lock says that a process lives; it is for speed. The epoch is for safety.

Every implementation (SQL on MySQL, MariaDB, SQLite; memory, the oracle of the tests) passes the same suite. All raise
`StoreUnavailableError` for what may pass by itself, `FencedError` when a shard's epoch moved on, `PoisonBatchError` when the rows of
one workflow are refused as such, `SchemaError` when the schema's revision is wrong, and plain `StoreError` for any other trouble of
the database, such as a missing right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.rows import Row
from mainspring_coordinator.engine.status import NodeStatus, Subject, WorkflowStatus
from mainspring_coordinator.store.aged import AgedReader
from mainspring_coordinator.store.cached_results import ResultReader
from mainspring_coordinator.store.stored_record import StoredAuditEntry, StoredFailover, StoredStrategyChange


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """What is fixed when a cluster is made."""

    name: str
    shards_total: int


@dataclass(frozen=True, slots=True)
class ShardRow:
    """The fence row of a shard."""

    shard: int
    epoch: int
    """0 before the first owner."""
    holder: str | None
    """The incarnation of the coordinator that owns it."""
    batch_seq: int
    """How many transactions it has seen."""
    last_batch_id: bytes | None
    grace_until_us: int
    """Until when workers that have not attached since the epoch was raised keep their work; database time."""
    deaths: str = ""
    """Owners of this shard whose deaths are not in the record yet, as `deaths.note` writes them; the oldest first."""
    strategy: str = ""
    """Of shard 0: what holds for the whole cluster, as `engine.strategy.ClusterStrategy` writes it."""
    evicted: str = ""
    """Workers that were evicted under this shard's fence, as `engine.eviction` writes them."""
    pauses: bytes | None = None
    """Of shard 0: what is paused in the whole cluster, as `engine.pauses.ClusterPauses` writes it."""


@dataclass(frozen=True, slots=True)
class ConnectionId:
    """A server connection, told apart from one of the same number after a restart by its peer."""

    id: int
    peer: str
    """`HOST` of the server's process list; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """How many attempts ended in the last minutes, and how many of these failed."""

    ended: int
    failed: int


none_ended: Final = Attempts(0, 0)
no_epochs: Final[Mapping[int, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CoordinatorRow:
    """The lease row of a coordinator."""

    incarnation: str
    name: str
    grpc_address: str
    http_address: str
    renew_seq: int
    attached_workers: int
    lock_connection: ConnectionId
    writer_connection: ConnectionId
    started_at_us: int
    strategy: str = ""
    """Its own, ASSIGNMENT_STRATEGY."""
    attempts: Attempts = none_ended


@dataclass(frozen=True, slots=True)
class Peer:
    """A coordinator as the poll of peers shows it."""

    row: CoordinatorRow
    locked_by: int | None
    """The connection that holds the lock of this incarnation; None: it is free, so that its process or session is dead."""


@dataclass(frozen=True, slots=True)
class Poll:
    """One look at the whole cluster, from one statement a table."""

    now_us: int
    """Database time."""
    peers: Sequence[Peer]
    shards: Sequence[ShardRow]


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction."""

    batch_id: bytes
    """16 bytes, unique; the same in each try."""
    epochs: Mapping[int, int]
    """For every shard that the rows touch, the epoch under which they were made."""
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class ExistingWorkflow:
    """A workflow that was there before a submit of the same id."""

    workflow_id: str
    digest: bytes
    status: WorkflowStatus
    deleting: bool = False
    """It is being deleted: then its id can be used again."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit says of itself."""

    existing: Mapping[str, ExistingWorkflow]
    """Submitted ids that were there already; no row of theirs was written."""
    round_trips: int
    """How many times the database was waited for."""


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    """A workflow row."""

    shard: int
    workflow_id: str
    digest: bytes
    name: str
    plan_hash: bytes
    status: WorkflowStatus
    version: int
    """The highest of the workflow's row and its nodes' rows."""
    submitted_at_us: int
    deadline_at_us: int
    ended_at_us: int
    closing_until_us: int
    strategy: str
    cancel_reason: str
    failure: bytes | None
    input: bytes | None
    """None in lists."""
    output: bytes | None
    """None in lists and before the end."""
    rerun_of: str = ""
    """The workflow that it runs again; empty: none."""
    pause: Pause | None = None
    """None once it has ended."""


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node row; nodes that were never touched have none."""

    workflow_id: str
    node: int
    instance: int
    status: NodeStatus
    attempt: int
    assignment: int
    worker: str
    incarnation: str
    started_at_us: int
    ended_at_us: int
    run_us: int
    retry_at_us: int
    width: int
    redeliveries: int
    version: int
    failure: bytes | None
    output: bytes | None = None
    """None unless it was asked for."""
    progress: bytes | None = None
    """None unless it was asked for, or there is none."""


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """An attempt that was followed by another."""

    node: int
    instance: int
    attempt: int
    worker: str
    started_at_us: int
    ended_at_us: int
    run_us: int
    failure: bytes


@dataclass(frozen=True, slots=True)
class WorkflowFilter:
    """Which workflows a list shows; what is empty or 0 excludes nothing."""

    statuses: Sequence[WorkflowStatus] = ()
    name: str = ""
    id_prefix: str = ""
    submitted_from_us: int = 0
    submitted_before_us: int = 0


class Reader(AgedReader, ResultReader, Protocol):
    """Reads. Nothing here promises to be current beyond the moment of the read."""

    def cluster(self) -> ClusterRow | None:
        """Return the cluster's row, None before the first start."""
        ...

    def shards(self) -> Sequence[ShardRow]:
        """Return all shards by number."""
        ...

    def coordinators(self) -> Sequence[CoordinatorRow]:
        """Return all lease rows by name."""
        ...

    def open_workflows(self, shard: int, after: tuple[int, str], limit: int) -> Sequence[StoredWorkflow]:
        """Return workflows of a shard that have not ended, with their input, by submit time and id, beyond `after`; (-1, "") for all."""
        ...

    def nodes_of(self, workflow_ids: Sequence[str]) -> Sequence[StoredNode]:
        """Return all node rows of these workflows without output; with progress; by workflow, node and instance."""
        ...

    def workflow(self, workflow_id: str) -> StoredWorkflow | None:
        """Return one workflow with input and output."""
        ...

    def workflows_named(self, workflow_ids: Sequence[str]) -> Sequence[StoredWorkflow]:
        """Return those of these workflows that there are, with input and output, by id."""
        ...

    def outputs(self, workflow_id: str, nodes: Sequence[int]) -> Sequence[StoredNode]:
        """Return the rows of these nodes, all their instances included, with output."""
        ...

    def node_page(
        self, workflow_id: str, after: tuple[int, int], limit: int, statuses: Sequence[NodeStatus] = ()
    ) -> Sequence[StoredNode]:
        """Return node rows beyond (node, instance) `after`, in that order, without output."""
        ...

    def row_sizes(self, workflow_id: str, after: tuple[int, int], limit: int) -> Sequence[tuple[int, int, int]]:
        """Return (node, instance, bytes of its output) of node rows beyond `after`, in that order."""
        ...

    def instances_ended(self, workflow_id: str, node: int) -> int:
        """Count the instances of a `map` node that have ended."""
        ...

    def node(self, workflow_id: str, node: int, instance: int) -> StoredNode | None:
        """Return one node row with output and progress."""
        ...

    def attempts(
        self, workflow_id: str, node: int | None = None, instance: int | None = None
    ) -> Sequence[StoredAttempt]:
        """Return ended attempts of a workflow, or of one of its nodes or instances, by node, instance and attempt."""
        ...

    def plan(self, shard: int, plan_hash: bytes) -> bytes | None:
        """Return a definition's canonical JSON."""
        ...

    def list_workflows(
        self, wanted: WorkflowFilter, before: tuple[int, str] | None, limit: int
    ) -> Sequence[StoredWorkflow]:
        """Return workflows newest first (by submit time, then id, both descending), beyond `before`, without payloads."""
        ...

    def failovers(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredFailover]:
        """Return events newest first (by detection, then id, both descending), beyond `before`."""
        ...

    def failover(self, event_id: str) -> StoredFailover | None:
        """Return one event."""
        ...

    def failovers_to_tell(self, limit: int) -> Sequence[StoredFailover]:
        """Return events that are not closed, those of the lowest stage first, the oldest first among them."""
        ...

    def affected(self, event_id: str, subject: Subject, offset: int, limit: int) -> Sequence[str]:
        """Return ids that an event affected, by shard and within it in the order in which they were stored."""
        ...

    def strategy_changes(self, before_us: int, limit: int) -> Sequence[StoredStrategyChange]:
        """Return changes of the cluster's strategy newest first, those before a time; 0: from the newest on."""
        ...

    def audit(self, before: tuple[int, str] | None, limit: int) -> Sequence[StoredAuditEntry]:
        """Return what operators did, newest first (by begin, then id, both descending), beyond `before`."""
        ...

    def audit_entry(self, entry_id: str) -> StoredAuditEntry | None:
        """Return one entry of that."""
        ...

    def pauses(self) -> bytes | None:
        """Return what the fence row of shard 0 says is paused in the whole cluster."""
        ...

    def paused_workflows(self, after: tuple[int, str], limit: int) -> Sequence[tuple[str, Pause]]:
        """Return unfinished workflows that are paused, by time and id, beyond `after`; (-1, "") for all."""
        ...

    def permits(self, shard: int, after: tuple[str, int], limit: int) -> Sequence[HeldPermits]:
        """Return the permits of keys whose home is a shard, by key (as bytes) and holder, beyond (key, holder) `after`."""
        ...


class Journal(Protocol):
    """The one writer of a coordinator's incarnation."""

    @property
    def connection(self) -> ConnectionId:
        """The server connection, to be recorded in the lease row before the first transaction."""
        ...

    def adopt(self, shard: ShardRow) -> None:
        """Begin to write a shard that `LockSession.take` has taken; `shard` is the row that it returned."""
        ...

    def drop(self, shard: int) -> None:
        """Stop writing a shard; nothing happens when it was not adopted."""
        ...

    def commit(self, batch: Batch) -> Committed:
        """Write a batch in one transaction whose first statement proves all its epochs.

        Answers an ambiguous commit by itself (kills the old connection, reads the fence rows with a lock, tries again with the same
        batch id). `FencedError` names the shards that are lost; nothing was written, and the caller may commit the rest.
        `StoreUnavailableError`: nothing of it is known to be written; try the same batch again, or end the incarnation.
        """
        ...

    def prove(self, epochs: Mapping[int, int]) -> None:
        """Prove that these shards are still ours now; `FencedError` names those that are not."""
        ...

    def release(self, epochs: Mapping[int, int], least: Mapping[int, int] = no_epochs) -> None:
        """Give these shards up (holder becomes NULL) in a fenced transaction, and drop them.

        Epochs that are below those of `least` are raised to these by the same transaction.
        """
        ...

    def close(self) -> None:
        """Close the connection at once, whatever it is doing. Safe from any thread, twice as well."""
        ...


class LockSession(Protocol):
    """The dedicated connection that elects: no pool, no reconnect; any error means that the lock is lost.

    Any but `RowLockedError`, which all that writes may raise: a transaction of somebody else holds the row, nothing was changed, and
    the lock session is none the worse for it.
    """

    @property
    def connection(self) -> ConnectionId:
        """The server connection."""
        ...

    def acquire(self, row: CoordinatorRow) -> bool:
        """Take this incarnation's lock (never waits) and write its lease row; False when someone else holds the lock."""
        ...

    def renew(self, incarnation: str, attached_workers: int, attempts: Attempts = none_ended) -> int:
        """Verify that the lock is held by this connection, raise `renew_seq` by one, return database time in microseconds.

        Writes into the lease row what the others are to know of this coordinator.

        `FencedError` (with no shards) when lock or lease row is gone.
        """
        ...

    def record_writer(self, incarnation: str, writer: ConnectionId) -> None:
        """Write the writer's connection into the lease row; before its first transaction."""
        ...

    def poll(self) -> Poll:
        """Look at all peers and shards."""
        ...

    def take(self, shard: ShardRow, incarnation: str, grace_us: int, death: str = "") -> ShardRow | None:
        """Take a shard in one autocommit statement, if its epoch is still that of `shard`; None when someone was faster.

        Stores `grace_until_us` as database time + `grace_us`, or leaves an earlier one of the row that has not passed. One that lies
        further ahead than a grace can was stored before the server's clock went back, and is not waited for.
        Appends `death` to the row's `deaths` if the holder is still that of `shard`, and there is room.
        """
        ...

    def free(self, incarnation: str, shards: Sequence[int], death: str) -> int:
        """Leave without a holder those of these shards that an incarnation still holds, each under a higher epoch; return how many.

        Appends `death` to their rows' `deaths` where there is room.
        """
        ...

    def kill(self, connection: ConnectionId) -> bool:
        """End another connection of the same database user, if id and peer still fit; False when it is not there."""
        ...

    def forget(self, incarnation: str) -> None:
        """Delete the lease row of a dead incarnation that holds no shard."""
        ...

    def close(self) -> None:
        """Release the lock and close the connection. Safe from any thread, twice as well."""
        ...


class Store(Protocol):
    """A database, ready to hand out sessions."""

    @property
    def description(self) -> str:
        """Kind and version, such as "MariaDB 10.11.19"."""
        ...

    @property
    def serves_one(self) -> bool:
        """Whether one coordinator's process at a time has the database, because it is a file."""
        ...

    def check(self) -> None:
        """Raise `SchemaError` with the command to type when the schema's revision is not ours.

        `StoreUnavailableError` when out of reach, `StoreError` when the server may lose what it acknowledged.
        """
        ...

    def create_cluster(self, wanted: ClusterRow) -> ClusterRow:
        """Return the cluster's row; make it and its shards when there is none. The row that is there wins."""
        ...

    def reader(self) -> Reader:
        """Return the reads."""
        ...

    def open_journal(self, incarnation: str) -> Journal:
        """Open the writer of one incarnation."""
        ...

    def open_lock_session(self, cluster: str) -> LockSession:
        """Open a lock session."""
        ...

    def close(self) -> None:
        """Close all that was opened."""
        ...
