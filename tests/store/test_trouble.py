"""What the journal and the lock do when the server, or the way to it, fails."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Self

import pymysql
import pytest
from sqlalchemy import QueuePool

from mainspring.errors import FencedError, PoisonBatchError, RowLockedError, StoreError, StoreUnavailableError
from mainspring.limits import query_timeout_ms
from mainspring_coordinator.store import mysql_link
from mainspring_coordinator.store.errors import Trouble, errors_met
from mainspring_coordinator.store.mysql_connection import connect, identity, kill
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import ConnectionId, Store, WorkflowFilter
from mainspring_coordinator.store.schema import upgrade
from mainspring_coordinator.store.sql import SqlStore
from mainspring_coordinator.store.url import ServerAddress, parse_url
from tests.servers.mariadb import MariadbServer
from tests.servers.process import PrivateServer
from tests.servers.proxy import Swallow, SwallowingProxy
from tests.store.members import assigned, join, lease, me, rival, shard_row, succeeded, until_it_runs, workflow


def address_of(url: str) -> ServerAddress:
    address = parse_url(url)
    assert isinstance(address, ServerAddress)
    return address


@pytest.mark.parametrize("lost", Swallow)
def test_a_commit_whose_outcome_is_open_counts_once(
    through: Store, direct: Store, proxy: SwallowingProxy, lost: Swallow
) -> None:
    member = join(through, me, 0)
    member.commit(workflow("before"))
    first = member.journal.connection
    proxy.arm("COMMIT", lost)
    done = member.commit(workflow("w"), assigned("w", 0))
    assert proxy.swallowed.is_set()
    assert not done.existing, "the second try must not find the rows of the first"
    assert shard_row(member, 0).batch_seq == 2
    assert len(direct.reader().nodes_of(["w"])) == 1
    assert member.journal.connection != first
    assert direct.reader().coordinators()[0].writer_connection == member.journal.connection, (
        "the new connection is recorded"
    )
    member.commit(workflow("after"))
    assert shard_row(member, 0).batch_seq == 3


def test_a_lost_answer_is_found_although_the_shard_has_moved_on(
    through: Store, direct: Store, proxy: SwallowingProxy
) -> None:
    member, other = join(through, me, 0), join(direct, rival)
    proxy.arm("COMMIT", Swallow.REPLY, then=lambda: other.take(0))
    member.commit(workflow("w"))
    assert direct.reader().workflow("w") is not None
    with pytest.raises(FencedError) as lost:
        member.commit(workflow("v"))
    assert lost.value.lost == {0: 2}


def test_an_outcome_without_a_trace_is_not_taken_for_either(
    through: Store, direct: Store, proxy: SwallowingProxy
) -> None:
    member, other = join(through, me, 0), join(direct, rival)

    def write_on() -> None:
        other.take(0)
        other.commit(workflow("x"))
        other.commit(workflow("y"))

    proxy.arm("COMMIT", Swallow.REPLY, then=write_on)
    with pytest.raises(FencedError) as lost:
        member.commit(workflow("w"))
    assert lost.value.lost == {0: 2}


def test_one_touched_shard_that_is_still_ours_decides_for_the_whole_batch(
    through: Store, direct: Store, proxy: SwallowingProxy
) -> None:
    member, other = join(through, me, 0, 1), join(direct, rival)

    def write_on() -> None:
        other.take(0)
        other.commit(workflow("x"))
        other.commit(workflow("y"))

    proxy.arm("COMMIT", Swallow.REPLY, then=write_on)
    assert not member.commit(workflow("w", 0), workflow("v", 1)).existing
    assert shard_row(member, 1).batch_seq == 1


def test_a_broken_statement_before_the_commit_is_written_once(through: Store, proxy: SwallowingProxy) -> None:
    member = join(through, me, 0)
    proxy.arm("INSERT", Swallow.REPLY)
    member.commit(workflow("w"))
    assert shard_row(member, 0).batch_seq == 1


def test_a_killed_writer_connects_again_and_goes_on(direct: Store) -> None:
    member = join(direct, me, 0)
    assert member.lock.kill(member.journal.connection)
    before = errors_met()[Trouble.DISCONNECTED]
    member.commit(workflow("w"))
    assert shard_row(member, 0).batch_seq == 1
    assert errors_met()[Trouble.DISCONNECTED] == before + 1


@pytest.mark.parametrize("lost", Swallow)
def test_a_connection_that_breaks_while_it_is_recorded_leaves_the_lease_row_free(
    through: Store, proxy: SwallowingProxy, lost: Swallow
) -> None:
    member = join(through, me, 0)
    assert member.lock.kill(member.journal.connection)
    proxy.arm("UPDATE coordinators", lost)
    member.commit(workflow("w"))
    assert proxy.swallowed.is_set()
    assert member.lock.renew(me, 0) > 0
    assert through.reader().coordinators()[0].writer_connection == member.journal.connection


def test_a_locked_lease_row_is_waited_for_and_costs_no_lock(direct: Store, server_url: str) -> None:
    member = join(direct, me)
    blocker = connect(address_of(server_url), autocommit=False)
    with contextlib.closing(blocker), blocker.cursor() as cursor:
        cursor.execute("UPDATE coordinators SET attached_workers=9")
        for act in (
            lambda: member.lock.renew(me, 0),
            lambda: member.lock.record_writer(me, member.journal.connection),
            lambda: member.lock.forget(me),
        ):
            with pytest.raises(RowLockedError):
                act()
        blocker.rollback()
    assert member.lock.renew(me, 0) > 0


def test_only_the_connection_that_is_meant_is_killed(direct: Store) -> None:
    member = join(direct, me, 0)
    writer = member.journal.connection
    assert not member.lock.kill(ConnectionId(writer.id, "10.0.0.1:1"))
    assert not member.lock.kill(ConnectionId(2**31, writer.peer))
    member.commit(workflow("w"))
    assert member.journal.connection == writer


class Muddled:
    """A connection to a server that cannot show at first what its connections execute."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.statements: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cursor(self) -> "Muddled":
        return self

    def execute(self, statement: str) -> None:
        self.statements.append(statement)
        self.times -= 1
        if self.times >= 0:
            raise pymysql.err.OperationalError(3854, "Cannot convert string '\\xB4\\xEC...' from utf8mb4 to utf8mb3")

    def fetchall(self) -> list[tuple[int, str]]:
        return [(7, "10.0.0.1:1")]


def test_a_list_of_connections_that_changes_while_it_is_read_is_read_again() -> None:
    muddled: Any = Muddled(2)
    assert kill(muddled, ConnectionId(7, "10.0.0.1:1"))
    assert muddled.statements[-1] == "KILL 7"
    for_good: Any = Muddled(1_000)
    with pytest.raises(pymysql.err.OperationalError):
        kill(for_good, ConnectionId(7, "10.0.0.1:1"))
    assert len(for_good.statements) < 10


def test_a_killed_lock_session_has_lost_its_lock_and_stays_closed(direct: Store) -> None:
    one, two = join(direct, me), join(direct, rival)
    assert two.lock.kill(one.lock.connection)
    with pytest.raises(StoreUnavailableError):
        one.lock.renew(me, 0)
    with pytest.raises(StoreUnavailableError):
        one.lock.poll()
    locked = {peer.row.incarnation: peer.locked_by for peer in two.lock.poll().peers}
    assert locked == {me: None, rival: two.lock.connection.id}


def test_a_hung_owner_is_taken_over_once_its_writer_is_killed(direct: Store, server_url: str) -> None:
    one, two = join(direct, me, 0), join(direct, rival)
    hung = connect(address_of(server_url), autocommit=False)
    with contextlib.closing(hung), hung.cursor() as cursor:
        cursor.execute("UPDATE shards SET batch_seq=batch_seq+1 WHERE shard_id=0")
        with pytest.raises(RowLockedError):
            two.lock.take(shard_row(two, 0), rival, 0)
        assert two.lock.kill(identity(hung))
        two.take(0)
        with contextlib.suppress(pymysql.Error):
            hung.ping(reconnect=False)
    with pytest.raises(FencedError):
        one.commit(workflow("w"))


def test_a_commit_waits_for_whoever_holds_its_fence_row(direct: Store, server_url: str) -> None:
    member = join(direct, me, 0)
    blocker = connect(address_of(server_url), autocommit=False)
    with contextlib.closing(blocker), blocker.cursor() as cursor:
        cursor.execute("UPDATE shards SET grace_until_us=1 WHERE shard_id=0")
        failed: list[BaseException] = []

        def commit() -> None:
            try:
                member.commit(workflow("w"))
            except BaseException as error:  # shown by the assert below
                failed.append(error)

        thread = threading.Thread(target=commit)
        thread.start()
        until_it_runs(blocker, member, "UPDATE shards")
        blocker.rollback()
        thread.join(30)
    assert not failed
    assert shard_row(member, 0).batch_seq == 1


def test_a_row_that_is_refused_is_found_among_many(direct: Store) -> None:
    member = join(direct, me, 0, 1)
    rows = [row for n in range(40) for row in (workflow(f"w{n}", n % 2), assigned(f"w{n}", 0, shard=n % 2))]
    too_long = workflow("w99", 1, called="x" * 500)
    before = errors_met()[Trouble.DATA]
    with pytest.raises(PoisonBatchError) as poison:
        member.commit(*rows[:30], too_long, *rows[30:])
    assert poison.value.workflow_id == "w99"
    assert "name" in poison.value.reason
    assert errors_met()[Trouble.DATA] == before + 1
    assert not direct.reader().list_workflows(WorkflowFilter(), None, 10)
    assert [shard_row(member, shard).batch_seq for shard in (0, 1)] == [0, 0]
    member.commit(*rows)
    assert [shard_row(member, shard).batch_seq for shard in (0, 1)] == [1, 1]


def test_text_that_no_server_can_hold_is_refused(direct: Store) -> None:
    member = join(direct, me, 0)
    with pytest.raises(PoisonBatchError, match="surrogates"):
        member.commit(workflow("good"), workflow("bad", called="\ud800"))
    member.commit(workflow("good"))


def test_a_hop_is_one_commit_and_one_wait_for_the_server(direct: Store) -> None:
    member = join(direct, me, 0)
    member.commit(workflow("w"), assigned("w", 0))
    done = member.commit(succeeded("w", 0), assigned("w", 1))
    assert done.round_trips == 1
    assert shard_row(member, 0).batch_seq == 2


def test_what_is_refused_in_one_message_leaves_no_transaction_open(direct: Store) -> None:
    member = join(direct, me, 0)
    member.commit(workflow("w"), assigned("w", 0))
    assert list(member.commit(workflow("w"), assigned("w", 1), workflow("v")).existing) == ["w"]
    assert [row.node for row in direct.reader().nodes_of(["w"])] == [0]
    assert direct.reader().workflow("v") is not None
    assert member.commit(succeeded("w", 0)).round_trips == 1, "and the next one is sent at once again"


def test_a_server_that_would_commit_without_the_fence_gets_statement_by_statement(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_link, "_demand", lambda rows: b"SET @mainspring=%d" % rows)
    with contextlib.closing(open_store(server_url)) as store:
        member, other = join(store, me, 0), join(store, rival)
        assert member.commit(workflow("w")).round_trips > 1
        other.take(0)
        with pytest.raises(FencedError):
            member.commit(workflow("v"))
        assert store.reader().workflow("v") is None


def test_the_password_is_nowhere_to_be_seen(server_url: str) -> None:
    store = open_store(server_url.replace("mainspring:", "mainspring:wrong-"))
    with contextlib.closing(store), pytest.raises(StoreError, match="Access denied") as refused:
        store.open_journal(me)
    assert "wrong-" not in f"{refused.value!r} {store!r}"


_hold = """
import sys
from mainspring_coordinator.store.open import open_store
from tests.store.members import lease, me
store = open_store(sys.argv[1])
lock = store.open_lock_session("test")
assert lock.acquire(lease(me, lock))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_frees_its_lock(database_url: str) -> None:
    upgrade(database_url)
    store = open_store(database_url)
    command = [sys.executable, "-c", _hold, database_url]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        contextlib.closing(store),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as holder,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        mine = store.open_lock_session("test")
        (peer,) = mine.poll().peers
        assert peer.locked_by is not None
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
        while mine.poll().peers[0].locked_by is not None:  # the server sees the end of the connection when it does
            pass


def test_an_outage_ends_with_the_same_batch_written_once() -> None:
    with MariadbServer() as server:
        url = server.url(server.new_database())
        upgrade(url)
        with contextlib.closing(open_store(url)) as store:
            member = join(store, me, 0)
            member.commit(workflow("before"))
            batch = member.batch([workflow("w")])
            server.halt()
            for _ in range(2):
                with pytest.raises(StoreUnavailableError):
                    member.journal.commit(batch)
            server.start()
            member.journal.commit(batch)
            member.journal.commit(batch)
            assert next(row.batch_seq for row in store.reader().shards()) == 2
            assert store.reader().workflow("w") is not None


def test_a_closed_store_leaves_no_read_waiting_for_a_server_that_stands_still(own_server: PrivateServer) -> None:
    url = own_server.url(own_server.new_database())
    upgrade(url)
    store = open_store(url)
    store.check()
    refused: list[Exception] = []

    def read() -> None:
        try:
            store.reader().cluster()
        except StoreUnavailableError as error:
            refused.append(error)

    assert isinstance(store, SqlStore)
    pool = store._engine.pool
    assert isinstance(pool, QueuePool)
    own_server.pause()
    try:
        reading = threading.Thread(target=read)
        reading.start()
        while not pool.checkedout():  # a pool tells nobody
            continue
        store.close()
        reading.join(query_timeout_ms / 2_000)
        assert not reading.is_alive(), "it waits until its socket does no longer"
        assert refused
    finally:
        own_server.resume()


def test_a_read_only_server_is_unavailable(own_server: PrivateServer) -> None:
    url = own_server.plain_url(own_server.new_database())
    upgrade(url)
    with contextlib.closing(open_store(url, connects_max=2)) as store:
        member = join(store, me, 0)
        own_server.execute("SET GLOBAL read_only=1")
        with pytest.raises(StoreUnavailableError, match="read-only"):
            member.commit(workflow("w"))
        own_server.execute("SET GLOBAL read_only=0")
        member.commit(workflow("w"))


def test_nobody_elects_on_a_read_only_server_even_with_the_right_to_write_there(own_server: PrivateServer) -> None:
    url = own_server.url(own_server.new_database())
    upgrade(url)
    with contextlib.closing(open_store(url)) as store:
        member, other = join(store, me, 0), store.open_lock_session("test")
        own_server.execute("SET GLOBAL read_only=1")
        with pytest.raises(StoreUnavailableError, match="read-only"):
            member.lock.renew(me, 0)
        with pytest.raises(StoreUnavailableError, match="read-only"):
            other.acquire(lease(rival, other))
        for session in (member.lock, other):
            with pytest.raises(StoreUnavailableError, match="closed"):
                session.poll()
        own_server.execute("SET GLOBAL read_only=0")
        other = store.open_lock_session("test")
        assert other.acquire(lease(rival, other))


def test_a_journal_that_is_closed_while_it_waits_ends_at_once(direct: Store, server_url: str) -> None:
    member = join(direct, me, 0)
    blocker = connect(address_of(server_url), autocommit=False)
    with contextlib.closing(blocker), blocker.cursor() as cursor:
        cursor.execute("UPDATE shards SET grace_until_us=1 WHERE shard_id=0")
        ended: list[BaseException] = []

        def commit() -> None:
            try:
                member.commit(workflow("w"))
            except StoreUnavailableError as error:
                ended.append(error)

        thread = threading.Thread(target=commit)
        thread.start()
        until_it_runs(blocker, member, "UPDATE shards")
        member.journal.close()
        thread.join(2)
        assert not thread.is_alive()
        assert "closed" in str(ended[0])
