"""A coordinator as the store sees it, and rows to write."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymysql.connections import Connection

from mainspring_coordinator.engine.rows import NodeAssigned, NodeChanged, Row, WorkflowInserted
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.store.protocol import (
    Batch,
    ClusterRow,
    Committed,
    ConnectionId,
    CoordinatorRow,
    Journal,
    LockSession,
    ShardRow,
    Store,
)

me, rival = "a" * 32, "b" * 32
shards_total = 4
digest = bytes(range(32))


@dataclass
class Member:
    """A lock session and a journal of one incarnation; on SQLite a second one has no lock, and needs none to take shards."""

    incarnation: str
    lock: LockSession
    journal: Journal
    epochs: dict[int, int]

    def take(self, *shards: int) -> None:
        for shard in shards:
            row = self.lock.take(self.lock.poll().shards[shard], self.incarnation, 0)
            assert row is not None
            self.journal.adopt(row)
            self.epochs[shard] = row.epoch

    def batch(self, rows: Sequence[Row], epochs: Mapping[int, int] | None = None) -> Batch:
        known = self.epochs if epochs is None else epochs
        return Batch(secrets.token_bytes(16), {row.shard: known[row.shard] for row in rows}, rows)

    def commit(self, *rows: Row) -> Committed:
        return self.journal.commit(self.batch(rows))


def lease(incarnation: str, lock: LockSession, name: str = "one") -> CoordinatorRow:
    return CoordinatorRow(
        incarnation, name, "127.0.0.1:7320", "127.0.0.1:3000", 0, 0, lock.connection, ConnectionId(0, ""), 7
    )


def join(store: Store, incarnation: str = me, *shards: int) -> Member:
    store.create_cluster(ClusterRow("test", shards_total))
    lock = store.open_lock_session("test")
    lock.acquire(lease(incarnation, lock))
    journal = store.open_journal(incarnation)
    lock.record_writer(incarnation, journal.connection)
    member = Member(incarnation, lock, journal, {})
    member.take(*shards)
    return member


def workflow(
    name: str, shard: int = 0, payload: bytes = b"{}", submitted_at_us: int = 5, called: str = "report"
) -> WorkflowInserted:
    return WorkflowInserted(shard, name, digest, called, b"h" * 32, payload, submitted_at_us, 0, "round-robin")


def assigned(
    name: str, node: int, *, shard: int = 0, instance: int = -1, version: int = 2, attempt: int = 1
) -> NodeAssigned:
    return NodeAssigned(shard, name, node, instance, version, attempt, (1 << 32) + node, "wörker'\\", "c" * 32, 11, 0)


def succeeded(
    name: str,
    node: int,
    output: bytes = b"1",
    *,
    shard: int = 0,
    instance: int = -1,
    version: int = 3,
    attempt: int = 1,
) -> NodeChanged:
    return NodeChanged(shard, name, node, instance, version, NodeStatus.SUCCEEDED, attempt, output, None, 20, 9)


def until_it_runs(asking: "Connection[Any]", member: Member, statement: str) -> None:
    """Return when a member's journal is in a statement that begins so, because it waits for what somebody else holds."""
    seen = ""
    with asking.cursor() as cursor:
        while statement not in seen:
            cursor.execute(
                "SELECT INFO FROM information_schema.PROCESSLIST WHERE ID=%s", (member.journal.connection.id,)
            )
            seen = str(cursor.fetchone())


def shard_row(member: Member, shard: int) -> ShardRow:
    return member.lock.poll().shards[shard]
