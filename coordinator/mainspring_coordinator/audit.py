"""The audit log: what operators do is stored before it is done, and what came of it afterwards.

Whoever is asked writes the entries, under the fence of a shard of its own; a call that it sends on names its entry, which is looked up
there. So nothing is done by an operator that is not on record first. An entry without an outcome belongs to a coordinator that ended
in between; what it did or did not do shows elsewhere.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

import grpc.aio
import structlog

from mainspring import limits
from mainspring.callers import anonymous
from mainspring.errors import BadRequestError, MainspringError, NotOwnerError, UnavailableError
from mainspring.ids import is_incarnation
from mainspring.owner_hint import addressee_key
from mainspring.v1 import admin_pb2, peers_pb2
from mainspring.v1.peers_pb2_grpc import PeersServiceStub
from mainspring.wire import clip
from mainspring_coordinator.answering import Context
from mainspring_coordinator.auth.gate import caller, from_coordinator
from mainspring_coordinator.engine.operator_events import Audited
from mainspring_coordinator.engine.rows import AuditEntry
from mainspring_coordinator.forward import Forwarder, Peer, is_forwarded, sent_along
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.stored_record import StoredAuditEntry
from mainspring_coordinator.workflow_reads import check_answer, moment_and_id, page_size, to_token

_T = TypeVar("_T")
_log: Final = structlog.get_logger(__name__)
user_key: Final = "x-mainspring-user"
"""By this metadata a caller says who it is; nothing proves it."""
entry_key: Final = "x-mainspring-audit"
"""By this a coordinator that sends a call on names the entry that it has written."""
_done: Final = "done"
_late_s: Final = 0.5
_act_bytes_max: Final = 64
_conclude_tries_max: Final = 4


def who(context: Context) -> str:
    """Return who calls: the name that was proven, where there is authentication; what it says of itself; where it came from."""
    known, claimed = caller(), _said(context, user_key)
    named = f"{known.name} ({known.role})" if known is not anonymous else "anonymous"
    peer = f", from {context.peer().partition(':')[2]}"
    # What a caller claims has the room that is left by what we know.
    room = limits.audit_who_bytes_max - len(f"{named}, as {peer}".encode())
    return f"{named}{f', as {clip(claimed, room)}' if claimed and room > 0 else ''}{peer}"


def _said(context: Context, wanted: str) -> str:
    return next((str(value) for key, value in context.invocation_metadata() or () if key == wanted), "")


def _is_sent_on(context: Context) -> bool:
    """Tell whether a coordinator sent the call on; one that anybody else marks so has an entry of its own."""
    return is_forwarded(context) and from_coordinator()


class Audit:
    """Writes and lists entries."""

    def __init__(self, loop: Loop, directory: Directory, reads: Reads, forwarder: Forwarder) -> None:
        self._loop = loop
        self._directory = directory
        self._reads = reads
        self._forwarder = forwarder
        self._unrecorded: set[str] = set()
        """Entries of acts under way that could not be stored before."""
        self._late: set[asyncio.Task[None]] = set()

    async def of(
        self,
        context: Context,
        act: str,
        subject: str,
        reason: str,
        work: Callable[[], Awaitable[_T]],
        *,
        even_unrecorded: bool = False,
    ) -> _T:
        """Do something that an operator asked for, with an entry for it; what `work` raises comes through, and is its outcome.

        Raises `UnavailableError`, and does nothing, when the entry cannot be stored. `even_unrecorded`: do it all the same, for what must
        work when no shard is served; the entry is then stored as soon as one is, if this process lives to see it.
        """
        if len(reason.encode()) > limits.reason_bytes_max:
            raise BadRequestError(
                f"reason: it is over the bound of {limits.reason_bytes_max} bytes; say it shorter", field="reason"
            )
        if _is_sent_on(context) and await self._is_on_record(_said(context, entry_key), act):
            return await work()
        entry = AuditEntry(
            shard=0,
            workflow_id="",
            entry_id=secrets.token_hex(16),
            began_at_us=self._loop.now_us(),
            ended_at_us=0,
            act=act,
            subject=clip(subject, limits.audit_subject_bytes_max),
            reason=reason,
            who=who(context),
            coordinator=clip(self._directory.name, limits.name_bytes_max),
            outcome="",
        )
        _log.warning(
            "operator_acts", act=act, subject=entry.subject, reason=reason, who=entry.who, entry=entry.entry_id
        )
        await self._begin(entry, even_unrecorded=even_unrecorded)
        sent_along.set(((entry_key, entry.entry_id),))
        outcome = "it was not answered: the coordinator's log says why"
        try:
            answer = await work()
            outcome = _done
        except MainspringError as error:
            outcome = clip(str(error) or type(error).__name__, limits.reason_bytes_max)
            raise
        except grpc.aio.AioRpcError as error:  # of the coordinator that it was sent on to
            outcome = clip(error.details() or error.code().name, limits.reason_bytes_max)
            raise
        finally:
            await self._conclude(replace(entry, ended_at_us=self._loop.now_us(), outcome=outcome))
        return answer

    async def close(self) -> None:
        """Store nothing more."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    async def _begin(self, entry: AuditEntry, *, even_unrecorded: bool) -> None:
        try:
            await self._store(entry)
        except UnavailableError as error:
            if not even_unrecorded:
                raise
            _log.warning(
                "audit_entry_waits", entry=entry.entry_id, error=str(error), action="stored when a shard is served"
            )
            self._unrecorded.add(entry.entry_id)

    async def who_acts(self, context: Context) -> str:
        """Return who asked for what is being done, also where another coordinator sent the call on."""
        entry_id = _said(context, entry_key) if _is_sent_on(context) else ""
        found = await self._reads.run(lambda reader: reader.audit_entry(entry_id)) if entry_id else None
        return found.who if found is not None else who(context)

    async def entries(self, request: admin_pb2.ListAuditRequest) -> admin_pb2.ListAuditResponse:
        """List what was done, newest first."""
        limit = page_size(request.page_size, default=50)
        before = moment_and_id(request.page_token)
        # One more than wanted tells whether there is a next page.
        rows = await self._reads.run(lambda reader: reader.audit(before, limit + 1))
        page = rows[:limit]
        return admin_pb2.ListAuditResponse(
            entries=[_message(row) for row in page],
            next_page_token=to_token(page[-1].began_at_us, page[-1].entry_id) if len(rows) > limit else "",
        )

    async def _is_on_record(self, entry_id: str, act: str) -> bool:
        """Tell whether the entry that a call names is there, of the same act, and open; anybody could say so."""
        found = await self._reads.run(lambda reader: reader.audit_entry(entry_id)) if entry_id else None
        return found is not None and found.act == act and not found.outcome

    async def write(self, entry: AuditEntry) -> None:
        """Store an entry here; `UnavailableError` when we serve no shard."""
        shard = min(self._loop.serving, default=None)
        if shard is None:
            raise UnavailableError(
                f"coordinator {self._directory.name!r} serves no shard, under whose fence it could record what you do; nothing was "
                "done. Try again in a moment; if it stays so, look at: mainspring shards"
            )
        written = replace(entry, shard=shard)
        check_answer(await self._loop.ask(shard, lambda token: Audited(token, shard, written)))

    async def _store(self, entry: AuditEntry) -> None:
        owners = (self._forwarder.find(shard) for shard in range(self._loop.shards_total))
        peer = None if self._loop.serving else next((owner for owner in owners if isinstance(owner, Peer)), None)
        if peer is None:
            await self.write(entry)
            return
        try:
            await PeersServiceStub(peer.channel).WriteAudit(
                peers_pb2.WriteAuditRequest(entry=_message(entry)),
                timeout=limits.call_timeout_ms_default / 1_000,
                metadata=((addressee_key, peer.incarnation),),
            )
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(
                f"coordinator {peer.address} did not record what you do ({error.details()}); nothing was done, try again"
            ) from error

    async def _conclude(self, entry: AuditEntry) -> None:
        if entry.entry_id in self._unrecorded:
            self._unrecorded.discard(entry.entry_id)
            task = asyncio.get_running_loop().create_task(self._store_late(entry))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return
        for left in reversed(range(_conclude_tries_max)):
            try:
                await self._store(entry)
            except MainspringError as error:
                if left and isinstance(error, NotOwnerError):
                    continue  # the shard under whose fence it was to be stored has moved; any other one does as well
                # It is done, or refused; its caller must hear of that and not of this.
                _log.error("audit_outcome_lost", entry=entry.entry_id, outcome=entry.outcome, error=str(error))
            return

    async def _store_late(self, entry: AuditEntry) -> None:
        """Store an entry as soon as a shard is served, here or by another coordinator; which is nothing that we would be told of."""
        while True:
            try:
                await self._store(entry)
            except MainspringError as error:
                _log.debug("audit_entry_waits", entry=entry.entry_id, error=str(error))
            else:
                return
            await asyncio.sleep(_late_s)


def _message(entry: AuditEntry | StoredAuditEntry) -> admin_pb2.AuditEntry:
    return admin_pb2.AuditEntry(
        entry_id=entry.entry_id,
        began_at_us=entry.began_at_us,
        ended_at_us=entry.ended_at_us,
        act=entry.act,
        subject=entry.subject,
        reason=entry.reason,
        who=entry.who,
        coordinator=entry.coordinator,
        outcome=entry.outcome,
    )


def entry_of(message: admin_pb2.AuditEntry) -> AuditEntry:
    """Read an entry that another coordinator wants to have stored.

    Raises `BadRequestError` when the database would not take it: entries of others are in the same transaction.
    """
    if not is_incarnation(message.entry_id):
        raise BadRequestError("entry.entry_id: not 32 hexadecimal characters", field="entry.entry_id")
    if not message.act.isascii() or len(message.act) > _act_bytes_max:
        raise BadRequestError(f"entry.act: not at most {_act_bytes_max} characters of ASCII", field="entry.act")
    return AuditEntry(
        shard=0,
        workflow_id="",
        entry_id=message.entry_id,
        began_at_us=message.began_at_us,
        ended_at_us=message.ended_at_us,
        act=message.act,
        subject=clip(message.subject, limits.audit_subject_bytes_max),
        reason=clip(message.reason, limits.reason_bytes_max),
        who=clip(message.who, limits.audit_who_bytes_max),
        coordinator=clip(message.coordinator, limits.name_bytes_max),
        outcome=clip(message.outcome, limits.reason_bytes_max),
    )
