"""Ended workflows are run again, as new ones that may take over what the old ones did.

The owner of the old workflow's shard makes the new one in the same shard. Its id follows from the call: the old one's, "+", and a number
of ten hexadecimal digits that begins with a digest of all that is asked and goes on until the id falls into the shard. So the same call
finds the same workflow, and no two calls copy under one id. What was copied by a try before is passed over. When the old one was
submitted is part of what is asked: once it is removed, its id may name another workflow, of which nothing belongs into the copy.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mainspring import limits
from mainspring.errors import AlreadyExistsError, BadRequestError, NotFoundError, PreconditionError
from mainspring.ids import shard_of
from mainspring.naming import new_request_id
from mainspring.v1 import admin_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceStub
from mainspring_coordinator.answering import Context
from mainspring_coordinator.audit import Audit
from mainspring_coordinator.engine.effects import AnswerCode
from mainspring_coordinator.engine.operator_events import CopyNodes, Rerun
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.reruns import kept_nodes
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import Reader, StoredWorkflow
from mainspring_coordinator.views import first_key, has_ended
from mainspring_coordinator.workflow_reads import WorkflowReads, check_answer, shard_of_workflow

_suffix: Final = re.compile(r"\+[0-9a-f]{10}")
_suffixes: Final = 16**10
_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of the old workflow that one transaction copies."""

    nodes: tuple[int, ...]
    after: _Key
    until: _Key


def rerun_id(
    request: admin_pb2.RerunWorkflowRequest, shards_total: int, *, submitted_at_us: int, is_rerun: bool
) -> str:
    """Return the id of the new workflow, of the same shard as the old one, which was submitted at that moment.

    `is_rerun`: the old one's id ends in such a number itself.
    """
    asked = (request.request_id, request.workflow_id, str(submitted_at_us), str(request.from_failed))
    said = "\n".join((*asked, *sorted(request.node_ids)))
    first = int.from_bytes(hashlib.sha256(said.encode()).digest()[:8])
    base = _suffix.sub("", request.workflow_id) if is_rerun else request.workflow_id
    base = base[: limits.workflow_id_bytes_max - 11]
    shard = shard_of(request.workflow_id, shards_total)
    ids = (f"{base}+{(first + step) % _suffixes:010x}" for step in range(_suffixes))
    return next(one for one in ids if shard_of(one, shards_total) == shard)


@dataclass(frozen=True, slots=True)
class Reruns:
    """Makes them; raises errors of `mainspring.errors`."""

    loop: Loop
    reads: Reads
    workflows: WorkflowReads
    forwarder: Forwarder
    audit: Audit
    strategy: Callable[[], str]
    _copying: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(limits.reruns_at_once))

    async def rerun(self, request: admin_pb2.RerunWorkflowRequest, context: Context) -> admin_pb2.RerunWorkflowResponse:
        """Run a workflow again, where it is owned."""
        shard = shard_of_workflow(request.workflow_id, self.loop.shards_total)
        scope = _checked(request)
        asked = admin_pb2.RerunWorkflowRequest()
        asked.CopyFrom(request)
        asked.request_id = request.request_id or new_request_id()

        async def here() -> admin_pb2.RerunWorkflowResponse:
            return await self._rerun(shard, asked)

        async def there(peer: Peer, time_left_s: float | None) -> admin_pb2.RerunWorkflowResponse:
            return await AdminServiceStub(peer.channel).RerunWorkflow(
                asked, timeout=time_left_s, metadata=peer.metadata
            )

        return await self.audit.of(
            context,
            "RerunWorkflow",
            f"{request.workflow_id}, {scope}",
            request.reason,
            lambda: self.forwarder.call(shard, context, here, there),
        )

    async def _rerun(self, shard: int, request: admin_pb2.RerunWorkflowRequest) -> admin_pb2.RerunWorkflowResponse:
        old, plan = await self._old(shard, request)
        again = _indexes(plan, request)
        kept: list[int] = []
        if request.from_failed or again:
            kept = await self.reads.run(lambda reader: _kept(reader, old, plan, again))
        if request.from_failed and len(kept) == len(plan.nodes) and old.status is WorkflowStatus.SUCCEEDED:
            raise PreconditionError(
                f"all nodes of workflow {old.workflow_id!r} succeeded, so that none is to be run again; name nodes with --from, or run all "
                f"of them with: mainspring rerun {old.workflow_id}"
            )
        new_id = rerun_id(
            request, self.loop.shards_total, submitted_at_us=old.submitted_at_us, is_rerun=bool(old.rerun_of)
        )
        found = await self.reads.run(lambda reader: reader.workflow(new_id))
        created = False
        if found is None:
            if kept:
                async with self._copying:
                    await self._copy(shard, old.workflow_id, new_id, kept)
            created = await self._begin(shard, old, plan, new_id)
        elif found.rerun_of != old.workflow_id:
            raise _taken(new_id)
        return admin_pb2.RerunWorkflowResponse(
            workflow_id=new_id, created=created, nodes_kept=len(kept), nodes_anew=len(plan.nodes) - len(kept)
        )

    async def _old(self, shard: int, request: admin_pb2.RerunWorkflowRequest) -> tuple[StoredWorkflow, Plan]:
        """Return the workflow that is to be run again, which has ended."""
        name = request.workflow_id
        stored = await self.workflows.row(shard, name)
        if stored is None:
            raise _not_there(name)
        if not has_ended(stored.status):
            raise PreconditionError(
                f"workflow {name!r} is {stored.status.name}, and only what has ended is run again; wait for its end, act on its nodes with "
                f"mainspring node, or cancel it first with: mainspring cancel {name}"
            )
        return stored, await self.workflows.plan(stored)

    async def _copy(self, shard: int, old_id: str, new_id: str, kept: Sequence[int]) -> None:
        """Copy what is kept, a part with each commit."""
        wanted, after = frozenset(kept), first_key
        while True:
            page = await self.reads.run(partial(_page, old_id, after))
            for part in _parts(page, wanted, after):
                if not await self.reads.run(partial(_is_there, new_id, part.until)):
                    await self._copy_part(shard, old_id, new_id, part)
            if len(page) < limits.page_size_max:
                return
            after = page[-1][:2]

    async def _copy_part(self, shard: int, old_id: str, new_id: str, part: _Part) -> None:
        check_answer(
            await self.loop.ask(
                shard,
                lambda token: CopyNodes(token, shard, new_id, old_id, part.nodes, part.after, part.until),
            )
        )

    async def _begin(self, shard: int, old: StoredWorkflow, plan: Plan, new_id: str) -> bool:
        """Let the new workflow exist; tell whether it did not before."""
        now = await self.reads.run(lambda reader: reader.workflow(old.workflow_id))
        if now is None or now.submitted_at_us != old.submitted_at_us:
            # It was removed while it was copied, so that the copy may lack some of it, or have some of another that got its id.
            raise _not_there(old.workflow_id)
        given, strategy = old.input, plan.strategy or self.strategy()
        assert given is not None
        answer = check_answer(
            await self.loop.ask(
                shard,
                lambda token: Rerun(token, shard, new_id, plan, given, old.digest, strategy, old.workflow_id),
            )
        )
        if answer.code is AnswerCode.ALREADY_EXISTS:
            raise _taken(new_id)
        return answer.created


def _checked(request: admin_pb2.RerunWorkflowRequest) -> str:
    """Return in words from where a workflow is to be run again; `BadRequestError` when that is not clear."""
    named = len(request.node_ids)
    if request.from_failed and named:
        raise BadRequestError("node_ids: name nodes or set from_failed, not both", field="node_ids")
    if named > limits.rerun_nodes_named_max:
        raise BadRequestError(
            f"node_ids: {named} are over the bound of {limits.rerun_nodes_named_max}; name those on which the others depend",
            field="node_ids",
        )
    for at, node_id in enumerate(request.node_ids):
        if len(node_id.encode()) > limits.node_id_bytes_max:
            raise BadRequestError(
                f"node_ids[{at}]: longer than {limits.node_id_bytes_max} bytes; no node has such an id",
                field=f"node_ids[{at}]",
            )
    if len(request.request_id.encode()) > limits.request_id_bytes_max:
        raise BadRequestError(
            f"request_id: longer than {limits.request_id_bytes_max} bytes", field="request_id", reason="TOO_LONG"
        )
    if request.from_failed:
        return "what failed"
    return f"from {', '.join(request.node_ids)}" if named else "all of it"


def _indexes(plan: Plan, request: admin_pb2.RerunWorkflowRequest) -> frozenset[int]:
    index = plan.graph.index
    for node_id in request.node_ids:
        if node_id not in index:
            raise NotFoundError(
                f"workflow {request.workflow_id!r} has no node {node_id!r}; list its nodes with: mainspring get {request.workflow_id}"
            )
    return frozenset(index[node_id] for node_id in request.node_ids)


def _kept(reader: Reader, old: StoredWorkflow, plan: Plan, again: frozenset[int]) -> list[int]:
    """Return the nodes that are taken over. Runs in a thread of the reads."""
    ended_well: list[int] = []
    after = first_key
    while True:
        page = reader.node_page(
            old.workflow_id, after, limits.page_size_max, (NodeStatus.SUCCEEDED, NodeStatus.SKIPPED)
        )
        # What an operator skipped says so; what was skipped because the workflow ended does not.
        ended_well += [
            row.node
            for row in page
            if row.instance < 0 and (row.status is NodeStatus.SUCCEEDED or row.failure is not None)
        ]
        if len(page) < limits.page_size_max:
            return kept_nodes(plan.graph, ended_well, again)
        last = page[-1]
        # The instances of a wide map say nothing of other nodes.
        after = (last.node, limits.map_width_max) if last.instance >= 0 else (last.node, last.instance)


def _parts(page: Sequence[tuple[int, int, int]], wanted: frozenset[int], after: _Key) -> Iterator[_Part]:
    """Cut what is wanted of a page of rows into parts, each of bounded size."""
    nodes: dict[int, None] = {}
    rows = size = 0
    until = after
    for node, instance, output_bytes in page:
        if node not in wanted:
            continue
        if rows and (rows == limits.rerun_rows_a_part_max or size + output_bytes > limits.rerun_bytes_a_part_max):
            yield _Part(tuple(nodes), after, until)
            nodes, rows, size, after = {}, 0, 0, until
        nodes[node] = None
        rows, size, until = rows + 1, size + output_bytes, (node, instance)
    if rows:
        yield _Part(tuple(nodes), after, until)


def _page(workflow_id: str, after: _Key, reader: Reader) -> Sequence[tuple[int, int, int]]:
    return reader.row_sizes(workflow_id, after, limits.page_size_max)


def _is_there(workflow_id: str, key: _Key, reader: Reader) -> bool:
    """Tell whether a row was copied, and so all of its part."""
    rows = reader.node_page(workflow_id, (key[0], key[1] - 1), 1)
    return [(row.node, row.instance) for row in rows] == [key]


def _not_there(workflow_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no workflow {workflow_id!r}, or not any more: what ended long ago is removed (RETENTION_DAYS), and cannot be run again; "
        "list those there are with: mainspring list"
    )


def _taken(workflow_id: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"another workflow has the id {workflow_id!r} by chance; ask again, for another one")
