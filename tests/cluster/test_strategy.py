"""The cluster's strategy on real processes: one decides, the others follow, and it outlives them."""

import asyncio
from pathlib import Path

from mainspring_client import StrategyInfo
from tests.cluster.running import RealCluster, eventually


def in_force(found: StrategyInfo) -> dict[str, str]:
    return {one.name: one.in_force for one in found.coordinators}


def test_dynamic_decides_for_all_an_operator_overrules_it_and_both_outlive_their_owner(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        # However busy this machine is, its signals speak for nothing but round-robin.
        calm = {"DYNAMIC_CPU_THRESHOLD": "100", "DYNAMIC_ROUND_TRIP_THRESHOLD": "86400000"}
        settings = {"DISTRIBUTED_MODE": "true", "SHARDS": "4", "DYNAMIC_DWELL": "0", **calm}
        async with RealCluster(chosen_url, tmp_path, **settings) as cluster:
            first = await cluster.coordinator("c1")
            second = await cluster.coordinator("c2", ASSIGNMENT_STRATEGY="capability")
            await cluster.worker()
            client = cluster.client()
            await cluster.owned(client, c1=2, c2=2)
            assert in_force(await client.strategy()) == {"c1": "load-balanced", "c2": "capability"}

            assert await client.set_strategy("dynamic", "let it measure")

            async def chosen() -> bool:
                return (await client.strategy()).chosen == "round-robin"

            await eventually(chosen)
            # Both place by it, not only the one who chose: each says so itself.
            for process in (first, second):
                await process.said("strategy_in_force", '"strategy": "round-robin"')
            assert in_force(await client.strategy()) == {"c1": "round-robin", "c2": "round-robin"}

            assert await client.set_strategy("affinity", "warm caches")
            for process in (first, second):
                await process.said("strategy_in_force", '"strategy": "affinity"')
            owner = next(shard.holder_name for shard in await client.shards() if shard.shard == 0)
            dying, left = (first, second) if owner == "c1" else (second, first)
            await dying.killed()
            alone = cluster.client(left.name)
            await cluster.owned(alone, **{left.name: 4})
            assert in_force(await alone.strategy()) == {left.name: "affinity"}
            assert await alone.set_strategy("", "as before")
            own = {"c1": "load-balanced", "c2": "capability"}[left.name]
            await left.said("strategy_in_force", '"before": "affinity"', f'"strategy": "{own}"')
            told = [(change.after, change.by) async for change in alone.strategy_changes()]
            assert told == [
                ("", "operator"),
                ("affinity", "operator"),
                ("round-robin", "dynamic"),
                ("dynamic", "operator"),
            ]

    asyncio.run(play())
