"""Runs WfFormat traces and compares their makespan with what no schedule can beat.

    python -m examples.wfformat.run examples/wfformat/traces/small.json --speedup 10

Each task becomes a node that sleeps its recorded time divided by the speed-up. Without --address an embedded cluster is
started for the run. Afterwards the history is checked: each node ran exactly once, none before its parents had ended.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from mainspring.errors import MainspringError
from mainspring_client import Client, HistoryEvent
from mainspring_client.dev import DevCluster
from mainspring_coordinator.simulate.wfformat import Bounds, Trace, TraceError, read_trace

executors = "examples.wfformat.tasks"
run_timeout_s = 24 * 3600


@dataclass(frozen=True)
class Run:
    """What came of one trace."""

    trace: Trace
    """Which trace."""
    bounds: Bounds
    """What no schedule can beat."""
    makespan_s: float
    """From the submit to the end, by the cluster's clock."""
    problems: tuple[str, ...]
    """What the history shows that must not be; empty when all is well."""


async def run_trace(client: Client, trace: Trace, *, slots: int, speedup: float) -> Run:
    """Run one trace to its end and check its history."""
    handle = await client.submit(trace.definition(speedup))
    await handle.result(timeout=run_timeout_s)
    workflow = await handle.get()
    history = [event async for event in handle.history()]
    makespan_s = (workflow.ended_at_us - workflow.submitted_at_us) / 1e6
    return Run(trace, trace.bounds(slots, speedup), makespan_s, tuple(find_problems(trace, history)))


def find_problems(trace: Trace, history: Iterable[HistoryEvent]) -> list[str]:
    """Return what a history of `trace` shows that must not be.

    The end of the last parent and the start of a node may carry the same time: they are one commit.
    """
    started: dict[str, list[int]] = {}
    ended: dict[str, list[int]] = {}
    for event in history:
        if event.type == "ATTEMPT_STARTED":
            started.setdefault(event.node_id, []).append(event.at_us)
        elif event.type == "NODE_SUCCEEDED":
            ended.setdefault(event.node_id, []).append(event.at_us)
    problems: list[str] = []
    for task in trace.tasks:
        counts = len(started.get(task.id, ())), len(ended.get(task.id, ()))
        if counts != (1, 1):
            problems.append(f"{task.id} started {counts[0]} times and succeeded {counts[1]} times")
            continue
        early = [p for p in task.parents if min(ended.get(p, [sys.maxsize])) > started[task.id][0]]
        problems += [f"{task.id} started before its parent {parent} had ended" for parent in early]
    return problems


def table_of(runs: Iterable[Run]) -> Table:
    """Return the figures as a table; times in seconds."""
    table = Table("trace", "tasks", "critical path", "work / slots", "makespan", "over the bound", "history")
    for run in runs:
        bounds = run.bounds
        over_s = run.makespan_s - bounds.makespan_s
        times = [f"{t:.3f}" for t in (bounds.critical_path_s, bounds.work_over_slots_s, run.makespan_s, over_s)]
        history = "WRONG" if run.problems else "as it must be"
        table.add_row(run.trace.name, str(len(run.trace.tasks)), *times, history)
    return table


async def run_all(traces: Iterable[Trace], options: argparse.Namespace) -> list[Run]:
    """Run one trace after the other, each with the whole cluster to itself."""
    async with AsyncExitStack() as stack:
        address, slots = options.address, options.slots
        if address is None:
            data = Path(stack.enter_context(TemporaryDirectory(prefix="mainspring-wfformat-")))
            slots_each = -(-options.slots // options.workers)
            slots = slots_each * options.workers
            cluster = DevCluster(
                imports=[executors],
                workers=options.workers,
                slots=slots_each,
                data=data,
                directory=Path(__file__).parents[2],
            )
            address = (await stack.enter_async_context(cluster)).address
        client = await stack.enter_async_context(Client(address))
        return [await run_trace(client, trace, slots=slots, speedup=options.speedup) for trace in traces]


def main() -> int:
    """Run the traces that the command line names."""
    parser = argparse.ArgumentParser(description="Run WfFormat 1.5 traces on a cluster.")
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="a WfFormat 1.5 file")
    parser.add_argument(
        "--speedup", type=float, default=100.0, help="how much shorter than recorded each task is (100)"
    )
    parser.add_argument("--slots", type=int, default=64, help="slots of all workers together (64)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the embedded cluster (2)")
    parser.add_argument(
        "--address", help=f"a running cluster whose workers import {executors}, instead of an embedded one"
    )
    options = parser.parse_args()
    if options.speedup <= 0 or options.slots < 1 or not 1 <= options.workers <= options.slots:
        parser.error("--speedup must be above 0, --slots at least 1, --workers between 1 and --slots")
    console = Console()
    traces: list[Trace] = []
    try:
        for path in options.traces:
            try:
                traces.append(read_trace(path.read_bytes()))
            except (OSError, TraceError) as error:
                parser.error(f"{path}: {error}")
        runs = asyncio.run(run_all(traces, options))
    except MainspringError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    console.print(table_of(runs))
    for run in runs:
        for problem in run.problems:
            console.print(f"[red]{run.trace.name}: {problem}[/red]")
    return 1 if any(run.problems for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
