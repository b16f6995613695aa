"""What the tests of pauses have in common."""

from collections.abc import Sequence
from typing import Any

from mainspring_coordinator.engine.effects import Answer, Assign, Effect
from mainspring_coordinator.engine.operator_events import PauseSet, WorkflowPauseSet
from mainspring_coordinator.engine.plan import Plan
from tests.engine.rig import Rig, define, of, only

kinds = ("cluster", "executor", "workflow")


def fan(count: int = 4, **rest: Any) -> Plan:
    return define([{"id": f"n{at}", "executor": "work", **rest} for at in range(count)])


def step(rig: Rig, kind: str, *, paused: bool, name: str = "", shard: int = 0) -> list[Effect]:
    who, reason = "ann", "a fire"
    if kind == "workflow":
        return rig.step(WorkflowPauseSet(9, shard, name or "wf", paused, who, reason))
    executor = (name or "work") if kind == "executor" else ""
    return rig.step(PauseSet(9, 0, executor, paused, who, reason))


def pause(rig: Rig, kind: str, name: str = "") -> Answer:
    return only(step(rig, kind, paused=True, name=name), Answer)


def resume(rig: Rig, kind: str, name: str = "") -> list[str]:
    """Let something go on; return the nodes that are given out at once."""
    return names(step(rig, kind, paused=False, name=name))


def names(effects: Sequence[Effect]) -> list[str]:
    return [one.node_id for one in of(effects, Assign)]


def in_order(rig: Rig) -> list[str]:
    """Let all that runs and comes end, one after the other; return the nodes in the order in which they ran."""
    order: list[str] = []
    while rig.running():
        order.append(rig.running()[0][1].node_id)
        rig.finish()
    return order
