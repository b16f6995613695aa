"""Operators act on nodes and run workflows again, in a cluster of real processes, one of which is killed in the midst of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, func, insert, select

from mainspring import Workflow
from mainspring.ids import shard_of
from mainspring.limits import statement_bytes_max
from mainspring_client import Client, NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.plan import compile_plan
from mainspring_coordinator.engine.status import NodeStatus as StoredStatus
from mainspring_coordinator.engine.status import WorkflowStatus as StoredWorkflowStatus
from mainspring_coordinator.store import tables
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.url import parse_url
from mainspring_coordinator.submits import digest_of
from tests.cluster.flows import fan, gate, gate_and_step
from tests.cluster.running import Process, RealCluster, so

width = 10_000
shards_total = 16


def put_failed(engine: Engine, flow: Workflow, workflow_id: str) -> None:
    """Put an ended workflow into the database: its map is whole, the node behind it failed."""
    plan, given = compile_plan(flow.definition()), orjson.dumps(list(range(width)))
    assert len(plan.definition) < statement_bytes_max
    shard = shard_of(workflow_id, shards_total)
    ended = {
        "workflow_id": workflow_id,
        "version": 9,
        "attempt": 1,
        "worker": "w0",
        "started_at_us": 5,
        "ended_at_us": 9,
    }
    own: dict[str, Any] = {"instance": -1, "width": 0, "output": None, "failure": None}
    rows: Sequence[dict[str, Any]] = [
        {**ended, **own, "node": 0, "width": width, "status": int(StoredStatus.SUCCEEDED)},
        *(
            {**ended, **own, "node": 0, "instance": at, "status": int(StoredStatus.SUCCEEDED), "output": b"%d" % at}
            for at in range(width)
        ),
        {**ended, **own, "node": 1, "status": int(StoredStatus.FAILED), "failure": b'{"type":"E","message":"no"}'},
    ]
    with engine.begin() as connection:
        connection.execute(
            insert(tables.plan_chunks).values(shard_id=shard, plan_hash=plan.hash, chunk=0, data=plan.definition)
        )
        connection.execute(
            insert(tables.workflows).values(
                workflow_id=workflow_id,
                shard_id=shard,
                digest=digest_of(plan, given),
                name=plan.name,
                plan_hash=plan.hash,
                status=int(StoredWorkflowStatus.FAILED),
                version=9,
                submitted_at_us=1,
                ended_at_us=9,
                input=given,
            )
        )
        for start in range(0, len(rows), 1_000):
            connection.execute(insert(tables.nodes), rows[start : start + 1_000])


def copied(engine: Engine, workflow_id: str) -> dict[str, int]:
    """Return how many rows there are of each new workflow."""
    name = tables.nodes.c.workflow_id
    query = select(name, func.count()).where(name > f"{workflow_id}+", name < f"{workflow_id}+~").group_by(name)
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def test_operators_act_on_nodes_and_run_a_workflow_again_over_the_death_of_its_coordinator(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path) as cluster:
            coordinator, _ = await asyncio.gather(cluster.coordinator(), cluster.spawn_worker())
            client = cluster.client()
            await _act(cluster, client)
            engine = open_engine(parse_url(chosen_url))
            await _rerun(cluster, client, coordinator, engine)
            engine.dispose()

    asyncio.run(play())


async def _act(cluster: RealCluster, client: Client) -> None:
    """Nodes that run are tried again, skipped and completed."""
    retried = await client.submit(gate(), "again", workflow_id="retried")
    skipped = await client.submit(gate_and_step(), "never", workflow_id="skipped")
    completed = await client.submit(gate(), "never", workflow_id="completed")
    await so(lambda: len(cluster.effects.read("start")) == 3)
    assert await client.retry_node("retried", "wait", reason="it hangs")
    assert await client.skip_node("skipped", "wait")
    assert await client.complete_node("completed", "wait", {"pid": 0})
    assert not await client.complete_node("completed", "wait", {"pid": 0})
    assert await skipped.result(30) == 1
    assert await completed.result(30) == {"pid": 0}
    # The worker has stopped all three, and begun the one once more.
    await so(lambda: len(cluster.effects.read("stopped")) == 3)
    await so(lambda: len(cluster.effects.read("start", "retried")) == 2)
    cluster.effects.open_gate("again")
    await retried.result(30)
    detail = await client.node("retried", "wait")
    assert detail.node.attempt == 2
    (first,) = detail.attempts
    assert first.failure is not None
    assert first.failure.message == "an operator wanted another attempt: it hangs"
    assert (await client.node("skipped", "wait")).node.status is NodeStatus.SKIPPED


async def _rerun(cluster: RealCluster, client: Client, coordinator: Process, engine: Engine) -> None:
    """The coordinator is killed while it copies, and the same call finishes it."""
    await asyncio.to_thread(put_failed, engine, fan("noop"), "old")
    call = asyncio.create_task(client.rerun("old", from_failed=True, reason="the bank is back"))
    while not await asyncio.to_thread(copied, engine, "old"):
        assert not call.done()
    await coordinator.killed()
    (found,) = copied(engine, "old").values()
    assert 0 < found <= width, "it was killed in the midst"
    await cluster.coordinator()
    made = await call
    assert (made.created, made.nodes_kept, made.nodes_anew) == (True, 1, 1)
    result = await client.wait(made.workflow_id, 60)
    assert (result.status, result.output) == (WorkflowStatus.SUCCEEDED, list(range(width)))
    assert copied(engine, "old") == {made.workflow_id: width + 2}
    info = await client.get(made.workflow_id)
    assert (info.rerun_of, info.node_counts) == ("old", {NodeStatus.SUCCEEDED: width + 2})
    assert (await client.get("old")).status is WorkflowStatus.FAILED
    events = [event async for event in client.history(made.workflow_id)]
    assert [event.node_id for event in events if event.type == "ATTEMPT_STARTED"] == ["all"]
    (entry,) = [entry async for entry in client.audit() if entry.act == "RerunWorkflow" and entry.outcome]
    assert (entry.outcome, entry.reason) == ("done", "the bank is back")
