"""An upgrade under load: coordinators of the version before, and then their workers, are replaced one after the other.

Nobody who calls, and no node, may notice.
"""

import asyncio
import importlib.metadata
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from mainspring_client import Client, WorkflowStatus
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.tables import nodes
from mainspring_coordinator.store.url import parse_url
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, fan
from tests.cluster.running import RealCluster, eventually
from tests.contract.skewed import run_as_later, run_as_older

names = ("c1", "c2", "c3")
ours = importlib.metadata.version("mainspring")
successors = {"c1": "", "c2": "", "c3": run_as_later, "w1": "", "w2": run_as_later}
"""What each is replaced with: this version, or already the one after it, so that all three have to do with each other."""
length = 30  # of a chain, and the width of a fan: long enough to be moved while they run, and few enough to be checked


async def shared(client: Client, workers: int = 2) -> None:
    """Return when all three live, each owns its share, and so many workers are attached to each."""

    async def fits() -> bool:
        live = [row for row in await client.coordinators() if row.live]
        return sorted(row.shards for row in live) == [5, 5, 6] and [row.workers for row in live] == [workers] * 3

    await eventually(fits)


async def versions(cluster: RealCluster) -> list[str]:
    """What the coordinators say that they are."""
    return [(await cluster.client(name).cluster()).version for name in names]


def redelivered(url: str) -> int:
    """How many redeliveries the database has counted."""
    engine = open_engine(parse_url(url))
    try:
        with engine.connect() as connection:
            return int(connection.execute(select(func.coalesce(func.sum(nodes.c.redeliveries), 0))).scalar_one())
    finally:
        engine.dispose()


class Caller:
    """One who calls without a pause: submits, reads, waits for the result. Any error is the test's failure."""

    def __init__(self, client: Client, tag: str) -> None:
        self.client = client
        self.tag = tag
        self.expected: dict[str, object] = {}
        self.slowest_s = 0.0

    async def run(self, over: asyncio.Event) -> None:
        """Call until it is over."""
        flows = (chain(length), fan())
        while not over.is_set():
            count = len(self.expected)
            name = f"{self.tag}-{count}"
            which = count % 2
            began = time.monotonic()
            handle = await self.client.submit(flows[which], list(range(length)) if which else count, workflow_id=name)
            info = await self.client.get(name)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            assert info.workflow_id == name
            if which:
                await self.watch(name)
            self.expected[name] = list(range(1, length + 1)) if which else count + length
            assert await handle.result(60) == self.expected[name]

    async def watch(self, name: str) -> None:
        """Follow a workflow to its end, whoever owns it meanwhile."""
        version, status = 0, WorkflowStatus.RUNNING
        async for update in self.client.watch(name):
            assert update.workflow.version >= version
            version, status = update.workflow.version, update.workflow.status
        assert status is WorkflowStatus.SUCCEEDED


@pytest.mark.long
def test_an_upgrade_of_three_coordinators_and_their_workers_fails_no_call_and_runs_no_node_twice(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            started = [await cluster.spawn_coordinator(name, through=run_as_older) for name in names]
            for process in started:
                await process.heard("listening", 60)
            running = dict(zip(names, started, strict=True))
            old = await asyncio.gather(*(cluster.worker(name, through=run_as_older) for name in ("w1", "w2")))
            watcher = cluster.client()
            await shared(watcher)
            assert await versions(cluster) == ["0.0.9"] * 3
            # One caller knows all coordinators; each of the others begins with another one.
            orders = (("c1", "c2", "c3"), ("c2", "c3", "c1"), ("c3", "c1", "c2"))
            callers = [Caller(cluster.client(*order), order[0]) for order in orders]
            over = asyncio.Event()
            calling = [asyncio.create_task(caller.run(over)) for caller in callers]
            for name in names:
                leaver = running[name]
                leaver.ask_to_end()
                assert await leaver.exited == 0
                successor = await cluster.spawn_coordinator(name, through=successors[name])
                await successor.heard("listening", 60)
                await shared(watcher)
            assert await versions(cluster) == [ours, ours, "9.9.9"]
            for leaver in old:
                # Its successor has another name, as in an orchestrator.
                await cluster.worker(f"{leaver.name}b", through=successors[leaver.name])
                leaver.ask_to_end()
                assert await leaver.exited == 0
            await shared(watcher)
            over.set()
            await asyncio.gather(*calling)
            expected = {name: value for caller in callers for name, value in caller.expected.items()}
            print(f"{len(expected)} workflows; slowest submit and read {max(c.slowest_s for c in callers):.2f} s")
            await all_ended(watcher, expected)
            started_once(cluster.effects)
            assert redelivered(chosen_url) == 0
            await counted_once(watcher, list(expected)[::10], cluster.effects)  # each tenth: the histories are long

    asyncio.run(play())
