"""Networks that drop everything without a word: between a coordinator and its database, and between a worker and its coordinator."""

import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

from mainspring_client import WorkflowStatus
from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, gate, gate_and_step
from tests.cluster.running import RealCluster, eventually, so
from tests.servers.cut import CuttableProxy

lease_s = 2.0
hung_s = 1.02 * (lease_s / 0.98 + 0.5)  # T of docs/settings.md


def test_a_coordinator_cut_from_its_database_lets_go_in_time_and_what_it_held_back_changes_nothing(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        port = urlsplit(chosen_url).port
        assert port is not None
        async with (
            CuttableProxy(port) as proxy,
            RealCluster(
                chosen_url, tmp_path, DISTRIBUTED_MODE="true", LEASE_TIMEOUT=str(int(lease_s * 1_000))
            ) as cluster,
        ):
            cut_off = await cluster.coordinator("c1", DATABASE_URL=chosen_url.replace(f":{port}/", f":{proxy.port}/"))
            await cluster.coordinator("c2")
            await cluster.worker()
            client = cluster.client("c2")
            await cluster.owned(client, c1=8, c2=8)
            held = [(await client.submit(gate_and_step(), "open")).workflow_id for _ in range(16)]
            await so(lambda: len(cluster.effects.read("start")) == len(held))
            shards = {row.shard for row in await client.shards() if row.holder_name == "c1"}
            theirs = {name for name in held if (await client.get(name)).shard in shards}
            assert theirs
            proxy.cut()
            cut_at = time.monotonic()
            # Results of both kinds come while c1 cannot commit: the worker still speaks with it.
            cluster.effects.open_gate("open")
            lost = await cut_off.said("term_lost")
            let_go_s = time.monotonic() - cut_at
            await cluster.owned(client, c2=16)
            taken_s = time.monotonic() - cut_at
            print(f"let go after {let_go_s:.2f} s (L {lease_s} s), taken over after {taken_s:.2f} s (T {hung_s:.2f} s)")
            assert let_go_s < lease_s + 3  # the last seconds are for a busy machine
            assert taken_s < hung_s + 5
            await all_ended(client, dict.fromkeys(held, 1))
            more: dict[str, object] = dict.fromkeys([f"more-{n}" for n in range(16)], 3)
            for name in more:
                await client.submit(chain(3), 0, workflow_id=name)
            await all_ended(client, more)
            # It cannot know that these have ended, so it may not say how they were when it was cut off: whoever asks it, waits.
            at_cut_off = cluster.client("c1", timeout=60)
            asked = [asyncio.create_task(at_cut_off.get(name)) for name in theirs]
            # What c1 had sent to the database arrives now, and its calls go on: nothing of it may count.
            proxy.heal()
            assert {(await answer).status for answer in asked} == {WorkflowStatus.SUCCEEDED}
            await cluster.owned(client, c1=8, c2=8)
            assert lost
            await counted_once(client, [*held, *more], cluster.effects)
            started_once(cluster.effects)

    asyncio.run(play())


def test_a_coordinator_cut_from_its_workers_gives_nobody_up_and_its_shards_go_to_one_that_has_them(
    chosen_url: str, tmp_path: Path
) -> None:
    # Only pings of the transport notice, stream by stream, up to two seconds apart and so by more than the grace.
    pings = {"KEEPALIVE_TIME": "2000", "KEEPALIVE_TIMEOUT": "1000", "STREAM_GRACE": "500"}
    silent = {"HEARTBEAT_INTERVAL": "20000", "FAILURE_DETECTION_TIMEOUT": "60000", "LOCK_TIMEOUT": "60000"}

    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true", **pings, **silent) as cluster:
            # Its own address cannot be reached, so that the proxy is the only way.
            await cluster.coordinator("c1", ADVERTISE_HOST="127.0.0.2")
            async with CuttableProxy(int(cluster.address("c1").rpartition(":")[2])) as proxy:
                await cluster.coordinator("c2")
                addresses = f"127.0.0.1:{proxy.port},{cluster.address('c2')}"
                workers = [await cluster.worker("w1", MAINSPRING_ADDRESS=addresses)]
                client = cluster.client("c1")
                await cluster.owned(client, c1=8, c2=8)
                for name in ("w2", "w3", "w4"):
                    await asyncio.sleep(0.5)
                    workers.append(await cluster.worker(name, MAINSPRING_ADDRESS=addresses))
                held = [(await client.submit(gate_and_step(), "open")).workflow_id for _ in range(16)]
                await so(lambda: len(cluster.effects.read("start")) == len(held))
                # Each stream is left to its own pings.
                await asyncio.sleep(3)
                proxy.cut()
                for worker in workers:
                    await worker.said("detached")
                await cluster.owned(client, c1=0, c2=16)
                cluster.effects.open_gate("open")
                await all_ended(client, dict.fromkeys(held, 1))
                await counted_once(client, held, cluster.effects)
                started_once(cluster.effects)
                assert not [event async for event in client.failovers()]

    asyncio.run(play())


def test_a_half_open_socket_is_found_by_pings_and_its_worker_is_replaced(file_url: str, tmp_path: Path) -> None:
    pings = {"KEEPALIVE_TIME": "500", "KEEPALIVE_TIMEOUT": "500", "KEEPALIVE_PING_TIMEOUT": "500"}
    # Heartbeats that would take a minute to notice.
    silent = {"HEARTBEAT_INTERVAL": "20000", "FAILURE_DETECTION_TIMEOUT": "60000"}

    async def play() -> None:
        async with RealCluster(file_url, tmp_path, **pings, **silent) as cluster:
            # Its own address cannot be reached, so that the proxy is the only way.
            await cluster.coordinator("c1", ADVERTISE_HOST="127.0.0.2")
            async with CuttableProxy(int(cluster.address("c1").rpartition(":")[2])) as proxy:
                cut_off = await cluster.worker("cut-off", MAINSPRING_ADDRESS=f"127.0.0.1:{proxy.port}")
                client = cluster.client()
                handle = await client.submit(gate(), "open")
                await so(lambda: [one.pid for one in cluster.effects.read("start")] == [cut_off.pid])
                heir = await cluster.worker("heir")
                proxy.cut()
                cut_at = time.monotonic()
                await so(lambda: [one.pid for one in cluster.effects.read("start")] == [cut_off.pid, heir.pid])
                late_s = time.monotonic() - cut_at
                await cut_off.said("detached")
                print(f"started elsewhere {late_s:.2f} s after the cut")
                assert (
                    late_s < 10
                )  # 0.5 s to a ping, 0.5 s for its answer, 2 s of STREAM_GRACE; the rest is for a busy machine
                proxy.heal()
                await so(lambda: [one.pid for one in cluster.effects.read("stopped")] == [cut_off.pid])
                cluster.effects.open_gate("open")
                assert await handle.result(30) == {"pid": heir.pid}

                async def both_back() -> bool:
                    return sorted(one.name for one in await client.workers()) == ["cut-off", "heir"]

                await eventually(both_back)
                await counted_once(client, [handle.workflow_id], cluster.effects)

    asyncio.run(play())
