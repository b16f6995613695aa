"""Elections with their threads, on real databases, with real processes that are killed and stopped."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest
import structlog

from mainspring.errors import SchemaError, SettingsError, StoreUnavailableError
from mainspring_coordinator import election as election_module
from mainspring_coordinator.store.mysql_connection import connect
from mainspring_coordinator.store.schema import upgrade
from mainspring_coordinator.store.url import ServerAddress, parse_url
from tests.ownership.recorder import Coordinator
from tests.servers.ports import free_port
from tests.servers.process import PrivateServer

ROOT = Path(__file__).parents[2]


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'mainspring.db'}"
    upgrade(url)
    return url


@pytest.fixture
def server_url(chosen_url: str) -> str:
    upgrade(chosen_url)
    return chosen_url


@asynccontextmanager
async def owner_process(url: str, lease_ms: int = 5_000) -> AsyncIterator[Process]:
    """A process that owns all shards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.ownership.process", url, "victim", str(lease_ms), stdout=PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"owns all\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else it is closed after the loop, with a warning


def test_a_lone_coordinator_owns_all_and_knows_where_everything_is(sqlite_url: str) -> None:
    async def story() -> None:
        async with Coordinator(sqlite_url, "one", distributed=False) as one:
            await one.until(lambda: len(one.owned) == 16)
            await one.until(lambda: bool(one.views))
            me = one.incarnations[0]
            assert set(one.owned.values()) == {1}
            assert one.election.fresh()
            assert one.election.incarnation == me
            assert one.election.owner_of(3) == (me, "one:1")
            assert one.election.coordinators() == [(me, "one", "one:1")]
            assert abs(one.election.now_us() - time.time_ns() // 1_000) < 60_000_000
            assert len(one.measured.taken) == 16
            assert all(seconds < 5 for seconds in one.measured.taken)
        assert one.lost == ["the process stops"]
        assert not one.election.fresh()

    play(story())


def test_a_second_lone_coordinator_is_told_who_is_there(sqlite_url: str) -> None:
    async def story() -> None:
        async with Coordinator(sqlite_url, "one", distributed=False):
            other = Coordinator(sqlite_url, "other", distributed=False)
            with pytest.raises(SettingsError, match=r"coordinator 'one' \(one:1\) is live.*DISTRIBUTED_MODE=true"):
                await other.election.start()
            await other.__aexit__()

    play(story())


def test_a_term_that_is_given_up_is_followed_by_another_incarnation(sqlite_url: str) -> None:
    async def story() -> None:
        async with Coordinator(sqlite_url, "one", distributed=False) as one:
            await one.until(lambda: len(one.owned) == 16)
            one.election.give_up("a test wants it")
            await one.until(lambda: one.lost == ["a test wants it"])
            await one.until(lambda: len(one.owned) == 16)
            assert len(set(one.incarnations)) == 2
            assert set(one.owned.values()) == {2}

    play(story())


def test_a_loop_that_hangs_ends_the_term(sqlite_url: str) -> None:
    async def story() -> None:
        async with Coordinator(sqlite_url, "one", distributed=False, LEASE_TIMEOUT=1_000) as one:
            await one.until(lambda: len(one.owned) == 16)
            time.sleep(1.2)  # noqa: ASYNC251  (the fault itself: nothing else runs on this loop)
            await one.until(lambda: bool(one.lost))
            assert "the control loop has not run for" in one.lost[0]
            await one.until(lambda: len(one.owned) == 16)
            assert max(one.measured.lags) > 0.9

    play(story())


def test_another_cluster_in_the_database_is_refused(sqlite_url: str) -> None:
    async def story() -> None:
        async with Coordinator(sqlite_url, "one", distributed=False):
            pass
        other = Coordinator(sqlite_url, "one", distributed=False, CLUSTER_NAME="mine")
        with pytest.raises(SettingsError, match=r"CLUSTER_NAME = 'mine', but .* holds cluster 'mainspring'"):
            await other.election.start()
        await other.__aexit__()

    play(story())


def test_a_number_of_shards_that_is_not_the_clusters_is_refused_and_unset_it_is_the_clusters(sqlite_url: str) -> None:
    async def story() -> None:
        async with Coordinator(sqlite_url, "one", distributed=False, SHARDS=4) as one:
            await one.until(lambda: len(one.owned) == 4)
        other = Coordinator(sqlite_url, "one", distributed=False, SHARDS=16)
        with pytest.raises(SettingsError, match=r"SHARDS = 16, but cluster 'mainspring' was made with 4 .* SHARDS=4"):
            await other.election.start()
        await other.__aexit__()
        async with Coordinator(sqlite_url, "one", distributed=False) as unset:
            await unset.until(lambda: sorted(unset.owned) == [0, 1, 2, 3])

    play(story())


def test_a_database_without_a_schema_is_refused_with_the_command_to_type(tmp_path: Path) -> None:
    async def story() -> None:
        one = Coordinator(f"sqlite:///{tmp_path / 'empty.db'}", "one", distributed=False)
        with pytest.raises(SchemaError, match="mainspring db upgrade"):
            await one.election.start()
        await one.__aexit__()

    play(story())


def test_a_database_out_of_reach_is_tried_again_with_a_message_and_given_up_after_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(election_module, "database_start_wait_ms_max", 2_000)

    async def story() -> None:
        one = Coordinator(f"mysql://u:hush@127.0.0.1:{free_port()}/db", "one")
        with (
            structlog.testing.capture_logs() as lines,
            pytest.raises(StoreUnavailableError, match=r"no term could begin .* DATABASE_URL") as told,
        ):
            await one.election.start()
        await one.__aexit__()
        assert [line["event"] for line in lines].count("database_unreachable") >= 2
        assert "hush" not in str(told.value) + str(lines)

    play(story())


def test_a_server_without_a_connection_left_is_waited_for(chosen_server: PrivateServer) -> None:
    url = chosen_server.plain_url(chosen_server.new_database())
    upgrade(url)
    address = parse_url(url)
    assert isinstance(address, ServerAddress)
    ((before,),) = chosen_server.execute("SELECT @@global.max_connections")

    async def story(greedy: contextlib.ExitStack) -> None:
        chosen_server.execute("SET GLOBAL max_connections=10")
        with pytest.raises(pymysql.OperationalError, match="Too many connections"):  # noqa: PT012  (one of these is the last)
            while True:
                greedy.enter_context(contextlib.closing(connect(address, autocommit=True)))
        one = Coordinator(url, "one")
        with structlog.testing.capture_logs() as lines:
            start = asyncio.create_task(one.election.start())
            await one.until(lambda: any("Too many connections" in str(line.get("error")) for line in lines))
            greedy.close()
            await start
        await one.until(lambda: len(one.owned) == 16)
        await one.__aexit__()

    try:
        with contextlib.ExitStack() as greedy:
            play(story(greedy))
    finally:
        chosen_server.execute(f"SET GLOBAL max_connections={before}")


def test_a_start_can_be_stopped_while_the_database_is_out_of_reach() -> None:
    async def story() -> None:
        one = Coordinator(f"mysql://u:p@127.0.0.1:{free_port()}/db", "one")
        start = asyncio.create_task(one.election.start())
        await one.until(lambda: one.ticks > 0)
        await one.__aexit__()
        with pytest.raises(StoreUnavailableError, match="stopped before"):
            await start

    play(story())


def test_two_coordinators_share_the_shards_and_one_that_leaves_hands_them_over(server_url: str) -> None:
    async def story() -> None:
        async with Coordinator(server_url, "one") as one:
            await one.until(lambda: len(one.owned) == 16)
            async with Coordinator(server_url, "other") as other:
                await other.until(lambda: len(other.owned) == 8)
                await one.until(lambda: len(one.owned) == 8)
                assert set(one.owned) | set(other.owned) == set(range(16))
                shard = next(iter(other.owned))
                await one.until(lambda: one.election.owner_of(shard) == (other.incarnations[0], "other:1"))
                assert {name for _, name, _ in one.election.coordinators()} == {"one", "other"}
                await other.leave()
            assert await one.until(lambda: len(one.owned) == 16) < 1
            assert {row.name for row in one.store.reader().coordinators()} == {"one"}

    play(story())


def test_a_killed_process_loses_its_shards_within_a_second(server_url: str) -> None:
    async def story() -> None:
        async with owner_process(server_url) as victim, Coordinator(server_url, "heir") as heir:
            victim.kill()
            assert await heir.until(lambda: len(heir.owned) == 16) < 1
            assert set(heir.owned.values()) == {2}
            assert all(holder == heir.incarnations[0] for holder in heir.views[-1].holders.values() if holder)

    play(story())


def test_a_stopped_process_is_seized_after_t_and_owns_nothing_when_it_wakes(server_url: str) -> None:
    async def story() -> None:
        async with (
            owner_process(server_url, lease_ms=1_000) as victim,
            Coordinator(server_url, "heir", LEASE_TIMEOUT=1_000) as heir,
        ):
            assert victim.stdout is not None
            os.kill(victim.pid, signal.SIGSTOP)
            taken_s = await heir.until(lambda: len(heir.owned) == 16)
            assert taken_s < heir.settings.hung_after_ms / 1_000 + 1
            os.kill(victim.pid, signal.SIGCONT)
            async with asyncio.timeout(10):
                said = await victim.stdout.readline()
            assert said.startswith(b"lost ")

    play(story())


def test_a_database_that_stalls_ends_the_term_in_time_and_another_begins_after_it(
    server_url: str, chosen_server: PrivateServer
) -> None:
    async def story() -> None:
        async with Coordinator(server_url, "one", LEASE_TIMEOUT=2_000) as one:
            await one.until(lambda: len(one.owned) == 16)
            chosen_server.pause()
            try:
                assert await one.until(lambda: bool(one.lost)) < 2
                assert not one.election.fresh()
                silent_us = one.election.database_silent_us()
                assert silent_us is not None
                assert silent_us > 500_000
            finally:
                chosen_server.resume()
            await one.until(lambda: len(one.owned) == 16)
            assert len(set(one.incarnations)) == len(one.incarnations) >= 2

    play(story())
