"""All gRPC services of a coordinator, put on a server together: the contract's four, health and reflection."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mainspring.clock import BootClock, Clock
from mainspring.dial import open_channel
from mainspring.errors import PreconditionError
from mainspring.v1 import admin_pb2, client_pb2, peers_pb2, worker_pb2
from mainspring.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from mainspring.v1.client_pb2_grpc import add_WorkflowsServiceServicer_to_server
from mainspring.v1.peers_pb2_grpc import add_PeersServiceServicer_to_server
from mainspring.v1.worker_pb2_grpc import add_FleetServiceServicer_to_server
from mainspring_coordinator.admin import AdminService, Build
from mainspring_coordinator.audit import Audit
from mainspring_coordinator.controls import Controls
from mainspring_coordinator.dynamic import Counts
from mainspring_coordinator.explaining import Explaining
from mainspring_coordinator.fleet import FleetService
from mainspring_coordinator.forward import Forwarder
from mainspring_coordinator.node_acts import NodeActs
from mainspring_coordinator.pausing import Pausing
from mainspring_coordinator.peers import PeersService, PermitPost
from mainspring_coordinator.plans import PlanCache
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.releasing import Released, ReleaseOrder
from mainspring_coordinator.reruns import Reruns
from mainspring_coordinator.session import FleetTimings
from mainspring_coordinator.store.protocol import Reader
from mainspring_coordinator.strategies import Strategies
from mainspring_coordinator.withdrawal import Withdrawal
from mainspring_coordinator.worker_acts import WorkerActs
from mainspring_coordinator.workflow_reads import WorkflowReads
from mainspring_coordinator.workflows import WorkflowsService

service_names: Final = tuple(
    contract.DESCRIPTOR.services_by_name[name].full_name
    for contract, name in (
        (client_pb2, "WorkflowsService"),
        (worker_pb2, "FleetService"),
        (admin_pb2, "AdminService"),
        (peers_pb2, "PeersService"),
    )
)


@dataclass(slots=True, eq=False)
class Services:
    """What was put on a server."""

    fleet: FleetService
    forwarder: Forwarder
    reads: Reads
    post: PermitPost
    audit: Audit
    health: health.aio.HealthServicer

    async def set_serving(self, serving: bool) -> None:
        """Say by the health service whether calls may come."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *service_names):
            await self.health.set(name, status)

    async def leave(self) -> None:
        """Say goodbye to the workers, and that no more calls should come; those that do are answered until the server stops."""
        await self.set_serving(False)
        await self.fleet.close()

    async def close(self) -> None:
        """Free what the services hold, once the server has stopped: a call that is under way needs it."""
        await self.post.close()
        await self.audit.close()
        await self.forwarder.close()
        self.reads.close()


async def add_services(
    server: grpc.aio.Server,
    *,
    loop: Loop,
    directory: Directory,
    reader: Reader,
    plans: PlanCache,
    build: Build,
    strategy: Callable[[], str],
    counts: Counts,
    timings: FleetTimings,
    withdrawal: Withdrawal | None = None,
    release: Callable[[ReleaseOrder], Awaitable[Released]] | None = None,
    clock: Clock | None = None,
    vitals: Callable[[], tuple[str, str]] = lambda: ("up", "held"),
    dial: Callable[[str], grpc.aio.Channel] = open_channel,
) -> Services:
    """Put all services on a server that has not been started; health says NOT_SERVING until `set_serving`.

    `strategy` tells by which strategy new workflows are placed; `vitals` and `dial` as in `FleetService` and `Forwarder`;
    without a `withdrawal` nobody can step down, and without a `release` nobody can be released.
    `plans` stays the caller's to close.
    """
    clock = clock if clock is not None else BootClock()
    withdrawal = withdrawal if withdrawal is not None else Withdrawal(clock, lambda: False)
    reads = Reads(reader)
    forwarder = Forwarder(loop, directory, dial)
    fleet = FleetService(loop, directory, build.cluster, timings, version=build.version, clock=clock, vitals=vitals)
    post = PermitPost(loop, forwarder)
    audit = Audit(loop, directory, reads, forwarder)
    services = Services(fleet, forwarder, reads, post, audit, health.aio.HealthServicer())
    # Two heartbeats: what is longer is told of a worker, though it is not counted as lost yet.
    explaining = partial(
        Explaining, workers=lambda: fleet.book.entries, clock=clock, silent_ms=2 * timings.heartbeat_ms
    )
    strategies = Strategies(loop, directory, reads, forwarder, counts)
    workflows = WorkflowsService(loop, reads, plans, forwarder, strategy, explaining)
    looks = WorkflowReads(loop, reads, plans)
    controls = Controls(
        loop,
        directory,
        reads,
        forwarder,
        strategies,
        workflows.cancel,
        withdrawal,
        release or _release_nothing,
        audit,
        Pausing(loop, directory, reads, looks, forwarder, audit, fleet.book.entries),
        NodeActs(loop, reads, looks, forwarder, audit),
        Reruns(loop, reads, looks, forwarder, audit, strategy),
    )
    workers = WorkerActs(loop, directory, forwarder, fleet, clock, audit)
    add_WorkflowsServiceServicer_to_server(workflows, server)
    add_FleetServiceServicer_to_server(fleet, server)
    add_AdminServiceServicer_to_server(
        AdminService(loop, directory, reads, workers, build, clock, strategies, controls), server
    )
    add_PeersServiceServicer_to_server(PeersService(loop, forwarder, post, audit, reads), server)
    health_pb2_grpc.add_HealthServicer_to_server(services.health, server)
    reflection.enable_server_reflection((*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await services.set_serving(False)
    fleet.start()
    return services


async def _release_nothing(order: ReleaseOrder) -> Released:
    raise PreconditionError(f"this coordinator has no election in which {order.name!r} could be released")
