"""The reader of WfFormat traces, without a cluster."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mainspring_coordinator.simulate.wfformat import TraceError, read_trace

shipped = Path(__file__).parents[2] / "examples/wfformat/traces/small.json"


@pytest.fixture
def document() -> dict[str, Any]:
    """The shipped trace, for a test to spoil."""
    loaded: dict[str, Any] = json.loads(shipped.read_bytes())
    return copy.deepcopy(loaded)


def tasks_of(document: dict[str, Any], part: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = document["workflow"][part]["tasks"]
    return tasks


def test_the_shipped_trace_is_read_with_parents_before_children() -> None:
    trace = read_trace(shipped.read_bytes())
    assert (trace.name, len(trace.tasks)) == ("small", 14)
    seen: set[str] = set()
    for task in trace.tasks:
        assert seen.issuperset(task.parents)
        seen.add(task.id)


def test_the_bounds_are_the_longest_chain_and_the_work_over_the_slots() -> None:
    # split 2 → align_3 7 → merge 3 → call_variants 6 → annotate 2.5 → report 1; all tasks together take 43 s
    bounds = read_trace(shipped.read_bytes()).bounds(slots=1, speedup=10)
    assert math.isclose(bounds.critical_path_s, 2.15)
    assert math.isclose(bounds.work_over_slots_s, 4.3)
    assert bounds.makespan_s == bounds.work_over_slots_s
    wide = read_trace(shipped.read_bytes()).bounds(slots=100, speedup=10)
    assert wide.makespan_s == wide.critical_path_s == bounds.critical_path_s


def test_each_task_becomes_a_node_that_sleeps_and_is_tried_once() -> None:
    definition = read_trace(shipped.read_bytes()).definition(speedup=100)
    merge = next(node for node in definition.nodes if node.id == "merge")
    assert merge.executor == "sleep"
    assert merge.input == {"seconds": 0.03}
    assert merge.depends_on == ("align_0", "align_1", "align_2", "align_3")
    assert {node.retry.max_attempts for node in definition.nodes} == {1}


def drop_version(document: dict[str, Any]) -> None:
    document["schemaVersion"] = "1.4"


def drop_workflow(document: dict[str, Any]) -> None:
    del document["workflow"]


def empty_tasks(document: dict[str, Any]) -> None:
    document["workflow"]["specification"]["tasks"] = []


def double_task(document: dict[str, Any]) -> None:
    tasks_of(document, "execution").append(tasks_of(document, "execution")[0])


def forget_execution(document: dict[str, Any]) -> None:
    tasks_of(document, "execution").pop(0)


def forget_specification(document: dict[str, Any]) -> None:
    tasks_of(document, "specification").pop()


def unknown_parent(document: dict[str, Any]) -> None:
    tasks_of(document, "specification")[1]["parents"] = ["nobody"]


def cycle(document: dict[str, Any]) -> None:
    tasks_of(document, "specification")[0]["parents"] = ["report"]


def text_runtime(document: dict[str, Any]) -> None:
    tasks_of(document, "execution")[0]["runtimeInSeconds"] = "2.0"


def negative_runtime(document: dict[str, Any]) -> None:
    tasks_of(document, "execution")[0]["runtimeInSeconds"] = -1


def task_without_id(document: dict[str, Any]) -> None:
    del tasks_of(document, "specification")[2]["id"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_version, "schemaVersion is '1.4'; this program reads WfFormat 1.5"),
        (drop_workflow, "the document: workflow is missing"),
        (empty_tasks, "workflow.specification.tasks is empty"),
        (double_task, "workflow.execution: task 'split' stands there twice"),
        (forget_execution, "task 'split' is in workflow.specification but not in workflow.execution"),
        (forget_specification, "task 'license_check' is in workflow.execution but not in workflow.specification"),
        (unknown_parent, "task 'align_0': its parent 'nobody' is no task of this trace"),
        (cycle, "task 'split' waits for itself, directly or through its parents"),
        (text_runtime, "task 'split': runtimeInSeconds is str, which it cannot be"),
        (negative_runtime, "task 'split': runtimeInSeconds is -1; a time is at least 0"),
        (task_without_id, "workflow.specification.tasks[2]: id is missing"),
    ],
)
def test_a_trace_that_does_not_hold_together_is_refused_with_the_place(
    document: dict[str, Any], spoil: Any, message: str
) -> None:
    spoil(document)
    with pytest.raises(TraceError) as refused:
        read_trace(json.dumps(document))
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "message"), [("[1]", "the document is not an object"), ("{", "not JSON: "), ("", "not JSON: ")]
)
def test_what_is_no_json_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(TraceError) as refused:
        read_trace(text)
    assert str(refused.value).startswith(message)
