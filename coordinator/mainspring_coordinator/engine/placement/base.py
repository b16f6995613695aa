"""What a strategy sees and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from mainspring_coordinator.engine.placement.origins import Origin


@dataclass(frozen=True, slots=True)
class Wait:
    """The node is to wait, though a worker has room for it."""

    place: str
    """For what, from `worker_place` or `host_place`: it is looked at again when a worker there can take something."""
    bounded: bool = False
    """It waits for LOCALITY_WAIT at most."""


def worker_place(incarnation: str) -> str:
    """Return the name of what waits for one worker."""
    return f"worker:{incarnation}"


def host_place(host: str) -> str:
    """Return the name of what waits for any worker of a host."""
    return f"host:{host}"


def shard_place(shard: int) -> str:
    """Return the name of what waits until a worker has stated its inventory of a shard."""
    return f"shard:{shard}"


class Choices(Protocol):
    """The workers that could run one node, which is ready; at least one of them can take it now.

    Workers are named by their sessions, and 0 is none. All that answer with a worker that can take it pass over those that cannot.
    """

    @property
    def hard(self) -> bool:
        """Whether the node waits for the worker that has its key."""
        ...

    @property
    def patient(self) -> bool:
        """Whether the node may still wait for a worker near its inputs."""
        ...

    def can_take(self, session: int) -> bool:
        """Tell whether a worker can run the node and has room for it."""
        ...

    def least_loaded(self) -> int:
        """Return the worker with the least load that can take it."""
        ...

    def next_in_turn(self) -> int:
        """Return the worker that can take it and was given something longest ago."""
        ...

    def least_versatile(self) -> int:
        """Return the worker with the fewest executors that can take it, the least loaded of them."""
        ...

    def least_loaded_on(self, host: str) -> int:
        """Return the worker of a host with the least load that can take it."""
        ...

    def least_loaded_in(self, zone: str) -> int:
        """Return the worker of a zone with the least load that can take it."""
        ...

    def is_on(self, host: str) -> bool:
        """Tell whether a worker of a host can run it, with room or without."""
        ...

    def origins(self) -> Sequence[Origin]:
        """Return where its inputs were made, where most of them were first."""
        ...

    def attached(self, incarnation: str) -> int:
        """Return the session of a worker by its incarnation."""
        ...

    def keeper(self) -> int:
        """Return the worker that has the node's key and lives, with room or without, if it could run the node."""
        ...

    def nearest(self) -> int:
        """Return the worker that the node's key belongs to by hashing, with room or without."""
        ...

    def incarnation_of(self, session: int) -> str:
        """Return the incarnation of a worker that could run it."""
        ...


class Strategy(Protocol):
    """Ranks workers; keeps nothing itself."""

    remembers: ClassVar[bool]
    """Where a node went, others of its key follow."""

    def choose(self, choices: Choices) -> "int | Wait":
        """Return the session of a worker that can take the node, or let it wait."""
        ...
