"""Reads a workflow trace in WfFormat 1.5 (https://wfcommons.org/format): who waited for whom, and how long each ran.

Pure: text in, values out. What is not a trace, or does not hold together, is refused with the place and the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from mainspring.workflow import Definition, Node, Retry


class TraceError(Exception):
    """The text is not a WfFormat 1.5 trace that can be run."""


@dataclass(frozen=True)
class Task:
    """One task of a trace."""

    id: str
    """Its id."""
    runtime_s: float
    """How long it ran when it was recorded."""
    parents: tuple[str, ...]
    """The tasks that had to end first."""


@dataclass(frozen=True)
class Bounds:
    """What no schedule can beat, in seconds."""

    critical_path_s: float
    """The longest chain of tasks."""
    work_over_slots_s: float
    """All the work, spread evenly over the slots."""

    @property
    def makespan_s(self) -> float:
        """The higher of the two."""
        return max(self.critical_path_s, self.work_over_slots_s)


@dataclass(frozen=True)
class Trace:
    """A recorded run of a scientific workflow."""

    name: str
    """What it is called."""
    tasks: tuple[Task, ...]
    """Its tasks, each after its parents."""

    def definition(self, speedup: float, *, executor: str = "sleep") -> Definition:
        """Return the workflow that does it again: each node sleeps its recorded time divided by `speedup`.

        A node is tried once: the check that each ran exactly once would mean little otherwise.
        """
        once = Retry(max_attempts=1)
        nodes = [
            Node(t.id, executor, {"seconds": t.runtime_s / speedup}, depends_on=t.parents, retry=once)
            for t in self.tasks
        ]
        return Definition(self.name, tuple(nodes), output=len(nodes))

    def bounds(self, slots: int, speedup: float) -> Bounds:
        """Return what a run with so many slots cannot beat."""
        ends: dict[str, float] = {}
        for task in self.tasks:
            ends[task.id] = task.runtime_s + max((ends[parent] for parent in task.parents), default=0.0)
        work_s = sum(task.runtime_s for task in self.tasks)
        return Bounds(max(ends.values()) / speedup, work_s / slots / speedup)


def read_trace(text: bytes | str) -> Trace:
    """Return the trace that `text` holds; raise `TraceError` if it holds none."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"not JSON: {error}") from error
    version = _get(document, "schemaVersion", str, "the document")
    if version != "1.5":
        raise TraceError(f"schemaVersion is {version!r}; this program reads WfFormat 1.5")
    workflow = _get(document, "workflow", dict, "the document")
    specified = _tasks(workflow, "specification")
    executed = _tasks(workflow, "execution")
    _same_ids(specified, executed)
    tasks: dict[str, Task] = {}
    for task_id, entry in specified.items():
        where = f"task {task_id!r}"
        runtime_s = _get(executed[task_id], "runtimeInSeconds", (int, float), where)
        if not 0 <= runtime_s < float("inf"):
            raise TraceError(f"{where}: runtimeInSeconds is {runtime_s}; a time is at least 0")
        parents = tuple(dict.fromkeys(_get(entry, "parents", list, where)))
        for parent in parents:
            if parent not in specified:
                raise TraceError(f"{where}: its parent {parent!r} is no task of this trace")
        tasks[task_id] = Task(task_id, float(runtime_s), parents)
    return Trace(_get(document, "name", str, "the document"), _parents_first(tasks))


def _tasks(workflow: Mapping[str, Any], part: str) -> dict[str, Mapping[str, Any]]:
    entries = _get(_get(workflow, part, dict, "workflow"), "tasks", list, f"workflow.{part}")
    found: dict[str, Mapping[str, Any]] = {}
    for i, entry in enumerate(entries):
        task_id = _get(entry, "id", str, f"workflow.{part}.tasks[{i}]")
        if task_id in found:
            raise TraceError(f"workflow.{part}: task {task_id!r} stands there twice")
        found[task_id] = entry
    if not found:
        raise TraceError(f"workflow.{part}.tasks is empty")
    return found


def _same_ids(specified: Mapping[str, object], executed: Mapping[str, object]) -> None:
    for task_id in specified.keys() ^ executed.keys():
        only, other = ("specification", "execution") if task_id in specified else ("execution", "specification")
        raise TraceError(f"task {task_id!r} is in workflow.{only} but not in workflow.{other}")


def _parents_first(tasks: Mapping[str, Task]) -> tuple[Task, ...]:
    waits = {task.id: len(task.parents) for task in tasks.values()}
    children: dict[str, list[str]] = {}
    for task in tasks.values():
        for parent in task.parents:
            children.setdefault(parent, []).append(task.id)
    ordered = [task_id for task_id, count in waits.items() if count == 0]
    for task_id in ordered:  # grows while it is read: each task follows the last of its parents
        for child in children.get(task_id, ()):
            waits[child] -= 1
            if waits[child] == 0:
                ordered.append(child)
    if len(ordered) < len(tasks):
        stuck = next(task_id for task_id, count in waits.items() if count)
        raise TraceError(f"task {stuck!r} waits for itself, directly or through its parents")
    return tuple(tasks[task_id] for task_id in ordered)


def _get(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(entry, dict):
        raise TraceError(f"{where} is not an object")
    if key not in entry:
        raise TraceError(f"{where}: {key} is missing")
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TraceError(f"{where}: {key} is {type(value).__name__}, which it cannot be")
    return value
