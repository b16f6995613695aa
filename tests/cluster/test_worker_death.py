"""A worker dies, leaves, or stands still: its work goes elsewhere in time, and what it does afterwards does not count."""

import asyncio
import time
from pathlib import Path

import pytest

from mainspring.errors import WorkflowFailedError
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, deadly, gate, load
from tests.cluster.running import Process, RealCluster, eventually, so

grace_s = 2.0  # STREAM_GRACE, unset


def running_on(cluster: RealCluster, worker: Process, count: int) -> bool:
    """Tell whether a worker has started so many nodes."""
    return len([effect for effect in cluster.effects.read("start") if effect.pid == worker.pid]) == count


def test_the_nodes_of_a_killed_worker_run_elsewhere_in_time(any_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path) as cluster:
            await cluster.coordinator()
            victim = await cluster.worker("victim")
            client = cluster.client()
            handles = [await client.submit(gate(), "open") for _ in range(5)]
            await so(lambda: running_on(cluster, victim, 5))
            heir = await cluster.worker("heir")
            killed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            await victim.killed()
            await so(lambda: running_on(cluster, heir, 5))
            late_s = [
                (effect.at_ns - killed_ns) / 1e9 for effect in cluster.effects.read("start") if effect.pid == heir.pid
            ]
            print(
                f"started elsewhere {min(late_s):.2f} to {max(late_s):.2f} s after the kill (STREAM_GRACE {grace_s} s)"
            )
            assert min(late_s) > grace_s - 0.1
            assert max(late_s) < grace_s + 0.5 + 0.5  # the last half second is for a busy machine
            cluster.effects.open_gate("open")
            await all_ended(client, {handle.workflow_id: {"pid": heir.pid} for handle in handles})
            await counted_once(client, [handle.workflow_id for handle in handles], cluster.effects)

    asyncio.run(play())


def test_a_worker_told_to_stop_finishes_what_it_runs_and_nothing_runs_twice(any_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path) as cluster:
            await cluster.coordinator()
            leaver = await cluster.worker("leaver", slots=4)
            client = cluster.client()
            held = await client.submit(gate(), "open")
            await so(lambda: running_on(cluster, leaver, 1))
            expected = await load(client, 10)
            await cluster.worker("stayer")
            await so(lambda: cluster.effects.done(50))
            leaver.ask_to_end()
            await leaver.said("draining")
            cluster.effects.open_gate("open")
            assert await leaver.exited == 0
            await all_ended(client, {**expected, held.workflow_id: {"pid": leaver.pid}})
            await counted_once(client, expected, cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())


def test_the_late_result_of_a_worker_that_stood_still_is_not_that_of_its_node(any_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path) as cluster:
            await cluster.coordinator()
            sleeper = await cluster.worker("sleeper")
            client = cluster.client()
            late = await client.submit(gate(), "late", workflow_id="late")
            stopped = await client.submit(gate(), "stopped", workflow_id="stopped")
            await so(lambda: running_on(cluster, sleeper, 2))
            heir = await cluster.worker("heir")
            sleeper.pause()
            await so(lambda: running_on(cluster, heir, 2))
            cluster.effects.open_gate("late")
            await so(lambda: [effect.pid for effect in cluster.effects.read("end", "late")] == [heir.pid])
            sleeper.resume()
            # The sleeper attaches again as who it is, and is told to stop what it still runs.
            await so(lambda: [effect.pid for effect in cluster.effects.read("stopped", "stopped")] == [sleeper.pid])
            cluster.effects.open_gate("stopped")
            assert await late.result(30) == await stopped.result(30) == {"pid": heir.pid}
            assert (await late.node("wait")).node.worker == "heir"
            await counted_once(client, ["late", "stopped"], cluster.effects)

    asyncio.run(play())


def test_a_worker_that_stood_still_does_not_begin_what_was_sent_meanwhile(any_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path) as cluster:
            await cluster.coordinator()
            sleeper = await cluster.worker("sleeper")
            client = cluster.client()
            # It has set its bound by the time it has run something.
            assert await (await client.submit(chain(1), 0)).result(30) == 1
            sleeper.pause()
            # There is nobody else yet, so it goes to the sleeper, into its socket.
            handle = await client.submit(gate(), "open")

            async def is_with_the_sleeper() -> bool:
                return (await handle.node("wait")).node.worker == "sleeper"

            await eventually(is_with_the_sleeper)
            heir = await cluster.worker("heir")
            await so(lambda: running_on(cluster, heir, 1))
            sleeper.resume()
            await sleeper.said("stood_still")
            cluster.effects.open_gate("open")
            assert await handle.result(30) == {"pid": heir.pid}
            assert [effect.pid for effect in cluster.effects.read("start", handle.workflow_id)] == [heir.pid]
            # What comes from now on it begins like any other.
            await heir.killed()
            again = await client.submit(gate(), "open")
            assert await again.result(30) == {"pid": sleeper.pid}

    asyncio.run(play())


def test_a_worker_that_stood_still_for_less_than_the_limit_keeps_its_work(any_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(any_url, tmp_path, STREAM_GRACE="20000") as cluster:
            await cluster.coordinator()
            sleeper = await cluster.worker("sleeper")
            client = cluster.client()
            handle = await client.submit(gate(), "open")
            await so(lambda: running_on(cluster, sleeper, 1))
            await cluster.worker("idler")
            sleeper.pause()

            async def absent() -> bool:
                return [one.status for one in await client.workers() if one.name == "sleeper"] == ["ABSENT"]

            await eventually(absent)
            sleeper.resume()
            cluster.effects.open_gate("open")
            assert await handle.result(30) == {"pid": sleeper.pid}
            started_once(cluster.effects)

    asyncio.run(play())


def test_a_node_that_kills_its_workers_fails_in_the_end_and_its_neighbours_do_not(
    file_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path, STREAM_GRACE="300") as cluster:
            await cluster.coordinator()
            client = cluster.client()
            workers = [await cluster.worker(f"w{number}", slots=4) for number in range(3)]
            held = [await client.submit(gate(), "open") for _ in range(4)]
            await so(lambda: len(cluster.effects.read("start")) == len(held))
            bad = await client.submit(deadly(), 0)

            async def replaced(worker: Process) -> None:
                while True:
                    await worker.exited
                    worker = await cluster.worker(f"heir-{worker.name}", slots=4)

            heirs = [asyncio.create_task(replaced(worker)) for worker in workers]
            await so(lambda: any(one.node == "bomb" for one in cluster.effects.read("start")))
            # What runs alone waits for a worker that has nothing else, and the neighbours hold theirs until the gate is open: so
            # there are more workers than neighbours, wherever these are begun again.
            more = [await cluster.worker(f"more{number}", slots=4) for number in range(2)]
            heirs += [asyncio.create_task(replaced(worker)) for worker in more]
            await so(lambda: len([one for one in cluster.effects.read("start") if one.node == "bomb"]) >= 3)
            with pytest.raises(WorkflowFailedError, match="while it ran nothing else"):
                await bad.result(60)
            for heir in heirs:
                heir.cancel()
            cluster.effects.open_gate("open")
            for handle in held:
                assert isinstance(await handle.result(60), dict)
            bombs = [one for one in cluster.effects.read("start") if one.node == "bomb"]
            assert len(bombs) == 3
            assert len({one.pid for one in bombs}) == 3
            others = [one for one in cluster.effects.read("start") if one.node != "bomb" and one.pid == bombs[-1].pid]
            assert [one for one in others if one.at_ns < bombs[-1].at_ns] == []

    asyncio.run(play())
