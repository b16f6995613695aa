"""Operators take a worker out of the work and back into it, declare one gone, and free what a dead coordinator left."""

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from mainspring.errors import PreconditionError
from mainspring.ids import shard_of
from mainspring_client import Client
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, gate, gate_and_step, load
from tests.cluster.running import Process, RealCluster, eventually, so


def pids(cluster: RealCluster, since: int = 0) -> set[int]:
    """Return which processes have started nodes, those of the first `since` starts left out."""
    return {effect.pid for effect in cluster.effects.read("start")[since:]}


async def drained(cluster: RealCluster, client: Client, worker: Process) -> int:
    """Drain a worker, wait until it has nothing, and return how many nodes had been started by then."""
    await client.drain_worker(worker.name, reason="a new kernel")
    each = [cluster.client(at) for at in ("c1", "c2")]

    async def idle() -> bool:
        seen = [one for at in each for one in await at.workers() if one.name == worker.name]
        return [one.drained for one in seen] == [True, True]

    await eventually(idle)
    return len(cluster.effects.read("start"))


async def within_a_second(happens: Awaitable[None]) -> None:
    began = time.monotonic()
    await happens
    assert time.monotonic() - began < 1.0


def test_a_worker_is_drained_under_load_takes_work_again_and_is_evicted_while_it_stands_still(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        everywhere = {"DISTRIBUTED_MODE": "true", "SHARDS": "2", "ENABLE_FAILOVER": "false", "STREAM_GRACE": "20000"}
        async with RealCluster(chosen_url, tmp_path, **everywhere) as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            first, second = await asyncio.gather(cluster.worker("w1", slots=8), cluster.worker("w2", slots=8))
            client = cluster.client()
            await cluster.owned(client, c1=1, c2=1)

            expected = await load(client, 8)
            await so(lambda: pids(cluster) == {first.pid, second.pid})
            began = await drained(cluster, client, first)
            more = await load(client, 3, "while-")
            await all_ended(client, more)
            assert pids(cluster, began) == {second.pid}
            began = len(cluster.effects.read("start"))
            await client.undrain_worker("w1")
            expected |= more | await load(client, 8, "after-")
            await so(lambda: pids(cluster, began) == {first.pid, second.pid})
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)

            # One node of each coordinator's shard is with the first worker when that stands still.
            began = await drained(cluster, client, second)
            names = [
                next(name for name in (f"held-{n}" for n in range(99)) if shard_of(name, 2) == at) for at in (0, 1)
            ]
            held = [await client.submit(gate(), "open", workflow_id=name) for name in names]
            await so(lambda: len(cluster.effects.read("start")) == began + 2)
            await client.undrain_worker("w2")
            first.pause()
            evicted = await client.evict_worker("w1", "it hangs")
            assert evicted.known
            await within_a_second(so(lambda: len(cluster.effects.read("start")) == began + 4))
            cluster.effects.open_gate("open")
            first.resume()
            assert [await one.result(30) for one in held] == [{"pid": second.pid}] * 2
            await counted_once(client, names, cluster.effects)
            assert await first.exited == 1
            await first.said(f"an operator evicted incarnation {evicted.incarnation}")
            on_record = [event async for event in client.failovers() if event.failed_incarnation == evicted.incarnation]
            assert sorted(node for event in on_record for node in event.affected_nodes) == sorted(
                f"{one.workflow_id}/wait" for one in held
            )
            # One that is started again is another, and welcome.
            await cluster.worker("w1")
            acts = [entry.act async for entry in client.audit() if entry.outcome == "done"]
            assert acts == ["EvictWorker", "UndrainWorker", "DrainWorker", "UndrainWorker", "DrainWorker"]

    asyncio.run(play())


def test_with_failover_off_the_shards_of_a_killed_coordinator_wait_for_their_release_though_none_is_served(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        everywhere = {"DISTRIBUTED_MODE": "true", "SHARDS": "1", "ENABLE_FAILOVER": "false"}
        async with RealCluster(chosen_url, tmp_path, **everywhere) as cluster:
            owner = await cluster.coordinator("c1")
            await cluster.coordinator("c2")
            worker = await cluster.worker()
            client = cluster.client("c2")
            await cluster.owned(client, c1=1, c2=0)
            held = await client.submit(gate_and_step(), "open")
            await so(lambda: pids(cluster) == {worker.pid})
            (dead,) = [one.incarnation for one in await client.coordinators() if one.name == "c1"]
            with pytest.raises(PreconditionError, match="lives: its lock is held"):
                await client.release_instance(dead, "c1", "too early")
            await owner.killed()

            async def gone() -> bool:
                return not any(one.live and one.name == "c1" for one in await client.coordinators())

            await eventually(gone)
            cluster.effects.open_gate("open")
            assert [shard.holder for shard in await client.shards()] == [dead]
            released = await client.release_instance(dead, "c1", "its host burned")
            assert (released.shards, released.was_live) == (1, False)
            assert await held.result(30) == 1
            await cluster.owned(client, c2=1)
            assert await (await client.submit(chain(2), 0)).result(30) == 2
            started_once(cluster.effects)

            async def on_record() -> bool:
                found = [(entry.act, entry.outcome == "done") async for entry in client.audit()]
                return found == [("ReleaseInstance", True), ("ReleaseInstance", False)]

            await eventually(on_record)

    asyncio.run(play())
