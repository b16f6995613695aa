"""Which faults come when: drawn from a seed before the run begins. Pure."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What is done to whom."""

    KILL_COORDINATOR = "kill coordinator"
    PAUSE_COORDINATOR = "pause coordinator, shorter than its lease"
    HANG_COORDINATOR = "pause coordinator, longer than its lease"
    STOP_COORDINATOR = "SIGTERM coordinator"
    KILL_WORKER = "kill worker"
    PAUSE_WORKER = "pause worker, shorter than its grace"
    HANG_WORKER = "pause worker, longer than its grace"
    STOP_WORKER = "SIGTERM worker"
    KILL_CLIENT = "kill client"
    KILL_DATABASE = "kill database"
    PAUSE_DATABASE = "pause database"
    END_LOCK = "KILL lock connection"
    END_WRITER = "KILL writer connection"
    CUT_FROM_DATABASE = "cut coordinator from database"
    CUT_FROM_WORKERS = "cut coordinator from workers"
    CUT_WORKER = "cut worker from all"
    CUT_CLIENT = "cut client from all"
    LOSS = "packet loss"
    LATENCY = "latency"
    FLAPPING = "a network that comes and goes"
    THIN = "a thin network"


_weights: Final[Mapping[Kind, int]] = {
    Kind.KILL_COORDINATOR: 4,
    Kind.PAUSE_COORDINATOR: 2,
    Kind.HANG_COORDINATOR: 3,
    Kind.STOP_COORDINATOR: 2,
    Kind.KILL_WORKER: 3,
    Kind.PAUSE_WORKER: 1,
    Kind.HANG_WORKER: 2,
    Kind.STOP_WORKER: 1,
    Kind.KILL_CLIENT: 1,
    Kind.KILL_DATABASE: 1,
    Kind.PAUSE_DATABASE: 1,
    Kind.END_LOCK: 1,
    Kind.END_WRITER: 1,
    Kind.CUT_FROM_DATABASE: 3,
    Kind.CUT_FROM_WORKERS: 2,
    Kind.CUT_WORKER: 2,
    Kind.CUT_CLIENT: 1,
    Kind.LOSS: 2,
    Kind.LATENCY: 2,
    Kind.FLAPPING: 2,
    Kind.THIN: 1,
}
_of_anybody: Final = (Kind.LOSS, Kind.LATENCY, Kind.FLAPPING, Kind.THIN)
on_networks: Final = frozenset(
    {Kind.CUT_FROM_DATABASE, Kind.CUT_FROM_WORKERS, Kind.CUT_WORKER, Kind.CUT_CLIENT, *_of_anybody}
)
"""Those that need a network that can be broken."""
_rest_s: Final = 3.0
"""After a fault its target is left alone for this long, so that it is a member again before the next one."""
_database_rest_s: Final = 12.0


@dataclass(frozen=True, slots=True)
class Cast:
    """The members, by part; and the times that short and long are measured by."""

    coordinators: Sequence[str]
    workers: Sequence[str]
    clients: Sequence[str]
    database: str
    lease_s: float
    grace_s: float

    @property
    def all(self) -> Sequence[str]:
        """Return everybody."""
        return (*self.coordinators, *self.workers, *self.clients, self.database)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    name: str
    at_s: float
    """After the beginning."""
    kind: Kind
    target: str
    seconds: float
    """How long it lasts: until the process is started or continued again, or the network is whole. 0: it is a moment."""
    pairs: Sequence[tuple[str, str]] = ()
    """Of a fault on the network: from whom to whom."""
    way: str = ""
    """Of a cut, seen from the target: "out", "in" or "both"."""
    drop: float = 0.0
    delay_ms: int = 0
    jitter_ms: int = 0
    bytes_a_s: int = 0
    """What passes from one to another; 0: all."""
    period_s: float = 0.0
    """Of what comes and goes: it is there for so long, and then away for so long."""


def schedule(seed: int, seconds: float, every_s: float, cast: Cast, *, breakable: bool) -> Sequence[Fault]:
    """Return faults until `seconds`, `every_s` apart in the mean; without a breakable network only those on processes."""
    chance = random.Random(seed)
    kinds = _draws(chance, [kind for kind in Kind if breakable or kind not in on_networks])
    free_from: dict[str, float] = {}
    faults: list[Fault] = []
    at_s = chance.expovariate(1 / every_s)
    while at_s < seconds:
        kind = next(kinds)
        ready = [one for one in _targets(kind, cast) if free_from.get(_claim(kind, one), 0.0) <= at_s]
        if ready:
            fault = _draw(chance, f"f{len(faults) + 1}", round(at_s, 3), kind, chance.choice(ready), cast)
            rest_s = _database_rest_s if fault.target == cast.database else _rest_s
            free_from[_claim(kind, fault.target)] = at_s + fault.seconds + rest_s
            faults.append(fault)
            at_s += chance.expovariate(1 / every_s)
        # Otherwise another kind at the same time: the bag holds kinds for everybody.
        elif all(free_from.get(_claim(Kind.KILL_WORKER, one), 0.0) > at_s for one in cast.all):
            at_s += 1.0
    return faults


def _draws(chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Yield kinds out of a bag that is filled again when it is empty, so that a short run has nearly all of them."""
    while True:
        bag = [kind for kind in kinds for _ in range(_weights[kind])]
        chance.shuffle(bag)
        yield from bag


def _claim(kind: Kind, target: str) -> str:
    """Name what a fault takes for itself: a process and its network may be in trouble at once."""
    return f"{target}'s network" if kind in on_networks else target


def _targets(kind: Kind, cast: Cast) -> Sequence[str]:
    if kind in (Kind.KILL_DATABASE, Kind.PAUSE_DATABASE):
        return [cast.database]
    if kind in _of_anybody:
        return cast.all
    if kind in (Kind.KILL_WORKER, Kind.PAUSE_WORKER, Kind.HANG_WORKER, Kind.STOP_WORKER, Kind.CUT_WORKER):
        return cast.workers
    if kind in (Kind.KILL_CLIENT, Kind.CUT_CLIENT):
        return cast.clients
    return cast.coordinators


def _draw(chance: random.Random, name: str, at_s: float, kind: Kind, target: str, cast: Cast) -> Fault:
    hung_s = 1.02 * (cast.lease_s / 0.98 + 0.5)
    low, high = {
        Kind.PAUSE_COORDINATOR: (0.2, 0.8 * cast.lease_s),
        Kind.HANG_COORDINATOR: (hung_s + 0.5, hung_s + 5.0),
        Kind.PAUSE_WORKER: (0.1, 0.8 * cast.grace_s),
        Kind.HANG_WORKER: (cast.grace_s + 2.0, cast.grace_s + 8.0),
        Kind.STOP_COORDINATOR: (0.1, 2.0),
        Kind.STOP_WORKER: (0.1, 2.0),
        Kind.KILL_COORDINATOR: (0.1, 4.0),
        Kind.KILL_WORKER: (0.1, 4.0),
        Kind.KILL_CLIENT: (0.1, 1.0),
        Kind.KILL_DATABASE: (0.1, 4.0),
        Kind.PAUSE_DATABASE: (0.5, 2.0 * cast.lease_s),
        Kind.END_LOCK: (0.0, 0.0),
        Kind.END_WRITER: (0.0, 0.0),
    }.get(kind, (1.0, 8.0))
    seconds = round(chance.uniform(low, high), 3)
    if kind not in on_networks:
        return Fault(name, at_s, kind, target, seconds)
    others = _others(kind, target, cast)
    way = chance.choice(["both", "out", "in"])
    outwards, inwards = [(target, other) for other in others], [(other, target) for other in others]
    if kind is Kind.LOSS:
        return Fault(name, at_s, kind, target, seconds, outwards + inwards, drop=round(chance.uniform(0.01, 0.2), 3))
    if kind is Kind.LATENCY:
        delay_ms = chance.randrange(20, 250)
        return Fault(name, at_s, kind, target, seconds, outwards, delay_ms=delay_ms, jitter_ms=delay_ms // 2)
    if kind is Kind.THIN:
        return Fault(name, at_s, kind, target, seconds, outwards + inwards, bytes_a_s=chance.randrange(20_000, 200_000))
    if kind is Kind.FLAPPING:
        period_s = round(chance.uniform(0.05, 1.5), 3)
        return Fault(name, at_s, kind, target, seconds, outwards + inwards, drop=1.0, period_s=period_s)
    pairs = {"both": outwards + inwards, "out": outwards, "in": inwards}[way]
    return Fault(name, at_s, kind, target, seconds, pairs, way, drop=1.0)


def _others(kind: Kind, target: str, cast: Cast) -> Sequence[str]:
    if kind is Kind.CUT_FROM_DATABASE:
        return [cast.database]
    if kind is Kind.CUT_FROM_WORKERS:
        return cast.workers
    return [one for one in cast.all if one != target]
