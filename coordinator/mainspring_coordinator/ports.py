"""What the gRPC services and the control loop know of each other.

The services turn messages into events and effects into messages; the loop owns all state. Everything here happens on the one event
loop of the process.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from mainspring_coordinator.engine.effects import (
    Ack,
    Answer,
    Assign,
    Changed,
    EchoCredit,
    Effect,
    Ended,
    GrantPermits,
    Refuse,
    Replace,
    ReportBacklog,
    StatePermits,
    Stop,
    StrategyFailed,
    Welcomed,
)
from mainspring_coordinator.engine.events import Event
from mainspring_coordinator.engine.ready import ReadyQueue
from mainspring_coordinator.writer import Written

SessionEffect: TypeAlias = Assign | Stop | Ack | EchoCredit | Refuse | Welcomed | Replace | ReportBacklog
WorkflowEffect: TypeAlias = Changed | Ended
PermitEffect: TypeAlias = StatePermits | GrantPermits


class Outlet(Protocol):
    """A worker's stream as the loop sees it."""

    def deliver(self, effects: Sequence[SessionEffect]) -> None:
        """Send what one commit released for this session, in this order, as few messages as fit; never blocks, never raises.

        A stream whose bounded queue is full ends itself: its worker attaches again and states its inventory.
        """
        ...

    def shards_changed(self, owned: Mapping[int, int]) -> None:
        """Tell the worker which shards (with their epochs) this coordinator serves from now on."""
        ...

    def until_seen(self) -> "asyncio.Future[None]":
        """Return what is done once the worker has heard all that was delivered before this call, or the stream is over.

        The worker is asked for it, by one message. Who waits bounds the time, and cancels what took too long.
        """
        ...


class Loop(Protocol):
    """The control loop as the services see it."""

    @property
    def shards_total(self) -> int:
        """How many shards the cluster has."""
        ...

    @property
    def serving(self) -> Mapping[int, int]:
        """The shards that we own and that are ready, with their epochs."""
        ...

    def now_us(self) -> int:
        """Return database time."""
        ...

    def post(self, event: Event) -> None:
        """Put an event into the queue. `BusyError` when it is full."""
        ...

    async def ask(self, shard: int, make: Callable[[int], Event]) -> Answer:
        """Post the event that `make` builds around a token, and return its answer, which reflects a commit.

        Waits, bounded, for a shard that is being recovered. `BusyError`: the queue is full. `NotOwnerError`: another coordinator owns
        the shard, or owns it now. `UnavailableError`: the outcome is unknown.
        """
        ...

    async def prove(self, shard: int) -> None:
        """Return once the shard is proven ours by a statement begun after this call; all who wait share one. Raises as `ask`."""
        ...

    def new_session(self) -> int:
        """Return a number for a worker's stream."""
        ...

    def attach(self, session: int, outlet: Outlet) -> None:
        """Let a session's effects go to this outlet; before `WorkerAttached` is posted."""
        ...

    def detach(self, session: int) -> None:
        """Forget a session's outlet."""
        ...

    def subscribe(
        self, workflow_id: str, notify: Callable[[WorkflowEffect], None], *, end_only: bool = False
    ) -> Callable[[], None]:
        """Call `notify` after each commit that changed a workflow of a shard that we own; returns what ends it. `BusyError` over the bound.

        `end_only`: only after the commit of its end, with a wider bound of its own.

        When the shard is lost, `notify` gets nothing more; the subscriber learns it from `on_shard_lost`.
        """
        ...

    def on_permits(self, pass_on: Callable[[Sequence[PermitEffect]], None]) -> None:
        """Call `pass_on` with what each commit lets out of permits: it is to reach the owner of the shard that it is meant for.

        It may be lost; then it is said again.
        """
        ...

    def on_shard_lost(self, notify: Callable[[int], None]) -> Callable[[], None]:
        """Call `notify` with each shard that stops being served; returns what ends it."""
        ...


class Observer(Protocol):
    """Is told what the loop measures."""

    def committed(self, written: Written) -> None:
        """A batch was committed."""
        ...

    def ended(self, effect: Ended) -> None:
        """A workflow's end was committed."""
        ...

    def cut(self, ready: ReadyQueue) -> None:
        """A batch was closed, and this waits behind what it assigns. To be read at once, and quickly."""
        ...

    def let_out(self, effects: Sequence[Effect], refused: int) -> None:
        """The batch that was closed last is committed, and this has left; so many late results were refused."""
        ...

    def strategy_failed(self, effect: StrategyFailed) -> None:
        """A strategy raised, and workers took turns in its stead for one node."""
        ...


class Directory(Protocol):
    """Who owns what, as of the last poll of peers."""

    @property
    def incarnation(self) -> str:
        """Our own incarnation."""
        ...

    @property
    def name(self) -> str:
        """Our own name."""
        ...

    def owner_of(self, shard: int) -> tuple[str, str] | None:
        """Return (incarnation, gRPC address) of the live owner, None if there is none at the moment."""
        ...

    def coordinators(self) -> Sequence[tuple[str, str, str]]:
        """Return (incarnation, name, gRPC address) of all live coordinators, ourselves included."""
        ...
