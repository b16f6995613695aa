"""Coordinators, workers and the database die in an order of chance, under load; the seed is printed and replays the order."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from mainspring_client import Client
from tests.cluster.checks import all_ended, counted_once
from tests.cluster.flows import load
from tests.cluster.running import Process, RealCluster, so
from tests.servers.process import PrivateServer

deaths = 6
seed_setting = "CLUSTER_SEED"


async def keep_loaded(client: Client, over: asyncio.Event) -> dict[str, object]:
    """Submit lot after lot; each must be acknowledged, however long that takes."""
    expected: dict[str, object] = {}
    turn = 0
    while not over.is_set():
        expected |= await load(client, 4, f"{turn}-")
        turn += 1
    return expected


@pytest.mark.chaos
@pytest.mark.long
def test_nothing_acknowledged_is_lost_over_many_deaths(own_server: PrivateServer, tmp_path: Path) -> None:
    seed = int(os.environ.get(seed_setting, "0")) or random.SystemRandom().randrange(1, 2**31)
    print(f"{seed_setting}={seed}")
    chance = random.Random(seed)

    async def play() -> None:
        url = own_server.url(own_server.new_database())
        async with RealCluster(url, tmp_path, DISTRIBUTED_MODE="true", STREAM_GRACE="500") as cluster:
            members: dict[str, Process] = {}
            for name in ("c1", "c2"):
                members[name] = await cluster.coordinator(name)
            for name in ("w1", "w2", "w3"):
                members[name] = await cluster.worker(name)
            client = cluster.client(timeout=60)
            over = asyncio.Event()
            loading = asyncio.create_task(keep_loaded(client, over))
            for _ in range(deaths):
                least = len(cluster.effects.read("end")) + chance.randrange(20, 200)
                await so(lambda least=least: cluster.effects.done(least) or loading.done())  # type: ignore[misc]
                if chance.random() < 0.2:
                    print("the database dies")
                    await asyncio.to_thread(own_server.halt)
                    await asyncio.to_thread(own_server.start)
                    continue
                names = chance.sample(sorted(members), chance.randrange(1, 3))
                gently = chance.random() < 0.3
                print("ends gently" if gently else "dies", *names)
                for name in names:
                    if gently:
                        members[name].ask_to_end()
                    else:
                        members[name].kill()
                for name in names:
                    await members[name].exited
                    members[name] = await (
                        cluster.spawn_coordinator(name) if name[0] == "c" else cluster.spawn_worker(name)
                    )
            over.set()
            expected = await loading
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)
            print(f"{len(expected)} workflows, {len(cluster.effects.read('start'))} starts")

    asyncio.run(play())
