"""A disk is full: the database's, or that on which a coordinator and a worker log. What was acknowledged ends; nothing waits for ever."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring import Workflow
from mainspring.errors import MainspringError
from mainspring_client import Client
from tests.cluster.checks import all_ended, counted_once
from tests.cluster.flows import load
from tests.cluster.running import RealCluster, so
from tests.servers.mariadb import MariadbServer
from tests.servers.small_disk import NoMountError, SmallDisk


@pytest.fixture
def small() -> Iterator[tuple[MariadbServer, SmallDisk]]:
    """A database server with a disk of its own."""
    if reason := MariadbServer.missing():
        pytest.fail(reason)
    server = MariadbServer()
    try:
        with SmallDisk(server.folder, 320) as disk, server:
            yield server, disk
    except NoMountError as error:
        server.folder.rmdir()
        pytest.skip(f"nothing can be mounted here: {error}")


async def _fill_up(client: Client) -> tuple[dict[str, object], str]:
    """Submit large inputs until one is not acknowledged; return those that were, with what each gives, and the refusal."""
    flow = Workflow("large")
    flow.output(flow.node("size", "noop", input="small"))
    acknowledged: dict[str, object] = {}
    while True:
        name = f"large-{len(acknowledged)}"
        try:
            await client.submit(flow, "x" * 500_000, workflow_id=name)
        except MainspringError as error:
            return acknowledged, str(error)
        acknowledged[name] = "small"


def test_a_full_disk_under_the_database_costs_time_and_nothing_else(
    small: tuple[MariadbServer, SmallDisk], tmp_path: Path
) -> None:
    server, disk = small
    url = server.url(server.new_database())

    async def play() -> None:
        async with RealCluster(url, tmp_path, LEASE_TIMEOUT="2000", DISTRIBUTED_MODE="true") as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await cluster.worker("w1")
            client = cluster.client()
            expected = await load(client, 4, "before-")
            disk.fill()
            acknowledged, refusal = await _fill_up(cluster.client(timeout=5.0))
            assert "try again" in refusal, refusal
            await so(lambda: any("full" in line for process in cluster.processes for line in process.lines))
            disk.free()
            if server.process is not None and server.process.poll() is not None:
                await asyncio.to_thread(server.start)  # it may give up; what looks after it brings it back
            expected |= acknowledged
            expected |= await load(client, 4, "after-")
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)

    asyncio.run(play())


_onto_a_full_disk = """
import os, runpy, sys
full = os.open("/dev/full", os.O_WRONLY)
os.dup2(full, 1)
os.dup2(full, 2)
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_logs_that_cannot_be_written_stop_nobody(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            coordinator = await cluster.spawn_coordinator("c1", through=_onto_a_full_disk)
            await cluster.ready("c1")
            worker = await cluster.spawn_worker("w1", through=_onto_a_full_disk)
            client = cluster.client()
            expected = await load(client, 2)
            expected["stumbles"] = 2
            flow = Workflow("stumble")
            flow.output(flow.node("once", "stumble", input=1))
            await client.submit(flow, workflow_id="stumbles")
            await all_ended(client, expected)
            assert coordinator.lines == worker.lines == []
            await worker.end(20)
            await coordinator.end(20)
            assert (worker.exited.result(), coordinator.exited.result()) == (0, 0)

    asyncio.run(play())
