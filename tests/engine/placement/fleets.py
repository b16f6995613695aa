"""Fleets of any size, without an engine."""

import random
from typing import Final

from mainspring_coordinator.engine.placement.pool import Pool, Want

wants: Final[tuple[Want, ...]] = (
    ("e0", ()),
    ("e1", ()),
    ("e2", ()),
    ("e0", (("gpu", "true"),)),
    ("e0", (("gpu", "true"), ("zone", ("z0", "z1")))),
    ("e1", (("zone", ("z0", "z2")),)),
    ("e0", (("id", "3"),)),
    ("nobody", ()),
)


class Fleet:
    """A pool of workers, and a seed's worth of what happens to it."""

    def __init__(self, seed: int, size: int) -> None:
        self.chance = random.Random(seed)
        self.pool = Pool()
        self.sessions = 0
        self.turns = 0
        for _ in range(size):
            self.attach()

    def attach(self) -> None:
        """Add a worker, as a rule with room."""
        chance = self.chance
        self.sessions += 1
        session = self.sessions
        executors = frozenset(chance.sample(("e0", "e1", "e2"), chance.choice((1, 1, 2, 3))))
        zone = f"z{session % 3}"
        labels = {"id": str(session), "zone": zone, "gpu": chance.choice(("true", "false"))}
        self.pool.add(session, f"w{session}", f"h{session // 4}", zone, labels, executors)
        self.pool.note(session, is_open=chance.random() < 0.8, load=chance.randrange(4) / 4)

    def disturb(self) -> None:
        """Let one thing happen."""
        chance, pool = self.chance, self.pool
        session = chance.randint(1, self.sessions)
        match chance.randrange(10):
            case 0:
                self.attach()
            case 1:
                pool.remove(session)
            case 2:
                pool.reconcile(session, chance.randrange(3))
            case 3 if chance.random() < 0.3:
                pool.unreconcile(chance.randrange(3))
            case 4:
                pool.know(chance.choice(wants))
            case 5 if chance.random() < 0.3:
                pool.keep(chance.sample(wants, 4))
            case 6:
                self.turns += 1
                pool.took_turn(session, self.turns)
            case 7:
                self.look()
            case _:
                pool.note(session, is_open=chance.random() < 0.6, load=chance.randrange(8) / 8)

    def look(self) -> None:
        """Ask for orders, so that they are made."""
        for kind in self.pool.kinds.values():
            if self.chance.random() < 0.5:
                kind.all.least_loaded()
                kind.next_in_turn()
                kind.nearest((self.chance.randrange(2**64),))
                kind.in_zone("z1").least_loaded()
                kind.on_host(f"h{self.chance.randrange(5)}").least_loaded()
