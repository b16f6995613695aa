"""A wide workflow of short nodes leaves small ones a short pipeline, and uses all slots where nobody is in a hurry."""

import pytest

from mainspring import limits
from mainspring_coordinator.engine.effects import Assign, Ended
from mainspring_coordinator.engine.events import ResultItem
from mainspring_coordinator.engine.status import NodeStatus
from tests.engine.rig import Rig, Worker, of
from tests.engine.test_explain import explain
from tests.engine.test_fairness import chain, fan_of_map, fan_of_nodes, large_rig

slots = 200
short_us = 10


def crowded(run_us: int = short_us, *, workflows_max: int = 100) -> Rig:
    """Return a rig in which a wide workflow has all slots, and its nodes are known to run for so long."""
    rig = large_rig()
    rig.attach(slots=slots, workflows_max=workflows_max)
    rig.submit(fan_of_nodes(1_000), "fan")
    for _ in range(200):
        finish(rig, "fan", run_us)
    assert under_way(rig, "fan") == slots
    return rig


def of_workflow(rig: Rig, name: str) -> list[tuple[Worker, Assign]]:
    return [(worker, assign) for worker, assign in rig.running() if assign.workflow_id == name]


def under_way(rig: Rig, name: str) -> int:
    return len(of_workflow(rig, name))


def finish(rig: Rig, name: str, run_us: int = short_us) -> None:
    """Let the oldest attempt of a workflow end."""
    worker, assign = of_workflow(rig, name)[0]
    del worker.running[assign.shard, assign.assignment]
    rig.report(worker, ResultItem(assign.shard, assign.assignment, NodeStatus.SUCCEEDED, b"null", None, run_us))


def finish_all(rig: Rig, name: str, count: int, run_us: int = short_us) -> None:
    for _ in range(count):
        finish(rig, name, run_us)


def test_beside_a_small_workflow_a_wide_one_falls_back_to_what_keeps_the_pipeline_busy() -> None:
    rig = crowded()
    rig.submit(chain(), "small")
    finish_all(rig, "fan", slots)
    assert under_way(rig, "small") == 1
    assert under_way(rig, "fan") == pytest.approx(limits.pipeline_nodes, abs=2)
    finish_all(rig, "fan", 100)
    assert under_way(rig, "fan") == pytest.approx(limits.pipeline_nodes, abs=2), "each result is followed by a node"


def test_it_has_all_slots_again_a_moment_after_the_last_hop_of_a_small_one() -> None:
    rig = crowded()
    rig.submit(chain(1), "small")
    finish_all(rig, "fan", slots)
    finish(rig, "small")
    rig.now_us += limits.small_workflow_us + 1
    finish(rig, "fan")
    assert under_way(rig, "fan") == slots


def test_nodes_that_run_for_long_use_all_slots_whoever_else_is_there() -> None:
    rig = crowded(run_us=100_000)
    rig.submit(chain(), "small")
    finish_all(rig, "fan", slots, 100_000)
    assert under_way(rig, "fan") == slots - 1


def test_nodes_of_which_nothing_is_known_yet_use_all_slots() -> None:
    rig = large_rig()
    rig.attach(slots=slots)
    rig.submit(fan_of_nodes(1_000), "fan")
    rig.submit(chain(), "small")
    assert under_way(rig, "fan") == slots
    finish_all(rig, "fan", 10)
    assert under_way(rig, "fan") == slots - 1


def test_wide_workflows_do_not_hold_each_other_back() -> None:
    rig = crowded()
    rig.submit(fan_of_nodes(1_000), "other")
    rig.now_us += limits.small_workflow_us + 1
    finish_all(rig, "fan", slots)
    assert under_way(rig, "fan") + under_way(rig, "other") == slots


def test_many_small_workflows_use_all_slots() -> None:
    rig = large_rig()
    rig.attach(slots=slots, workflows_max=10_000)
    for number in range(300):
        rig.submit(chain(2), f"small{number}")
    for _ in range(100):
        rig.finish()
    assert len(rig.running()) == slots


def test_a_worker_at_its_bound_of_workflows_holds_a_wide_one_back_too() -> None:
    rig = crowded(workflows_max=2)
    rig.submit(chain(), "small")
    finish_all(rig, "fan", slots)
    assert under_way(rig, "small") == 1
    assert under_way(rig, "fan") == pytest.approx(limits.pipeline_nodes, abs=2)


def test_instances_of_a_map_are_held_back_as_nodes_are() -> None:
    rig = large_rig()
    rig.attach(slots=slots)
    rig.submit(fan_of_map(), "fan", list(range(1_000)))
    finish_all(rig, "fan", 200)
    rig.submit(chain(), "small")
    finish_all(rig, "fan", slots)
    assert under_way(rig, "fan") == pytest.approx(limits.pipeline_nodes, abs=2)


def test_what_is_held_back_says_so_and_all_of_it_ends() -> None:
    rig = crowded()
    rig.submit(chain(), "small")
    finish_all(rig, "fan", slots)
    held = under_way(rig, "fan")
    (told,) = explain(rig, "n999", workflow_id="fan").nodes
    assert told.reason == f"{held} nodes of the workflow are under way, as many as may be beside small workflows"
    while rig.running():
        rig.finish()
    assert {ended.workflow_id for ended in of(rig.effects, Ended)} == {"fan", "small"}
