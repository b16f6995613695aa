"""Operators ask many workflows to stop at once: a page of those that fit a filter with each call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mainspring import limits
from mainspring.errors import BadRequestError
from mainspring.v1 import admin_pb2, client_pb2, workflow_pb2
from mainspring_coordinator.answering import Context
from mainspring_coordinator.engine.status import WorkflowStatus, workflow_terminal
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import StoredWorkflow, WorkflowFilter
from mainspring_coordinator.workflow_reads import check_prefix, moment_and_id, page_size, to_token

CancelOne = Callable[[client_pb2.CancelRequest, Context], Awaitable[client_pb2.CancelResponse]]
_open: Final = tuple(status for status in WorkflowStatus if status not in workflow_terminal)
_stopping: Final = (workflow_pb2.WORKFLOW_STATUS_CANCELLING, workflow_pb2.WORKFLOW_STATUS_CANCELLED)


def told(request: admin_pb2.CancelWorkflowsRequest) -> str:
    """Return the filter in words; `BadRequestError` when there is none and not all are meant."""
    parts = [
        f"{name} {value}"
        for name, value in (
            ("name", request.name),
            ("id_prefix", request.id_prefix),
            ("submitted_from_us", request.submitted_from_us),
            ("submitted_before_us", request.submitted_before_us),
        )
        if value
    ]
    if not parts and not request.all:
        raise BadRequestError(
            "all: no filter is set, which would stop every workflow; set one, or `all` if that is meant", field="all"
        )
    if len(request.name.encode()) > limits.name_bytes_max:
        raise BadRequestError(
            f"name: it is over the bound of {limits.name_bytes_max} bytes; no workflow has such a one", field="name"
        )
    check_prefix(request.id_prefix)
    return ", ".join(parts) or "all"


async def cancel_page(
    request: admin_pb2.CancelWorkflowsRequest, context: Context, reads: Reads, cancel: CancelOne
) -> admin_pb2.CancelWorkflowsResponse:
    """Ask a page of workflows to stop, each where it is owned; what one of them raises is raised, and the page may be asked again."""
    limit = page_size(request.page_size, default=100)
    wanted = WorkflowFilter(
        _open, request.name, request.id_prefix, request.submitted_from_us, request.submitted_before_us
    )
    before = moment_and_id(request.page_token)
    # One more than wanted tells whether there is a next page.
    rows = await reads.run(lambda reader: reader.list_workflows(wanted, before, limit + 1))
    page = rows[:limit]
    ended: set[str] = set() if request.dry_run else await _cancel(page, request.reason, context, cancel)
    return admin_pb2.CancelWorkflowsResponse(
        workflow_ids=[row.workflow_id for row in page if row.workflow_id not in ended],
        ended=sorted(ended),
        next_page_token=to_token(page[-1].submitted_at_us, page[-1].workflow_id) if len(rows) > limit else "",
    )


async def _cancel(page: Sequence[StoredWorkflow], reason: str, context: Context, cancel: CancelOne) -> set[str]:
    """Return those that had ended before. All are asked, also when one of them raises; that is raised in the end."""
    places = asyncio.Semaphore(limits.cancels_at_once)

    async def one(workflow_id: str) -> str | None:
        async with places:
            answer = await cancel(client_pb2.CancelRequest(workflow_id=workflow_id, reason=reason), context)
            return None if answer.status in _stopping else workflow_id

    answers = await asyncio.gather(*(one(row.workflow_id) for row in page), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return {answer for answer in answers if isinstance(answer, str)}
