"""What a coordinator had promised before it died holds after it: cancels, retries, deadlines."""

import asyncio
from pathlib import Path

from mainspring import Retry, Workflow
from mainspring_client import NodeStatus, WorkflowStatus
from tests.cluster.flows import gate
from tests.cluster.running import RealCluster, eventually, so


def test_a_cancel_acknowledged_before_the_death_holds_after_it(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            coordinator = await cluster.coordinator()
            worker = await cluster.worker()
            client = cluster.client()
            handle = await client.submit(gate(), "never", workflow_id="unwanted")
            await so(lambda: len(cluster.effects.read("start")) == 1)
            # The worker stands still, so that the word to stop cannot have reached it before the death.
            worker.pause()
            assert await handle.cancel("enough") is WorkflowStatus.CANCELLING
            await coordinator.killed()
            worker.resume()
            await cluster.coordinator()
            assert (await handle.wait(30)).status is WorkflowStatus.CANCELLED
            assert (await handle.get()).cancel_reason == "enough"
            assert [effect.act for effect in cluster.effects.read()] == ["start", "stopped"]

    asyncio.run(play())


def test_a_retry_that_was_due_while_nobody_was_there_comes_after_the_death(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            coordinator = await cluster.coordinator()
            await cluster.worker()
            client = cluster.client()
            flow = Workflow("stumbles")
            flow.output(flow.node("a", "stumble", retry=Retry(max_attempts=2, initial_ms=1_500, jitter=0)))
            handle = await client.submit(flow)

            async def in_backoff() -> bool:
                return [node.status async for node in handle.nodes()] == [NodeStatus.BACKOFF]

            await eventually(in_backoff)
            due_us = (await handle.node("a")).node.retry_at_us
            await coordinator.killed()
            await cluster.coordinator()
            assert await handle.result(30) == 2
            node = (await handle.node("a")).node
            assert node.started_at_us >= due_us
            assert [effect.attempt for effect in cluster.effects.read("start")] == [1, 2]

    asyncio.run(play())


def test_a_deadline_that_passed_while_nobody_was_there_is_kept_after_the_death(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            coordinator = await cluster.coordinator()
            client = cluster.client()
            whole = Workflow("whole", timeout="1.5s")
            whole.node("a", "nobody")
            node = Workflow("node")
            node.node("a", "nobody", schedule_to_start="1.5s", retry=Retry(max_attempts=1))
            handles = [await client.submit(flow) for flow in (whole, node)]
            await coordinator.killed()
            await cluster.coordinator()
            ends = [await handle.wait(30) for handle in handles]
            assert [end.status for end in ends] == [WorkflowStatus.FAILED] * 2
            assert ["1500 ms" in end.failure.message for end in ends if end.failure] == [True, True]

    asyncio.run(play())
