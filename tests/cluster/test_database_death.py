"""The database is killed under load and comes back: the cluster goes on by itself, and what was acknowledged is there."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from mainspring.errors import UnavailableError
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import gate, load
from tests.cluster.running import RealCluster, eventually, so
from tests.servers.process import PrivateServer

two_s_lease = {"DISTRIBUTED_MODE": "true", "LEASE_TIMEOUT": "2000"}
_grace_over = (
    "SELECT MAX(grace_until_us)<TIMESTAMPDIFF(MICROSECOND,'1970-01-01 00:00:00',UTC_TIMESTAMP(6)) FROM {}.shards"
)


def test_a_cluster_goes_on_by_itself_when_its_database_was_killed(own_server: PrivateServer, tmp_path: Path) -> None:
    async def play() -> None:
        database = own_server.new_database()

        async def no_grace_is_left() -> bool:
            # A shard's next owner gives absent workers what is left of the grace before, which an outage may use up: they
            # would be taken for lost, and what they did would be done again.
            ((over,),) = await asyncio.to_thread(own_server.execute, _grace_over.format(database))
            return bool(over)

        async with RealCluster(own_server.url(database), tmp_path, **two_s_lease) as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            client = cluster.client()
            await cluster.owned(client, c1=8, c2=8)
            held = await client.submit(gate(), "open")
            expected: dict[str, object] = {}
            for turn in range(2):
                await eventually(no_grace_is_left)
                done = len(cluster.effects.read("end"))
                expected |= await load(client, 20, f"{turn}-before-")
                await so(partial(cluster.effects.done, done + 60))
                await asyncio.to_thread(own_server.halt)
                # Called while nobody can answer: tried again until it is durable.
                asked = asyncio.create_task(load(client, 5, f"{turn}-"))
                await asyncio.to_thread(own_server.start)
                expected |= await asked
            cluster.effects.open_gate("open")
            await all_ended(client, expected)
            await held.result(30)
            await cluster.owned(client, c1=8, c2=8)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())


def test_a_coordinator_told_to_stop_while_its_database_is_away_ends_soon_and_in_order(
    own_server: PrivateServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(own_server.url(own_server.new_database()), tmp_path) as cluster:
            coordinator = await cluster.coordinator()
            worker = await cluster.worker()
            client = cluster.client(timeout=5)
            await client.submit(gate(), "open")
            await so(lambda: len(cluster.effects.read("start")) == 1)
            own_server.pause()
            # Its batch is under way for as long as the database stands still.
            unanswered = asyncio.create_task(client.submit(gate(), "open"))
            cluster.effects.open_gate("open")
            await so(lambda: cluster.effects.done(1))
            coordinator.ask_to_end()
            try:
                async with asyncio.timeout(15):
                    assert await coordinator.exited == 0
            finally:
                own_server.resume()
                with pytest.raises(UnavailableError):
                    await unanswered
            assert not [line for line in coordinator.lines if "Traceback" in line]
            await worker.killed()  # it would wait for someone to take its result

    asyncio.run(play())
