"""The strategies that there are. Ties go to the name that comes first, so that a choice can be repeated."""

from collections.abc import Mapping
from typing import ClassVar, Final

from mainspring_coordinator.engine.placement.base import Choices, Strategy, Wait, host_place, worker_place


class RoundRobin:
    """Workers take turns: whoever was given something longest ago."""

    remembers: ClassVar[bool] = False

    def choose(self, choices: Choices) -> int:
        """Return the next in turn."""
        return choices.next_in_turn()


class LoadBalanced:
    """The least loaded worker, by its cpu, its memory and its assigned share of slots, as `EngineConfig` weighs them."""

    remembers: ClassVar[bool] = False

    def choose(self, choices: Choices) -> int:
        """Return the least loaded."""
        return choices.least_loaded()


class Capability:
    """The least versatile worker that can, so that versatile ones stay free; among equals the least loaded."""

    remembers: ClassVar[bool] = False

    def choose(self, choices: Choices) -> int:
        """Return the least versatile."""
        return choices.least_versatile()


class Locality:
    """Where the inputs were made: the worker itself, then its host, then its zone, then the least loaded.

    If workers on such a host are there and none has room, the node waits for one, once and for a bounded time.
    """

    remembers: ClassVar[bool] = False

    def choose(self, choices: Choices) -> int | Wait:
        """Return the nearest."""
        origins = choices.origins()
        for origin in origins:
            session = choices.attached(origin.incarnation)
            if session and choices.can_take(session):
                return session
        hosts = list(dict.fromkeys(origin.host for origin in origins if origin.host))
        for host in hosts:
            session = choices.least_loaded_on(host)
            if session:
                return session
        if choices.patient:
            for host in hosts:
                if choices.is_on(host):
                    return Wait(host_place(host), bounded=True)
        for zone in dict.fromkeys(origin.zone for origin in origins if origin.zone):
            session = choices.least_loaded_in(zone)
            if session:
                return session
        return choices.least_loaded()


class Affinity:
    """The worker that has the node's key, while it lives; then the one that the key belongs to by hashing."""

    remembers: ClassVar[bool] = True

    def choose(self, choices: Choices) -> int | Wait:
        """Return the worker of the key; the least loaded if that has no room and the node does not insist on it."""
        session = choices.keeper() or choices.nearest()
        if choices.can_take(session):
            return session
        if choices.hard and session:
            return Wait(worker_place(choices.incarnation_of(session)))
        return choices.least_loaded()


strategies: Final[Mapping[str, Strategy]] = {
    "round-robin": RoundRobin(),
    "load-balanced": LoadBalanced(),
    "capability": Capability(),
    "locality": Locality(),
    "affinity": Affinity(),
}
strategy_names: Final = tuple(strategies)
