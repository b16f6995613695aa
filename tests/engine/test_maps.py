"""`map` nodes: order, width, parallelism, failures."""

import tracemalloc
from typing import Any

import orjson
import pytest

from mainspring_coordinator.engine.effects import Assign, Ended
from mainspring_coordinator.engine.events import Submit
from mainspring_coordinator.engine.rows import MapExpanded, NodeChanged
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.rig import Rig, define, of, only, rows_of


def fan(**rest: Any) -> list[dict[str, Any]]:
    """Return a definition that fetches a list, maps over it and sums it up."""
    over = {"over": "${fetch.items}", **rest.pop("map", {})}
    return [
        {"id": "fetch", "executor": "work"},
        {"id": "each", "executor": "work", "map": over, "input": {"it": "${item.id}", "at": "${index}"}, **rest},
        {"id": "sum", "executor": "work", "input": "${each}"},
    ]


def items(count: int) -> dict[str, Any]:
    """Return what `fetch` found."""
    return {"items": [{"id": f"i{number}"} for number in range(count)]}


def test_a_map_runs_once_for_each_element_and_keeps_their_order() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan()))
    effects = rig.finish("fetch", items(3))
    assert [(a.instance, a.input) for a in of(effects, Assign)] == [
        (n, b'{"it":"i%d","at":%d}' % (n, n)) for n in range(3)
    ]
    assert rows_of(effects, MapExpanded)[0].width == 3
    for instance in (2, 0):
        rig.finish("each", instance * 10, instance=instance)
    assert only(rig.finish("each", 10, instance=1), Assign).input == b"[0,10,20]"
    assert only(rig.finish("sum"), Ended).status is WorkflowStatus.SUCCEEDED


def test_no_more_instances_run_at_once_than_max_parallel() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan(map={"max_parallel": 2})))
    rig.finish("fetch", items(5))
    seen: list[int] = []
    while rig.running("each"):
        assert len(rig.running("each")) == min(2, 5 - len(seen))
        seen.append(rig.running("each")[0][1].instance)
        rig.finish("each")
    assert seen == [0, 1, 2, 3, 4]


def test_instances_fill_the_slots_and_no_more() -> None:
    rig = Rig()
    rig.attach("w1", slots=3)
    rig.attach("w2", slots=2)
    rig.submit(define(fan()))
    rig.finish("fetch", items(20))
    assert len(rig.running("each")) == 5
    rig.run_to_end()
    assert only([e for e in rig.effects if isinstance(e, Ended)], Ended).status is WorkflowStatus.SUCCEEDED


def test_an_empty_list_is_an_empty_result() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan()))
    assert only(rig.finish("fetch", items(0)), Assign).input == b"[]"


def test_a_long_chain_of_empty_maps_does_not_recurse() -> None:
    rig = Rig()
    nodes: list[dict[str, Any]] = [{"id": "n0", "executor": "work", "map": {"over": "${input}"}}]
    nodes += [{"id": f"n{i}", "executor": "work", "map": {"over": f"${{n{i - 1}}}"}} for i in range(1, 3_000)]
    rig.submit(define(nodes), value=[])
    assert only([e for e in rig.effects if isinstance(e, Ended)], Ended).output == b'{"n2999":[]}'


@pytest.mark.parametrize(
    ("value", "kind"), [({"items": 3}, "mainspring.NotAList"), ({"other": []}, "mainspring.NotAList")]
)
def test_a_map_over_something_else_than_a_list_fails_with_its_path(value: object, kind: str) -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan()))
    ended = only(rig.finish("fetch", value), Ended)
    assert ended.failure is not None
    failure = orjson.loads(ended.failure)
    assert (failure["type"], failure["node_id"]) == (kind, "each")
    assert "fetch.items" in failure["message"]


def test_one_failed_instance_fails_the_node_and_stops_the_others() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan(retry={"max_attempts": 1})))
    rig.finish("fetch", items(3))
    effects = rig.fail("each", instance=1)
    for worker, assign in rig.running("each"):
        effects = rig.end(worker, assign, NodeStatus.CANCELLED)
    assert only(effects, Ended).status is WorkflowStatus.FAILED
    assert [row.status for row in rows_of(effects, NodeChanged) if row.instance == -1] == [NodeStatus.CANCELLED]


def test_an_allowed_failure_is_null_in_its_place() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan(retry={"max_attempts": 1}, allow_failure=True)))
    rig.finish("fetch", items(3))
    rig.finish("each", "a", instance=0)
    rig.fail("each", instance=1)
    assert only(rig.finish("each", "c", instance=2), Assign).input == b'["a",null,"c"]'


def test_a_retried_instance_waits_for_room_within_max_parallel() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan(map={"max_parallel": 1}, retry={"initial": "1s", "jitter": 0})))
    rig.finish("fetch", items(2))
    rig.fail("each", instance=0)
    assert [a.instance for _, a in rig.running("each")] == [1]
    assert not of(rig.after(1), Assign)
    assert [a.instance for a in of(rig.finish("each", instance=1), Assign)] == [0]


def test_a_cancel_of_a_wide_map_leaves_nothing_waiting() -> None:
    rig = Rig()
    rig.attach(slots=4)
    rig.submit(define(fan()))
    rig.finish("fetch", items(1_000))
    rig.cancel()
    for worker, assign in rig.running():
        rig.end(worker, assign, NodeStatus.CANCELLED)
    assert only([e for e in rig.effects if isinstance(e, Ended)], Ended).status is WorkflowStatus.CANCELLED
    assert not rig.engine.state.ready.waiting


def test_a_map_whose_executor_nobody_runs_fails_in_time() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define(fan(executor="nobody", timeouts={"schedule_to_start": "3s"})))
    rig.finish("fetch", items(2))
    assert only(rig.after(3), Ended).status is WorkflowStatus.FAILED


def test_an_instance_that_waits_takes_few_bytes() -> None:
    width = 10_000
    plan = define([{"id": "m", "executor": "nobody", "map": {"over": "${input}"}}])
    rig = Rig()
    submit = Submit(1, 0, "wf", plan, orjson.dumps(list(range(10, width + 10))), b"", "load-balanced")
    tracemalloc.start()
    rig.step(submit)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / width < 200
