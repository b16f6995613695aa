"""The clients' service: each call of `WorkflowsService`, and where it is answered."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

from mainspring import limits
from mainspring.errors import BadRequestError, UnavailableError
from mainspring.v1 import client_pb2
from mainspring.v1.client_pb2_grpc import WorkflowsServiceServicer
from mainspring_coordinator.answering import Context, answers, streams
from mainspring_coordinator.engine.effects import AnswerCode
from mainspring_coordinator.engine.events import Cancel
from mainspring_coordinator.explaining import Explaining
from mainspring_coordinator.forward import Forwarder
from mainspring_coordinator.plans import PlanCache
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.results import Results
from mainspring_coordinator.submits import Submits
from mainspring_coordinator.views import has_ended, workflow_status
from mainspring_coordinator.watching import Watching
from mainspring_coordinator.workflow_reads import WorkflowReads, check_answer, not_found, shard_of_workflow

_cancel_tries_max: Final = 5


class WorkflowsService(WorkflowsServiceServicer):
    """Answers clients; any coordinator takes any call."""

    def __init__(
        self,
        loop: Loop,
        reads: Reads,
        plans: PlanCache,
        forwarder: Forwarder,
        strategy: Callable[[], str],
        explaining: Callable[[WorkflowReads], Explaining],
    ) -> None:
        self._loop = loop
        self._forwarder = forwarder
        self._reads = WorkflowReads(loop, reads, plans)
        self._explaining = explaining(self._reads)
        self._submits = Submits(loop, plans, forwarder, strategy)
        self._results = Results(loop, self._reads, forwarder)
        self._watching = Watching(loop, self._reads, forwarder)

    @answers
    async def Submit(self, request: client_pb2.SubmitRequest, context: Context) -> client_pb2.SubmitResponse:
        """Start a workflow."""
        return await self._submits.one(request, context)

    @answers
    async def SubmitMany(
        self, request: client_pb2.SubmitManyRequest, context: Context
    ) -> client_pb2.SubmitManyResponse:
        """Start many workflows."""
        return await self._submits.many(request, context)

    @answers
    async def SubmitStream(
        self, request_iterator: AsyncIterator[client_pb2.SubmitStreamRequest], context: Context
    ) -> client_pb2.SubmitStreamResponse:
        """Start a workflow whose definition does not fit into a message."""
        return await self._submits.stream(request_iterator, context)

    @answers
    async def Get(self, request: client_pb2.GetRequest, context: Context) -> client_pb2.GetResponse:
        """Read a workflow."""
        shard = self._shard(request.workflow_id)

        async def here() -> client_pb2.GetResponse:
            sight = await self._reads.look(shard, request.workflow_id)
            return client_pb2.GetResponse(workflow=await self._reads.message(sight))

        return await self._forwarder.pass_on(shard, context, request, here, lambda stub: stub.Get)

    @answers
    async def ListNodes(self, request: client_pb2.ListNodesRequest, context: Context) -> client_pb2.ListNodesResponse:
        """List a workflow's nodes."""
        shard = self._shard(request.workflow_id)
        return await self._forwarder.pass_on(
            shard, context, request, lambda: self._reads.list_nodes(shard, request), lambda stub: stub.ListNodes
        )

    @answers
    async def GetNode(self, request: client_pb2.GetNodeRequest, context: Context) -> client_pb2.GetNodeResponse:
        """Read a node."""
        shard = self._shard(request.workflow_id)
        return await self._forwarder.pass_on(
            shard, context, request, lambda: self._reads.get_node(shard, request), lambda stub: stub.GetNode
        )

    @answers
    async def Explain(self, request: client_pb2.ExplainRequest, context: Context) -> client_pb2.ExplainResponse:
        """Tell why nodes do not run."""
        shard = self._shard(request.workflow_id)
        return await self._forwarder.pass_on(
            shard, context, request, lambda: self._explaining.explain(shard, request), lambda stub: stub.Explain
        )

    @answers
    async def GetHistory(
        self, request: client_pb2.GetHistoryRequest, context: Context
    ) -> client_pb2.GetHistoryResponse:
        """List what happened to a workflow."""
        shard = self._shard(request.workflow_id)
        return await self._forwarder.pass_on(
            shard, context, request, lambda: self._reads.get_history(shard, request), lambda stub: stub.GetHistory
        )

    @answers
    async def GetResult(self, request: client_pb2.GetResultRequest, context: Context) -> client_pb2.GetResultResponse:
        """Wait for a workflow's end."""
        return await self._results.get(request, context)

    @streams
    def WaitMany(
        self, request: client_pb2.WaitManyRequest, context: Context
    ) -> AsyncGenerator[client_pb2.WaitManyResponse, None]:
        """Wait for the ends of many workflows."""
        return self._results.many(request, context)

    @answers
    async def List(self, request: client_pb2.ListRequest, context: Context) -> client_pb2.ListResponse:
        """List workflows."""
        return await self._reads.list_workflows(request)

    @streams
    def Watch(
        self, request: client_pb2.WatchRequest, context: Context
    ) -> AsyncGenerator[client_pb2.WatchResponse, None]:
        """Follow a workflow."""
        return self._watching.watch(request, context)

    @answers
    async def Cancel(self, request: client_pb2.CancelRequest, context: Context) -> client_pb2.CancelResponse:
        """Ask a workflow to stop."""
        return await self.cancel(request, context)

    async def cancel(self, request: client_pb2.CancelRequest, context: Context) -> client_pb2.CancelResponse:
        """Do so where it is owned, and return its state; raises errors of `mainspring.errors`."""
        shard = self._shard(request.workflow_id)
        for field, text, bytes_max in (
            ("reason", request.reason, limits.reason_bytes_max),
            ("request_id", request.request_id, limits.request_id_bytes_max),
        ):
            if len(text.encode()) > bytes_max:
                raise BadRequestError(f"{field}: longer than {bytes_max} bytes", field=field, reason="TOO_LONG")
        return await self._forwarder.pass_on(
            shard, context, request, lambda: self._cancel(shard, request), lambda stub: stub.Cancel
        )

    async def _cancel(self, shard: int, request: client_pb2.CancelRequest) -> client_pb2.CancelResponse:
        workflow_id = request.workflow_id
        for _ in range(_cancel_tries_max):
            answer = check_answer(
                await self._loop.ask(shard, lambda token: Cancel(token, shard, workflow_id, request.reason))
            )
            if answer.code is not AnswerCode.NOT_FOUND:
                assert answer.status is not None, answer
                return client_pb2.CancelResponse(status=workflow_status(answer.status))
            stored = await self._reads.row(shard, workflow_id)
            if stored is None:
                raise not_found(workflow_id)
            if has_ended(stored.status):
                return client_pb2.CancelResponse(status=workflow_status(stored.status))
            # It was submitted, or came back into memory, in between.
        raise UnavailableError(f"workflow {workflow_id!r} is being loaded; try again")

    def _shard(self, workflow_id: str) -> int:
        return shard_of_workflow(workflow_id, self._loop.shards_total)
