"""What the journal makes of a commit whose answer was lost, when looking for the answer fails too: on a link that fails as it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pymysql
import pytest

from mainspring_coordinator.engine.rows import NodesCopied
from mainspring_coordinator.store.link import Claim
from mainspring_coordinator.store.protocol import Batch, ConnectionId, ExistingWorkflow, ShardRow
from mainspring_coordinator.store.shapes import TableWrite
from mainspring_coordinator.store.sql_journal import SqlJournal
from tests.store.members import me, workflow

lock_wait = pymysql.err.OperationalError(1205, "Lock wait timeout exceeded")
gone = pymysql.err.OperationalError(2013, "Lost connection to server during query")


@dataclass
class Server:
    """The fence row of shard 0, and what the next acts of these names raise."""

    row: ShardRow = field(default_factory=lambda: ShardRow(0, 1, me, 0, None, 0))
    failing: dict[str, list[pymysql.Error]] = field(default_factory=dict[str, list[pymysql.Error]])
    links: int = 0
    killed: list[int] = field(default_factory=list[int])

    def open_link(self) -> "ScriptedLink":
        self.links += 1
        return ScriptedLink(self, ConnectionId(self.links, "host"))

    def act(self, name: str) -> None:
        if self.failing.get(name):
            raise self.failing[name].pop(0)


class ScriptedLink:
    """A connection whose commit takes effect before its answer is lost."""

    round_trips = 0

    def __init__(self, server: Server, connection: ConnectionId) -> None:
        self.server = server
        self.connection = connection
        self.written: ShardRow | None = None

    def record(self, incarnation: str) -> None:
        pass

    def at_once(
        self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], writes: Sequence[TableWrite]
    ) -> bool:
        return False

    def begin(self) -> None:
        self.written = None

    def fence(self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], *, free: bool) -> int:
        row = self.server.row
        if claims[0] != Claim(row.epoch, row.batch_seq):
            return 0
        self.written = replace(row, batch_seq=row.batch_seq + 1, last_batch_id=batch_id)
        return 1

    def raise_epoch(self, shard: int, least: int) -> None:
        raise NotImplementedError

    def fence_rows(self, shards: Sequence[int], *, lock: bool) -> Mapping[int, ShardRow]:
        self.server.act("locking read" if lock else "plain read")
        return {0: self.server.row}

    def existing(self, workflow_ids: Sequence[str]) -> Sequence[ExistingWorkflow]:
        return []

    def write(self, write: TableWrite) -> None:
        pass

    def copy(self, copied: NodesCopied) -> None:
        pass

    def commit(self) -> None:
        assert self.written is not None
        self.server.row = self.written
        self.server.act("commit")

    def rollback(self) -> None:
        pass

    def kill(self, other: ConnectionId) -> None:
        self.server.killed.append(other.id)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("trouble", [lock_wait, gone])
def test_a_lost_answer_is_looked_for_until_it_is_found(trouble: pymysql.Error) -> None:
    server = Server(failing={"commit": [gone], "locking read": [trouble]})
    journal = SqlJournal(server.open_link, me, "here", connects_max=5)
    journal.adopt(server.row)
    journal.commit(Batch(b"1" * 16, {0: 1}, [workflow("w")]))
    assert server.row.batch_seq == 1, "written once"
    assert server.killed == [1, 1], "each look ends the old connection first"
    journal.commit(Batch(b"2" * 16, {0: 1}, [workflow("v")]))
    assert server.row.batch_seq == 2
