"""The database answers late, refuses, or is another server than before: two coordinators go on by themselves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mainspring.errors import UnavailableError
from mainspring_client import Client
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import gate, load
from tests.cluster.running import Process, RealCluster, so
from tests.servers.process import PrivateServer
from tests.servers.proxy import Swallow, SwallowingProxy

tight = {"DISTRIBUTED_MODE": "true", "LEASE_TIMEOUT": "2000", "STREAM_GRACE": "1000"}


@asynccontextmanager
async def behind(
    proxy: SwallowingProxy, url: str, folder: Path
) -> AsyncIterator[tuple[RealCluster, Client, list[Process]]]:
    """Two coordinators that reach their database through the proxy, and two workers."""
    through = url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/") + "?ssl=false"
    async with RealCluster(through, folder, **tight) as cluster:
        coordinators = list(await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2")))
        await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
        client = cluster.client()
        await cluster.owned(client, c1=8, c2=8)
        yield cluster, client, coordinators


def terms_lost(process: Process) -> int:
    return sum('"term_lost"' in line for line in process.lines)


def test_commits_that_fail_or_hang_are_seen_by_clients_as_latency(chosen_server: PrivateServer, tmp_path: Path) -> None:
    url = chosen_server.url(chosen_server.new_database())

    async def play() -> None:
        with SwallowingProxy(urlsplit(url).port or 0) as proxy:
            async with behind(proxy, url, tmp_path) as (cluster, client, coordinators):
                expected: dict[str, object] = {}
                faults = [
                    partial(proxy.refuse, "UPDATE shards", 1213),
                    partial(proxy.refuse, "COMMIT", 1205),
                    partial(proxy.refuse, "COMMIT", 1213, applied=True),
                    partial(proxy.refuse, "UPDATE shards", 1290),
                    partial(proxy.arm, "COMMIT", Swallow.REPLY),
                    partial(proxy.arm, "COMMIT", Swallow.REQUEST),
                ]
                for turn, fault in enumerate(faults):
                    fault()
                    expected |= await load(client, 4, f"{turn}-")
                    await so(proxy.swallowed.is_set)
                # A commit of which nothing is heard for longer than the lease: its coordinator's term ends, and its
                # shards go on, with what the commit wrote.
                before = sum(map(terms_lost, coordinators))
                late = proxy.hold("COMMIT")
                asked = asyncio.create_task(load(client, 4, "late-"))
                await so(lambda: sum(map(terms_lost, coordinators)) > before)
                late.set()
                expected |= await asked
                await all_ended(client, expected)
                await cluster.owned(client, c1=8, c2=8)
                await counted_once(client, expected, cluster.effects)
                started_once(cluster.effects)

    asyncio.run(play())


def test_a_cluster_goes_on_by_itself_on_another_primary_after_an_outage_longer_than_every_timeout(
    own_server: PrivateServer, tmp_path: Path
) -> None:
    url = own_server.plain_url(own_server.new_database())

    async def play(proxy: SwallowingProxy, promoted: ExitStack) -> None:
        async with behind(proxy, url, tmp_path) as (cluster, client, coordinators):
            held = await client.submit(gate(), "open")
            expected = await load(client, 20)
            await so(partial(cluster.effects.done, 60))
            # The primary is demoted: it goes on answering reads, and it keeps its connections.
            own_server.execute("SET GLOBAL read_only=1")
            for coordinator in coordinators:
                await so(lambda coordinator=coordinator: terms_lost(coordinator) > 0)  # type: ignore[misc]
            # Longer than T, than a dropped worker may take to attach again, and than a new owner waits for its workers.
            impatient = cluster.client(timeout=8)
            with pytest.raises(UnavailableError):
                await impatient.submit(gate(), "open", workflow_id="refused")
            asked = asyncio.create_task(load(client, 5, "meanwhile-"))
            # Another takes its place: its rows are the same, of its locks there are none.
            copied = await asyncio.to_thread(own_server.copy)
            await asyncio.to_thread(promoted.enter_context, copied)
            proxy.point_to(copied.port)
            expected |= await asked
            cluster.effects.open_gate("open")
            await all_ended(client, expected)
            await held.result(30)
            await cluster.owned(client, c1=8, c2=8)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)

    with ExitStack() as promoted, SwallowingProxy(own_server.port) as proxy:
        asyncio.run(play(proxy, promoted))
