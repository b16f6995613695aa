"""What coordinators say to each other: the permits of concurrency keys, and what one of them is to store for another.

What a commit lets out of permits goes to the owner of the shard that it is meant for: into our own queue if that is we, otherwise by a call
to the other coordinator, of which one at a time is under way. What comes meanwhile waits, and of one key and shard only the latest.
Nothing is tried twice, because whoever spoke does so again until it is answered.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio
import structlog

from mainspring import limits
from mainspring.errors import BadRequestError, BusyError
from mainspring.ids import shard_of
from mainspring.owner_hint import addressee_key
from mainspring.v1 import peers_pb2
from mainspring.v1.peers_pb2_grpc import PeersServiceServicer, PeersServiceStub
from mainspring_coordinator import permits_wire
from mainspring_coordinator.answering import Context, answers
from mainspring_coordinator.audit import Audit, entry_of
from mainspring_coordinator.delivery import checked
from mainspring_coordinator.engine.effects import StatePermits
from mainspring_coordinator.engine.events import PermitsGranted, PermitsStated
from mainspring_coordinator.engine.operator_events import PausesSeen
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.ports import Loop, PermitEffect
from mainspring_coordinator.reads import Reads

_log: Final = structlog.get_logger(__name__)
_call_s: Final = limits.permit_restate_ms / 1_000
"""A call that takes longer is of no use any more."""


@dataclass(slots=True)
class _Outbox:
    """What waits to be sent to one coordinator, and the task that sends it."""

    waiting: dict[tuple[type[PermitEffect], int, str], PermitEffect] = field(
        default_factory=dict[tuple[type[PermitEffect], int, str], PermitEffect]
    )
    """By kind, shard and key."""
    task: "asyncio.Task[None] | None" = None


class PermitPost:
    """Brings what is said of permits to whom it is meant for."""

    def __init__(self, loop: Loop, forwarder: Forwarder) -> None:
        self._loop = loop
        self._forwarder = forwarder
        self._outboxes: dict[str, _Outbox] = {}
        """By incarnation."""
        loop.on_permits(self.pass_on)

    def pass_on(self, effects: Sequence[PermitEffect]) -> None:
        """Send what a commit let out."""
        for effect in effects:
            if isinstance(effect, StatePermits):
                key, shard = effect.statement.key, effect.statement.shard
                to = shard_of(key, self._loop.shards_total)
            else:
                key, shard = effect.reply.key, effect.reply.shard
                to = shard
            owner = self._forwarder.find(to)
            if owner is True:
                self.take(effect, to)
            elif owner is not False:
                self._enqueue(owner, (type(effect), shard, key), effect)

    def take(self, effect: PermitEffect, shard: int) -> None:
        """Give our own engine what is meant for a shard of ours."""
        event = (
            PermitsStated(shard, effect.statement)
            if isinstance(effect, StatePermits)
            else PermitsGranted(shard, effect.reply)
        )
        with suppress(BusyError):
            self._loop.post(event)

    async def close(self) -> None:
        """Send nothing more."""
        tasks = [box.task for box in self._outboxes.values() if box.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _enqueue(self, peer: Peer, name: tuple[type[PermitEffect], int, str], effect: PermitEffect) -> None:
        box = self._outboxes.setdefault(peer.incarnation, _Outbox())
        if len(box.waiting) < limits.permits_queued_max or name in box.waiting:
            box.waiting[name] = effect
        if box.task is None:
            box.task = asyncio.get_running_loop().create_task(self._send(peer, box))

    async def _send(self, peer: Peer, box: _Outbox) -> None:
        stub = PeersServiceStub(peer.channel)
        try:
            while box.waiting:
                names = list(box.waiting)[: limits.items_a_message_max]
                request = permits_wire.to_request([box.waiting.pop(name) for name in names])
                await stub.PassPermits(request, timeout=_call_s, metadata=((addressee_key, peer.incarnation),))
        except grpc.aio.AioRpcError as error:
            # Said again within a second, to whoever is the owner then.
            box.waiting.clear()
            _log.info("permits_not_passed_on", to=peer.address, error=error.details())
        finally:
            del self._outboxes[peer.incarnation]


class PeersService(PeersServiceServicer):
    """Takes what other coordinators say."""

    def __init__(self, loop: Loop, forwarder: Forwarder, post: PermitPost, audit: Audit, reads: Reads) -> None:
        self._loop = loop
        self._forwarder = forwarder
        self._post = post
        self._audit = audit
        self._reads = reads

    @answers
    async def SeePauses(self, request: peers_pb2.SeePausesRequest, context: Context) -> peers_pb2.SeePausesResponse:
        """See the contract. What was given out before is stored by the time of the answer."""
        self._forwarder.demand_addressee(context)
        pauses = await self._reads.run(lambda reader: reader.pauses())
        shard = min(self._loop.serving, default=None)
        if shard is None:
            self._loop.post(PausesSeen(pauses))
        else:
            checked(await self._loop.ask(shard, lambda token: PausesSeen(pauses, token, shard)))
        return peers_pb2.SeePausesResponse()

    @answers
    async def WriteAudit(self, request: peers_pb2.WriteAuditRequest, context: Context) -> peers_pb2.WriteAuditResponse:
        """See the contract."""
        self._forwarder.demand_addressee(context)
        await self._audit.write(entry_of(request.entry))
        return peers_pb2.WriteAuditResponse()

    @answers
    async def PassPermits(
        self, request: peers_pb2.PassPermitsRequest, context: Context
    ) -> peers_pb2.PassPermitsResponse:
        """See the contract."""
        self._forwarder.demand_addressee(context)
        if len(request.statements) + len(request.replies) > limits.items_a_message_max:
            raise BadRequestError(f"a message has at most {limits.items_a_message_max} items; send several")
        for to, effect in self._read(request):
            # Also while it is being recovered: whoever asks is answered as soon as it is not.
            if self._forwarder.find(to) is True:
                self._post.take(effect, to)
        return peers_pb2.PassPermitsResponse()

    def _read(self, request: peers_pb2.PassPermitsRequest) -> Iterable[tuple[int, PermitEffect]]:
        """Return what was said, each with the shard that it is meant for."""
        total = self._loop.shards_total
        statements = [permits_wire.to_statement(message, total) for message in request.statements]
        replies = [permits_wire.to_reply(message, total) for message in request.replies]
        yield from ((shard_of(one.statement.key, total), one) for one in statements)
        yield from ((one.reply.shard, one) for one in replies)
