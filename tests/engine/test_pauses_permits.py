"""Nodes that share a concurrency key and are paused: they hold no permit, and ask for one when they go on."""

from collections.abc import Sequence

import pytest

from mainspring_coordinator.engine.effects import Effect, StatePermits
from mainspring_coordinator.engine.events import PermitsStated
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import PermitsHeld
from tests.engine.pausing import fan, in_order, kinds, pause, resume
from tests.engine.rig import Rig, define, of


def limited(count: int = 1) -> Plan:
    return fan(count, concurrency={"key": "db", "limit": 1})


def permits(rig: Rig) -> int:
    """Return how many permits are out, as the rows say."""
    found = {row.holder: row.count for row in rig.rows if isinstance(row, PermitsHeld)}
    return sum(found.values())


@pytest.mark.parametrize("kind", kinds[1:])
def test_a_paused_node_that_waits_for_a_permit_leaves_it_to_others(kind: str) -> None:
    rig = Rig()
    rig.attach(executors=("work", "other"))
    rig.submit(limited(), "first")
    rig.submit(limited(2))
    pause(rig, kind)
    others = define([{"id": "o", "executor": "other", "concurrency": {"key": "db", "limit": 1}}])
    rig.submit(others, "others")
    rig.finish()
    assert [one.node_id for _, one in rig.running()] == ["o"]
    rig.finish()
    assert permits(rig) == 0
    assert not rig.running()
    resume(rig, kind)
    assert in_order(rig) == ["n0", "n1"]
    assert permits(rig) == 0
    assert not rig.engine.state.shards[0].demands.by_key


@pytest.mark.parametrize("kind", kinds)
def test_a_permit_that_comes_for_a_paused_node_goes_back(kind: str) -> None:
    rig = Rig()
    rig.attach()
    rig.passes_permits = False
    rig.submit(limited())
    said = list(rig.effects)
    pause(rig, kind)
    rig.passes_permits = True
    hear(rig, said)
    assert not rig.running()
    assert permits(rig) == 0
    resume(rig, kind)
    assert [one.node_id for _, one in rig.running()] == ["n0"]


@pytest.mark.parametrize("kind", kinds)
def test_a_permit_that_no_worker_took_yet_goes_back_when_its_node_is_paused(kind: str) -> None:
    rig = Rig()
    worker = rig.attach(slots=1)
    rig.passes_permits = False
    rig.submit(limited())
    said = list(rig.effects)
    rig.submit(define([{"id": "busy", "executor": "work", "priority": 9}]), "busy")
    rig.passes_permits = True
    hear(rig, said)
    assert [one.node_id for _, one in rig.running()] == ["busy"]
    assert permits(rig) == 1
    pause(rig, kind)
    assert permits(rig) == 0
    rig.finish("busy")
    resume(rig, kind)
    assert [one.node_id for _, one in rig.running()] == ["n0"]
    del worker


def hear(rig: Rig, effects: Sequence[Effect]) -> None:
    """Pass on what shards say to each other of permits."""
    for one in of(effects, StatePermits):
        rig.step(PermitsStated(0, one.statement))
