"""What operators do with one worker: have it take no more work, let it take some again, or treat it as gone.

A worker is attached to every coordinator as a rule, but who is asked may not have it, and each knows its own workers only. So whoever is
asked looks among its own, asks the others, and sends the act on to one that has it. A worker that was told tells all coordinators what it
does; an eviction is read by all of them in the fence rows (`engine.eviction`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc.aio

from mainspring import limits
from mainspring.clock import Clock
from mainspring.errors import BadRequestError, NotFoundError, PreconditionError, SettingsError, UnavailableError
from mainspring.ids import is_incarnation
from mainspring.v1 import admin_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceStub
from mainspring_coordinator.answering import Context
from mainspring_coordinator.audit import Audit
from mainspring_coordinator.engine.operator_events import WorkerEvicted
from mainspring_coordinator.fleet import FleetService
from mainspring_coordinator.forward import Forwarder, Peer, is_forwarded
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.worker_book import WorkerEntry
from mainspring_coordinator.workflow_reads import check_answer

_attached: Final = (admin_pb2.WORKER_STATUS_ACTIVE, admin_pb2.WORKER_STATUS_DRAINING)
_list: Final = "list those there are with: mainspring workers"


@dataclass(frozen=True, slots=True)
class _Found:
    """A worker as one coordinator sees it."""

    worker: admin_pb2.Worker
    at: Peer | None
    """None: here."""


@dataclass(frozen=True, slots=True)
class WorkerActs:
    """Does what `AdminService` is asked to do with workers; raises errors of `mainspring.errors`."""

    loop: Loop
    directory: Directory
    forwarder: Forwarder
    fleet: FleetService
    clock: Clock
    audit: Audit

    async def drain(self, request: admin_pb2.DrainWorkerRequest, context: Context) -> admin_pb2.DrainWorkerResponse:
        """Have a worker take no more work."""
        found = await self._one_attached(request.name, request.incarnation, context)
        worker = found.worker

        async def done() -> admin_pb2.DrainWorkerResponse:
            if found.at is not None:
                there = admin_pb2.DrainWorkerRequest(
                    name=worker.name, incarnation=worker.incarnation, reason=request.reason
                )
                return await AdminServiceStub(found.at.channel).DrainWorker(
                    there, timeout=context.time_remaining(), metadata=found.at.metadata
                )
            entry, drained = await self._tell(worker, draining=True)
            return admin_pb2.DrainWorkerResponse(
                incarnation=worker.incarnation, assigned=entry.assigned, running=entry.running, already=drained
            )

        return await self.audit.of(context, "DrainWorker", _subject(worker), request.reason, done)

    async def undrain(
        self, request: admin_pb2.UndrainWorkerRequest, context: Context
    ) -> admin_pb2.UndrainWorkerResponse:
        """Have a worker take work again."""
        found = await self._one_attached(request.name, request.incarnation, context)
        worker = found.worker

        async def done() -> admin_pb2.UndrainWorkerResponse:
            if found.at is not None:
                there = admin_pb2.UndrainWorkerRequest(
                    name=worker.name, incarnation=worker.incarnation, reason=request.reason
                )
                return await AdminServiceStub(found.at.channel).UndrainWorker(
                    there, timeout=context.time_remaining(), metadata=found.at.metadata
                )
            _, drained = await self._tell(worker, draining=False)
            return admin_pb2.UndrainWorkerResponse(incarnation=worker.incarnation, already=not drained)

        return await self.audit.of(context, "UndrainWorker", _subject(worker), request.reason, done)

    async def evict(self, request: admin_pb2.EvictWorkerRequest, context: Context) -> admin_pb2.EvictWorkerResponse:
        """Treat an incarnation of a worker as gone."""
        if not request.reason.strip():
            raise BadRequestError("reason: missing; say why, it is kept in the audit log (--reason)", field="reason")
        seen, unasked = await self._look(request.name, request.incarnation, context)
        incarnation = request.incarnation or self._only(request.name, "", seen, unasked)
        others = [other for other in _incarnations(seen) if other != incarnation]

        async def done() -> admin_pb2.EvictWorkerResponse:
            await self._store(request, incarnation, context)
            return admin_pb2.EvictWorkerResponse(
                incarnation=incarnation,
                known=len(others) < len(_incarnations(seen)),
                unasked=unasked,
                others=others[: limits.explained_workers_max],
            )

        subject = f"{request.name} ({incarnation})"
        return await self.audit.of(context, "EvictWorker", subject, request.reason, done)

    # -- looking -----------------------------------------------------------------------------------------------------------

    async def _look(self, name: str, incarnation: str, context: Context) -> tuple[list[_Found], Sequence[str]]:
        """Return all workers of a name as each live coordinator sees them, our own view first, and who could not be asked."""
        _check(name, incarnation)
        found = [_Found(worker, None) for worker in self.fleet.book.messages(self.clock.now_us())]
        unasked: list[str] = []
        if not is_forwarded(context):
            live = [one for one in self.directory.coordinators() if one[0] != self.directory.incarnation]
            answers = await asyncio.gather(*(self._ask(who) for who, _, _ in live))
            for (_, called, _), there in zip(live, answers, strict=True):
                if there is None:
                    unasked.append(called)
                else:
                    found += there
        for one in found:
            if incarnation and one.worker.incarnation == incarnation and one.worker.name != name:
                raise BadRequestError(
                    f"incarnation: {incarnation} is one of worker {one.worker.name!r}, not of {name!r}; {_list}",
                    field="incarnation",
                )
        return [one for one in found if one.worker.name == name], unasked

    async def _ask(self, incarnation: str) -> list[_Found] | None:
        """Return the workers of another coordinator; None if it does not answer."""
        try:
            peer = self.forwarder.peer(incarnation)
            if not isinstance(peer, Peer):
                return None
            there: admin_pb2.ListWorkersResponse = await AdminServiceStub(peer.channel).ListWorkers(
                admin_pb2.ListWorkersRequest(), timeout=limits.peer_answer_ms_max / 1_000, metadata=peer.metadata
            )
        except (SettingsError, grpc.aio.AioRpcError):
            return None  # the caller is told which they are
        return [_Found(worker, peer) for worker in there.workers]

    def _only(self, name: str, incarnation: str, seen: Sequence[_Found], unasked: Sequence[str]) -> str:
        """Return the incarnation that is named, or that a name stands for."""
        found = _incarnations(seen)
        if incarnation in found:
            return incarnation
        silent = f" (not asked, because out of reach: {', '.join(unasked)})" if unasked else ""
        if incarnation and found:
            raise NotFoundError(
                f"no live coordinator knows incarnation {incarnation} of worker {name!r}{silent}; attached is: {', '.join(found)}"
            )
        if not found:
            raise NotFoundError(
                f"no live coordinator knows a worker {name[:64]!r}{silent}; {_list}; one that is away for longer is named by its "
                "incarnation, which is in its log and in: mainspring failovers"
            )
        if len(found) > 1:
            raise BadRequestError(
                f"incarnation: {len(found)} workers are called {name!r}; name one of them (--incarnation): {', '.join(found)}",
                field="incarnation",
            )
        return found[0]

    async def _one_attached(self, name: str, incarnation: str, context: Context) -> _Found:
        """Return an attached worker, as a coordinator sees it that can tell it to drain."""
        seen, unasked = await self._look(name, incarnation, context)
        attached = [one for one in seen if one.worker.status in _attached]
        wanted = self._only(name, incarnation, attached, unasked)
        able = [one for one in attached if one.worker.incarnation == wanted and one.worker.can_be_drained]
        if not able:
            raise PreconditionError(
                f"worker {name!r} ({wanted}, mainspring {attached[0].worker.version or 'unknown'}) or the coordinators that have it are of "
                "a version in which operators cannot drain; upgrade them, or end it in order by SIGTERM"
            )
        return able[0]

    # -- doing -------------------------------------------------------------------------------------------------------------

    async def _tell(self, worker: admin_pb2.Worker, *, draining: bool) -> tuple[WorkerEntry, bool]:
        """Tell a worker of ours, wait for what it says; return what we know of it then, and whether it was drained before."""
        before = self.fleet.book.entries.get(worker.incarnation)
        drained = before is not None and before.stays
        session = self.fleet.session_of(worker.incarnation)
        if session is None:
            raise UnavailableError(f"worker {worker.name!r} has just lost its stream; try again in a moment")
        try:
            async with asyncio.timeout(limits.peer_answer_ms_max / 1_000):
                await session.set_draining(draining)
        except TimeoutError as error:
            raise UnavailableError(
                f"worker {worker.name!r} did not answer within {limits.peer_answer_ms_max} ms; it may hear of it still, look at: "
                "mainspring workers"
            ) from error
        entry = self.fleet.book.entries.get(worker.incarnation)
        if entry is None:
            raise UnavailableError(f"worker {worker.name!r} answered and then went; look at: mainspring workers")
        if entry.draining and not entry.stays:
            raise PreconditionError(f"worker {worker.name!r} is on its way out (SIGTERM), and stays so; start it again")
        return entry, drained

    async def _store(self, request: admin_pb2.EvictWorkerRequest, incarnation: str, context: Context) -> None:
        """Store the eviction under the fence of a shard of ours; who has none asks one that has."""
        shard = min(self.loop.serving, default=None)
        if shard is not None:
            check_answer(await self.loop.ask(shard, lambda token: WorkerEvicted(token, shard, incarnation)))
            return
        owners = (self.forwarder.find(shard) for shard in range(self.loop.shards_total))
        peer = next((owner for owner in owners if isinstance(owner, Peer)), None)
        if peer is None or is_forwarded(context):
            raise UnavailableError(
                "no shard is served, under whose fence the eviction could be stored; nothing was done. Try again in a moment; if it "
                "stays so, look at: mainspring shards"
            )
        there = admin_pb2.EvictWorkerRequest(name=request.name, incarnation=incarnation, reason=request.reason)
        await AdminServiceStub(peer.channel).EvictWorker(
            there, timeout=context.time_remaining(), metadata=peer.metadata
        )


def _check(name: str, incarnation: str) -> None:
    if not 1 <= len(name.encode()) <= limits.name_bytes_max:
        raise BadRequestError(f"name: it must have 1 to {limits.name_bytes_max} bytes; {_list}", field="name")
    if incarnation and not is_incarnation(incarnation):
        raise BadRequestError(
            "incarnation: it has 32 hexadecimal characters; mainspring workers --json shows it", field="incarnation"
        )


def _incarnations(seen: Sequence[_Found]) -> Sequence[str]:
    return sorted({one.worker.incarnation for one in seen})


def _subject(worker: admin_pb2.Worker) -> str:
    return f"{worker.name} ({worker.incarnation})"
