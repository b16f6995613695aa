"""A coordinator steps down: its shards move to the other, work goes on, and it gets its share back."""

import asyncio
from pathlib import Path

from mainspring_client import Client, SteppedDown
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import gate, load
from tests.cluster.running import RealCluster, eventually, so


async def down(client: Client) -> list[str]:
    return [one.name for one in await client.coordinators() if one.stepped_down_until_us]


def test_a_coordinator_that_steps_down_owns_nothing_until_it_comes_back(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await cluster.worker("w1")
            client = cluster.client()
            await cluster.owned(client, c1=8, c2=8)

            async def both_have_workers() -> bool:
                # Each knows best of itself, so that the one tells what the other may know.
                found = {name: await cluster.client(name).coordinators() for name in ("c1", "c2")}
                return all(one.workers for told in found.values() for one in told)

            await eventually(both_have_workers)
            held = await client.submit(gate(), "open")
            expected = await load(client, 10)
            # Asked of the one, meant for the other.
            told = await cluster.client("c1").step_down("c2", seconds=600, reason="a new kernel")
            assert told == SteppedDown("c2", 8, already=False)
            await cluster.owned(client, c1=16, c2=0)
            for each in (cluster.client("c1"), cluster.client("c2")):
                assert await down(each) == ["c2"], "whoever is asked knows"
            again = await client.step_down("c2", seconds=900)
            assert again == SteppedDown("c2", 0, already=True)
            # It takes calls all the same, and can be asked to come back by itself.
            expected |= await load(cluster.client("c2"), 5, "down-")
            await so(lambda: len(cluster.effects.read("start")) > 0)
            assert not (await cluster.client("c2").step_down("c2", seconds=0)).already
            await cluster.owned(client, c1=8, c2=8)
            assert (await client.step_down("c2", seconds=0)).already
            assert await down(client) == []
            cluster.effects.open_gate("open")
            await all_ended(client, expected)
            await held.result(30)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)
            done = [(entry.act, entry.coordinator, entry.reason, entry.outcome) async for entry in client.audit()]
            assert [reason for _, _, reason, _ in done] == ["", "", "", "a new kernel"]
            assert done[-1] == ("StepDown", "c1", "a new kernel", "done")
            assert done[1] == ("StepDown", "c2", "", "done")

    asyncio.run(play())
