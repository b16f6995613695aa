"""What operators do through a client. Each act says who does it, as far as this side knows: the user and host that it runs as."""

import getpass
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Sequence
from functools import cache, partial
from typing import Any, Final

from mainspring.errors import BadRequestError
from mainspring.limits import page_size_max, reason_bytes_max, rerun_timeout_ms
from mainspring.naming import new_request_id
from mainspring.v1 import admin_pb2, client_pb2
from mainspring.wire import clip, to_payload
from mainspring.workflow import Json
from mainspring_client import paging, wire_nouns
from mainspring_client.cluster_nouns import (
    AuditEntry,
    CancelledPage,
    DrainedWorker,
    EvictedWorker,
    PausedDispatch,
    PauseOutcome,
    ReleasedInstance,
    RerunInfo,
    SteppedDown,
    UndrainedWorker,
)
from mainspring_client.nouns import WorkflowFilter
from mainspring_client.payload import encode_json
from mainspring_client.transport import Transport

_user_key: Final = "x-mainspring-user"
_cancel_page_size: Final = 200
"""Of workflows that are asked to stop by one call, so that each is answered well within its deadline."""


@cache
def _as_user() -> tuple[tuple[str, str], ...]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    # What metadata may hold is ASCII.
    return ((_user_key, f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()),)


async def set_strategy(transport: Transport, strategy: str, reason: str) -> bool:
    """Set the strategy of the whole cluster; return whether it was another one before."""
    request = admin_pb2.SetStrategyRequest(strategy=strategy, reason=clip(reason, reason_bytes_max))
    answer: admin_pb2.SetStrategyResponse = await transport.call(
        lambda at: partial(at.admin.SetStrategy, metadata=_as_user()), request
    )
    return answer.changed


def cancel_many(
    transport: Transport, only: WorkflowFilter | None, reason: str, *, everything: bool, dry_run: bool
) -> AsyncGenerator[CancelledPage]:
    """Ask all unfinished workflows that fit a filter to stop; yield page by page what became of them."""
    fits = only or WorkflowFilter()

    def read(size: int, token: str) -> Awaitable[admin_pb2.CancelWorkflowsResponse]:
        request = admin_pb2.CancelWorkflowsRequest(
            name=fits.name,
            id_prefix=fits.id_prefix,
            submitted_from_us=fits.submitted_from_us,
            submitted_before_us=fits.submitted_before_us,
            all=everything,
            reason=clip(reason, reason_bytes_max),
            dry_run=dry_run,
            page_size=size,
            page_token=token,
        )
        return transport.call(lambda at: partial(at.admin.CancelWorkflows, metadata=_as_user()), request)

    return paging.rows(
        read,
        lambda page: [CancelledPage(tuple(page.workflow_ids), tuple(page.ended))],
        size=page_size_max if dry_run else _cancel_page_size,
    )


async def step_down(transport: Transport, coordinator: str, seconds: int, reason: str) -> SteppedDown:
    """Have a coordinator step down, or come back."""
    request = admin_pb2.StepDownRequest(coordinator=coordinator, seconds=seconds, reason=clip(reason, reason_bytes_max))
    answer: admin_pb2.StepDownResponse = await transport.call(
        lambda at: partial(at.admin.StepDown, metadata=_as_user()), request
    )
    return SteppedDown(answer.coordinator, answer.shards, answer.already)


async def drain_worker(transport: Transport, name: str, incarnation: str, reason: str) -> DrainedWorker:
    """Have a worker take no more work."""
    request = admin_pb2.DrainWorkerRequest(name=name, incarnation=incarnation, reason=clip(reason, reason_bytes_max))
    answer: admin_pb2.DrainWorkerResponse = await transport.call(
        lambda at: partial(at.admin.DrainWorker, metadata=_as_user()), request
    )
    return DrainedWorker(name, answer.incarnation, answer.assigned, answer.running, answer.already)


async def undrain_worker(transport: Transport, name: str, incarnation: str, reason: str) -> UndrainedWorker:
    """Have a worker take work again."""
    request = admin_pb2.UndrainWorkerRequest(name=name, incarnation=incarnation, reason=clip(reason, reason_bytes_max))
    answer: admin_pb2.UndrainWorkerResponse = await transport.call(
        lambda at: partial(at.admin.UndrainWorker, metadata=_as_user()), request
    )
    return UndrainedWorker(name, answer.incarnation, answer.already)


async def evict_worker(transport: Transport, name: str, incarnation: str, reason: str) -> EvictedWorker:
    """Treat an incarnation of a worker as gone."""
    request = admin_pb2.EvictWorkerRequest(name=name, incarnation=incarnation, reason=clip(reason, reason_bytes_max))
    answer: admin_pb2.EvictWorkerResponse = await transport.call(
        lambda at: partial(at.admin.EvictWorker, metadata=_as_user()), request
    )
    return EvictedWorker(name, answer.incarnation, answer.known, tuple(answer.unasked), tuple(answer.others))


async def release_instance(
    transport: Transport, incarnation: str, name: str, reason: str, *, force: bool
) -> ReleasedInstance:
    """Free the shards of a dead coordinator's incarnation."""
    request = admin_pb2.ReleaseInstanceRequest(
        incarnation=incarnation, name=name, reason=clip(reason, reason_bytes_max), force=force
    )
    answer: admin_pb2.ReleaseInstanceResponse = await transport.call(
        lambda at: partial(at.admin.ReleaseInstance, metadata=_as_user()), request
    )
    return ReleasedInstance(name, incarnation, answer.shards, answer.was_live)


async def pause(
    transport: Transport, executor: str, workflow_id: str, reason: str, *, everything: bool
) -> PauseOutcome:
    """Pause the cluster, an executor or a workflow; return what came of it."""
    request = admin_pb2.PauseDispatchRequest(
        **_what(executor, workflow_id, everything=everything), reason=clip(reason, reason_bytes_max)
    )
    answer: admin_pb2.PauseDispatchResponse = await transport.call(
        lambda at: partial(at.admin.PauseDispatch, metadata=_as_user()), request
    )
    return wire_nouns.pause_outcome(answer)


async def resume(
    transport: Transport, executor: str, workflow_id: str, reason: str, *, everything: bool
) -> PauseOutcome:
    """Let it go on; return what came of it."""
    request = admin_pb2.ResumeDispatchRequest(
        **_what(executor, workflow_id, everything=everything), reason=clip(reason, reason_bytes_max)
    )
    answer: admin_pb2.ResumeDispatchResponse = await transport.call(
        lambda at: partial(at.admin.ResumeDispatch, metadata=_as_user()), request
    )
    return wire_nouns.pause_outcome(answer)


def _what(executor: str, workflow_id: str, *, everything: bool) -> dict[str, Any]:
    chosen: dict[str, Any] = {"all": everything, "executor": executor, "workflow_id": workflow_id}
    named = {name: value for name, value in chosen.items() if value}
    if len(named) != 1:
        raise BadRequestError(
            "name one executor or one workflow, or mean everything; and only one of the three", field="what"
        )
    return named


def pauses(transport: Transport) -> AsyncGenerator[PausedDispatch]:
    """List what is paused."""

    def read(size: int, token: str) -> Awaitable[admin_pb2.ListPausesResponse]:
        request = admin_pb2.ListPausesRequest(page_size=size, page_token=token)
        return transport.call(lambda at: at.admin.ListPauses, request)

    return paging.rows(read, lambda page: map(wire_nouns.paused_dispatch, page.pauses))


async def retry_node(transport: Transport, workflow_id: str, node_id: str, instance: int, reason: str) -> bool:
    """Have a node tried now; return whether anything was done.

    What is asked for is one attempt more than it has had by now, so that a call whose answer was lost may be repeated.
    """
    look = client_pb2.GetNodeRequest(workflow_id=workflow_id, node_id=node_id, instance=instance)
    found: client_pb2.GetNodeResponse = await transport.call(lambda at: at.workflows.GetNode, look)
    request = admin_pb2.RetryNodeRequest(
        workflow_id=workflow_id,
        node_id=node_id,
        instance=instance,
        attempt=found.node.attempt,
        reason=clip(reason, reason_bytes_max),
    )
    answer: admin_pb2.RetryNodeResponse = await transport.call(
        lambda at: partial(at.admin.RetryNode, metadata=_as_user()), request
    )
    return answer.changed


async def skip_node(transport: Transport, workflow_id: str, node_id: str, instance: int, reason: str) -> bool:
    """Have a node not run; return whether anything was done."""
    request = admin_pb2.SkipNodeRequest(
        workflow_id=workflow_id, node_id=node_id, instance=instance, reason=clip(reason, reason_bytes_max)
    )
    answer: admin_pb2.SkipNodeResponse = await transport.call(
        lambda at: partial(at.admin.SkipNode, metadata=_as_user()), request
    )
    return answer.changed


async def complete_node(
    transport: Transport, workflow_id: str, node_id: str, output: Json, instance: int, reason: str
) -> bool:
    """Have a node end well; return whether anything was done."""
    request = admin_pb2.CompleteNodeRequest(
        workflow_id=workflow_id,
        node_id=node_id,
        instance=instance,
        output=to_payload(encode_json(output, "output")),
        reason=clip(reason, reason_bytes_max),
    )
    answer: admin_pb2.CompleteNodeResponse = await transport.call(
        lambda at: partial(at.admin.CompleteNode, metadata=_as_user()), request
    )
    return answer.changed


async def rerun(
    transport: Transport, workflow_id: str, from_nodes: Sequence[str], reason: str, *, from_failed: bool
) -> RerunInfo:
    """Run a workflow again. Each try goes on copying where the one before was, so that a large one may take several."""
    request = admin_pb2.RerunWorkflowRequest(
        workflow_id=workflow_id,
        from_failed=from_failed,
        node_ids=from_nodes,
        reason=clip(reason, reason_bytes_max),
        request_id=new_request_id(),
    )
    answer: admin_pb2.RerunWorkflowResponse = await transport.call(
        lambda at: partial(at.admin.RerunWorkflow, metadata=_as_user()),
        request,
        timeout_ms=max(transport.timeout_ms, rerun_timeout_ms) if from_failed or from_nodes else None,
    )
    return RerunInfo(answer.workflow_id, answer.created, answer.nodes_kept, answer.nodes_anew)


def audit(transport: Transport, limit: int | None) -> AsyncGenerator[AuditEntry]:
    """List what operators did, newest first, at most `limit`."""

    def read(size: int, token: str) -> Awaitable[admin_pb2.ListAuditResponse]:
        request = admin_pb2.ListAuditRequest(page_size=size, page_token=token)
        return transport.call(lambda at: at.admin.ListAudit, request)

    return paging.rows(read, lambda page: map(wire_nouns.audit_entry, page.entries), limit=limit)
