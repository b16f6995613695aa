"""Two coordinators share the shards; one dies under load, and comes back."""

import asyncio
import time
from pathlib import Path

from mainspring_client import Client
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, gate_and_step, load
from tests.cluster.running import RealCluster, eventually, so


async def pair(cluster: RealCluster, client: Client) -> None:
    """Return when each of two owns half, and two workers are attached to both."""
    await cluster.owned(client, c1=8, c2=8)

    async def both_see_both() -> bool:
        return [row.workers for row in await client.coordinators()] == [2, 2]

    await eventually(both_see_both)


async def submit_until(client: Client, over: asyncio.Event) -> dict[str, object]:
    """Submit one chain after the other; every call must succeed."""
    expected: dict[str, object] = {}
    flow, count = chain(4), 0
    while not over.is_set():
        name = f"steady-{count}"
        await client.submit(flow, count, workflow_id=name)
        expected[name] = count + 4
        count += 1
    return expected


def test_a_killed_coordinators_shards_go_on_within_a_second_and_it_gets_its_share_again(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            victim = await cluster.coordinator("c1")
            await cluster.coordinator("c2")
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            survivor, either = cluster.client("c2"), cluster.client("c1", "c2")
            await pair(cluster, survivor)
            shards_of_victim = {row.shard for row in await survivor.shards() if row.holder_name == "c1"}
            expected = await load(either, 15)
            # What runs when its coordinator dies; its result makes the next owner assign the next node.
            held = [(await either.submit(gate_and_step(), "open")).workflow_id for _ in range(20)]
            of_victim = {name for name in held if (await survivor.get(name)).shard in shards_of_victim}
            assert of_victim
            over = asyncio.Event()
            steady = asyncio.create_task(submit_until(either, over))
            await so(lambda: {(name, "wait", -1) for name in held} <= cluster.effects.starts().keys())
            killed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            await victim.killed()
            cluster.effects.open_gate("open")
            await cluster.owned(survivor, c2=16)
            taken_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            expected |= dict.fromkeys(held, 1)
            await all_ended(survivor, expected)
            await cluster.coordinator("c1")
            await cluster.owned(survivor, c1=8, c2=8)
            over.set()
            expected |= await steady
            await all_ended(either, expected)
            next_ns = [
                one.at_ns for one in cluster.effects.read("start") if one.workflow in of_victim and one.node == "next"
            ]
            first_s, taken_s = (next_ns[0] - killed_ns) / 1e9, (taken_ns - killed_ns) / 1e9
            print(f"killed: all shards taken after {taken_s:.2f} s, first new assignment after {first_s:.2f} s")
            assert first_s <= 1.5
            await counted_once(either, expected, cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())


def test_a_shard_that_moves_fails_no_call_and_starts_nothing_twice(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            await cluster.coordinator("c1")
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            client = cluster.client("c1")
            over = asyncio.Event()
            steady = asyncio.create_task(submit_until(client, over))
            expected = await load(client, 15)
            leaver = await cluster.coordinator("c2")
            await cluster.owned(client, c1=8, c2=8)
            expected |= await load(client, 10, "shared-")
            leaver.ask_to_end()
            assert await leaver.exited == 0
            await cluster.owned(client, c1=16)
            over.set()
            expected |= await steady
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())
