"""Recovery is interrupted again and again, by the death of its coordinator and of its database, and ends all the same."""

import asyncio
from functools import partial
from pathlib import Path

from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import gate_and_step, load
from tests.cluster.running import RealCluster, so
from tests.servers.process import PrivateServer


def test_a_recovery_that_is_killed_in_the_middle_again_and_again_loses_nothing(
    own_server: PrivateServer, tmp_path: Path
) -> None:
    async def play() -> None:
        # The grace in which workers keep what they run begins with the first takeover: three starts must fit into it, on any machine.
        url = own_server.url(own_server.new_database())
        async with RealCluster(url, tmp_path, LEASE_TIMEOUT="15000") as cluster:
            coordinator = await cluster.coordinator()
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            client = cluster.client()
            expected: dict[str, object] = {}
            for number in range(16):
                handle = await client.submit(gate_and_step(), "open", workflow_id=f"held-{number}")
                expected[handle.workflow_id] = 1
            expected |= await load(client, 30)
            await so(partial(cluster.effects.done, 50))
            for _ in range(3):
                await coordinator.killed()
                coordinator = await cluster.spawn_coordinator()
                # The first of 16 shards is ready: the others are being read, or wait for it.
                await coordinator.said("shard_ready")
            await asyncio.to_thread(own_server.halt)
            await asyncio.to_thread(own_server.start)
            cluster.effects.open_gate("open")
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())
