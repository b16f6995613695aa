"""One run: a cluster made from a seed, work for it, faults, and at the end everything must have ended."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from mainspring_coordinator.engine.placement import strategy_names
from mainspring_coordinator.store.memory_reader import MemoryTables
from tests.simulation.bounds import small_bounds
from tests.simulation.clients import Clients
from tests.simulation.cluster import Cluster, Profile
from tests.simulation.faults import Faults
from tests.simulation.operators import Operators
from tests.simulation.world import SECOND, World

_longest_us = 600 * SECOND
_settling_us = 60 * SECOND
_unlimited = 20
"""Beyond this seed every third run has workflows with limits."""
_left_alone = 60
"""Beyond this seed every fourth run has operators who act."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run."""

    seed: int
    events: int
    faults: int
    takeovers: int
    workflows: int
    seconds: float
    """Virtual ones."""
    fingerprint: str
    broken: tuple[str, ...]
    story: tuple[str, ...]
    """The last lines, if a law was broken."""

    @property
    def is_poor(self) -> bool:
        """Whether too little happened for the run to count."""
        return self.events < 2_000 or self.faults < 3 or self.takeovers < 1


def profile_of(seed: int) -> Profile:
    """Draw what a run is made of."""
    chance = random.Random(f"profile {seed}")
    return Profile(
        coordinators=chance.choice((2, 2, 3)),
        workers=chance.choice((1, 2, 2, 3)),
        shards=chance.choice((2, 3, 4)),
        slots=chance.choice((1, 2, 4, 8)),
        workflows_open=chance.choice((4, 8, 12)),
        step_nodes=chance.choice((1, 2, 5, 20, 500)),
        small=chance.random() < 0.5,
        strategy=chance.choice(strategy_names),
        # Not drawn, so that the others are as they would be without; and those that `mutations` names are among these.
        limited=seed > _unlimited and seed % 3 == 0,
        operated=seed > _left_alone and seed % 4 == 1,
    )


def run(seed: int, events: int, echo: Callable[[str], None] | None = None) -> Outcome:
    """Run a seed; `echo` is told each event as it happens."""
    made = Run(seed, events)
    made.world.echo = echo
    with small_bounds() if made.cluster.profile.small else nullcontext():
        return made.go()


class Run:
    """Makes and runs it."""

    def __init__(self, seed: int, events: int, *, faults: bool = True) -> None:
        self.world = World(seed)
        self.cluster = Cluster(self.world, profile_of(seed))
        self.clients = Clients(self.cluster)
        self.operators = Operators(self.cluster, self.clients)
        self.faults = Faults(self.cluster, on=faults)
        self._events = events

    def go(self) -> Outcome:
        """Run to the end."""
        world, witness = self.world, self.cluster.witness
        began_us = world.now_us
        try:
            self.cluster.start_all()
            world.run(self._worked, world.now_us + _longest_us)
            self.faults.end()
            self.clients.busy = False
            if not witness.broken and not world.run(self._settled, world.now_us + _settling_us):
                self._say_what_hangs()
            if not witness.broken:
                tables: MemoryTables = self.cluster.server.store.tables
                witness.agrees_with(tables.workflows, tables.nodes)
            for process in self.cluster.processes:
                for fault in process.faults:
                    witness.breaks(0, f"an error that nobody took: {fault}")
            fingerprint, seconds = world.fingerprint, (world.now_us - began_us) / SECOND
        finally:
            self.cluster.take_down()
        return Outcome(
            world.seed,
            world.events,
            self.faults.count,
            witness.takeovers,
            self.clients.submitted,
            seconds,
            fingerprint,
            tuple(witness.broken),
            tuple(world.lines) if witness.broken else (),
        )

    def _worked(self) -> bool:
        world = self.world
        enough = world.events >= self._events and self.faults.enough and self.cluster.witness.takeovers > 0
        return enough or world.events > max(4 * self._events, 8_000) or bool(self.cluster.witness.broken)

    def _settled(self) -> bool:
        witness = self.cluster.witness
        if witness.broken:
            return True
        return not self.clients.calls and not witness.open and not self.cluster.at_rest()

    def _say_what_hangs(self) -> None:
        witness = self.cluster.witness
        for name in sorted(witness.open):
            witness.breaks(5, f"{name} has not ended")
        if self.clients.calls:
            witness.breaks(5, f"{len(self.clients.calls)} calls were never answered")
        if rest := self.cluster.at_rest():
            witness.breaks(5, f"at the end {rest}")
