"""Idle slots go to whoever has work within 100 ms, on the clock of the simulation, whoever had them before."""

from collections.abc import Iterator
from functools import partial

import pytest

from mainspring.ids import shard_of
from mainspring_coordinator.engine.plan import Plan
from tests.simulation.clients import Clients
from tests.simulation.cluster import Cluster, Profile
from tests.simulation.plans import many
from tests.simulation.silence import silent
from tests.simulation.world import MS, SECOND, World

_slots = 8
_given = {"ms": 2_000, "fails": 0, "wide": 0}


@pytest.fixture(params=range(5))
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two coordinators with a shard each, and a worker, all at rest."""
    made = Cluster(World(request.param), Profile(coordinators=2, workers=1, shards=2, slots=_slots))
    with silent():
        made.start_all()
        assert made.world.run(lambda: _shared(made), made.world.now_us + 60 * SECOND)
        try:
            yield made
        finally:
            made.take_down()


def _shared(cluster: Cluster) -> bool:
    return not cluster.at_rest() and all(len(one.loop.serving) == 1 for one in cluster.coordinators.values())


def _name_of(cluster: Cluster, coordinator: str) -> str:
    """Return the name of a workflow whose shard this coordinator owns."""
    serving = cluster.coordinators[coordinator].loop.serving
    return next(name for n in range(99) if shard_of(name := f"{coordinator}-{n}", cluster.profile.shards) in serving)


def _submit(cluster: Cluster, clients: Clients, coordinator: str, plan: Plan) -> str:
    name = _name_of(cluster, coordinator)
    cluster.witness.plans[name] = plan
    clients._submit(name, plan, _given)
    assert cluster.world.run(lambda: name in cluster.witness.acknowledged, cluster.world.now_us + 10 * SECOND)
    return name


def _live(cluster: Cluster, coordinator: str) -> int:
    return sum(len(shard.live) for shard in cluster.coordinators[coordinator].loop._engine.state.shards.values())


def _has_all_slots(cluster: Cluster, coordinator: str) -> bool:
    return _live(cluster, coordinator) == _slots


def _has_ended(cluster: Cluster, name: str) -> bool:
    return name not in cluster.witness.open


def test_whoever_has_work_gets_all_slots_of_an_idle_worker_within_100_ms(cluster: Cluster) -> None:
    clients, world = Clients(cluster), cluster.world
    clients.busy = False
    for coordinator in ("c1", "c2"):
        name = _submit(cluster, clients, coordinator, many)
        submitted_us = world.now_us
        assert world.run(partial(_has_all_slots, cluster, coordinator), world.now_us + 10 * SECOND)
        assert world.now_us - submitted_us <= 100 * MS
        # The next one finds all slots with the first, which has no more use for them.
        assert world.run(partial(_has_ended, cluster, name), world.now_us + 60 * SECOND)
    assert not cluster.witness.broken


def test_two_that_both_have_work_have_all_slots_between_them(cluster: Cluster) -> None:
    clients, world = Clients(cluster), cluster.world
    clients.busy = False
    for coordinator in ("c1", "c2"):
        _submit(cluster, clients, coordinator, many)
    ready_us = world.now_us + 100 * MS
    world.run(lambda: False, ready_us)
    for _ in range(20):
        assert _live(cluster, "c1") + _live(cluster, "c2") <= _slots
        world.run(lambda: False, world.now_us + 50 * MS)
    assert not cluster.witness.broken
