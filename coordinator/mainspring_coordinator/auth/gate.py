"""The one gate before every method of every service: who calls, may it do this, and not too often.

A call that a coordinator sends on comes under that coordinator's own credential and names for whom; the gate then asks for the role of
both. So an owner need not believe what a client writes of itself, and knows its name all the same.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from inspect import isasyncgenfunction
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog

from mainspring.authentication import Authenticator
from mainspring.callers import Caller, Refusal, Role, anonymous, caller_key, forwarded_key, from_text, to_text
from mainspring.channels import authorization_key
from mainspring.clock import BootClock, Clock
from mainspring.errors import MainspringError, NotAllowedError, UnauthenticatedError
from mainspring.limits import refusals_told_interval_ms, refused_stream_wait_ms_max
from mainspring.rpc_errors import abort_with
from mainspring_coordinator.answering import Context
from mainspring_coordinator.auth.methods import name_of, open_methods, roles_by_method
from mainspring_coordinator.auth.rates import Connections, Rates, host_of
from mainspring_coordinator.auth.unreadable import Read, Unreadable, reading

_log: Final = structlog.get_logger(__name__)
_caller: ContextVar[Caller] = ContextVar("caller", default=anonymous)
_direct: ContextVar[Caller] = ContextVar("direct", default=anonymous)
_certificate_keys: Final = ("x509_subject_alternative_name", "x509_common_name")


def caller() -> Caller:
    """Return who made the call that the running handler answers; `anonymous` where there is no authentication."""
    return _caller.get()


def from_coordinator() -> bool:
    """Tell whether the running call may be one that was sent on, as it says; where callers are known, only coordinators are believed."""
    return _direct.get() is anonymous or _direct.get().role is Role.COORDINATOR


def caller_metadata() -> tuple[tuple[str, str], ...]:
    """Return what tells another coordinator for whom a call is sent on."""
    return ((caller_key, to_text(caller())),)


class Gate(grpc.aio.ServerInterceptor):
    """Stands before all handlers of a server."""

    def __init__(
        self,
        authenticator: Authenticator,
        calls_a_second: int,
        clock: Clock | None = None,
        *,
        refused: Callable[[Refusal], None] | None = None,
    ) -> None:
        """`refused` is told of each call that is not let in."""
        clock = clock if clock is not None else BootClock()
        self._authenticator = authenticator
        self._rates = Rates(calls_a_second, clock)
        self._connections = Connections()
        self._refusals = _Refusals(clock)
        self._refused = refused
        self._gated: dict[str, Any] = {}
        """Handlers behind the gate, by method: as many as the services have."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the gate before a handler; None for a method that there is not."""
        method = handler_call_details.method
        if method not in self._gated:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._gated[method] = self._behind(method, handler)
        return self._gated[method]

    def _behind(self, method: str, handler: Any) -> Any:
        # A message that is alone is read by us, after its caller was let in; those of a stream when the handler asks for them.
        read = reading(handler.request_deserializer)
        codecs = {
            "request_deserializer": read if handler.request_streaming else None,
            "response_serializer": handler.response_serializer,
        }
        if not handler.response_streaming:
            inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            return make(self._answering(method, inner, read), **codecs)
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
        # gRPC tells those that yield from those that write, and so do we.
        behind = (
            self._yielding(method, inner, read) if isasyncgenfunction(inner) else self._answering(method, inner, read)
        )
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(behind, **codecs)

    def _answering(self, method: str, inner: Callable[[Any, Context], Awaitable[Any]], read: Read) -> Any:
        async def behind(request: Any, context: Context) -> Any:
            peer = await self._enter(method, request, context)
            try:
                return await inner(await self._taken(method, request, read, context), context)
            finally:
                self._connections.leave(peer)

        return behind

    def _yielding(self, method: str, inner: Callable[[Any, Context], AsyncGenerator[Any, None]], read: Read) -> Any:
        async def behind(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            peer = await self._enter(method, request, context)
            try:
                taken = await self._taken(method, request, read, context)
                async with aclosing(inner(taken, context)) as answers:
                    async for answer in answers:
                        yield answer
            finally:
                self._connections.leave(peer)

        return behind

    async def _enter(self, method: str, request: Any, context: Context) -> str:
        """Let a call in and return its peer, or end it with what is wrong and what to do."""
        peer = context.peer()
        host = host_of(peer)
        try:
            self._connections.enter(peer)
        except MainspringError as error:
            await self._refuse(method, host, error, request, context, Refusal.CONNECTIONS)
        try:
            _caller.set(self._admitted(method, host, context))
        except MainspringError as error:
            self._connections.leave(peer)
            await self._refuse(method, host, error, request, context, _reason(error))
        except BaseException:  # a fault of ours must not count for ever as a call under way
            self._connections.leave(peer)
            raise
        return peer

    async def _taken(self, method: str, request: Any, read: Read, context: Context) -> Any:
        """Return the message of a call that was let in, or its messages; the first that cannot be read ends it."""
        if not isinstance(request, AsyncIterable):
            message = read(request)
            if isinstance(message, Unreadable):
                await self._refuse(method, host_of(context.peer()), message.error, request, context, Refusal.UNREADABLE)
            return message
        return self._readable(method, request, context)

    async def _readable(self, method: str, requests: AsyncIterable[Any], context: Context) -> AsyncGenerator[Any, None]:
        async for message in requests:
            if isinstance(message, Unreadable):
                await self._refuse(method, host_of(context.peer()), message.error, None, context, Refusal.UNREADABLE)
            yield message

    async def _refuse(
        self, method: str, host: str, error: MainspringError, request: Any, context: Context, reason: Refusal
    ) -> NoReturn:
        if self._refused is not None:
            self._refused(reason)
        self._refusals.tell(method, host, error)
        if isinstance(request, AsyncIterable):
            await _hear(request)
        await abort_with(context, error)

    def _admitted(self, method: str, host: str, context: Context) -> Caller:
        """Return for whom a call is. Raises what it is refused with."""
        if method in open_methods:
            self._rates.take(host)
            return anonymous
        said = _Said(context)
        if not self._authenticator.on:
            if not said.forwarded:
                self._rates.take(host)
            _demand(method, anonymous)
            return anonymous
        try:
            direct = self._authenticator.caller(said.authorization, said.certificate_names)
        except UnauthenticatedError as error:
            self._rates.take(host)
            if said.forwarded:
                raise UnauthenticatedError(
                    f"the coordinator that sent this call on is not known to its owner: {error}"
                ) from error
            raise
        _direct.set(direct)
        if said.forwarded and direct.role is Role.COORDINATOR:
            # The coordinator that the caller spoke to has counted the call.
            found = said.origin(direct)
        else:
            if direct.role is not Role.COORDINATOR:
                self._rates.take(f"caller {direct.name!r}")
            found = direct
        _demand(method, found)
        return found


async def _hear(requests: AsyncIterable[Any]) -> None:
    """Wait for the first message of a stream that is refused, or a moment.

    A caller whose first write meets the end of its call is told "Internal error from Core" by its gRPC, and not why.
    """
    first = asyncio.ensure_future(anext(aiter(requests), None))
    await asyncio.wait({first}, timeout=refused_stream_wait_ms_max / 1_000)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


class _Said:
    """What a call brings with it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.authorization: str | None = None
        self.forwarded = False
        self._origin = ""
        for key, value in context.invocation_metadata() or ():
            if key == authorization_key and self.authorization is None:
                self.authorization = str(value)
            elif key == forwarded_key:
                self.forwarded = True
            elif key == caller_key:
                self._origin = str(value)

    @property
    def certificate_names(self) -> Sequence[str]:
        """The names in the client's certificate, which the transport has checked; none where it wants none."""
        proof = self._context.auth_context()
        return [name.decode(errors="replace") for key in _certificate_keys for name in proof.get(key, ())]

    def origin(self, by: Caller) -> Caller:
        """Return for whom a coordinator sent the call on."""
        found = from_text(self._origin)
        if found is None:
            raise NotAllowedError(
                f"the call that {by.name!r} sent on does not say for whom; are all coordinators of one version?"
            )
        return found


def _reason(error: MainspringError) -> Refusal:
    match error:
        case UnauthenticatedError():
            return Refusal.UNAUTHENTICATED
        case NotAllowedError():
            return Refusal.FORBIDDEN
        case _:
            return Refusal.RATE


def _demand(method: str, who: Caller) -> None:
    roles = roles_by_method.get(method, frozenset())
    if who.role in roles or (who is anonymous and roles):
        return
    if not roles:
        raise NotAllowedError(
            f"{name_of(method)} has no role that may call it; it is missing in the coordinator's table"
        )
    wanted = " or ".join(f"`{role}`" for role in Role if role in roles)
    raise NotAllowedError(
        f"{name_of(method)} needs the role {wanted}, and {who.name!r} has `{who.role}`; use a token with such a role"
    )


class _Refusals:
    """Tells the log of refused calls, a line a second at most: who is refused may go on calling."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_us = 0
        self._untold = 0

    def tell(self, method: str, host: str, error: MainspringError) -> None:
        now_us = self._clock.now_us()
        if now_us < self._next_us:
            self._untold += 1
            return
        self._next_us = now_us + refusals_told_interval_ms * 1_000
        _log.warning("call_refused", method=name_of(method), host=host, reason=str(error), others_before=self._untold)
        self._untold = 0
