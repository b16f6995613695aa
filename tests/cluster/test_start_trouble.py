"""What cannot start, or cannot run, says what is wrong and what to type."""

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring_client import NodeStatus
from tests.cluster.flows import chain
from tests.cluster.running import RealCluster, eventually
from tests.servers.ports import free_port


def test_a_node_that_no_worker_can_run_waits_and_says_so_until_one_can(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            await cluster.coordinator()
            await cluster.worker("w1", SUPPORTED_EXECUTORS="noop")
            client = cluster.client()
            handle = await client.submit(chain(1), 1)

            async def said() -> bool:
                (node,) = [node async for node in handle.nodes()]
                assert node.status is NodeStatus.READY
                return "no worker runs executor 'step'" in node.waiting_reason

            await eventually(said, 10)
            told = await handle.explain(next(iter([node.node_id async for node in handle.nodes()])))
            assert [(one.verdict, one.workers) for one in told.workers] == [("EXECUTOR", ("w1",))]
            await cluster.worker("w2")
            assert await handle.result(30) == 2

    asyncio.run(play())


@pytest.mark.parametrize("setting", ["GRPC_PORT", "HTTP_PORT"])
def test_a_taken_port_is_named_with_its_setting(setting: str, file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = str(taken.getsockname()[1])
                process = await cluster.spawn_coordinator("c1", **{setting: port})
                assert await process.exited == 2
            said = await process.said(setting, within_s=1)
            assert port in said
            assert said.startswith("mainspring: ")

    asyncio.run(play())


def test_a_taken_port_is_told_in_one_line_of_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = [sys.executable, "-m", "mainspring_client", "coordinator", "--grpc-port", port, "--http-port", "0"]
        # Without what the coordinator's package has set in this process.
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["mainspring"]


def test_a_database_without_our_tables_stops_the_start_and_says_what_to_type(
    chosen_url: str, file_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            process = await cluster.spawn_coordinator("c1", DATABASE_URL=chosen_url)
            assert await process.exited == 2
            await process.said("mainspring db upgrade", within_s=1)

    asyncio.run(play())


def test_a_database_out_of_reach_is_waited_for_with_a_word(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            wrong = f"mysql://nobody:secret@127.0.0.1:{free_port()}/mainspring"
            process = await cluster.spawn_coordinator("c1", DATABASE_URL=wrong)
            said = await process.said("database_unreachable")
            assert "trying again" in said
            assert "secret" not in "".join(process.lines)
            process.ask_to_end()
            assert await process.exited == 0

    asyncio.run(play())


def test_a_second_coordinator_that_wants_to_be_alone_is_refused(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path) as cluster:
            await cluster.coordinator("c1")
            second = await cluster.spawn_coordinator("c2")
            assert await second.exited == 2
            assert "DISTRIBUTED_MODE" in await second.said("coordinator 'c1'", "is live", within_s=1)
            assert await cluster.client("c1").cluster()

    asyncio.run(play())


@pytest.mark.parametrize("distributed", ["true", "false"])
def test_a_second_coordinator_on_a_database_in_a_file_is_refused_at_once(
    distributed: str, file_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path, DISTRIBUTED_MODE=distributed) as cluster:
            await cluster.coordinator("c1")
            second = await cluster.spawn_coordinator("c2")
            assert await second.exited == 2
            said = await second.said("mainspring: DATABASE_URL names a file", within_s=1)
            assert f"coordinator 'c1' ({cluster.address('c1')}) is live on it" in said
            assert "DISTRIBUTED_MODE" in said
            assert len([line for line in second.lines if "term_lost" in line]) == 1
            assert await cluster.client("c1").cluster()

    asyncio.run(play())


def test_a_database_in_a_file_that_another_process_has_locked_is_refused_at_once(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            lock = os.open(f"{file_url.removeprefix('sqlite:///')}.lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                process = await cluster.spawn_coordinator("c1")
                assert await process.exited == 2
            finally:
                os.close(lock)
            await process.said("mainspring: DATABASE_URL names a file", "another process has locked it", within_s=1)

    asyncio.run(play())


def test_a_worker_of_another_cluster_is_refused_with_both_names(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            await cluster.coordinator("c1", CLUSTER_NAME="production")
            worker = await cluster.spawn_worker("w1", CLUSTER_NAME="staging")
            assert await worker.exited == 2
            said = await worker.said("the cluster refuses this worker", within_s=1)
            assert "'production'" in said
            assert "'staging'" in said
            assert "CLUSTER_NAME" in said

    asyncio.run(play())


def test_a_worker_with_a_wrong_address_says_whom_it_cannot_reach_and_goes_on_trying(
    file_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            address = f"127.0.0.1:{free_port()}"
            worker = await cluster.spawn_worker("w1", MAINSPRING_ADDRESS=address)
            warning = await worker.said("coordinator_unreachable", '"level": "warning"')
            assert address in warning
            assert "MAINSPRING_ADDRESS" in warning
            assert not worker.exited.done()
            worker.ask_to_end()
            assert await worker.exited == 0

    asyncio.run(play())
