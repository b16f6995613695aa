"""Reads the database while the run goes on, through its Unix socket, which no trouble of the network reaches."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pymysql
from pymysql.connections import Connection

from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.chaos.books import NodeSeen, RowBook, ShardBook, ShardSeen, WorkflowSeen
from tests.chaos.members import now_ns
from tests.servers.process import PrivateServer

_shards_s: Final = 0.05
_rows_s: Final = 0.5
_read_s_max: Final = 30

_of_shards: Final = "SELECT shard_id, epoch, IFNULL(holder, ''), batch_seq FROM shards"
_of_workflows: Final = "SELECT workflow_id, shard_id, status, version FROM workflows WHERE {}"
_of_nodes: Final = (
    "SELECT n.workflow_id, w.shard_id, n.node, n.instance, n.status, n.attempt, n.assignment"
    " FROM workflows w JOIN nodes n ON n.workflow_id = w.workflow_id WHERE {}"
)


class Sampler:
    """A thread with two books."""

    def __init__(self, server: PrivateServer, schema: str) -> None:
        self.shards = ShardBook()
        self.rows = RowBook()
        self.samples = 0
        self.offset_us = 0
        """What must be added to the time of the journals, in microseconds, to get the database's."""
        self._server = server
        self._schema = schema
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, with a last look at every row there is; raises what went wrong in the thread."""
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        with contextlib.closing(self._connect()) as connection:
            self._look_at_rows(connection, "TRUE")

    def held_by(self, incarnation: str) -> Mapping[int, int]:
        """Return the shards of an incarnation, as they were seen last, with their epochs."""
        return {row.shard: row.epoch for row in list(self.shards.last.values()) if row.holder == incarnation}

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                # Only the database is expected to fail, and to come back.
                with contextlib.suppress(pymysql.Error, OSError), contextlib.closing(self._connect()) as connection:
                    self._follow(connection)
                self.shards.broke()
                self.rows.broke()
                self._over.wait(_shards_s)
        except BaseException as error:
            self._error = error

    def _follow(self, connection: "Connection[Any]") -> None:
        rows_due_ns = 0
        while not self._over.is_set():
            self._look_at_shards(connection)
            if now_ns() >= rows_due_ns:
                self._look_at_rows(connection, "{}is_open = 1")
                rows_due_ns = now_ns() + int(_rows_s * 1e9)
            self.samples += 1
            self._over.wait(_shards_s)

    def _look_at_shards(self, connection: "Connection[Any]") -> None:
        rows = [ShardSeen(*row) for row in _read(connection, _of_shards)]
        self.shards.observe(now_ns(), rows)

    def _look_at_rows(self, connection: "Connection[Any]", which: str) -> None:
        workflows = [
            WorkflowSeen(name, shard, WorkflowStatus(status), version)
            for name, shard, status, version in _read(connection, _of_workflows.format(which.format("")))
        ]
        nodes = [
            NodeSeen(name, shard, node, instance, NodeStatus(status), attempt, assignment)
            for name, shard, node, instance, status, attempt, assignment in _read(
                connection, _of_nodes.format(which.format("w."))
            )
        ]
        self._look_at_shards(connection)
        self.rows.observe(now_ns(), workflows, nodes, {row.shard: row.epoch for row in self.shards.last.values()})
        self.offset_us = int(_read(connection, "SELECT UNIX_TIMESTAMP(NOW(6)) * 1000000")[0][0]) - now_ns() // 1_000

    def _connect(self) -> "Connection[Any]":
        return self._server.administrator(self._schema, read_timeout_s=_read_s_max)


def _read(connection: "Connection[Any]", statement: str) -> Sequence[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
    return rows
