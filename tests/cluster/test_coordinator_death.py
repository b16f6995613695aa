"""A lone coordinator dies and comes back: what was acknowledged goes on, what runs is not started again."""

import asyncio
from functools import partial
from pathlib import Path

from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, gate, load
from tests.cluster.running import RealCluster, so


def test_no_acknowledged_workflow_is_lost_when_a_lone_coordinator_is_killed_twice(any_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path) as cluster:
            coordinator = await cluster.coordinator()
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            client = cluster.client()
            expected = await load(client, 20)
            for progress in (100, 250):
                await so(partial(cluster.effects.done, progress))
                await coordinator.killed()
                coordinator = await cluster.coordinator()
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())


def test_an_attempt_that_outlives_its_coordinator_is_adopted_and_not_started_again(
    any_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path) as cluster:
            coordinator = await cluster.coordinator()
            worker = await cluster.worker()
            client = cluster.client()
            running = await client.submit(gate(), "before", workflow_id="running")
            finishing = await client.submit(gate(), "while-dead", workflow_id="finishing")
            await so(lambda: len(cluster.effects.read("start")) == 2)
            await coordinator.killed()
            cluster.effects.open_gate("while-dead")
            await so(lambda: len(cluster.effects.read("end", "finishing")) == 1)
            await cluster.coordinator()
            assert await finishing.result(30) == {"pid": worker.pid}
            cluster.effects.open_gate("before")
            assert await running.result(30) == {"pid": worker.pid}
            started_once(cluster.effects)
            await counted_once(client, ["running", "finishing"], cluster.effects)

    asyncio.run(play())


def test_a_submit_repeated_over_the_death_of_its_coordinator_makes_one_workflow(any_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path) as cluster:
            coordinator = await cluster.coordinator()
            await cluster.worker()
            client = cluster.client()
            flow, ids = chain(3), [f"same-{n}" for n in range(60)]
            tasks = [asyncio.create_task(client.submit(flow, 0, workflow_id=name)) for name in ids]
            # Killed when some were answered and others are under way: the client tries those again by itself.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await coordinator.killed()
            await cluster.coordinator()
            await asyncio.gather(*tasks)
            again = [await client.submit(flow, 0, workflow_id=name) for name in ids]
            assert not any(handle.created for handle in again)
            await all_ended(client, dict.fromkeys(ids, 3))
            assert sorted([info.workflow_id async for info in client.list()]) == sorted(ids)
            await counted_once(client, ids, cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())
