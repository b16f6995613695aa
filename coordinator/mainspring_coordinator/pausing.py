"""Operators pause dispatch and let it go on: of the cluster and of executors at the owner of shard 0, of a workflow at its own shard's."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc.aio
import structlog

from mainspring import limits
from mainspring.errors import BadRequestError, PreconditionError, SettingsError, UnavailableError
from mainspring.owner_hint import addressee_key
from mainspring.v1 import admin_pb2, peers_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceStub
from mainspring.v1.peers_pb2_grpc import PeersServiceStub
from mainspring_coordinator.answering import Context
from mainspring_coordinator.audit import Audit
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import PauseSet, WorkflowPauseSet
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.engine.strategy import home
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import Reader
from mainspring_coordinator.views import has_ended, pause_message
from mainspring_coordinator.worker_book import WorkerEntry
from mainspring_coordinator.workflow_reads import (
    WorkflowReads,
    check_answer,
    moment_and_id,
    not_found,
    page_size,
    shard_of_workflow,
    to_token,
)

_log: Final = structlog.get_logger(__name__)
_tries_max: Final = 5
_Request: TypeAlias = admin_pb2.PauseDispatchRequest | admin_pb2.ResumeDispatchRequest


def told(request: _Request) -> str:
    """Return what is meant in words; `BadRequestError` when it is nothing, or no such thing can be."""
    match request.WhichOneof("what"):
        case "all" if request.all:
            return "the whole cluster"
        case "executor":
            name = request.executor
            if not name or len(name.encode()) > limits.executor_bytes_max:
                raise BadRequestError(
                    f"executor: a name has 1 to {limits.executor_bytes_max} bytes; no executor has this one",
                    field="executor",
                )
            return f"executor {name}"
        case "workflow_id":
            return f"workflow {request.workflow_id[: limits.workflow_id_bytes_max]}"
        case _:
            raise BadRequestError("what: set `all`, an `executor` or a `workflow_id`", field="what")


@dataclass(frozen=True, slots=True)
class Pausing:
    """Begins, ends and lists pauses."""

    loop: Loop
    directory: Directory
    reads: Reads
    workflow_reads: WorkflowReads
    forwarder: Forwarder
    audit: Audit
    workers: Mapping[str, WorkerEntry]
    """Those of our streams, by incarnation."""

    async def pause(self, request: admin_pb2.PauseDispatchRequest, context: Context) -> admin_pb2.PauseDispatchResponse:
        """Let nothing of it be given out any more."""

        async def here() -> admin_pb2.PauseDispatchResponse:
            answer = await self._set(request, context, paused=True)
            unseen_by = await self._let_see(request)
            # Only now: workers come and go while the others look.
            attached = [entry for entry in self.workers.values() if not entry.absent_since_us]
            return admin_pb2.PauseDispatchResponse(
                changed=answer.created,
                pause=pause_message(answer.pause),
                unseen_by=unseen_by,
                workers=sum(bool(request.executor) and request.executor in one.hello.executors for one in attached),
            )

        async def there(peer: Peer, time_left_s: float | None) -> admin_pb2.PauseDispatchResponse:
            return await AdminServiceStub(peer.channel).PauseDispatch(
                request, timeout=time_left_s, metadata=peer.metadata
            )

        return await self.forwarder.call(self._shard(request), context, here, there)

    async def resume(
        self, request: admin_pb2.ResumeDispatchRequest, context: Context
    ) -> admin_pb2.ResumeDispatchResponse:
        """Let it go on."""

        async def here() -> admin_pb2.ResumeDispatchResponse:
            answer = await self._set(request, context, paused=False)
            return admin_pb2.ResumeDispatchResponse(
                changed=answer.created, pause=pause_message(answer.pause), unseen_by=await self._let_see(request)
            )

        async def there(peer: Peer, time_left_s: float | None) -> admin_pb2.ResumeDispatchResponse:
            return await AdminServiceStub(peer.channel).ResumeDispatch(
                request, timeout=time_left_s, metadata=peer.metadata
            )

        return await self.forwarder.call(self._shard(request), context, here, there)

    async def entries(self, request: admin_pb2.ListPausesRequest) -> admin_pb2.ListPausesResponse:
        """List what is paused."""
        limit = page_size(request.page_size, default=200)
        after = moment_and_id(request.page_token)

        def read(reader: Reader) -> tuple[ClusterPauses, list[tuple[str, Pause]]]:
            standing = ClusterPauses.parse(reader.pauses()) if after is None else ClusterPauses()
            # One more than wanted tells whether there is a next page.
            return standing, list(reader.paused_workflows(after or (-1, ""), limit + 1))

        standing, rows = await self.reads.run(read)
        everything, page = standing.everything, rows[:limit]
        found = [admin_pb2.PausedDispatch(all=True, pause=pause_message(everything))] if everything is not None else []
        found += [
            admin_pb2.PausedDispatch(executor=name, pause=pause_message(one))
            for name, one in sorted(standing.executors.items())
        ]
        found += [admin_pb2.PausedDispatch(workflow_id=name, pause=pause_message(one)) for name, one in page]
        return admin_pb2.ListPausesResponse(
            pauses=found,
            next_page_token=to_token(page[-1][1].since_us, page[-1][0]) if len(rows) > limit else "",
        )

    def _shard(self, request: _Request) -> int:
        if request.WhichOneof("what") == "workflow_id":
            return shard_of_workflow(request.workflow_id, self.loop.shards_total)
        return home

    async def _set(self, request: _Request, context: Context, *, paused: bool) -> Answer:
        who, reason = await self.audit.who_acts(context), request.reason
        if request.WhichOneof("what") == "workflow_id":
            answer = await self._set_workflow(request.workflow_id, who, reason, paused=paused)
        else:
            answer = check_answer(
                await self.loop.ask(home, lambda token: PauseSet(token, home, request.executor, paused, who, reason))
            )
            if answer.code is AnswerCode.REFUSED:
                raise PreconditionError(answer.message)
        if answer.created:
            event = "dispatch_paused" if paused else "dispatch_resumed"
            _log.warning(event, what=told(request), who=who, reason=reason)
        return answer

    async def _set_workflow(self, workflow_id: str, who: str, reason: str, *, paused: bool) -> Answer:
        shard = shard_of_workflow(workflow_id, self.loop.shards_total)
        for _ in range(_tries_max):
            answer = check_answer(
                await self.loop.ask(
                    shard, lambda token: WorkflowPauseSet(token, shard, workflow_id, paused, who, reason)
                )
            )
            if answer.code is not AnswerCode.NOT_FOUND:
                if paused and answer.status is not WorkflowStatus.RUNNING:
                    assert answer.status is not None, answer
                    raise PreconditionError(
                        f"workflow {workflow_id!r} is {answer.status.name}: nothing of it is started any more, so there is nothing to pause"
                    )
                return answer
            stored = await self.workflow_reads.row(shard, workflow_id)
            if stored is None:
                raise not_found(workflow_id)
            if has_ended(stored.status):
                if paused:
                    raise PreconditionError(
                        f"workflow {workflow_id!r} has ended ({stored.status.name}); there is nothing to pause"
                    )
                return answer
            # It was submitted, or came back into memory, in between.
        raise UnavailableError(f"workflow {workflow_id!r} is being loaded; try again")

    async def _let_see(self, request: _Request) -> list[str]:
        """Have the other live coordinators look at what is paused; return the names of those that did not confirm that they have."""
        if request.WhichOneof("what") == "workflow_id":
            return []  # its owner is the only one that gives it out
        ours = self.directory.incarnation
        others = [(one, name) for one, name, _ in self.directory.coordinators() if one != ours]
        saw = await asyncio.gather(*(self._sees(incarnation) for incarnation, _ in others))
        return [name for (_, name), sees in zip(others, saw, strict=True) if not sees]

    async def _sees(self, incarnation: str) -> bool:
        try:
            peer = self.forwarder.peer(incarnation)
            if isinstance(peer, Peer):
                await PeersServiceStub(peer.channel).SeePauses(
                    peers_pb2.SeePausesRequest(),
                    timeout=limits.pauses_seen_ms_max / 1_000,
                    metadata=((addressee_key, incarnation),),
                )
                return True
        except (SettingsError, grpc.aio.AioRpcError) as error:
            # It sees it with its next look at its peers.
            _log.info("pauses_not_seen", by=incarnation, error=str(error))
        return False
