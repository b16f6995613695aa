"""Coordinators share the slots of a worker: whoever has work gets them, all of them, and never more."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from mainspring.ids import shard_of
from mainspring_client import Client
from tests.cluster.effects import Effects
from tests.cluster.flows import gate
from tests.cluster.running import RealCluster, so

slots = 3


async def names_of(client: Client, owner: str, tag: str) -> Sequence[str]:
    """Return ids of workflows whose shards a coordinator owns, twice as many as there are slots."""
    shards = await client.shards()
    owned = {row.shard for row in shards if row.holder_name == owner}
    names = (f"{tag}-{number}" for number in range(1_000))
    return [name for name in names if shard_of(name, len(shards)) in owned][: 2 * slots]


def most_at_once(effects: Effects) -> int:
    """Return how many nodes ran at the same time at most."""
    running = most = 0
    for effect in effects.read():
        running += {"start": 1, "end": -1}[effect.act]
        most = max(most, running)
    return most


async def all_slots_are_used(cluster: RealCluster, client: Client, owner: str, tag: str) -> None:
    """Give one coordinator more work than there are slots, and return when it is done."""
    before = len(cluster.effects.read("start"))
    names = await names_of(client, owner, tag)
    asked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    handles = await asyncio.gather(*(client.submit(gate(), tag, workflow_id=name) for name in names))
    await so(lambda: len(cluster.effects.read("start")) == before + slots)
    late_ms = [(one.at_ns - asked_ns) // 1_000_000 for one in cluster.effects.read("start")[before:]]
    print(f"{owner}: slots in use after {late_ms} ms")
    cluster.effects.open_gate(tag)
    for handle in handles:
        await handle.result(30)


def test_the_slots_of_an_idle_cluster_all_go_to_whoever_has_work(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await cluster.worker(slots=slots)
            client = cluster.client()
            await cluster.owned(client, c1=8, c2=8)
            for turn, owner in enumerate(("c1", "c2", "c1")):
                await all_slots_are_used(cluster, client, owner, f"turn-{turn}")
            assert most_at_once(cluster.effects) == slots

    asyncio.run(play())
