"""The asynchronous client: submit workflows, follow them, read them, cancel them.

    async with Client() as client:
        handle = await client.submit(definition, input={"year": 2024})
        print(await handle.result())

Every call has a deadline and is tried again when that may help; errors are those of `mainspring.errors`.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Self, TypeAlias

from mainspring.access import Access
from mainspring.dial import default_grpc_port, parse_addresses
from mainspring.errors import BadRequestError, MainspringError
from mainspring.failovers import Failover
from mainspring.limits import call_timeout_ms_default, first_contact_ms_default, reason_bytes_max
from mainspring.naming import new_request_id
from mainspring.settings_security import Calling
from mainspring.v1 import admin_pb2, client_pb2
from mainspring.wire import clip
from mainspring.workflow import Json
from mainspring_client import administration, following, paging, submitting, wire_nouns
from mainspring_client.cluster_nouns import (
    AuditEntry,
    CancelledPage,
    CoordinatorInfo,
    DrainedWorker,
    EvictedWorker,
    PausedDispatch,
    PauseOutcome,
    ReleasedInstance,
    RerunInfo,
    ShardInfo,
    SteppedDown,
    StrategyChange,
    StrategyInfo,
    UndrainedWorker,
    WorkerInfo,
)
from mainspring_client.handle import Handle
from mainspring_client.nouns import (
    Explanation,
    HistoryEvent,
    NodeDetail,
    NodeInfo,
    NodeStatus,
    Result,
    Submission,
    WatchUpdate,
    WorkflowFilter,
    WorkflowInfo,
    WorkflowStatus,
)
from mainspring_client.submitting import pack, pack_all
from mainspring_client.transport import Transport

address_setting: Final = "MAINSPRING_ADDRESS"
default_address: Final = f"127.0.0.1:{default_grpc_port}"

WorkflowRef: TypeAlias = str | Handle


class Client:
    """A connection to a cluster, by any of its coordinators. An asynchronous context manager, for one event loop."""

    def __init__(
        self,
        address: str | None = None,
        *,
        access: Access | None = None,
        timeout: float = call_timeout_ms_default / 1000,
        connect_timeout: float = first_contact_ms_default / 1000,
    ) -> None:
        """Take "host:port", several with commas, or None for MAINSPRING_ADDRESS, else 127.0.0.1:7320; seconds.

        `access`: TLS and token; None: by TLS_CA, MAINSPRING_TOKEN and their neighbours in the environment (docs/security.md).
        """
        if timeout <= 0 or connect_timeout <= 0:
            raise BadRequestError("timeout and connect_timeout are seconds above 0", field="timeout")
        if address is None:
            address = os.environ.get(address_setting) or default_address
        self._transport = Transport(
            parse_addresses(address),
            access=access if access is not None else Calling.from_environment(),
            timeout_ms=int(timeout * 1000),
            first_contact_ms=int(connect_timeout * 1000),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls under way end with `UnavailableError`."""
        await self._transport.close()

    def handle(self, workflow_id: str) -> Handle:
        """Return a handle on a workflow that was submitted elsewhere; asks nothing."""
        return Handle(self, workflow_id)

    async def submit(self, definition: object, input: object = None, *, workflow_id: str | None = None) -> Handle:  # noqa: A002  (the word of the contract)
        """Start a workflow: a `mainspring.Workflow`, a `Definition`, or the mapping that its JSON has.

        It is durable when this returns. The same id with the same definition and input is the same workflow; with another
        definition or input it is an `AlreadyExistsError`.
        """
        packed = pack(definition, input, workflow_id)
        return Handle(self, packed.workflow_id, created=await submitting.submit(self._transport, packed))

    async def submit_many(self, submissions: Iterable[Submission]) -> Sequence[Handle | MainspringError]:
        """Start many workflows; the answer holds, in the same order, a handle or the error of each.

        They are sent in calls of bounded size, a few at a time, and definitions that they share are sent once a call.
        """
        outcomes = await submitting.submit_many(self._transport, pack_all(list(submissions)))
        return [
            outcome
            if isinstance(outcome, MainspringError)
            else Handle(self, outcome.workflow_id, created=outcome.created)
            for outcome in outcomes
        ]

    async def get(self, workflow_id: str) -> WorkflowInfo:
        """Read a workflow, current as of the call."""
        request = client_pb2.GetRequest(workflow_id=workflow_id)
        answer: client_pb2.GetResponse = await self._transport.call(lambda at: at.workflows.Get, request)
        return wire_nouns.workflow_info(answer.workflow)

    def nodes(self, workflow_id: str, statuses: Sequence[NodeStatus] = ()) -> AsyncGenerator[NodeInfo]:
        """Read a workflow's nodes in the order of the definition; instances of a `map` follow their node."""
        numbers = [wire_nouns.node_status_number(status) for status in statuses]

        def read(size: int, token: str) -> Awaitable[client_pb2.ListNodesResponse]:
            request = client_pb2.ListNodesRequest(
                workflow_id=workflow_id, statuses=numbers, page_size=size, page_token=token
            )
            return self._transport.call(lambda at: at.workflows.ListNodes, request)

        return paging.rows(read, lambda page: map(wire_nouns.node_info, page.nodes))

    async def node(self, workflow_id: str, node_id: str, instance: int = -1) -> NodeDetail:
        """Read one node, or one instance of a `map` node, with its payloads and attempts."""
        request = client_pb2.GetNodeRequest(workflow_id=workflow_id, node_id=node_id, instance=instance)
        return wire_nouns.node_detail(await self._transport.call(lambda at: at.workflows.GetNode, request))

    async def explain(self, workflow_id: str, node_id: str = "", instance: int = -1) -> Explanation:
        """Tell why a node does not run, with a reason for each worker; without `node_id`, why the nodes of a workflow do not."""
        request = client_pb2.ExplainRequest(workflow_id=workflow_id, node_id=node_id, instance=instance)
        return wire_nouns.explanation(await self._transport.call(lambda at: at.workflows.Explain, request))

    def history(self, workflow_id: str) -> AsyncGenerator[HistoryEvent]:
        """Read what happened to a workflow, in the order of time."""

        def read(size: int, token: str) -> Awaitable[client_pb2.GetHistoryResponse]:
            request = client_pb2.GetHistoryRequest(workflow_id=workflow_id, page_size=size, page_token=token)
            return self._transport.call(lambda at: at.workflows.GetHistory, request)

        return paging.rows(read, lambda page: map(wire_nouns.history_event, page.events))

    async def wait(self, workflow_id: str, timeout: float | None = None) -> Result:  # noqa: ASYNC109  (as of `Handle.result`)
        """Wait for a workflow's end and return how it ended; `DeadlineError` when `timeout` seconds pass before it."""
        return await following.wait(self._transport, workflow_id, timeout)

    async def peek(self, workflow_id: str) -> Result:
        """Return a workflow's result, or its state so far, without waiting."""
        return await following.poll(self._transport, workflow_id)

    def wait_many(self, workflows: Iterable[WorkflowRef], *, without_output: bool = False) -> AsyncGenerator[Result]:
        """Wait for many workflows; each is given once, in the order in which they end.

        Ids that name no workflow are a `NotFoundError` at the end, after all others.
        """
        ids = [one if isinstance(one, str) else one.workflow_id for one in workflows]
        return following.wait_many(self._transport, ids, without_output=without_output)

    def watch(self, workflow_id: str, *, after_version: int = 0) -> AsyncGenerator[WatchUpdate]:
        """Follow a workflow until it ends: a snapshot, then changes; after a break a snapshot again, no older one."""
        return following.watch(self._transport, workflow_id, after_version)

    def list(self, only: WorkflowFilter | None = None, *, limit: int | None = None) -> AsyncGenerator[WorkflowInfo]:
        """List workflows, newest first, at most `limit`.

        It reads the database, so the newest commits of a moment ago are in it, but it promises no more.
        """
        fits = only or WorkflowFilter()
        numbers = [wire_nouns.workflow_status_number(status) for status in fits.statuses]

        def read(size: int, token: str) -> Awaitable[client_pb2.ListResponse]:
            request = client_pb2.ListRequest(
                statuses=numbers,
                name=fits.name,
                id_prefix=fits.id_prefix,
                submitted_from_us=fits.submitted_from_us,
                submitted_before_us=fits.submitted_before_us,
                page_size=size,
                page_token=token,
            )
            return self._transport.call(lambda at: at.workflows.List, request)

        return paging.rows(read, lambda page: map(wire_nouns.workflow_info, page.workflows), limit=limit)

    async def cancel(self, workflow_id: str, reason: str = "") -> WorkflowStatus:
        """Ask a workflow to stop, and return its state: CANCELLING, CANCELLED, or how it had ended before."""
        request = client_pb2.CancelRequest(
            workflow_id=workflow_id, reason=clip(reason, reason_bytes_max), request_id=new_request_id()
        )
        answer: client_pb2.CancelResponse = await self._transport.call(lambda at: at.workflows.Cancel, request)
        return wire_nouns.workflow_status(answer.status)

    def cancel_many(
        self, only: WorkflowFilter | None = None, reason: str = "", *, everything: bool = False, dry_run: bool = False
    ) -> AsyncGenerator[CancelledPage]:
        """Ask all unfinished workflows that fit a filter to stop; gives page by page what became of them. States do not count.

        Without any filter `everything` must be set, or it is a `BadRequestError`. `dry_run` only tells which they are.
        """
        return administration.cancel_many(self._transport, only, reason, everything=everything, dry_run=dry_run)

    async def step_down(self, coordinator: str = "", *, seconds: int = 600, reason: str = "") -> SteppedDown:
        """Have a coordinator, by name or incarnation, give its shards to the others for a while; 0 seconds: it comes back.

        Empty means the one that answers. `PreconditionError` when nobody could take over.
        """
        return await administration.step_down(self._transport, coordinator, seconds, reason)

    async def drain_worker(self, name: str, *, incarnation: str = "", reason: str = "") -> DrainedWorker:
        """Have a worker take no more work of any coordinator. It finishes what it runs and stays, until it ends or is undrained.

        `PreconditionError` when it is of a version that cannot be drained so; `BadRequestError` when the name stands for several.
        """
        return await administration.drain_worker(self._transport, name, incarnation, reason)

    async def undrain_worker(self, name: str, *, incarnation: str = "", reason: str = "") -> UndrainedWorker:
        """Have a worker take work again. `PreconditionError` when it is on its way out."""
        return await administration.undrain_worker(self._transport, name, incarnation, reason)

    async def evict_worker(self, name: str, reason: str, *, incarnation: str = "") -> EvictedWorker:
        """Treat an incarnation of a worker as gone, whatever it does: its work goes elsewhere at once, and it may not come back.

        Nothing of it counts as a redelivery. One that is started again is a new incarnation, and welcome.
        """
        return await administration.evict_worker(self._transport, name, incarnation, reason)

    async def release_instance(
        self, incarnation: str, name: str, reason: str, *, force: bool = False
    ) -> ReleasedInstance:
        """Free the shards of a dead coordinator's incarnation, so that the live ones take them, with ENABLE_FAILOVER off, too.

        `PreconditionError` when it lives; with `force` its database connections are ended first.
        """
        return await administration.release_instance(self._transport, incarnation, name, reason, force=force)

    async def retry_node(self, workflow_id: str, node_id: str, instance: int = -1, *, reason: str = "") -> bool:
        """Have a node, or an instance of a `map`, tried now: one that waits for its next attempt, or runs. Return whether it did.

        What runs is stopped, and counts as an attempt. `PreconditionError` when it does neither; what waits for a worker is left alone.
        """
        return await administration.retry_node(self._transport, workflow_id, node_id, instance, reason)

    async def skip_node(self, workflow_id: str, node_id: str, instance: int = -1, *, reason: str = "") -> bool:
        """Have a node, or an instance of a `map`, not run: what depends on it gets null. Return whether it was not skipped already.

        `PreconditionError` when it has ended, or its workflow does not go on.
        """
        return await administration.skip_node(self._transport, workflow_id, node_id, instance, reason)

    async def complete_node(
        self, workflow_id: str, node_id: str, output: Json = None, instance: int = -1, *, reason: str = ""
    ) -> bool:
        """Have a node, or an instance of a `map`, end well with this output. Return whether it was not completed so already.

        Errors as of `skip_node`.
        """
        return await administration.complete_node(self._transport, workflow_id, node_id, output, instance, reason)

    async def rerun(
        self, workflow_id: str, *, from_failed: bool = False, from_nodes: Sequence[str] = (), reason: str = ""
    ) -> RerunInfo:
        """Run an ended workflow again, as a new one of the same definition and input, whose id the cluster makes.

        `from_failed`: only what did not succeed, with all that depends on it. `from_nodes`: only these with all that depends on them,
        and what did not succeed. Else all of it. `PreconditionError` when it has not ended.
        """
        return await administration.rerun(
            self._transport, workflow_id, tuple(from_nodes), reason, from_failed=from_failed
        )

    def audit(self, *, limit: int | None = None) -> AsyncGenerator[AuditEntry]:
        """List what operators did, newest first, at most `limit`. It reads the database, as `list` does."""
        return administration.audit(self._transport, limit)

    async def cluster(self) -> admin_pb2.GetClusterResponse:
        """Read what the cluster is."""
        answer: admin_pb2.GetClusterResponse = await self._transport.call(
            lambda at: at.admin.GetCluster, admin_pb2.GetClusterRequest()
        )
        return answer

    async def workers(self) -> Sequence[WorkerInfo]:
        """List the workers attached to the coordinator that answers."""
        answer: admin_pb2.ListWorkersResponse = await self._transport.call(
            lambda at: at.admin.ListWorkers, admin_pb2.ListWorkersRequest()
        )
        return [wire_nouns.worker_info(worker) for worker in answer.workers]

    async def coordinators(self) -> Sequence[CoordinatorInfo]:
        """List the coordinators that the database knows."""
        answer: admin_pb2.ListCoordinatorsResponse = await self._transport.call(
            lambda at: at.admin.ListCoordinators, admin_pb2.ListCoordinatorsRequest()
        )
        return [wire_nouns.coordinator_info(coordinator) for coordinator in answer.coordinators]

    async def shards(self) -> Sequence[ShardInfo]:
        """List the shards with their owners and epochs."""
        answer: admin_pb2.ListShardsResponse = await self._transport.call(
            lambda at: at.admin.ListShards, admin_pb2.ListShardsRequest()
        )
        return [wire_nouns.shard_info(shard) for shard in answer.shards]

    async def strategy(self) -> StrategyInfo:
        """Read by which strategy the cluster, and each of its coordinators, places. It reads the database, as `list` does."""
        answer: admin_pb2.GetStrategyResponse = await self._transport.call(
            lambda at: at.admin.GetStrategy, admin_pb2.GetStrategyRequest()
        )
        return wire_nouns.strategy_info(answer)

    async def set_strategy(self, strategy: str, reason: str = "") -> bool:
        """Set the strategy of the whole cluster, a strategy or `dynamic`; empty: each coordinator has its own again.

        Returns whether it was another one before. `BadRequestError` when there is no such strategy.
        """
        return await administration.set_strategy(self._transport, strategy, reason)

    async def pause(
        self, *, executor: str = "", workflow_id: str = "", everything: bool = False, reason: str = ""
    ) -> PauseOutcome:
        """Let nothing of an executor, of a workflow or of the whole cluster be given to workers until `resume`; what runs, runs on.

        What is paused already stays so. `NotFoundError`: there is no such workflow; `PreconditionError`: it has ended.
        """
        return await administration.pause(self._transport, executor, workflow_id, reason, everything=everything)

    async def resume(
        self, *, executor: str = "", workflow_id: str = "", everything: bool = False, reason: str = ""
    ) -> PauseOutcome:
        """Let it go on, in its order. Each pause is one by itself: `everything` ends that of the cluster only."""
        return await administration.resume(self._transport, executor, workflow_id, reason, everything=everything)

    def pauses(self) -> AsyncGenerator[PausedDispatch]:
        """List what is paused: the cluster, executors, then workflows, the longest first. It reads the database, as `list` does."""
        return administration.pauses(self._transport)

    def strategy_changes(self, *, limit: int | None = None) -> AsyncGenerator[StrategyChange]:
        """List the changes of that strategy, newest first, at most `limit`. It reads the database, as `list` does."""

        def read(size: int, token: str) -> Awaitable[admin_pb2.ListStrategyChangesResponse]:
            request = admin_pb2.ListStrategyChangesRequest(page_size=size, page_token=token)
            return self._transport.call(lambda at: at.admin.ListStrategyChanges, request)

        return paging.rows(read, lambda page: map(wire_nouns.strategy_change, page.changes), limit=limit)

    def failovers(self, *, limit: int | None = None) -> AsyncGenerator[Failover]:
        """List the record of failovers, newest first, at most `limit`; of each the first 1,000 workflows and nodes.

        It reads the database, as `list` does.
        """

        def read(size: int, token: str) -> Awaitable[admin_pb2.ListFailoversResponse]:
            request = admin_pb2.ListFailoversRequest(page_size=size, page_token=token)
            return self._transport.call(lambda at: at.admin.ListFailovers, request)

        # Of what each affected the first ids come with it, so the server chooses how many fit a message.
        return paging.rows(read, lambda page: map(wire_nouns.failover, page.failovers), limit=limit, size=0)

    async def failover(self, event_id: str) -> Failover:
        """Read one failover with all that it affected; `NotFoundError` when there is none of this id."""
        answer: admin_pb2.ListFailoversResponse = await self._transport.call(
            lambda at: at.admin.ListFailovers, admin_pb2.ListFailoversRequest(event_id=event_id)
        )
        found = wire_nouns.failover(answer.failovers[0])
        return replace(
            found,
            affected_workflows=await self._affected(found, admin_pb2.FAILOVER_SUBJECT_WORKFLOWS),
            affected_nodes=await self._affected(found, admin_pb2.FAILOVER_SUBJECT_NODES),
        )

    async def _affected(self, event: Failover, subject: admin_pb2.FailoverSubject.ValueType) -> tuple[str, ...]:
        nodes = subject == admin_pb2.FAILOVER_SUBJECT_NODES
        inline = event.affected_nodes if nodes else event.affected_workflows
        if len(inline) == (event.affected_nodes_count if nodes else event.affected_workflows_count):
            return inline

        def read(size: int, token: str) -> Awaitable[admin_pb2.ListAffectedResponse]:
            request = admin_pb2.ListAffectedRequest(
                event_id=event.event_id, subject=subject, page_size=size, page_token=token
            )
            return self._transport.call(lambda at: at.admin.ListAffected, request)

        return tuple([id_ async for id_ in paging.rows(read, lambda page: page.ids)])
