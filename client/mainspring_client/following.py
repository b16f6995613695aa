"""Waiting for workflows and watching them, across the deaths of coordinators.

What has been heard is kept here, so that a stream or a poll that breaks goes on where it stopped.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from mainspring.errors import DeadlineError, NotFoundError
from mainspring.limits import result_wait_ms_max, try_timeout_ms_max, wait_many_ids_max
from mainspring.v1 import client_pb2
from mainspring_client import wire_nouns
from mainspring_client.nouns import NodeInfo, Result, WatchUpdate
from mainspring_client.transport import Transport

_margin_ms: Final = 500
"""What a poll leaves of the caller's time for its answer to arrive."""


async def poll(transport: Transport, workflow_id: str, wait_ms: int = 0, timeout_ms: float | None = None) -> Result:
    """Ask once for a workflow's result, which the coordinator may hold back for `wait_ms` until there is one."""

    def request(left_ms: float) -> client_pb2.GetResultRequest:
        return client_pb2.GetResultRequest(workflow_id=workflow_id, wait_ms=max(0, min(wait_ms, int(left_ms))))

    answer: client_pb2.GetResultResponse = await transport.call(
        lambda at: at.workflows.GetResult,
        request,
        timeout_ms=wait_ms + transport.timeout_ms if timeout_ms is None else timeout_ms,
        try_ms=wait_ms + try_timeout_ms_max,
    )
    return wire_nouns.result(answer.result)


async def wait(transport: Transport, workflow_id: str, timeout_s: float | None) -> Result:
    """Poll until a workflow has ended or the caller's time is over."""
    until_ms = None if timeout_s is None else transport.now_ms() + timeout_s * 1000
    while True:
        if until_ms is None:
            result = await poll(transport, workflow_id, result_wait_ms_max)
        else:
            left_ms = max(1.0, until_ms - transport.now_ms())
            wait_ms = min(float(result_wait_ms_max), left_ms - min(_margin_ms, left_ms / 10))
            result = await poll(transport, workflow_id, int(wait_ms), max(left_ms, _margin_ms))
        if result.status.terminal:
            return result
        if until_ms is not None and until_ms - transport.now_ms() < _margin_ms / 10:
            raise DeadlineError(
                f"workflow {workflow_id!r} is {result.status} after {timeout_s:g} s and goes on; "
                f"follow it with: mainspring watch {workflow_id}"
            )


async def wait_many(
    transport: Transport, workflow_ids: Sequence[str], *, without_output: bool
) -> AsyncGenerator[Result]:
    """Give each result once; ask again, after a break, only for those that are missing."""
    waiting = list(dict.fromkeys(workflow_ids))
    unknown: list[str] = []
    for start in range(0, len(waiting), wait_many_ids_max):
        pending = dict.fromkeys(waiting[start : start + wait_many_ids_max])

        def request(pending: dict[str, None] = pending) -> client_pb2.WaitManyRequest:
            return client_pb2.WaitManyRequest(workflow_ids=pending, without_output=without_output)

        def done(pending: dict[str, None] = pending) -> bool:
            return not pending

        async for answer in transport.stream(lambda at: at.workflows.WaitMany, request, done):
            ended = [result for result in answer.results if result.workflow_id in pending]
            for result in ended:
                pending.pop(result.workflow_id, None)
                yield wire_nouns.result(result)
            for workflow_id in answer.not_found:
                pending.pop(workflow_id, None)
                unknown.append(workflow_id)
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise NotFoundError(f"no workflow has the id {', '.join(map(repr, unknown[:10]))}{more}; see: mainspring list")


async def watch(transport: Transport, workflow_id: str, after_version: int) -> AsyncGenerator[WatchUpdate]:
    """Give snapshots, whole, and changes, never with a lower version than before, until the workflow has ended."""
    version = after_version
    ended = [False]
    parts: list[NodeInfo] = []

    def request() -> client_pb2.WatchRequest:
        # A stream that broke within a snapshot leaves parts behind; the next snapshot begins anew.
        parts.clear()
        return client_pb2.WatchRequest(workflow_id=workflow_id, after_version=version)

    async for answer in transport.stream(lambda at: at.workflows.Watch, request, lambda: ended[0]):
        parts.extend(wire_nouns.node_info(node) for node in answer.nodes)
        if answer.more:
            continue
        info = wire_nouns.workflow_info(answer.workflow)
        nodes = tuple(parts)
        parts.clear()
        if info.version < version:
            continue
        version = info.version
        ended[0] = info.status.terminal
        yield WatchUpdate(info, nodes, answer.snapshot)
