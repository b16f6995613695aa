"""Which coordinator owns which shard, as far as answers have told, so that calls go straight there.

Nothing depends on it. An owner is called only over a connection that stands already; one that cannot be reached from here, as
behind a balancer, is never waited for, and the call goes the ordinary way. An owner that fails is forgotten until another answer
names it.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from mainspring.errors import SettingsError
from mainspring.ids import shard_of
from mainspring.limits import try_timeout_ms_max
from mainspring.owner_hint import OwnerHint, addressee_key, owner_key
from mainspring_client.stubs import Stubs

_ready: Final = grpc.ChannelConnectivity.READY


@dataclass(frozen=True, slots=True)
class Owner:
    """A coordinator that owns the workflow of a call, ready to be called."""

    incarnation: str
    stubs: Stubs

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call to it."""
        return ((addressee_key, self.incarnation),)


class Owners:
    """What one client knows of them."""

    def __init__(self, dial: Callable[[str], Stubs]) -> None:
        self._dial = dial
        self._shards_total = 0
        self._hints: dict[int, OwnerHint] = {}
        """By shard."""
        self._stubs: dict[str, Stubs] = {}
        """By address."""
        self._closing: set[asyncio.Task[None]] = set()

    def find(self, request: object) -> Owner | None:
        """Return the owner of the workflow that a request names, if it is known and connected."""
        workflow_id = getattr(request, "workflow_id", "")
        if not workflow_id or not self._shards_total:
            return None
        hint = self._hints.get(shard_of(workflow_id, self._shards_total))
        if hint is None:
            return None
        stubs = self._stubs[hint.address]
        return Owner(hint.incarnation, stubs) if stubs.channel.get_state(try_to_connect=True) is _ready else None

    async def learn(self, call: grpc.aio.Call) -> None:
        """Take in what the answer of a call that has ended says of its owner."""
        for key, value in await call.trailing_metadata() or ():
            hint = OwnerHint.from_text(value) if key == owner_key and isinstance(value, str) else None
            if hint is not None:
                self._take(hint)

    def forget(self, owner: Owner) -> None:
        """An owner did not answer as one: go the ordinary way until something else is learnt."""
        self._hints = {shard: hint for shard, hint in self._hints.items() if hint.incarnation != owner.incarnation}

    async def close(self) -> None:
        """Close all connections."""
        self._hints.clear()
        self._close(list(self._stubs), grace_s=None)
        await asyncio.gather(*self._closing)

    def _take(self, hint: OwnerHint) -> None:
        if hint.shards_total != self._shards_total:
            self._shards_total = hint.shards_total
            self._hints.clear()
        self._hints[hint.shard] = hint
        if hint.address not in self._stubs:
            # Calls that are under way at those that own nothing any more may end first.
            named = {known.address for known in self._hints.values()}
            self._close([known for known in self._stubs if known not in named], grace_s=try_timeout_ms_max / 1_000)
            try:
                self._stubs[hint.address] = self._dial(hint.address)
            except SettingsError:  # a token that may not go there in the clear; the present address passes the calls on
                del self._hints[hint.shard]
                return
        self._stubs[hint.address].channel.get_state(try_to_connect=True)

    def _close(self, addresses: Iterable[str], *, grace_s: float | None) -> None:
        for address in addresses:
            task = asyncio.get_running_loop().create_task(self._stubs.pop(address).channel.close(grace_s))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
