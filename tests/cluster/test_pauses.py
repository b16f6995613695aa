"""Pauses on real processes: they outlive every coordinator, nothing of what is paused begins, and all of it ends in the end."""

import asyncio
from pathlib import Path

from tests.cluster.checks import all_ended, counted_once, started_once
from tests.cluster.flows import chain, gate, gate_and_step
from tests.cluster.running import RealCluster, so


def test_a_pause_outlives_all_coordinators_and_nothing_of_it_begins_before_it_ends(
    chosen_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true", SHARDS="4") as cluster:
            first, second = await cluster.coordinator("c1"), await cluster.coordinator("c2")
            await cluster.worker()
            client = cluster.client()
            await cluster.owned(client, c1=2, c2=2)
            expected: dict[str, object] = {"running": 1}
            await client.submit(gate_and_step(), "night", workflow_id="running")
            await so(lambda: len(cluster.effects.read("start")) == 1)

            outcome = await client.pause(executor="step", reason="a fire")
            assert (outcome.changed, outcome.unseen_by, outcome.workers) == (True, (), 1)
            for number in range(8):
                await client.submit(chain(3), number, workflow_id=f"wf-{number}")
                expected[f"wf-{number}"] = number + 3
            await client.submit(gate(), "alone", workflow_id="alone")
            await so(lambda: len(cluster.effects.read("start")) == 2)
            await asyncio.gather(first.killed(), second.killed())
            await cluster.coordinator("c1")
            alone = cluster.client("c1")
            await client.pause(workflow_id="wf-0", reason="looks wrong")
            cluster.effects.open_gate("night")
            cluster.effects.open_gate("alone")
            await client.handle("alone").result(30)  # what is not paused goes on, and what ran counts
            assert {one.workflow for one in cluster.effects.read("start")} == {"running", "alone"}
            assert len(cluster.effects.read("start", "running")) == 1, "what its end freed is paused as well"
            found = [(one.executor, one.workflow_id, one.pause.reason) async for one in alone.pauses()]
            assert found == [("step", "", "a fire"), ("", "wf-0", "looks wrong")]
            told = await alone.explain("wf-1", "n0")
            assert "paused by anonymous, as " in told.nodes[0].reason
            assert "a fire; resume with: mainspring resume --executor step" in told.nodes[0].reason

            assert (await alone.resume(executor="step")).changed
            late = expected.pop("wf-0")
            await all_ended(alone, expected)
            info = await alone.get("wf-0")
            assert info.pause is not None
            assert not cluster.effects.read("start", "wf-0")
            assert (await alone.resume(workflow_id="wf-0")).changed
            await all_ended(alone, expected := {**expected, "wf-0": late})
            await counted_once(alone, expected, cluster.effects)
            started_once(cluster.effects)
            assert [one async for one in alone.pauses()] == []

    asyncio.run(play())
