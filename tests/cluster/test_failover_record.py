"""Each death is on record once, with what it affected, and is told once; no receiver of alerts is in the way of a takeover."""

import asyncio
import hashlib
import hmac
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mainspring_client import Client
from tests.cluster.checks import all_ended, counted_once
from tests.cluster.flows import gate_and_step
from tests.cluster.running import Process, RealCluster, eventually, so
from tests.servers.receiver import Post, Receiver

SECRET = "what only the receiver knows"


def signed(post: Post) -> bool:
    """Check a signature as docs/failovers.md says that a receiver should."""
    text = post.headers["mainspring-timestamp"].encode() + b"." + post.body
    expected = "v1=" + hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, post.headers["mainspring-signature"])


def listed(address: str) -> list[dict[str, Any]]:
    """Return what the command prints for programs."""
    command = [sys.executable, "-m", "mainspring_client", "failovers", "--json", "--address", address]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def announced(processes: list[Process]) -> list[str]:
    """Return the ids of the events in the log lines that tell of a failover, of all processes."""
    lines = [json.loads(line) for process in processes for line in process.lines if '"eventId"' in line]
    return [line["eventId"] for line in lines if line["event"] == "failover"]


async def unfinished(client: Client, names: list[str]) -> dict[str, int]:
    """Return the shard of each workflow."""
    return {name: (await client.get(name)).shard for name in names}


def test_each_death_is_recorded_and_told_once_whoever_dies_next_and_however_the_receiver_behaves(
    mariadb_url: str, tmp_path: Path
) -> None:
    async def play(receiver: Receiver) -> None:
        settings = {"FAILOVER_WEBHOOK_URL": receiver.url, "FAILOVER_WEBHOOK_SECRET": SECRET}
        async with RealCluster(mariadb_url, tmp_path, DISTRIBUTED_MODE="true", **settings) as cluster:
            c1 = await cluster.coordinator("c1")
            c2 = await cluster.coordinator("c2")
            w1, w2 = await asyncio.gather(cluster.worker("w1"), cluster.worker("w2"))
            client, survivor = cluster.client("c1", "c2"), cluster.client("c2")
            await cluster.owned(survivor, c1=8, c2=8)
            names = [f"held-{n:02}" for n in range(14)]
            for name in names:
                await client.submit(gate_and_step(), "open", workflow_id=name)
            await so(lambda: {(name, "wait", -1) for name in names} <= cluster.effects.starts().keys())
            shards = await unfinished(client, names)
            of_c1 = {row.shard for row in await survivor.shards() if row.holder_name == "c1"}
            receiver.shut()

            # A coordinator: its shards are taken although the receiver hangs.
            await c1.killed()
            await cluster.owned(survivor, c2=16)
            await c2.said('"failover"', '"failedEngine": "c1"')
            await so(receiver.arrived.is_set)
            (first,) = await asyncio.to_thread(listed, cluster.address("c2"))
            lost = sorted(name for name in names if shards[name] in of_c1)
            assert (first["failedEngineId"], first["takeoverEngineId"]) == ("c1", "c2")
            assert (first["kind"], first["alertedAt"]) == ("coordinator_killed", None)
            assert sorted(first["affectedWorkflows"]) == lost
            assert sorted(first["affectedNodes"]) == [f"{name}/wait" for name in lost]
            assert (first["affectedWorkflowsCount"], first["affectedNodesCount"]) == (len(lost), len(lost))

            # A worker: its nodes run elsewhere although the receiver hangs.
            of_w1 = {effect.workflow for effect in cluster.effects.read("start") if effect.pid == w1.pid}
            assert of_w1
            await w1.killed()

            def with_the_other() -> bool:
                return set(names) <= {one.workflow for one in cluster.effects.read("start") if one.pid == w2.pid}

            await so(with_the_other)
            await c2.said('"failover"', '"failedEngine": "w1"')
            second, _ = await asyncio.to_thread(listed, cluster.address("c2"))
            assert (second["failedEngineId"], second["takeoverEngineId"], second["kind"]) == ("w1", "c2", "worker_lost")
            assert sorted(second["affectedNodes"]) == sorted(f"{name}/wait" for name in of_w1)
            assert set(second["affectedWorkflows"]) == of_w1

            # The coordinator whose alerts hang: the next owner delivers them, and its own.
            await c2.killed()
            receiver.statuses = [500, 302]
            receiver.open()
            heir = await cluster.coordinator("c1")
            fresh = cluster.client("c1")
            await cluster.owned(fresh, c1=16)
            cluster.effects.open_gate("open")
            await all_ended(fresh, dict.fromkeys(names, 1))

            async def all_alerted() -> bool:
                return [bool(one.alerted_at_us) async for one in fresh.failovers()] == [True] * 3

            await eventually(all_alerted)
            events = await asyncio.to_thread(listed, cluster.address("c1"))
            assert [(one["failedEngineId"], one["takeoverEngineId"]) for one in events] == [
                ("c2", "c1"),
                ("w1", "c2"),
                ("c1", "c2"),
            ]
            assert sorted(events[0]["affectedWorkflows"]) == names
            assert events[0]["failedIncarnation"] == first["takeoverIncarnation"]
            assert sorted(announced([c1, c2, heir])) == sorted(one["eventId"] for one in events)

            taken = {post.document["eventId"]: post for post in receiver.taken()}
            assert taken.keys() == {one["eventId"] for one in events}
            for one in events:
                post = taken[one["eventId"]]
                assert signed(post)
                assert post.headers["mainspring-event-id"] == one["eventId"]
                assert post.document == {"cluster": "mainspring", **one, "alertedAt": None}
            said = [line for process in cluster.processes for line in process.lines]
            assert not [line for line in said if SECRET in line or "hidden-token" in line]
            await counted_once(fresh, names, cluster.effects)

    with Receiver() as receiver:
        asyncio.run(play(receiver))


def test_with_failover_off_a_death_is_recorded_and_told_and_its_work_waits_for_the_same_name(
    mariadb_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(mariadb_url, tmp_path, DISTRIBUTED_MODE="true", ENABLE_FAILOVER="false") as cluster:
            c1 = await cluster.coordinator("c1")
            c2 = await cluster.coordinator("c2")
            worker = await cluster.worker("w1")
            client, survivor = cluster.client("c1", "c2"), cluster.client("c2")
            await cluster.owned(survivor, c1=8, c2=8)
            names = [f"held-{n:02}" for n in range(12)]
            for name in names:
                await client.submit(gate_and_step(), "open", workflow_id=name)
            await so(lambda: {(name, "wait", -1) for name in names} <= cluster.effects.starts().keys())
            shards = await unfinished(client, names)
            of_c1 = {row.shard for row in await survivor.shards() if row.holder_name == "c1"}
            lost = sorted(name for name in names if shards[name] in of_c1)
            await c1.killed()
            await c2.said('"failover"', '"failedEngine": "c1"')
            (event,) = [one async for one in survivor.failovers()]
            assert (event.failed_engine_id, event.takeover_engine_id) == ("c1", "")
            assert sorted(event.affected_workflows) == lost
            await worker.killed()
            await c2.said('"failover"', '"failedEngine": "w1"')
            of_c2 = [row.shard for row in await survivor.shards() if row.holder_name == "c2"]
            assert len(of_c2) == 8, "nobody took what is c1's"
            await cluster.coordinator("c1")
            await cluster.worker("w1")
            cluster.effects.open_gate("open")
            await all_ended(client, dict.fromkeys(names, 1))
            told = [(one.failed_engine_id, one.takeover_engine_id) async for one in client.failovers()]
            assert sorted(pair for pair in told if pair[0] == "c1") == [("c1", ""), ("c1", "c1")]

    asyncio.run(play())
