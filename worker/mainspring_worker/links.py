"""Keeps a worker attached: to every coordinator of the cluster, by one stream each.

The configured addresses are for the first contact. They may be a balancer's, or several names of one coordinator, and a second stream
to a coordinator ends the first; so once attached, each coordinator that is not reached yet is dialled by its own address, and the
configured ones only when none is left. A lost stream is dialled again, first at once, then with full jitter.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog

from mainspring.dial import Keepalive
from mainspring.errors import SettingsError
from mainspring.limits import reconnect_delay_ms_max, unreachable_warning_interval_ms
from mainspring.retry import full_jitter_ms
from mainspring.tls import hint
from mainspring.v1 import worker_pb2 as wire
from mainspring_worker.stream import Host, Stream
from mainspring_worker.surroundings import Surroundings

_log: Final = structlog.get_logger(__name__)
_reconnect_base_ms: Final = 200
_refusals: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED")


@dataclass(frozen=True, slots=True)
class Timings:
    """How streams are watched; milliseconds."""

    heartbeat_ms: int
    silence_ms: int
    keepalive: Keepalive


class Owner(Host, Protocol):
    """What the links belong to."""

    @property
    def by_tls(self) -> bool:
        """Whether coordinators are dialled by TLS."""
        ...

    def left(self, stream: Stream) -> None:
        """A stream that was attached has ended, or another to the same coordinator took its place."""
        ...

    def heard_goodbye(self, goodbye: wire.Goodbye) -> None:
        """A coordinator ended the stream by intent, or refused it."""
        ...


class Links:
    """The streams of one worker."""

    def __init__(self, owner: Owner, addresses: Sequence[str], timings: Timings, surroundings: Surroundings) -> None:
        """`addresses` are the configured ones."""
        self.attached: dict[int, Stream] = {}
        """Those that were welcomed, by session."""
        self._owner = owner
        self._addresses = addresses
        self._timings = timings
        self._surroundings = surroundings
        self._known: dict[str, str] = {}
        """Addresses by coordinator's incarnation, as the cluster said last."""
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._last_session = 0
        self._closing = False

    def dial(self) -> None:
        """See to it that every wanted address is being dialled."""
        if self._closing:
            return
        for address in sorted(self._wanted()):
            keeper = self._keepers.get(address)
            if keeper is None or keeper.done():
                task = asyncio.get_running_loop().create_task(self._keep(address), name=f"link to {address}")
                self._keepers[address] = task

    def meet(self, coordinators: Sequence[wire.CoordinatorAddress]) -> None:
        """Take note of all live coordinators."""
        self._known = {coordinator.incarnation: coordinator.address for coordinator in coordinators}
        self.dial()

    def welcomed(self, stream: Stream) -> None:
        """A stream is attached; an older one to the same coordinator has been replaced by it."""
        older = [other for other in self.attached.values() if other.incarnation == stream.incarnation]
        self.attached[stream.session] = stream
        for other in older:
            self._leave(other)
            other.abort()

    async def leave(self, goodbye: wire.Goodbye, within_s: float) -> None:
        """Say goodbye on all streams and wait until they have ended, which is bounded; nothing is dialled any more."""
        self._closing = True
        for stream in list(self.attached.values()):
            stream.close(goodbye)
        keepers = [keeper for keeper in self._keepers.values() if not keeper.done()]
        if self.attached and keepers:
            await asyncio.wait(keepers, timeout=within_s)

    async def close(self) -> None:
        """End whatever is left, at once."""
        self._closing = True
        keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    def _wanted(self) -> set[str]:
        reached = {stream.incarnation for stream in self.attached.values()}
        missing = {address for incarnation, address in self._known.items() if incarnation not in reached}
        return missing if reached else missing.union(self._addresses)

    async def _keep(self, address: str) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        warn_from = tell_from = loop.time()
        told: int | None = None
        while not self._closing and address in self._wanted():
            self._last_session += 1
            timings = self._timings
            stream = Stream(
                self._last_session,
                address,
                self._owner,
                partial(self._surroundings.dial, address, timings.keepalive),
                beat_ms=timings.heartbeat_ms,
                silence_ms=timings.silence_ms,
            )
            try:
                await stream.run()
            except SettingsError as error:
                stream.failure = str(error)
            except Exception as error:  # a bug in one stream must not end the others; it is logged with its stack
                _log.error("stream_failed", address=address, exc_info=error)
            finally:
                self._leave(stream)
            if stream.failure and loop.time() >= warn_from and not self._closing:
                warn_from = loop.time() + unreachable_warning_interval_ms / 1_000
                self._warn(address, stream.failure)
            if stream.goodbye is not None:
                # What ends an attached stream is news each time; a refusal is repeated at each try.
                if stream.incarnation or stream.goodbye.reason != told or loop.time() >= tell_from:
                    told, tell_from = stream.goodbye.reason, loop.time() + unreachable_warning_interval_ms / 1_000
                    self._tell(address, stream.goodbye)
                self._owner.heard_goodbye(stream.goodbye)
            # Only one that lasted shows that its coordinator is well; one that drops us at once must not be stormed.
            failures = 0 if stream.lasted_s * 1_000 > reconnect_delay_ms_max else failures + 1
            if (failures > 1 or stream.goodbye is not None) and not self._closing:
                draw = self._surroundings.chance.random()
                delay_ms = full_jitter_ms(_reconnect_base_ms, reconnect_delay_ms_max, max(1, failures), draw)
                await asyncio.sleep(max(50, delay_ms) / 1_000)
        del self._keepers[address]
        # It was not wanted while it waited; that may have changed meanwhile.
        self.dial()

    def _warn(self, address: str, problem: str) -> None:
        meaning = hint(problem, by_tls=self._owner.by_tls)
        if meaning:
            next_step = f"{meaning} (docs/security.md)"
        elif problem.startswith(_refusals):
            next_step = "docs/security.md says how a worker gets a token and a role; it goes on trying"
        elif address in self._addresses:
            next_step = "start a coordinator there, or set MAINSPRING_ADDRESS (--address) to where one serves gRPC"
        else:
            next_step = "the cluster names it: open the network to it, or set its coordinator's ADVERTISE_HOST to a host in reach"
        _log.warning("coordinator_unreachable", address=address, problem=problem, next_step=next_step)

    def _tell(self, address: str, goodbye: wire.Goodbye) -> None:
        reason = wire.GoodbyeReason.Name(goodbye.reason) if goodbye.reason in wire.GoodbyeReason.values() else "unknown"
        _log.warning("goodbye", address=address, reason=reason, message=goodbye.message)

    def _leave(self, stream: Stream) -> None:
        if self.attached.pop(stream.session, None) is not None:
            _log.info("detached", address=stream.address)
            self._owner.left(stream)
            self.dial()
