"""More coordinators than shards: the rest stand by, say so, serve clients all the same, and take over."""

import asyncio
from pathlib import Path

from tests.cluster.checks import counted_once, started_once
from tests.cluster.flows import gate_and_step
from tests.cluster.running import RealCluster, so


def test_a_coordinator_too_many_stands_by_and_takes_over_when_one_dies(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true", SHARDS="1") as cluster:
            owner = await cluster.coordinator("c1")
            spare = await cluster.coordinator("c2")
            said = await spare.said("standing_by")
            assert '"coordinators": 2' in said
            assert '"shards": 1' in said
            await cluster.ready("c2")
            await cluster.worker()
            client = cluster.client("c2")
            await cluster.owned(client, c1=1, c2=0)
            held = await client.submit(gate_and_step(), "open")
            await so(lambda: len(cluster.effects.read("start")) == 1)
            await owner.killed()
            cluster.effects.open_gate("open")
            assert await held.result(30) == 1
            await cluster.owned(client, c2=1)
            await counted_once(client, [held.workflow_id], cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())
