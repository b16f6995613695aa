"""What the journal makes of a server that refuses: in passing, for good, or because of what others do."""

import contextlib
import itertools
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest
from pymysql.connections import Connection

from mainspring.errors import PoisonBatchError, StoreError, StoreUnavailableError
from mainspring_coordinator.store.mysql_connection import connect
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import Committed, Store
from mainspring_coordinator.store.schema import upgrade
from mainspring_coordinator.store.url import ServerAddress, parse_url
from tests.servers.mariadb import MariadbServer
from tests.servers.process import PrivateServer
from tests.servers.proxy import Swallow, SwallowingProxy
from tests.store.members import assigned, join, me, shard_row, until_it_runs, workflow

passing = {
    1213: "deadlock",
    1205: "lock wait",
    1290: "read-only",
    1114: "table full",
    1317: "killed",
    1053: "shutting down",
    1927: "connection killed",
}
"""Errors that may be over by the next try."""


def connected(url: str) -> "Connection[Any]":
    address = parse_url(url)
    assert isinstance(address, ServerAddress)
    return connect(address, autocommit=False)


def persist(act: Callable[[], Committed]) -> Committed:
    """Try again while the database is unavailable, as the control loop does; the test's own time bounds it."""
    while True:
        with contextlib.suppress(StoreUnavailableError):
            return act()


def until_refused(why: str, act: Callable[[], object]) -> None:
    """Do something until the server does not let us."""
    refused: pymysql.Error | None = None
    while refused is None:
        try:
            act()
        except pymysql.OperationalError as error:
            refused = error
    assert re.search(why, str(refused))


def test_a_batch_is_written_once_whatever_passing_error_meets_whichever_statement(
    through: Store, proxy: SwallowingProxy
) -> None:
    member = join(through, me, 0)
    statements = [("UPDATE shards", False), ("INSERT INTO nodes", False), ("COMMIT", False), ("COMMIT", True)]
    for count, ((statement, applied), number) in enumerate(itertools.product(statements, passing), 1):
        proxy.refuse(statement, number, applied=applied)
        name = f"w{count}"
        done = member.commit(workflow(name), assigned(name, 0))
        what = (statement, applied, number)
        assert proxy.swallowed.is_set(), what
        assert not done.existing, what
        assert shard_row(member, 0).batch_seq == count, what
        assert len(through.reader().nodes_of([name])) == 1, what
    assert member.lock.renew(me, 0) > 0


def test_the_victim_of_a_deadlock_writes_its_whole_batch_again(direct: Store, server_url: str) -> None:
    member = join(direct, me, 0)
    member.commit(workflow("w"), assigned("w", 0))
    other = connected(server_url)
    with contextlib.closing(other), other.cursor() as cursor:
        # It has written far more, so that the journal is the one whose transaction the server undoes.
        cursor.execute("CREATE TABLE ballast (n INT PRIMARY KEY) ENGINE=InnoDB")
        cursor.executemany("INSERT INTO ballast VALUES (%s)", [(n,) for n in range(500)])
        cursor.execute("UPDATE nodes SET attempt=attempt WHERE workflow_id='w'")
        cursor.execute("SELECT * FROM nodes WHERE workflow_id='w' FOR UPDATE")
        done: list[Committed] = []
        thread = threading.Thread(target=lambda: done.append(member.commit(workflow("v"), assigned("w", 0, attempt=2))))
        thread.start()
        until_it_runs(other, member, "INSERT INTO nodes")
        cursor.execute("SELECT * FROM shards WHERE shard_id=0 FOR UPDATE")
        other.rollback()
        thread.join(30)
    assert done
    assert not done[0].existing
    assert shard_row(member, 0).batch_seq == 2
    assert direct.reader().workflow("v") is not None


def test_a_writer_that_finds_no_connection_left_writes_once_there_is_one(each_server: PrivateServer) -> None:
    server = each_server
    url = server.plain_url(server.new_database("few"), connections_max=4)
    upgrade(url)
    with contextlib.ExitStack() as greedy, contextlib.closing(open_store(url)) as store:
        member = join(store, me, 0)
        assert member.lock.kill(member.journal.connection)
        until_refused("max_user_connections", lambda: greedy.enter_context(contextlib.closing(connected(url))))
        batch = member.batch([workflow("w")])
        with pytest.raises(StoreUnavailableError, match="max_user_connections"):
            member.journal.commit(batch)
        assert member.lock.renew(me, 0) > 0, "the lock has its connection already"
        greedy.close()
        persist(lambda: member.journal.commit(batch))
        assert shard_row(member, 0).batch_seq == 1


def test_a_smaller_packet_splits_batches_and_refuses_only_the_row_that_fits_none(
    each_server: PrivateServer,
) -> None:
    server = each_server
    url = server.url(server.new_database())
    upgrade(url)
    ((before,),) = server.execute("SELECT @@global.max_allowed_packet")
    with contextlib.closing(open_store(url)) as store:
        member = join(store, me, 0)
        server.execute(f"SET GLOBAL max_allowed_packet={2**20}")
        try:
            assert member.lock.kill(member.journal.connection)
            member.commit(*(workflow(f"w{n}", payload=b"x" * 200_000) for n in range(20)))
            with pytest.raises(PoisonBatchError, match="max_allowed_packet") as refused:
                member.commit(workflow("small"), workflow("large", payload=b"x" * 2**20))
            assert refused.value.workflow_id == "large"
        finally:
            server.execute(f"SET GLOBAL max_allowed_packet={before}")
        assert shard_row(member, 0).batch_seq == 1
        assert store.reader().workflow("w19") is not None


def test_a_packet_that_no_large_definition_fits_is_refused_at_the_start(each_server: PrivateServer) -> None:
    server = each_server
    url = server.url(server.new_database())
    upgrade(url)
    ((before,),) = server.execute("SELECT @@global.max_allowed_packet")
    server.execute(f"SET GLOBAL max_allowed_packet={2**20}")
    try:
        with contextlib.closing(open_store(url)) as store, pytest.raises(StoreError, match="max_allowed_packet"):
            store.check()
    finally:
        server.execute(f"SET GLOBAL max_allowed_packet={before}")
    with contextlib.closing(open_store(url)) as store:
        store.check()


@pytest.mark.parametrize("lost", Swallow)
def test_a_server_that_ends_in_the_middle_of_a_commit_has_the_batch_once(
    own_server: PrivateServer, lost: Swallow
) -> None:
    url = own_server.url(own_server.new_database())
    upgrade(url)

    def restart() -> None:
        own_server.halt()
        own_server.start()

    port = urlsplit(url).port or 0
    with (
        SwallowingProxy(port) as proxy,
        contextlib.closing(open_store(url.replace(f":{port}/", f":{proxy.port}/") + "?ssl=false")) as store,
    ):
        member = join(store, me, 0)
        proxy.arm("COMMIT", lost, then=restart)
        batch = member.batch([workflow("w"), assigned("w", 0)])
        done = persist(lambda: member.journal.commit(batch))
        assert not done.existing
        (first, *_) = store.reader().shards()
        assert first.batch_seq == 1
        with pytest.raises(StoreUnavailableError):
            member.lock.renew(me, 0)


def test_a_full_disk_refuses_the_batch_until_there_is_room() -> None:
    with FullServer() as server:
        url = server.url(server.new_database())
        upgrade(url)
        with contextlib.closing(open_store(url)) as store:
            member = join(store, me, 0)
            server.execute("CREATE DATABASE ballast", "CREATE TABLE ballast.t (data LONGBLOB) ENGINE=InnoDB")
            batch, name, seq = member.batch([]), "", 0
            with contextlib.suppress(StoreUnavailableError):
                while True:
                    # The server gives back what it needed for itself when it likes to, and so takes a batch now and then; and if nothing
                    # at all is left to it, it ends itself.
                    until_refused(
                        "full|Lost", lambda: server.execute("INSERT INTO ballast.t VALUES (REPEAT('x',1000000))")
                    )
                    name = f"w{seq}"
                    batch = member.batch([workflow(name, payload=b"x" * 3_000_000)])
                    member.journal.commit(batch)
                    seq += 1
            server.halt()
            server.room_mib *= 4
            server.start()
            assert store.reader().workflow(name) is None
            persist(lambda: member.journal.commit(batch))
            assert store.reader().workflow(name) is not None
            assert next(row.batch_seq for row in store.reader().shards()) == seq + 1


class FullServer(MariadbServer):
    """A MariaDB with one file for all its tables, which may not grow far: as if its disk were full."""

    room_mib = 32

    def command(self) -> list[str]:
        file = f"--innodb-data-file-path=ibdata1:12M:autoextend:max:{self.room_mib}M"
        return [*super().command(), "--innodb-file-per-table=0", file]
