"""The strategies that there are. Ties go to the name that comes first, so that a choice can be repeated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.placement.base import Candidate, Strategy


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Workers take turns."""

    def choose(self, candidates: Sequence[Candidate], turn: int) -> int:
        """Return the next in turn."""
        return candidates[turn % len(candidates)].session


@dataclass(frozen=True, slots=True)
class LoadBalanced:
    """The least loaded worker: a weighted sum of its cpu, its memory and its assigned share of slots."""

    cpu_weight: float
    memory_weight: float
    workflow_weight: float

    def choose(self, candidates: Sequence[Candidate], turn: int) -> int:
        """Return the least loaded."""
        del turn
        if len(candidates) == 1:
            return candidates[0].session
        return min(candidates, key=lambda worker: (self.load(worker), worker.name)).session

    def load(self, worker: Candidate) -> float:
        """Return the load of a worker; 0 is idle."""
        return (
            self.cpu_weight * worker.cpu / 100.0
            + self.memory_weight * worker.memory / 100.0
            + self.workflow_weight * worker.assigned / worker.slots
        )


@dataclass(frozen=True, slots=True)
class Capability:
    """The least versatile worker that can, so that versatile ones stay free; among equals the one with the smallest assigned share."""

    def choose(self, candidates: Sequence[Candidate], turn: int) -> int:
        """Return the least versatile."""
        del turn
        return min(
            candidates, key=lambda worker: (worker.executors, worker.assigned / worker.slots, worker.name)
        ).session


_makers: Final[dict[str, Callable[[EngineConfig], Strategy]]] = {
    "round-robin": lambda config: RoundRobin(),  # noqa: ARG005  (needs no weights)
    "load-balanced": lambda config: LoadBalanced(config.cpu_weight, config.memory_weight, config.workflow_weight),
    "capability": lambda config: Capability(),  # noqa: ARG005  (needs no weights)
}

strategy_names: Final = tuple(_makers)


def strategy_of(config: EngineConfig) -> Strategy:
    """Return the strategy that the configuration names; `KeyError` for one that there is not."""
    return _makers[config.strategy](config)
