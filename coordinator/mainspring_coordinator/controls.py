"""What operators change, beside the strategy: each act is recorded first, and done where it must be."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc.aio

from mainspring import limits
from mainspring.errors import BadRequestError, NotFoundError, SettingsError
from mainspring.ids import is_incarnation
from mainspring.v1 import admin_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceStub
from mainspring_coordinator import cancelling
from mainspring_coordinator.answering import Context
from mainspring_coordinator.audit import Audit
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.node_acts import NodeActs
from mainspring_coordinator.pausing import Pausing, told
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.releasing import Released, ReleaseOrder
from mainspring_coordinator.reruns import Reruns
from mainspring_coordinator.strategies import Strategies
from mainspring_coordinator.withdrawal import Withdrawal


@dataclass(frozen=True, slots=True)
class Controls:
    """Does what `AdminService` is asked to do; raises errors of `mainspring.errors`."""

    loop: Loop
    directory: Directory
    reads: Reads
    forwarder: Forwarder
    strategies: Strategies
    cancel: cancelling.CancelOne
    withdrawal: Withdrawal
    release: Callable[[ReleaseOrder], Awaitable[Released]]
    audit: Audit
    pausing: Pausing
    nodes: NodeActs
    reruns: Reruns

    async def set_strategy(
        self, request: admin_pb2.SetStrategyRequest, context: Context
    ) -> admin_pb2.SetStrategyResponse:
        """Set the strategy of the whole cluster."""
        subject = request.strategy or "each coordinator's own"
        return await self.audit.of(
            context, "SetStrategy", subject, request.reason, lambda: self.strategies.set(request, context)
        )

    async def cancel_workflows(
        self, request: admin_pb2.CancelWorkflowsRequest, context: Context
    ) -> admin_pb2.CancelWorkflowsResponse:
        """Ask a page of workflows to stop."""
        subject = cancelling.told(request)
        if request.dry_run:
            return await cancelling.cancel_page(request, context, self.reads, self.cancel)
        return await self.audit.of(
            context,
            "CancelWorkflows",
            subject,
            request.reason,
            lambda: cancelling.cancel_page(request, context, self.reads, self.cancel),
        )

    async def step_down(self, request: admin_pb2.StepDownRequest, context: Context) -> admin_pb2.StepDownResponse:
        """Have a coordinator step down, or come back."""
        incarnation, name = self._coordinator(request.coordinator)
        what = f"for {request.seconds} s" if request.seconds else "comes back"
        subject = f"{name} ({incarnation}) {what}"

        async def done() -> admin_pb2.StepDownResponse:
            peer = self.forwarder.peer(incarnation)
            if isinstance(peer, Peer):
                there = admin_pb2.StepDownRequest(
                    coordinator=incarnation, seconds=request.seconds, reason=request.reason
                )
                return await AdminServiceStub(peer.channel).StepDown(
                    there, timeout=context.time_remaining(), metadata=peer.metadata
                )
            if not peer:
                raise _gone(name)
            down = self.withdrawal.begin(request.seconds)
            return admin_pb2.StepDownResponse(
                coordinator=name[: limits.name_bytes_max],
                shards=len(self.loop.serving),
                already=down if request.seconds else not down,
            )

        return await self.audit.of(context, "StepDown", subject, request.reason, done)

    def down_until_us(self) -> int:
        """Return until when we have stepped down, by the database's clock; 0: we have not."""
        left_us = self.withdrawal.left_us
        return self.loop.now_us() + left_us if left_us else 0

    async def others_down_until_us(self, asked: Sequence[str]) -> Mapping[str, int]:
        """Ask other coordinators, by incarnation, until when they have stepped down; those that do not answer are left out."""
        answers = await asyncio.gather(*(self._ask_until_us(incarnation) for incarnation in asked))
        return {incarnation: until_us for incarnation, until_us in zip(asked, answers, strict=True) if until_us}

    async def _ask_until_us(self, incarnation: str) -> int:
        try:
            peer = self.forwarder.peer(incarnation)
            if not isinstance(peer, Peer):
                return 0
            there: admin_pb2.GetClusterResponse = await AdminServiceStub(peer.channel).GetCluster(
                admin_pb2.GetClusterRequest(), timeout=limits.peer_answer_ms_max / 1_000, metadata=peer.metadata
            )
        except (SettingsError, grpc.aio.AioRpcError):
            return 0
        return there.answered_by.stepped_down_until_us

    async def release_instance(
        self, request: admin_pb2.ReleaseInstanceRequest, context: Context
    ) -> admin_pb2.ReleaseInstanceResponse:
        """Free the shards of a dead coordinator. It is done even if nothing can be recorded before, because no shard is served."""
        if not request.reason.strip():
            raise BadRequestError("reason: missing; say why, it is kept in the audit log (--reason)", field="reason")
        if not is_incarnation(request.incarnation):
            raise BadRequestError(
                "incarnation: it has 32 hexadecimal characters; mainspring coordinators --json shows it",
                field="incarnation",
            )
        if not 1 <= len(request.name.encode()) <= limits.name_bytes_max:
            raise BadRequestError(
                f"name: it must have 1 to {limits.name_bytes_max} bytes, and be that of the incarnation (--name)",
                field="name",
            )

        async def done() -> admin_pb2.ReleaseInstanceResponse:
            released = await self.release(ReleaseOrder(request.incarnation, request.name, request.force))
            return admin_pb2.ReleaseInstanceResponse(shards=released.shards, was_live=released.was_live)

        subject = f"{request.name} ({request.incarnation}){', by force' if request.force else ''}"
        return await self.audit.of(context, "ReleaseInstance", subject, request.reason, done, even_unrecorded=True)

    async def pause_dispatch(
        self, request: admin_pb2.PauseDispatchRequest, context: Context
    ) -> admin_pb2.PauseDispatchResponse:
        """Pause the cluster, an executor or a workflow."""
        return await self.audit.of(
            context, "PauseDispatch", told(request), request.reason, lambda: self.pausing.pause(request, context)
        )

    async def resume_dispatch(
        self, request: admin_pb2.ResumeDispatchRequest, context: Context
    ) -> admin_pb2.ResumeDispatchResponse:
        """Let it go on."""
        return await self.audit.of(
            context, "ResumeDispatch", told(request), request.reason, lambda: self.pausing.resume(request, context)
        )

    def _coordinator(self, wanted: str) -> tuple[str, str]:
        """Return incarnation and name of the live coordinator that is meant."""
        live = {incarnation: name for incarnation, name, _ in self.directory.coordinators()}
        wanted = wanted or self.directory.incarnation
        if wanted in live:
            return wanted, live[wanted]
        named = [incarnation for incarnation, name in live.items() if name == wanted]
        if not named:
            raise _gone(wanted)
        if len(named) > 1:
            raise BadRequestError(
                f"coordinator: {len(named)} live coordinators are called {wanted!r}; name one by its incarnation: {', '.join(named)}",
                field="coordinator",
            )
        return named[0], wanted


def _gone(wanted: str) -> NotFoundError:
    return NotFoundError(
        f"there is no live coordinator {wanted[:64]!r}; list those there are with: mainspring coordinators"
    )
