"""How a client's calls reach a coordinator: several addresses, deadlines, tries.

Every call may be repeated: reads change nothing, and mutating calls carry ids made before the first try. So a transient
failure (no connection, a busy queue, a shard without owner, one try over its time) is followed by another try until the
caller's deadline, after a delay with full jitter or the one that the coordinator asked for, on the next address if the
present one failed. A call about a workflow goes straight to its owner where that is known (`owners`), and to the present
address when it fails there. The first contact has less patience, and asks all addresses at once: a wrong one should be
reported soon.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from mainspring.access import Access, plain
from mainspring.clock import BootClock, Clock
from mainspring.dial import Keepalive
from mainspring.errors import BusyError, DeadlineError, MainspringError, NotOwnerError, UnavailableError
from mainspring.limits import (
    call_timeout_ms_default,
    client_retry_delay_ms_first,
    client_retry_delay_ms_max,
    client_stream_ms_max,
    first_contact_ms_default,
    try_timeout_ms_max,
)
from mainspring.rpc_errors import error_from, is_ours, retry_after_ms
from mainspring.tls import hint
from mainspring_client.owners import Owner, Owners
from mainspring_client.stubs import Stubs

_why_not_s: Final = 1.0
_transient: Final = (UnavailableError, BusyError, DeadlineError)


class Transport:
    """Calls to whichever of several addresses answers."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        access: Access = plain,
        timeout_ms: int = call_timeout_ms_default,
        first_contact_ms: int = first_contact_ms_default,
        keepalive: Keepalive | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.timeout_ms = timeout_ms
        self._addresses = tuple(addresses)
        self._access = access
        self._first_contact_ms = first_contact_ms
        self._keepalive = keepalive or Keepalive()
        self._clock = clock or BootClock()
        self._chance = chance
        self._open: dict[str, Stubs] = {}
        self._owners = Owners(lambda address: Stubs(address, self._keepalive, access))
        self._at = 0
        self._contacted = False
        self._closed = False

    async def close(self) -> None:
        """Close all connections; calls under way end with `UnavailableError`."""
        self._closed = True
        for stubs in self._open.values():
            await stubs.channel.close()
        self._open.clear()
        await self._owners.close()

    def now_ms(self) -> float:
        """Return the time that deadlines are measured with."""
        return self._clock.now_us() / 1000

    async def call(
        self,
        call: Callable[[Stubs], Callable[..., Any]],
        request: Callable[[float], Any] | Message,
        *,
        timeout_ms: float | None = None,
        try_ms: float = try_timeout_ms_max,
    ) -> Any:
        """Make one unary call, in as many tries as its deadline allows; `request` may depend on the ms left."""
        tries = Tries(self, self.timeout_ms if timeout_ms is None else timeout_ms)
        while True:
            stubs = await self._stubs(tries.left_ms())
            left_ms = tries.left_ms()
            message = request(left_ms) if callable(request) else request
            owner = self._owners.find(message)
            timeout_s = max(0.001, min(left_ms, try_ms) / 1000)
            try:
                under_way = _begin(call, stubs, owner, message, timeout_s)
                answer = await under_way
                await self._owners.learn(under_way)
            except grpc.aio.AioRpcError as rpc_error:
                await tries.failed(rpc_error, owner)
            except asyncio.CancelledError:
                if not self._closed:
                    raise
                raise UnavailableError("the client was closed while the call was under way") from None
            else:
                return answer

    async def stream(
        self, call: Callable[[Stubs], Callable[..., Any]], request: Callable[[], Message], done: Callable[[], bool]
    ) -> AsyncGenerator[Any]:
        """Follow a server's stream until `done`; whenever it breaks, open another with what `request` asks for then.

        The patience for a cluster that does not answer is the client's timeout, counted anew after each message.
        """
        tries = Tries(self, self.timeout_ms)
        while not done():
            stubs = await self._stubs(tries.left_ms())
            message = request()
            owner = self._owners.find(message)
            under_way = _begin(call, stubs, owner, message, client_stream_ms_max / 1000)
            try:
                async for answer in under_way:
                    tries = Tries(self, self.timeout_ms)
                    yield answer
                    if done():
                        return
            except grpc.aio.AioRpcError as rpc_error:
                await tries.failed(rpc_error, owner)
            else:
                # Ended early but well: the owner moved or drains.
                if not done() and not await tries.pause(None):
                    raise UnavailableError(f"the stream from {stubs.address} keeps ending early; try again")
            finally:
                under_way.cancel()

    async def _stubs(self, left_ms: float) -> Stubs:
        if self._closed:
            raise UnavailableError("the client is closed; open a new one")
        for address in self._addresses:
            if address not in self._open:
                self._open[address] = Stubs(address, self._keepalive, self._access)
        if not self._contacted:
            await self._contact(min(left_ms, self._first_contact_ms))
        return self._open[self._addresses[self._at]]

    async def _contact(self, wait_ms: float) -> None:
        """Find an address that answers; of those that do, the first named."""
        waits = {
            asyncio.create_task(self._open[address].channel.channel_ready()): index
            for index, address in enumerate(self._addresses)
        }
        try:
            ready, _ = await asyncio.wait(waits, timeout=max(0.0, wait_ms) / 1000, return_when=asyncio.FIRST_COMPLETED)
            answering = [waits[task] for task in ready if task.exception() is None]
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if self._closed:
            raise UnavailableError("the client was closed before it found a coordinator")
        if not answering:
            raise self.nobody(f"no connection within {wait_ms / 1000:.1f} s", await self._why_not())
        self._at = min(answering)
        self._contacted = True

    async def _why_not(self) -> str:
        """Return what is known of why the first address does not answer, and what to do; empty when that is no question of TLS."""
        check: Any = self._open[self._addresses[0]].channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            await check(b"", timeout=_why_not_s)
        except grpc.aio.AioRpcError as rpc_error:
            return self.hint(rpc_error)
        return ""

    def hint(self, rpc_error: grpc.aio.AioRpcError) -> str:
        """Return what a failed connection has to do with TLS, and what to do; empty when nothing."""
        return hint(rpc_error.details() or "", by_tls=bool(self._access.tls.ca))

    def tries(self) -> "Tries":
        """Begin to count the tries of an act that takes several calls; it has the client's timeout."""
        return Tries(self, self.timeout_ms)

    def next_address(self) -> bool:
        """Turn to the next address; tell whether it is another one than those tried in this round."""
        self._at = (self._at + 1) % len(self._addresses)
        return self._at != 0

    def forget_owner(self, owner: Owner) -> None:
        """Go the ordinary way again."""
        self._owners.forget(owner)

    def delay_ms(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row: full jitter."""
        return self._chance() * min(client_retry_delay_ms_max, client_retry_delay_ms_first * 2.0 ** min(failures, 16))

    def nobody(self, cause: str, meaning: str = "") -> UnavailableError:
        """Say that no address answers, and what to do; `meaning` says it where the cause is known."""
        where = " or ".join(self._addresses)
        if meaning:
            return UnavailableError(f"no coordinator answers at {where}: {cause}\n{meaning} (docs/security.md)")
        return UnavailableError(
            f"no coordinator answers at {where}: {cause}\n"
            "set the right address with MAINSPRING_ADDRESS or --address, or start a cluster here with: mainspring dev"
        )


def _begin(
    call: Callable[[Stubs], Callable[..., Any]], present: Stubs, owner: Owner | None, message: Any, timeout_s: float
) -> Any:
    """Call the owner if it is known, else the present address."""
    if owner is None:
        return call(present)(message, timeout=timeout_s)
    return call(owner.stubs)(message, timeout=timeout_s, metadata=owner.metadata)


class Tries:
    """The tries of one call: how often it failed, and whether another try is worth it."""

    def __init__(self, transport: Transport, timeout_ms: float) -> None:
        self._transport = transport
        self._timeout_ms = timeout_ms
        self._began_ms = transport.now_ms()
        self._failures = 0

    def left_ms(self) -> float:
        """Return the time that is left to the call."""
        return self._began_ms + self._timeout_ms - self._transport.now_ms()

    async def failed(self, rpc_error: grpc.aio.AioRpcError, owner: Owner | None = None) -> None:
        """Return when it is time for the next try; raise the failure as ours when there is none.

        `owner` is who was called, if that was not the present address.
        """
        error = error_from(rpc_error)
        if not isinstance(error, _transient):
            raise error from rpc_error
        asked_ms = retry_after_ms(rpc_error)
        if owner is not None:
            self._transport.forget_owner(owner)
            if (asked_ms is None or isinstance(error, NotOwnerError)) and self.left_ms() > 0:
                return  # the present address has not been asked yet
        elif asked_ms is None and self._transport.next_address() and self.left_ms() > 0:
            return  # another address may do better at once
        if not await self.pause(asked_ms):
            raise self._last_word(error, rpc_error) from rpc_error

    async def pause(self, asked_ms: int | None) -> bool:
        """Wait before the next try; False, at once, when the call's time ends before that."""
        delay_ms = self._transport.delay_ms(self._failures) + (asked_ms or 0)
        self._failures += 1
        if delay_ms >= self.left_ms():
            return False
        await asyncio.sleep(delay_ms / 1000)
        return True

    def _last_word(self, error: MainspringError, rpc_error: grpc.aio.AioRpcError) -> MainspringError:
        if is_ours(rpc_error):
            return error
        if isinstance(error, DeadlineError):
            return DeadlineError(
                f"no answer within {self._timeout_ms / 1000:g} s; whether a change took effect is not known,"
                " and repeating it with the same workflow id is safe"
            )
        said = rpc_error.details() or rpc_error.code().name
        tried = f"tried {self._failures} times in {self._timeout_ms / 1000:g} s: {said}"
        return self._transport.nobody(tried, self._transport.hint(rpc_error))
