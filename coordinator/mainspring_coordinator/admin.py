"""The operators' service: what the cluster is, who lives in it, who owns what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mainspring import limits
from mainspring.clock import Clock
from mainspring.errors import BadRequestError, NotFoundError
from mainspring.failovers import Failover
from mainspring.ids import is_incarnation
from mainspring.v1 import admin_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceServicer
from mainspring.wire import clip
from mainspring_coordinator.answering import Context, answers
from mainspring_coordinator.controls import Controls
from mainspring_coordinator.engine.status import FailoverKind, Subject
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.record import read_failover
from mainspring_coordinator.store.protocol import CoordinatorRow, Reader, ShardRow
from mainspring_coordinator.store.stored_record import StoredFailover
from mainspring_coordinator.strategies import Strategies
from mainspring_coordinator.worker_acts import WorkerActs
from mainspring_coordinator.workflow_reads import moment_and_id, page_size, place, to_token


@dataclass(frozen=True, slots=True)
class Build:
    """What a coordinator says of itself and of its database."""

    cluster: str
    version: str
    """Of the software."""
    schema_revision: str
    database: str
    """Kind and version, such as "MariaDB 10.11.19"."""


class AdminService(AdminServiceServicer):
    """Answers operators; every coordinator knows the same of the cluster, and each its own workers."""

    def __init__(
        self,
        loop: Loop,
        directory: Directory,
        reads: Reads,
        workers: WorkerActs,
        build: Build,
        clock: Clock,
        strategies: Strategies,
        controls: Controls,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._reads = reads
        self._workers = workers
        self._book = workers.fleet.book
        self._build = build
        self._clock = clock
        self._strategies = strategies
        self._controls = controls

    @answers
    async def GetCluster(self, request: admin_pb2.GetClusterRequest, context: Context) -> admin_pb2.GetClusterResponse:
        """Say what the cluster is."""
        rows, shards = await self._reads.run(_lease_rows_and_shards)
        ours = self._directory.incarnation
        own = [message for message in self._coordinators(rows, shards) if message.incarnation == ours]
        build = self._build
        return admin_pb2.GetClusterResponse(
            cluster=build.cluster,
            shards_total=self._loop.shards_total,
            version=clip(build.version, limits.version_bytes_max),
            schema_revision=clip(build.schema_revision, limits.version_bytes_max),
            database=clip(build.database, limits.name_bytes_max),
            # Between two terms we have no lease row.
            answered_by=own[0] if own else admin_pb2.Coordinator(name=self._directory.name, incarnation=ours),
        )

    @answers
    async def ListCoordinators(
        self,
        request: admin_pb2.ListCoordinatorsRequest,
        context: Context,
    ) -> admin_pb2.ListCoordinatorsResponse:
        """List the coordinators that the database knows."""
        rows, shards = await self._reads.run(_lease_rows_and_shards)
        found = self._coordinators(rows, shards)
        ours = self._directory.incarnation
        # Who has stepped down says that it has no workers; so only those are asked, which are few.
        asked = [one.incarnation for one in found if one.live and not one.workers and one.incarnation != ours]
        down = await self._controls.others_down_until_us(asked)
        for one in found:
            one.stepped_down_until_us = one.stepped_down_until_us or down.get(one.incarnation, 0)
        return admin_pb2.ListCoordinatorsResponse(coordinators=found)

    @answers
    async def ListShards(self, request: admin_pb2.ListShardsRequest, context: Context) -> admin_pb2.ListShardsResponse:
        """List the shards with their owners."""
        rows, shards = await self._reads.run(_lease_rows_and_shards)
        names = {row.incarnation: row.name for row in rows}
        return admin_pb2.ListShardsResponse(
            shards=[
                admin_pb2.Shard(
                    shard=shard.shard,
                    epoch=shard.epoch,
                    holder=shard.holder or "",
                    holder_name=names.get(shard.holder or "", ""),
                    batch_seq=shard.batch_seq,
                )
                for shard in shards
            ]
        )

    @answers
    async def ListWorkers(
        self, request: admin_pb2.ListWorkersRequest, context: Context
    ) -> admin_pb2.ListWorkersResponse:
        """List the workers attached here."""
        return admin_pb2.ListWorkersResponse(workers=self._book.messages(self._clock.now_us()))

    @answers
    async def ListFailovers(
        self, request: admin_pb2.ListFailoversRequest, context: Context
    ) -> admin_pb2.ListFailoversResponse:
        """List what the record has."""
        if request.event_id:
            found = await self._reads.run(
                lambda reader: _whole_failovers(reader, [_failover(reader, request.event_id)])
            )
            return admin_pb2.ListFailoversResponse(failovers=found)
        limit = page_size(request.page_size, default=50)
        before = moment_and_id(request.page_token)

        def read(reader: Reader) -> tuple[list[admin_pb2.Failover], bool]:
            # One more than wanted tells whether there is a next page.
            rows = reader.failovers(before, limit + 1)
            whole = _whole_failovers(reader, rows[:limit])
            return whole, len(rows) > len(whole)

        page, more = await self._reads.run(read)
        token = to_token(page[-1].detected_at_us, page[-1].event_id) if more else ""
        return admin_pb2.ListFailoversResponse(failovers=page, next_page_token=token)

    @answers
    async def ListAffected(
        self, request: admin_pb2.ListAffectedRequest, context: Context
    ) -> admin_pb2.ListAffectedResponse:
        """List all that a failover affected."""
        try:
            subject = Subject(request.subject)
        except ValueError as error:
            message = "subject: it is neither WORKFLOWS nor NODES; set one of them"
            raise BadRequestError(message, field="subject") from error
        limit = page_size(request.page_size, default=limits.page_size_max)
        start = place(request.page_token)

        def read(reader: Reader) -> Sequence[str]:
            _failover(reader, request.event_id)
            return reader.affected(request.event_id, subject, start, limit + 1)

        ids = await self._reads.run(read)
        token = to_token(start + limit) if len(ids) > limit else ""
        return admin_pb2.ListAffectedResponse(ids=ids[:limit], next_page_token=token)

    @answers
    async def GetStrategy(
        self, request: admin_pb2.GetStrategyRequest, context: Context
    ) -> admin_pb2.GetStrategyResponse:
        """Say by which strategy the cluster places."""
        return await self._strategies.get()

    @answers
    async def SetStrategy(
        self, request: admin_pb2.SetStrategyRequest, context: Context
    ) -> admin_pb2.SetStrategyResponse:
        """Set the strategy of the whole cluster."""
        return await self._controls.set_strategy(request, context)

    @answers
    async def ListStrategyChanges(
        self, request: admin_pb2.ListStrategyChangesRequest, context: Context
    ) -> admin_pb2.ListStrategyChangesResponse:
        """List the changes of it."""
        return await self._strategies.changes(request)

    @answers
    async def CancelWorkflows(
        self, request: admin_pb2.CancelWorkflowsRequest, context: Context
    ) -> admin_pb2.CancelWorkflowsResponse:
        """Ask many workflows to stop."""
        return await self._controls.cancel_workflows(request, context)

    @answers
    async def StepDown(self, request: admin_pb2.StepDownRequest, context: Context) -> admin_pb2.StepDownResponse:
        """Have a coordinator give its shards to the others for a while."""
        return await self._controls.step_down(request, context)

    @answers
    async def ListAudit(self, request: admin_pb2.ListAuditRequest, context: Context) -> admin_pb2.ListAuditResponse:
        """List what operators did."""
        return await self._controls.audit.entries(request)

    @answers
    async def DrainWorker(
        self, request: admin_pb2.DrainWorkerRequest, context: Context
    ) -> admin_pb2.DrainWorkerResponse:
        """Have a worker take no more work."""
        return await self._workers.drain(request, context)

    @answers
    async def UndrainWorker(
        self, request: admin_pb2.UndrainWorkerRequest, context: Context
    ) -> admin_pb2.UndrainWorkerResponse:
        """Have a worker take work again."""
        return await self._workers.undrain(request, context)

    @answers
    async def EvictWorker(
        self, request: admin_pb2.EvictWorkerRequest, context: Context
    ) -> admin_pb2.EvictWorkerResponse:
        """Treat an incarnation of a worker as gone."""
        return await self._workers.evict(request, context)

    @answers
    async def ReleaseInstance(
        self, request: admin_pb2.ReleaseInstanceRequest, context: Context
    ) -> admin_pb2.ReleaseInstanceResponse:
        """Free the shards of a dead coordinator."""
        return await self._controls.release_instance(request, context)

    @answers
    async def PauseDispatch(
        self, request: admin_pb2.PauseDispatchRequest, context: Context
    ) -> admin_pb2.PauseDispatchResponse:
        """Let nothing of something be given to workers any more."""
        return await self._controls.pause_dispatch(request, context)

    @answers
    async def ResumeDispatch(
        self, request: admin_pb2.ResumeDispatchRequest, context: Context
    ) -> admin_pb2.ResumeDispatchResponse:
        """Let it go on."""
        return await self._controls.resume_dispatch(request, context)

    @answers
    async def ListPauses(self, request: admin_pb2.ListPausesRequest, context: Context) -> admin_pb2.ListPausesResponse:
        """List what is paused."""
        return await self._controls.pausing.entries(request)

    @answers
    async def RetryNode(self, request: admin_pb2.RetryNodeRequest, context: Context) -> admin_pb2.RetryNodeResponse:
        """Have a node tried now."""
        return await self._controls.nodes.retry(request, context)

    @answers
    async def SkipNode(self, request: admin_pb2.SkipNodeRequest, context: Context) -> admin_pb2.SkipNodeResponse:
        """Have a node not run."""
        return await self._controls.nodes.skip(request, context)

    @answers
    async def CompleteNode(
        self, request: admin_pb2.CompleteNodeRequest, context: Context
    ) -> admin_pb2.CompleteNodeResponse:
        """Have a node end well."""
        return await self._controls.nodes.complete(request, context)

    @answers
    async def RerunWorkflow(
        self, request: admin_pb2.RerunWorkflowRequest, context: Context
    ) -> admin_pb2.RerunWorkflowResponse:
        """Run a workflow again."""
        return await self._controls.reruns.rerun(request, context)

    def _coordinators(self, rows: list[CoordinatorRow], shards: list[ShardRow]) -> list[admin_pb2.Coordinator]:
        live = {incarnation for incarnation, _, _ in self._directory.coordinators()}
        held = Counter(shard.holder for shard in shards)
        ours = self._directory.incarnation
        return [
            admin_pb2.Coordinator(
                name=row.name,
                incarnation=row.incarnation,
                address=row.grpc_address,
                live=row.incarnation in live,
                shards=held[row.incarnation],
                # Of itself each knows best; of the others the lease rows tell.
                workers=len(self._book) if row.incarnation == ours else row.attached_workers,
                http_address=row.http_address,
                stepped_down_until_us=self._controls.down_until_us() if row.incarnation == ours else 0,
            )
            for row in rows
        ]


def _lease_rows_and_shards(reader: Reader) -> tuple[list[CoordinatorRow], list[ShardRow]]:
    return list(reader.coordinators()), list(reader.shards())


def _failover(reader: Reader, event_id: str) -> StoredFailover:
    found = reader.failover(event_id) if is_incarnation(event_id) else None
    if found is None:
        raise NotFoundError(f"there is no failover {event_id[:64]!r}; list those there are with: mainspring failovers")
    return found


def _whole_failovers(reader: Reader, rows: Sequence[StoredFailover]) -> list[admin_pb2.Failover]:
    """Read events with their ids, as many of them as fit into one message, the first in any case."""
    found: list[admin_pb2.Failover] = []
    size = 0
    for row in rows:
        message = _failover_message(read_failover(reader, row), row.kind)
        size += message.ByteSize()
        if found and size > limits.message_split_bytes:
            break
        found.append(message)
    return found


def _failover_message(event: Failover, kind: FailoverKind) -> admin_pb2.Failover:
    return admin_pb2.Failover(
        event_id=event.event_id,
        kind=admin_pb2.FailoverKind.ValueType(kind),
        failed_engine_id=clip(event.failed_engine_id, limits.name_bytes_max),
        failed_incarnation=event.failed_incarnation,
        takeover_engine_id=clip(event.takeover_engine_id, limits.name_bytes_max),
        takeover_incarnation=event.takeover_incarnation,
        affected_workflows=event.affected_workflows,
        affected_nodes=event.affected_nodes,
        affected_workflows_count=event.affected_workflows_count,
        affected_nodes_count=event.affected_nodes_count,
        detected_at_us=event.detected_at_us,
        recovered_at_us=event.recovered_at_us,
        alerted_at_us=event.alerted_at_us,
    )
