"""A concurrency key over two coordinators: no more nodes run at once than its limit, and none waits for ever, also when an owner dies."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mainspring import Concurrency, Workflow
from mainspring.ids import shard_of
from mainspring_client import Client
from mainspring_coordinator.store.open import open_store
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.effects import Effect
from tests.cluster.running import RealCluster, eventually, so

key: Final = Concurrency("db-42", 3)
shards_total: Final = 16


def steps() -> Workflow:
    """Two nodes and the instances of a map, all of one key; from input n it gives n + 2."""
    flow = Workflow("limited")
    first = flow.node("first", "step", input=flow.input["n"], concurrency=key)
    flow.map("each", "step", over=flow.input["list"], concurrency=key)
    flow.output(flow.node("second", "step", input=first, concurrency=key))
    return flow


def gate() -> Workflow:
    """One node of the key that waits at a gate; gives nothing."""
    flow = Workflow("gate")
    flow.node("wait", "gated", input={"gate": "open"}, concurrency=key)
    flow.output(None)
    return flow


async def load(client: Client, count: int, tag: str) -> Mapping[str, object]:
    """Submit workflows; return what each must give."""
    flow = steps()
    for n in range(count):
        await client.submit(flow, {"n": n, "list": [1, 2, 3]}, workflow_id=f"{tag}-{n}")
    return {f"{tag}-{n}": n + 2 for n in range(count)}


def most_at_once(effects: Iterable[Effect]) -> int:
    """Return how many executions overlapped at most."""
    running = most = 0
    for effect in effects:
        running += 1 if effect.act == "start" else -1
        most = max(most, running)
    return most


def permits_out(url: str) -> int:
    """Return how many permits are out as the database says."""
    store = open_store(url)
    try:
        reader = store.reader()
        return sum(held.count for shard in range(shards_total) for held in reader.permits(shard, ("", -1), 1_000))
    finally:
        store.close()


async def none_is_out(url: str) -> None:
    """Return when the database has no permit any more."""

    async def none() -> bool:
        return await asyncio.to_thread(permits_out, url) == 0

    await eventually(none)


def test_two_coordinators_keep_one_limit_and_free_every_permit(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            client = cluster.client("c1", "c2")
            await cluster.owned(client, c1=8, c2=8)
            expected = dict(await load(client, 30, "both"))
            assert len({(await client.get(name)).shard for name in expected}) > 8
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)
            assert most_at_once(cluster.effects.read()) == key.limit
            await none_is_out(chosen_url)

    asyncio.run(play())


def test_when_the_owner_of_the_home_dies_what_runs_keeps_its_permits(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            processes = await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            client = cluster.client("c1", "c2")
            await cluster.owned(client, c1=8, c2=8)
            held = [(await client.submit(gate(), workflow_id=f"held-{n}")).workflow_id for n in range(8)]
            await so(lambda: len(cluster.effects.starts()) == key.limit)
            home = shard_of(key.key, shards_total)
            owner = next(row.holder_name for row in await client.shards() if row.shard == home)
            victim, survivor = (
                processes[0 if owner == "c1" else 1],
                cluster.client("c2" if owner == "c1" else "c1"),
            )
            await victim.killed()
            await cluster.owned(survivor, **{"c2" if owner == "c1" else "c1": 16})
            waiting = next(name for name in held if (name, "wait", -1) not in cluster.effects.starts())

            async def told() -> bool:
                (node,) = (await survivor.explain(waiting, "wait")).nodes
                return node.reason.startswith("limit 'db-42': 3 of 3 permits are out, and 4 others wait for one")

            await eventually(told)
            assert len(cluster.effects.starts()) == key.limit
            cluster.effects.open_gate("open")
            await all_ended(survivor, {**dict.fromkeys(held)})
            started_once(cluster.effects)
            assert most_at_once(cluster.effects.read()) == key.limit
            await none_is_out(chosen_url)

    asyncio.run(play())
