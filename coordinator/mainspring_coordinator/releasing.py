"""An operator frees the shards of a coordinator's incarnation, so that the live ones take them.

With failover off nobody takes over from the dead, and their shards wait for one of their name, or for this. It needs no shard that is
served, only the lock session of whichever coordinator is asked: the election's thread does it between two steps of its term.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from mainspring.errors import BadRequestError, MainspringError, NotFoundError, PreconditionError, UnavailableError
from mainspring_coordinator.epoch import View


@dataclass(frozen=True, slots=True)
class ReleaseOrder:
    """Whose shards are to be free."""

    incarnation: str
    name: str
    """That the incarnation has, or had."""
    force: bool
    """Also if it lives: end its connections first."""


@dataclass(frozen=True, slots=True)
class Released:
    """What was freed."""

    shards: int
    was_live: bool


def check_release(order: ReleaseOrder, view: View, me: str) -> None:
    """Raise what an order is refused with: `NotFoundError`, `BadRequestError` for another name, `PreconditionError` for one that lives."""
    row = view.live.get(order.incarnation) or view.dead.get(order.incarnation)
    if row is None and all(shard.holder != order.incarnation for shard in view.shards.values()):
        raise NotFoundError(
            f"no coordinator of incarnation {order.incarnation} is known, and none of its shards is held; see who holds them with: "
            "mainspring shards, mainspring coordinators --json"
        )
    if row is not None and row.name != order.name:
        raise BadRequestError(
            f"name: incarnation {order.incarnation} is one of coordinator {row.name!r}, not of {order.name!r}; name the one that is meant",
            field="name",
        )
    if order.incarnation == me:
        raise PreconditionError(
            f"coordinator {order.name!r} was asked to release itself; ask another one (--address), or let it step down: "
            f"mainspring step-down {order.name}"
        )
    if order.incarnation in view.live and not order.force:
        raise PreconditionError(
            f"coordinator {order.name!r} ({order.incarnation}) lives: its lock is held. Let it step down (mainspring step-down), stop it, "
            "or, if it must be ended from here, add --force"
        )


class ReleaseOrders:
    """Orders on their way from the event loop to the election's thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[tuple[ReleaseOrder, Future[Released]]] = deque()
        self._open = False

    def put(self, order: ReleaseOrder) -> "Future[Released]":
        """Hand an order over; it is answered by the future, with `UnavailableError` when there is no term to do it in."""
        answer: Future[Released] = Future()
        with self._guard:
            if self._open:
                self._waiting.append((order, answer))
                return answer
        answer.set_exception(_between_terms())
        return answer

    def open(self) -> None:
        """A term has begun."""
        with self._guard:
            self._open = True

    def close(self) -> None:
        """The term is over: whoever waits is told."""
        with self._guard:
            self._open = False
            left, self._waiting = self._waiting, deque()
        for _, answer in left:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(_between_terms())

    def do(self, release: Callable[[ReleaseOrder], Released]) -> None:
        """Do what waits, in the election's thread. What a release raises is its answer; what ends a term is raised as well."""
        while True:
            with self._guard:
                if not self._waiting:
                    return
                order, answer = self._waiting.popleft()
            if not answer.set_running_or_notify_cancel():
                continue  # whoever asked has gone, and nothing was begun
            try:
                answer.set_result(release(order))
            except MainspringError as error:
                answer.set_exception(error)
                if not isinstance(error, (NotFoundError, BadRequestError, PreconditionError, UnavailableError)):
                    raise


def _between_terms() -> UnavailableError:
    return UnavailableError(
        "the coordinator that was asked has no term at the moment, and so no database session that could do it; nothing was done, ask "
        "another one or try again in a moment"
    )
