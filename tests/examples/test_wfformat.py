"""Recorded scientific workflows on a real cluster: each node once, none before its parents had ended."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from examples.wfformat.run import Run, find_problems, run_trace, table_of
from mainspring_client import Client, HistoryEvent
from mainspring_client.dev import DevCluster
from mainspring_coordinator.simulate.wfformat import Trace, read_trace

root = Path(__file__).parents[2]
shipped = root / "examples/wfformat/traces/small.json"
workers, slots_each = 2, 64
longest_s = 0.5
"""Each trace is run so fast that its longest chain, or all its work over the slots, takes this long."""


folder = Path(os.environ.get("MAINSPRING_TRACES", root.parent / "shared/data/wfinstances"))
"""Where recorded traces are looked for; they are not the project's to ship."""


def traces() -> list[Path]:
    """Return the shipped trace and those found."""
    return [shipped, *sorted(folder.glob("*.json"))]


@dataclass(frozen=True)
class Started:
    """A cluster that all tests of this module share."""

    runner: asyncio.Runner
    client: Client


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    data = tmp_path_factory.mktemp("cluster")
    with asyncio.Runner() as runner:
        cluster = DevCluster(
            imports=["examples.wfformat.tasks"], workers=workers, slots=slots_each, data=data, directory=root
        )
        runner.run(cluster.__aenter__())
        try:
            client = Client(cluster.address)
            yield Started(runner, client)
            runner.run(client.close())
        finally:
            runner.run(cluster.__aexit__(None, None, None))


@pytest.mark.parametrize("path", traces(), ids=lambda path: path.stem)
def test_a_trace_runs_each_node_once_and_none_before_its_parents_had_ended(started: Started, path: Path) -> None:
    trace = read_trace(path.read_bytes())
    slots = workers * slots_each
    speedup = max(1.0, trace.bounds(slots, 1).makespan_s / longest_s)
    run = started.runner.run(run_trace(started.client, trace, slots=slots, speedup=speedup))
    Console(width=160).print(table_of([run]))
    assert run.problems == ()
    # The cluster's own clock cannot show less than what no schedule can beat, or the nodes did not sleep.
    assert run.makespan_s >= run.bounds.makespan_s


def test_recorded_traces_are_among_those_that_ran() -> None:
    if len(traces()) == 1:
        pytest.skip(
            f"no traces in {folder}: only {shipped.name} ran; MAINSPRING_TRACES names a folder of WfFormat files"
        )
    assert {path.stem for path in traces()} > {shipped.stem}


def event(at_us: int, type_: str, node_id: str) -> HistoryEvent:
    return HistoryEvent(at_us, type_, node_id, -1, 1, "worker", None, "")


def good_history(trace: Trace) -> list[HistoryEvent]:
    """One node after the other; each starts in the commit that ends the one before."""
    return [
        event(i * 10 + offset, type_, task.id)
        for i, task in enumerate(trace.tasks)
        for offset, type_ in ((0, "ATTEMPT_STARTED"), (10, "NODE_SUCCEEDED"))
    ]


def test_a_history_that_holds_shows_no_problem() -> None:
    trace = read_trace(shipped.read_bytes())
    assert find_problems(trace, good_history(trace)) == []


def test_a_node_that_started_before_its_parent_had_ended_is_found() -> None:
    trace = read_trace(shipped.read_bytes())
    history = [
        event(10**6, e.type, e.node_id) if (e.node_id, e.type) == ("merge", "NODE_SUCCEEDED") else e
        for e in good_history(trace)
    ]
    assert find_problems(trace, history) == ["call_variants started before its parent merge had ended"]


def test_a_node_that_ran_twice_or_never_is_found() -> None:
    trace = read_trace(shipped.read_bytes())
    history = [e for e in good_history(trace) if e.node_id != "report"]
    history.append(event(5, "ATTEMPT_STARTED", "split"))
    assert find_problems(trace, history) == [
        "split started 2 times and succeeded 1 times",
        "report started 0 times and succeeded 0 times",
    ]


def test_the_table_sets_the_makespan_against_the_bounds() -> None:
    trace = read_trace(shipped.read_bytes())
    run = Run(trace, trace.bounds(slots=1, speedup=10), makespan_s=4.5, problems=())
    cells = [list(column.cells) for column in table_of([run]).columns]
    assert cells == [["small"], ["14"], ["2.150"], ["4.300"], ["4.500"], ["0.200"], ["as it must be"]]
