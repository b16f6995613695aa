"""Three coordinators are restarted one after the other under load: nobody who calls, and no node, may notice."""

import asyncio
import time
from pathlib import Path

import pytest

from mainspring_client import Client, WorkflowStatus
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, fan
from tests.cluster.running import RealCluster, eventually

names = ("c1", "c2", "c3")
length = 30  # of a chain, and the width of a fan: long enough to be moved while they run, and few enough to be checked


async def shared(client: Client) -> None:
    """Return when all three live, each owns its share, and both workers are attached to each."""

    async def fits() -> bool:
        live = [row for row in await client.coordinators() if row.live]
        return sorted(row.shards for row in live) == [5, 5, 6] and [row.workers for row in live] == [2, 2, 2]

    await eventually(fits)


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
def test_a_rolling_restart_of_three_coordinators_fails_no_call_and_runs_no_node_twice(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            running = dict(zip(names, await asyncio.gather(*map(cluster.coordinator, names)), strict=True))
            await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            watcher = cluster.client()
            await shared(watcher)
            # One caller knows all coordinators; each of the others begins with another one.
            orders = (("c1", "c2", "c3"), ("c2", "c3", "c1"), ("c3", "c1", "c2"))
            callers = [Caller(cluster.client(*order), order[0]) for order in orders]
            over = asyncio.Event()
            calling = [asyncio.create_task(caller.run(over)) for caller in callers]
            for name in names:
                leaver = running[name]
                leaver.ask_to_end()
                assert await leaver.exited == 0
                await cluster.coordinator(name)
                await shared(watcher)
            over.set()
            await asyncio.gather(*calling)
            expected = {name: value for caller in callers for name, value in caller.expected.items()}
            print(f"{len(expected)} workflows; slowest submit and read {max(c.slowest_s for c in callers):.2f} s")
            await all_ended(watcher, expected)
            started_once(cluster.effects)
            await counted_once(watcher, list(expected)[::10], cluster.effects)  # each tenth: the histories are long

    asyncio.run(play())
