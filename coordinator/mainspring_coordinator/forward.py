"""Any coordinator takes any client's call: what belongs to another one goes there, once.

* The shard is ours, or is becoming ours: the call is done here; the loop waits, bounded, for a shard that is being recovered.
* Another live coordinator owns it: the call goes there with the caller's deadline, marked, and its answer comes back as it is,
  with a hint in its trailing metadata where the owner is.
* A marked call for a shard that is not ours is refused as NOT_OWNER: nobody forwards twice.
* Nobody owns it at the moment, or the owner says NOT_OWNER: nothing was done, so we look again until the bound of the wait has passed,
  then say UNAVAILABLE with a hint when to try again.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog

from mainspring import limits
from mainspring.callers import forwarded_key
from mainspring.dial import open_channel
from mainspring.errors import NotOwnerError, SettingsError, UnavailableError
from mainspring.owner_hint import OwnerHint, addressee_key, owner_key
from mainspring.rpc_errors import error_from
from mainspring.v1.client_pb2_grpc import WorkflowsServiceStub
from mainspring_coordinator.answering import Context
from mainspring_coordinator.auth.gate import caller_metadata
from mainspring_coordinator.ports import Directory, Loop

if TYPE_CHECKING:
    from mainspring.v1.client_pb2_grpc import WorkflowsServiceAsyncStub

_log: Final = structlog.get_logger(__name__)
Stub: TypeAlias = "WorkflowsServiceAsyncStub"
"""How another coordinator is called; the generated code has this type for type checkers only."""
forwarded_metadata: Final = ((forwarded_key, "1"),)
sent_along: Final[ContextVar[tuple[tuple[str, str], ...]]] = ContextVar("sent_along", default=())
"""What else goes with the calls that are sent on while a call is answered."""
_look_again_s: Final = 0.05
"""Between two looks at who owns a shard; the directory itself is polled every 0.2 s."""
_answered_s: Final = 1.0
_Q = TypeVar("_Q")
_A = TypeVar("_A")


def is_forwarded(context: Context) -> bool:
    """Tell whether another coordinator sent this call on to us."""
    return any(key == forwarded_key for key, _ in context.invocation_metadata() or ())


@dataclass(frozen=True, slots=True)
class Peer:
    """Another coordinator, ready to be called."""

    incarnation: str
    address: str
    stub: Stub
    channel: grpc.aio.Channel

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call that is sent on there."""
        return (*forwarded_metadata, *caller_metadata(), *sent_along.get(), (addressee_key, self.incarnation))


class Patience:
    """How long a call may still look for an owner: the bound of the wait, and the caller's own deadline."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._clock = asyncio.get_running_loop().time
        self._tried_at = self._clock()
        self._until = self._tried_at + limits.recovery_wait_ms_max / 1_000

    def begin_try(self) -> None:
        """Note that the call is tried now."""
        self._tried_at = self._clock()

    async def pause(self, shard: int, cause: Exception | None = None) -> None:
        """Wait a moment before looking again; `UnavailableError` when the wait is over."""
        now = self._clock()
        if now - self._tried_at > _answered_s:
            # Somebody had it for a while, so this is another search: a long poll may outlive several owners.
            self._until = now + limits.recovery_wait_ms_max / 1_000
        left_s = self._until - now
        deadline_s = self._context.time_remaining()
        # The last 100 ms before the deadline are kept to tell the caller more than "deadline exceeded".
        if left_s <= 0 or (deadline_s is not None and deadline_s < 0.1 + _look_again_s):
            raise UnavailableError(
                f"shard {shard} has no owner that answers at the moment; try again, and if it stays so, "
                "look at `mainspring shards` and `mainspring coordinators`"
            ) from cause
        await asyncio.sleep(_look_again_s)


class Forwarder:
    """Finds the owner of a shard and keeps one channel to each of the other coordinators."""

    def __init__(
        self, loop: Loop, directory: Directory, dial: Callable[[str], grpc.aio.Channel] = open_channel
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._dial = dial
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._undialled: set[str] = set()
        """Of which the log has told why they cannot be dialled."""

    def find(self, shard: int) -> Peer | bool:
        """Return the coordinator that owns a shard: True for ourselves, False when nobody does at the moment."""
        if shard in self._loop.serving:
            return True
        owner = self._directory.owner_of(shard)
        if owner is None:
            return False
        incarnation, address = owner
        if incarnation == self._directory.incarnation:
            return True
        try:
            return self._peer(incarnation, address)
        except SettingsError as error:
            if address not in self._undialled:
                self._undialled = {*self._live(), address} & {*self._undialled, address}
                _log.error("coordinator_not_dialled", address=address, problem=str(error))
            return False

    def peer(self, incarnation: str) -> Peer | bool:
        """Return a live coordinator: True for ourselves, False when there is none of this incarnation."""
        if incarnation == self._directory.incarnation:
            return True
        address = next((peer for who, _, peer in self._directory.coordinators() if who == incarnation), None)
        return False if address is None else self._peer(incarnation, address)

    async def call(
        self,
        shard: int,
        context: Context,
        here: Callable[[], Awaitable[_A]],
        there: Callable[[Peer, float | None], Awaitable[_A]],
    ) -> _A:
        """Do a call where its shard is owned; `there` gets the owner and the caller's deadline in seconds."""
        self.demand_addressee(context)
        if is_forwarded(context):
            self.demand_ours(shard)
            return await here()
        patience = Patience(context)
        while True:
            owner = self.find(shard)
            cause: Exception | None = None
            patience.begin_try()
            try:
                if owner is True:
                    return await here()
                if owner is not False:
                    answer = await there(owner, context.time_remaining())
                    self._tell_owner(shard, context, owner)
                    return answer
            except NotOwnerError as error:
                cause = error
            except grpc.aio.AioRpcError as error:
                if not moved(error):
                    raise
                cause = error
            await patience.pause(shard, cause)

    async def pass_on(
        self,
        shard: int,
        context: Context,
        request: _Q,
        here: Callable[[], Awaitable[_A]],
        method: Callable[[Stub], "grpc.aio.UnaryUnaryMultiCallable[_Q, _A]"],
    ) -> _A:
        """As `call`, for a request that goes to the owner as it is."""

        async def there(peer: Peer, time_left_s: float | None) -> _A:
            return await method(peer.stub)(request, timeout=time_left_s, metadata=peer.metadata)

        return await self.call(shard, context, here, there)

    async def stream(
        self,
        shard: int,
        context: Context,
        here: Callable[[], AsyncGenerator[_A, None]],
        there: Callable[[Peer, float | None], "grpc.aio.UnaryStreamCall[Any, _A]"],
    ) -> AsyncGenerator[_A, None]:
        """Pipe a stream from where its shard is owned; when it moves, both callables begin again from what was passed on."""
        self.demand_addressee(context)
        if is_forwarded(context):
            self.demand_ours(shard)
            async with aclosing(here()) as ours:
                async for answer in ours:
                    yield answer
            return
        patience = Patience(context)
        while True:
            owner = self.find(shard)
            cause: Exception | None = None
            patience.begin_try()
            try:
                if owner is True:
                    async with aclosing(here()) as ours:
                        async for answer in ours:
                            yield answer
                    return
                if owner is not False:
                    theirs = there(owner, context.time_remaining())
                    self._tell_owner(shard, context, owner)
                    try:
                        async for answer in theirs:
                            yield answer
                    finally:
                        theirs.cancel()
                    return
            except NotOwnerError as error:
                cause = error
            except grpc.aio.AioRpcError as error:
                if not moved(error):
                    raise
                cause = error
            await patience.pause(shard, cause)

    def _tell_owner(self, shard: int, context: Context, owner: Peer) -> None:
        """Let the caller know where it could have gone; a later hint replaces an earlier one."""
        hint = OwnerHint(shard, self._loop.shards_total, owner.incarnation, owner.address)
        context.set_trailing_metadata(((owner_key, hint.to_text()),))

    def demand_addressee(self, context: Context) -> None:
        """Raise `NotOwnerError` when a call means another incarnation: the address was another process's, even another cluster's."""
        meant = next((value for key, value in context.invocation_metadata() or () if key == addressee_key), None)
        if meant is not None and meant != self._directory.incarnation:
            raise NotOwnerError(
                f"this is coordinator {self._directory.name!r}, not the one that owned the shard at this address; try again"
            )

    def demand_ours(self, shard: int) -> None:
        """Raise `NotOwnerError` for a forwarded call whose shard is not ours and is not becoming ours."""
        if shard in self._loop.serving:
            return
        owner = self._directory.owner_of(shard)
        if owner is None or owner[0] != self._directory.incarnation:
            raise NotOwnerError(
                f"shard {shard} is not owned by coordinator {self._directory.name!r} "
                f"({owner[1] if owner is not None else 'nobody'} owns it); a forwarded call is not forwarded again"
            )

    async def close(self) -> None:
        """Close all channels."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    def _live(self) -> set[str]:
        return {peer for _, _, peer in self._directory.coordinators()}

    def _peer(self, incarnation: str, address: str) -> Peer:
        channel = self._channels.get(address)
        if channel is None:
            live = self._live() | {address}
            for gone in [known for known in self._channels if known not in live]:
                # Calls that still run there end by themselves or by their deadlines; the task keeps the channel until it is closed.
                _close_later(self._channels.pop(gone))
            channel = self._channels[address] = self._dial(address)
        return Peer(incarnation, address, WorkflowsServiceStub(channel), channel)


_closing: Final[set[asyncio.Task[None]]] = set()


def _close_later(channel: grpc.aio.Channel) -> None:
    task = asyncio.get_running_loop().create_task(channel.close(limits.recovery_wait_ms_max / 1_000))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def moved(error: grpc.aio.AioRpcError) -> bool:
    """Tell whether a forwarded call failed because the owner is one no more: nothing was done there, or nobody is there."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    if isinstance(error_from(error), NotOwnerError):
        return True
    # No details of ours: the connection failed. Every call of ours may be repeated, because the workflow's id names its effect.
    return not error.trailing_metadata()
