"""What must be true of every story, read from the cluster and from the executors' journals."""

import asyncio
from collections import Counter
from collections.abc import Iterable

from mainspring_client import Client, NodeStatus, WorkflowStatus
from tests.cluster.effects import Effects


async def all_ended(client: Client, expected: dict[str, object], within_s: float = 60) -> None:
    """Every acknowledged workflow succeeds, with its own output."""
    results = {}
    async with asyncio.timeout(within_s):
        async for result in client.wait_many(expected):
            assert result.status is WorkflowStatus.SUCCEEDED, result
            results[result.workflow_id] = result.output
    assert results == expected


async def counted_once(client: Client, workflows: Iterable[str], effects: Effects) -> None:
    """Each node's success stands once in the history, and every success that is recorded was really done."""
    done = {effect.key for effect in effects.read("end")}
    for workflow in workflows:
        succeeded = Counter(
            [
                (event.node_id, event.instance)
                async for event in client.history(workflow)
                if event.type == "NODE_SUCCEEDED"
            ]
        )
        assert not [key for key, count in succeeded.items() if count != 1], (workflow, succeeded)
        async for node in client.nodes(workflow):
            assert node.status is NodeStatus.SUCCEEDED, (workflow, node)
            if node.executor in ("step", "gated") and not node.width:
                assert (workflow, node.node_id, node.instance) in done, node


def started_once(effects: Effects) -> None:
    """No node was started a second time: no worker died, so none had a reason."""
    assert {key: count for key, count in effects.starts().items() if count != 1} == {}
