"""What a hop and a fan may cost: commits and messages are counted, so that a change that doubles them is seen."""

import asyncio
import urllib.request
from pathlib import Path

from mainspring_client import Client
from tests.cluster.flows import chain, fan
from tests.cluster.running import RealCluster


def metric(address: str, name: str) -> float:
    """Read one sample of a coordinator's metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def commits(client: Client) -> int:
    """Return how many transactions all shards have seen."""
    return sum(row.batch_seq for row in await client.shards())


def test_a_chain_costs_one_commit_a_hop(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path) as cluster:
            await cluster.coordinator()
            await cluster.worker()
            client = cluster.client()
            await (await client.submit(chain(2), 0)).result(30)
            before, batches = await commits(client), metric(cluster.http("c1"), "mainspring_batch_rows_count")
            length = 50
            assert await (await client.submit(chain(length), 0)).result(30) == length
            cost = await commits(client) - before
            batches = metric(cluster.http("c1"), "mainspring_batch_rows_count") - batches
            print(f"a chain of {length}: {cost} transactions, {batches:g} batches")
            # One for the submit, one a node; a few for whoever waits, and for what a heartbeat brings.
            assert length < cost <= length + 6
            assert batches <= length + 6

    asyncio.run(play())


def test_a_wide_map_costs_far_fewer_commits_than_nodes(chosen_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path) as cluster:
            await cluster.coordinator()
            await asyncio.gather(cluster.worker("w1", slots=64), cluster.worker("w2", slots=64))
            client = cluster.client()
            width = 1_000
            before = await commits(client)
            handle = await client.submit(fan("noop"), list(range(width)))
            assert await handle.result(60) == list(range(width))
            cost = await commits(client) - before
            print(f"a map of {width}: {cost} transactions")
            assert cost <= width // 4

    asyncio.run(play())
