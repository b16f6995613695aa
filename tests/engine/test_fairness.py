"""Wide workflows and customers with many leave others their turns, at a cost that does not grow with what waits."""

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import orjson
import pytest

from mainspring_coordinator.engine.effects import Assign, Ended
from mainspring_coordinator.engine.events import ShardReady, ShardTaken
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, with_config

width = 100_000


def large_rig(**config: Any) -> Rig:
    """Return a rig that does not look everything over after each step, which takes too long for what is large."""
    rig = Rig(config=with_config(**config))
    rig.check = lambda: None  # type: ignore[method-assign]
    return rig


def fan_of_nodes(count: int = width, **rest: Any) -> Plan:
    return define([{"id": f"n{at}", "executor": "work"} for at in range(count)], **rest)


def fan_of_map(count: int = width) -> Plan:
    assert count
    return define([{"id": "each", "executor": "work", "map": {"over": "${input}"}}])


def single(**rest: Any) -> Plan:
    return define([{"id": "a", "executor": "work"}], **rest)


def chain(length: int = 4, executor: str = "work", **rest: Any) -> Plan:
    nodes: list[dict[str, Any]] = [{"id": "c0", "executor": executor}]
    nodes += [{"id": f"c{at}", "executor": executor, "depends_on": [f"c{at - 1}"]} for at in range(1, length)]
    return define(nodes, **rest)


def assigned(rig: Rig) -> list[str]:
    """Return the workflows of all assignments so far, in order."""
    return [effect.workflow_id for effect in of(rig.effects, Assign)]


@pytest.mark.parametrize("fan", [fan_of_nodes, fan_of_map])
@pytest.mark.parametrize("executor", ["work", "other"])
def test_a_chain_behind_a_wide_fan_waits_for_a_few_nodes_of_it_not_for_all(
    fan: Callable[[], Plan], executor: str
) -> None:
    rig = large_rig()
    rig.attach(slots=3, executors=("work", "other"))
    rig.submit(fan(), "fan", list(range(width)))
    rig.submit(chain(executor=executor), "small")
    turns, since = [], len(rig.effects)
    while not of(rig.effects[since:], Ended):
        assert len(assigned(rig)) < 100
        # The oldest attempt ends, and so a slot becomes free.
        rig.finish()
    passed = 0
    for workflow in assigned(rig)[3:]:
        passed = 0 if workflow == "small" else passed + 1
        turns += [passed]
    # Two others run when a node of the chain is assigned, and end before it; one may have its turn in between.
    assert max(turns[: len(turns) - turns[::-1].index(0)]) <= 4
    assert assigned(rig).count("small") == 4


def test_with_one_slot_each_node_of_a_chain_comes_after_one_of_each_other_workflow() -> None:
    rig = large_rig()
    rig.attach(slots=1)
    others = [f"fan{number}" for number in range(5)]
    for name in others:
        rig.submit(fan_of_nodes(1_000), name)
    rig.submit(chain(), "small")
    for _ in range(24):
        rig.finish()
    assert assigned(rig)[1:25] == [*others, "small"] * 4


def test_a_key_with_a_thousand_workflows_leaves_a_single_one_every_second_turn() -> None:
    rig = large_rig()
    rig.attach(slots=1, workflows_max=5_000)
    many, one = single(fairness_key="many"), fan_of_nodes(200, fairness_key="one")
    for number in range(1_000):
        rig.submit(many, f"m{number}")
    rig.submit(one, "mine")
    for _ in range(300):
        rig.finish()
    got = assigned(rig)[1:301]
    assert [name == "mine" for name in got[:4]] == [False, True, False, True]
    assert got.count("mine") == 150


def test_a_high_priority_goes_first_and_a_low_one_after_as_much_ageing_as_there_are_levels() -> None:
    ageing_s = 10
    rig = large_rig(priority_ageing_us=ageing_s * SECOND)
    rig.attach(slots=1)
    rig.submit(fan_of_nodes(500), "middle")
    rig.submit(single(priority=2), "low")
    rig.submit(single(priority=9), "high")
    began_us = rig.now_us
    rig.finish()
    assert assigned(rig) == ["middle", "high"]
    while "low" not in assigned(rig):
        rig.now_us += SECOND
        rig.finish()
    # Between 5 and 2 there are three levels, and the middle counts from its last turn, a second ago.
    assert 3 * ageing_s <= (rig.now_us - began_us) / SECOND <= 3 * ageing_s + 2


def test_a_priority_of_a_node_overrides_that_of_its_workflow() -> None:
    rig = Rig()
    rig.attach(slots=1)
    rig.submit(single(), "first")
    rig.submit(define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work", "priority": 9}]), "wf")
    rig.submit(single(priority=7), "seven")
    rig.run_to_end()
    assert [effect.node_id for effect in of(rig.effects, Assign) if effect.workflow_id == "wf"] == ["b", "a"]
    assert assigned(rig) == ["first", "wf", "seven", "wf"]


def test_a_high_priority_goes_before_another_executors_low_one_on_the_same_worker() -> None:
    rig = Rig()
    rig.attach(slots=1, executors=("work", "other"))
    rig.submit(fan_of_nodes(10), "fan")
    rig.submit(chain(2, "other", priority=6), "urgent")
    rig.run_to_end()
    assert assigned(rig)[:4] == ["fan", "urgent", "urgent", "fan"]


def test_after_a_takeover_the_order_is_what_the_plans_say() -> None:
    plans = [single(priority=3), define([{"id": name, "executor": "work"} for name in "ab"], fairness_key="k")]
    plans += [single(fairness_key="k"), chain(priority=8)]
    old, orders = Rig(), []
    for number, plan in enumerate(plans):
        old.submit(plan, f"wf{number}")
    new = Rig(epoch=2, own=False)
    new.step(ShardTaken(0, 2, new.now_us, "e" * 32))
    for workflow in fold(old.rows, {plan.hash: plan for plan in plans})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    for rig in (old, new):
        rig.attach(slots=1)
        rig.run_to_end()
        orders.append([(effect.workflow_id, effect.node_id) for effect in of(rig.effects, Assign)])
    assert orders[0] == orders[1]
    assert [name for name, _ in orders[0]] == ["wf3"] * 4 + ["wf1", "wf2", "wf1", "wf0"]


def lines_of_the_engine(act: Callable[[], None]) -> int:
    """Count the lines of the engine that an act runs: what it costs, on any machine."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if "/engine/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return lines


def busy_rig(workflows: int, nodes: int, keys: int) -> Rig:
    rig = large_rig()
    rig.attach(slots=4, workflows_max=10_000)
    plans = [fan_of_nodes(nodes, priority=at % 10, fairness_key=f"k{at}") for at in range(keys)]
    for number in range(workflows):
        rig.submit(plans[number % keys], f"wf{number}")
    return rig


def test_an_assignment_costs_the_same_whatever_waits() -> None:
    def work(rig: Rig) -> Callable[[], None]:
        def finish_some() -> None:
            for _ in range(50):
                rig.finish()

        return finish_some

    little = lines_of_the_engine(work(busy_rig(20, 20, 10)))
    much = lines_of_the_engine(work(busy_rig(2_000, 20, 10)))
    wide = lines_of_the_engine(work(busy_rig(20, 5_000, 10)))
    keys = lines_of_the_engine(work(busy_rig(500, 20, 250)))
    assert little > 1_000
    assert max(much, wide, keys) <= 1.1 * little


@pytest.mark.parametrize(("fan", "bytes_max"), [(fan_of_nodes, 200), (fan_of_map, 200)])
def test_a_node_that_waits_takes_less_than_200_bytes(fan: Callable[[], Plan], bytes_max: int) -> None:
    rig, plan = large_rig(), fan()
    given = list(range(width))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        rig.submit(plan, "fan", given)
        rig.effects.clear()
        rig.rows.clear()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rig.engine.state.ready.items_of((0, "fan"))) in (1, width)
    assert (after - before) / width < bytes_max


def test_a_chain_ends_as_it_should_when_all_goes_on_around_it() -> None:
    rig = Rig()
    rig.attach(slots=2)
    rig.submit(fan_of_nodes(30, priority=9), "wide")
    rig.submit(chain(priority=0), "late")
    while rig.running():
        worker, assign = rig.running()[0]
        rig.end(worker, assign, NodeStatus.SUCCEEDED, orjson.dumps(None))
    ended = of(rig.effects, Ended)
    assert [(end.workflow_id, end.status) for end in ended] == [
        ("wide", WorkflowStatus.SUCCEEDED),
        ("late", WorkflowStatus.SUCCEEDED),
    ]
    assert only(ended[1:], Ended).output is not None


def test_classes_that_share_workers_share_the_slots_of_one_step() -> None:
    rig = Rig()
    for executor in ("work", "other", "third"):
        rig.submit(define([{"id": f"n{at}", "executor": executor} for at in range(12)]), executor)
    rig.attach(slots=9, executors=("work", "other", "third"))
    assert assigned(rig) == ["work", "other", "third"] * 3
