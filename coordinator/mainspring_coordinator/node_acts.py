"""What operators do to single nodes: retry, skip, complete, each where the workflow's shard is owned."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from mainspring import limits
from mainspring.errors import BadRequestError, NotFoundError, PreconditionError, UnavailableError
from mainspring.failures import completed_by_operator, failure_from_json, skipped_by_operator
from mainspring.v1 import admin_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceStub
from mainspring.wire import check_payload
from mainspring_coordinator.answering import Context
from mainspring_coordinator.audit import Audit
from mainspring_coordinator.engine.effects import AnswerCode
from mainspring_coordinator.engine.failovers import node_name
from mainspring_coordinator.engine.operator_events import ActOnNode
from mainspring_coordinator.engine.status import NodeAct, NodeStatus
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import StoredNode
from mainspring_coordinator.views import has_ended
from mainspring_coordinator.workflow_reads import WorkflowReads, check_answer, shard_of_workflow

if TYPE_CHECKING:
    from mainspring.v1.admin_pb2_grpc import AdminServiceAsyncStub

_A = TypeVar("_A")
_Request: TypeAlias = admin_pb2.RetryNodeRequest | admin_pb2.SkipNodeRequest | admin_pb2.CompleteNodeRequest
_tries_max: Final = 5


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An act, as the engine is told of it."""

    act: NodeAct
    workflow_id: str
    node_id: str
    instance: int
    reason: str
    attempt: int = 0
    output: bytes = b"null"

    @property
    def node(self) -> str:
        """Return how people name the node."""
        return node_name(self.workflow_id, self.node_id, self.instance)


@dataclass(frozen=True, slots=True)
class NodeActs:
    """Does them; raises errors of `mainspring.errors`."""

    loop: Loop
    reads: Reads
    workflows: WorkflowReads
    forwarder: Forwarder
    audit: Audit

    async def retry(self, request: admin_pb2.RetryNodeRequest, context: Context) -> admin_pb2.RetryNodeResponse:
        """Have a node tried now."""
        wanted = _Wanted(NodeAct.RETRY, *_named(request), attempt=request.attempt)

        async def here() -> admin_pb2.RetryNodeResponse:
            return admin_pb2.RetryNodeResponse(changed=await self._do(wanted))

        return await self._where_it_is_owned("RetryNode", wanted, context, here, lambda to: to.RetryNode, request)

    async def skip(self, request: admin_pb2.SkipNodeRequest, context: Context) -> admin_pb2.SkipNodeResponse:
        """Have a node not run."""
        wanted = _Wanted(NodeAct.SKIP, *_named(request))

        async def here() -> admin_pb2.SkipNodeResponse:
            return admin_pb2.SkipNodeResponse(changed=await self._do(wanted))

        return await self._where_it_is_owned("SkipNode", wanted, context, here, lambda to: to.SkipNode, request)

    async def complete(
        self, request: admin_pb2.CompleteNodeRequest, context: Context
    ) -> admin_pb2.CompleteNodeResponse:
        """Have a node end well."""
        wanted = _Wanted(NodeAct.COMPLETE, *_named(request), output=check_payload(request.output, "output"))

        async def here() -> admin_pb2.CompleteNodeResponse:
            return admin_pb2.CompleteNodeResponse(changed=await self._do(wanted))

        return await self._where_it_is_owned("CompleteNode", wanted, context, here, lambda to: to.CompleteNode, request)

    async def _where_it_is_owned(
        self,
        name: str,
        wanted: _Wanted,
        context: Context,
        here: Callable[[], Awaitable[_A]],
        method: "Callable[[AdminServiceAsyncStub], Callable[..., Awaitable[_A]]]",
        request: _Request,
    ) -> _A:
        async def there(peer: Peer, time_left_s: float | None) -> _A:
            return await method(AdminServiceStub(peer.channel))(request, timeout=time_left_s, metadata=peer.metadata)

        shard = shard_of_workflow(wanted.workflow_id, self.loop.shards_total)
        return await self.audit.of(
            context, name, wanted.node, wanted.reason, lambda: self.forwarder.call(shard, context, here, there)
        )

    async def _do(self, wanted: _Wanted) -> bool:
        """Tell whether anything was done, because it was not so already."""
        shard = shard_of_workflow(wanted.workflow_id, self.loop.shards_total)

        def event(token: int) -> ActOnNode:
            return ActOnNode(
                token,
                shard,
                wanted.workflow_id,
                wanted.act,
                wanted.node_id,
                wanted.instance,
                wanted.reason,
                wanted.attempt,
                wanted.output,
            )

        for _ in range(_tries_max):
            answer = check_answer(await self.loop.ask(shard, event))
            if answer.code is AnswerCode.OK:
                return answer.created
            if answer.code is AnswerCode.NO_NODE:
                raise NotFoundError(answer.message)
            # The same call may have done it before, and more may have happened since.
            if await self._is_done(shard, wanted):
                return False
            if answer.code is AnswerCode.REFUSED:
                raise PreconditionError(answer.message)
            sight = await self.workflows.look(shard, wanted.workflow_id)
            if has_ended(sight.status):
                raise PreconditionError(
                    f"workflow {wanted.workflow_id!r} has ended as {sight.status.name}, and what has ended stays as it is; run it again "
                    f"with: mainspring rerun {wanted.workflow_id} --from {wanted.node_id}"
                )
            # It was submitted, or came back into memory, in between.
        raise UnavailableError(f"workflow {wanted.workflow_id!r} is being loaded; try again")

    async def _is_done(self, shard: int, wanted: _Wanted) -> bool:
        """Tell whether the database has it so, by an act of the same kind. `NotFoundError`: there is no such workflow or node."""
        sight = await self.workflows.look(shard, wanted.workflow_id)
        node = sight.plan.graph.index.get(wanted.node_id)
        if node is None:
            raise NotFoundError(
                f"workflow {wanted.workflow_id!r} has no node {wanted.node_id!r}; list its nodes with: mainspring get {wanted.workflow_id}"
            )
        row = await self.reads.run(lambda reader: reader.node(wanted.workflow_id, node, wanted.instance))
        return row is not None and _is_so(row, wanted)


def _is_so(row: StoredNode, wanted: _Wanted) -> bool:
    mark = failure_from_json(row.failure).type if row.failure is not None else ""
    match wanted.act:
        case NodeAct.RETRY:
            # Offered again, it may have taken a cached output, which is no attempt.
            from_cache = row.status is NodeStatus.SUCCEEDED and row.attempt == 0
            return wanted.attempt > 0 and (wanted.attempt < row.attempt or from_cache)
        case NodeAct.SKIP:
            return row.status is NodeStatus.SKIPPED and mark == skipped_by_operator
        case NodeAct.COMPLETE:
            return row.status is NodeStatus.SUCCEEDED and mark == completed_by_operator and row.output == wanted.output


def _named(request: _Request) -> tuple[str, str, int, str]:
    """Return which node is meant, and why; `BadRequestError` when that cannot be the name of one."""
    size = len(request.node_id.encode())
    if not 1 <= size <= limits.node_id_bytes_max:
        raise BadRequestError(
            f"node_id: it has {size} bytes; a node's id has 1 to {limits.node_id_bytes_max}", field="node_id"
        )
    if request.instance < -1:
        raise BadRequestError(
            f"instance: there is no {request.instance}; -1 names the node itself, instances begin with 0",
            field="instance",
        )
    return request.workflow_id, request.node_id, request.instance, request.reason
