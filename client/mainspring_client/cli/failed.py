"""Which instances of a `map` node failed: the workflow's failure names the node alone."""

from contextlib import aclosing
from typing import Final

from mainspring.errors import MainspringError, WorkflowFailedError
from mainspring_client.client import Client
from mainspring_client.nouns import NodeInfo, NodeStatus, Result

_compared_max: Final = 100
_looked_at_max: Final = 10_000
"""Failed nodes of the workflow, those before the `map` included: ten pages."""


async def failed_instances(client: Client, workflow_id: str, node_id: str, limit: int) -> list[NodeInfo]:
    """Return the first failed instances of a node, at most `limit`; none beyond the bound on what is looked at."""
    found: list[NodeInfo] = []
    looked_at = 0
    async with aclosing(client.nodes(workflow_id, [NodeStatus.FAILED])) as nodes:
        async for node in nodes:
            looked_at += 1
            if node.node_id == node_id and node.instance >= 0:
                found.append(node)
            elif found:
                break
            if len(found) == limit or looked_at == _looked_at_max:
                break
    return found


async def error_of(client: Client, result: Result) -> MainspringError | None:
    """Return the error that tells how a workflow ended, as `Result.error`, with the instance that failed if it was one."""
    error = result.error()
    if not isinstance(error, WorkflowFailedError) or not error.failure.node_id:
        return error
    failure = error.failure
    try:
        found = await failed_instances(client, result.workflow_id, failure.node_id, _compared_max)
    except MainspringError:
        return error  # what failed is known, and is not to be lost because the cluster cannot tell more of it
    told = (failure.type, failure.message)
    same = (node for node in found if node.failure is not None and (node.failure.type, node.failure.message) == told)
    culprit = next(same, found[0] if found else None)
    return error if culprit is None else WorkflowFailedError(result.workflow_id, failure, culprit.instance)
