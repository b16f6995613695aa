"""The result cache over two coordinators, in the database and in Redis: what ran once is taken elsewhere, and its trouble is not felt."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from mainspring import Workflow
from mainspring.ids import shard_of
from mainspring.limits import cache_wait_ms_max, redis_aside_ms, redis_wait_ms_max
from mainspring.workflow import Cache
from mainspring_client import Client, NodeStatus
from tests.cluster.running import RealCluster, eventually
from tests.servers.redis import Pretender, Redis, nonsense

shards_total: Final = 16


def days() -> Workflow:
    """A map over the input's list, each instance of it looked up by its element, then a node that is not; gives the list plus one."""
    flow = Workflow("days")
    each = flow.map("each", "step", over=flow.input["list"], cache=Cache(3_600_000, f"day {flow.item}"))
    first = flow.node("first", "step", input=flow.input["n"], cache=Cache(3_600_000))
    flow.node("last", "noop", input={"each": each, "first": first})
    flow.output({"each": each, "first": first})
    return flow


async def run(client: Client, name: str, *numbers: int) -> float:
    """Run a workflow to its end; return how long that took."""
    began = time.monotonic()
    handle = await client.submit(days(), {"n": numbers[0], "list": [*numbers]}, workflow_id=name)
    assert await handle.result(timeout=60) == {"each": [n + 1 for n in numbers], "first": numbers[0] + 1}
    return time.monotonic() - began


async def cached(client: Client, name: str) -> set[str]:
    """Return which nodes and instances of a workflow did not run."""
    return {node.label async for node in client.nodes(name) if node.cached}


def names(count: int, tag: str) -> list[str]:
    """Return ids of workflows, each of a shard of its own."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < count:
        found.setdefault(shard_of(f"{tag}-{number}", shards_total), f"{tag}-{number}")
        number += 1
    return list(found.values())


def play(url: str, folder: Path, told: Callable[[RealCluster, Client], Awaitable[None]], **settings: str) -> None:
    async def all_of_it() -> None:
        async with RealCluster(url, folder, DISTRIBUTED_MODE="true", **settings) as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await cluster.worker("w1")
            client = cluster.client("c1", "c2")
            await cluster.owned(client, c1=8, c2=8)
            await told(cluster, client)

    asyncio.run(all_of_it())


async def taken_everywhere(cluster: RealCluster, client: Client, tag: str) -> None:
    """What ran in one shard is taken in all others, whichever coordinator owns them, and is shown so."""
    first, *others = names(shards_total, tag)
    await run(client, first, 1, 2, 3)

    async def there() -> bool:
        # Redis is told of outputs after their commits.
        again = f"{first}-again-{time.monotonic_ns()}"
        await run(client, again, 1, 2, 3)
        return await cached(client, again) == {"first", "each[0]", "each[1]", "each[2]"}

    await eventually(there)
    ran = len(cluster.effects.starts())
    for name in others:
        await run(client, name, 1, 2, 3)
        assert await cached(client, name) == {"first", "each[0]", "each[1]", "each[2]"}
    assert len(cluster.effects.starts()) == ran
    detail = await client.node(others[0], "first")
    assert (detail.node.status, detail.node.attempt, detail.node.worker) == (NodeStatus.SUCCEEDED, 0, "")
    assert (detail.input, detail.output) == (1, 2)
    notes = [(event.type, event.note) async for event in client.history(others[0]) if event.node_id == "first"]
    assert notes == [("NODE_SUCCEEDED", "cached")]


def test_in_the_database(chosen_url: str, tmp_path: Path) -> None:
    async def told(cluster: RealCluster, client: Client) -> None:
        await taken_everywhere(cluster, client, "db")
        await run(client, "another", 1, 5)
        assert await cached(client, "another") == {"first", "each[0]"}

    play(chosen_url, tmp_path, told)


def test_in_redis_which_stands_still_talks_nonsense_dies_and_comes_back(chosen_url: str, tmp_path: Path) -> None:
    waits_s = cache_wait_ms_max / 1_000 + 4  # a question of each of the two coordinators, and a machine that is busy
    with Redis(tmp_path) as server:

        async def told(cluster: RealCluster, client: Client) -> None:
            await taken_everywhere(cluster, client, "redis")
            server.pause()
            assert await run(client, "still", 11, 12) < waits_s
            assert await cached(client, "still") == set()
            assert await run(client, "still-again", 13, 14) < waits_s
            server.kill()
            async with Pretender(nonsense, server.port) as pretender:
                tried = 0
                while not pretender.connections:
                    tried += 1
                    assert await run(client, f"nonsense-{tried}", 41, 42) < waits_s
                    assert await cached(client, f"nonsense-{tried}") == set()
            server.start()
            await comes_back(client, "restarted", 51)
            said = [line for process in cluster.processes for line in process.lines]
            assert any("redis_left_aside" in line for line in said)
            assert any("redis_answers" in line for line in said)
            assert not any("h@sh" in line or "h%40sh" in line for line in said)

        play(chosen_url, tmp_path, told, REDIS_URL=server.url)


async def comes_back(client: Client, tag: str, number: int) -> None:
    """Redis is used again, some seconds later."""
    tried = 0

    async def taken() -> bool:
        nonlocal tried
        tried += 1
        await run(client, f"{tag}-{tried}", number)
        return await cached(client, f"{tag}-{tried}") != set()

    await eventually(taken, 3 * redis_aside_ms / 1_000 + redis_wait_ms_max / 1_000 + 10)
