"""Reads a workflow trace in WfFormat 1.5 (https://wfcommons.org/format): who waited for whom, how long each ran, what they passed on.

Pure: text in, values out. What is not a trace, or does not hold together, is refused with the place and the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from mainspring.workflow import Definition, Node, Retry
from mainspring_coordinator.simulate.recording import Recording, RecordingError

_version: Final = "1.5"


class TraceError(RecordingError):
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
    made: Mapping[str, int] = field(default_factory=dict[str, int])
    """The files that it makes, with their bytes."""
    used: tuple[str, ...] = ()
    """The files that it reads."""


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

    def recording(self) -> Recording:
        """Return it as a simulation runs it."""
        return Recording(
            self.name,
            self.definition(1.0),
            run_us={(task.id, -1): round(task.runtime_s * 1e6) for task in self.tasks},
            made={task.id: task.made for task in self.tasks},
            used={task.id: task.used for task in self.tasks},
        )

    def bounds(self, slots: int, speedup: float) -> Bounds:
        """Return what a run with so many slots cannot beat."""
        ends: dict[str, float] = {}
        for task in self.tasks:
            ends[task.id] = task.runtime_s + max((ends[parent] for parent in task.parents), default=0.0)
        work_s = sum(task.runtime_s for task in self.tasks)
        return Bounds(max(ends.values()) / speedup, work_s / slots / speedup)


def is_trace(document: object) -> bool:
    """Tell whether a JSON document means to be a trace."""
    return isinstance(document, dict) and "schemaVersion" in document and "workflow" in document


def read_trace(text: bytes | str) -> Trace:
    """Return the trace that `text` holds; raise `TraceError` if it holds none."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"not JSON: {error}") from error
    version = _get(document, "schemaVersion", str, "the document")
    if version != _version:
        raise TraceError(f"schemaVersion is {version!r}; this program reads WfFormat {_version}")
    workflow = _get(document, "workflow", dict, "the document")
    specified = _tasks(workflow, "specification")
    executed = _tasks(workflow, "execution")
    _same_ids(specified, executed)
    sizes = _sizes(workflow["specification"])
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
        made = {name: sizes.get(name, 0) for name in _names(entry, "outputFiles", where)}
        used = tuple(dict.fromkeys(_names(entry, "inputFiles", where)))
        tasks[task_id] = Task(task_id, float(runtime_s), parents, made, used)
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


def _sizes(specification: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes of each file; traces may leave files out."""
    sizes: dict[str, int] = {}
    for i, entry in enumerate(_optional(specification, "files", "workflow.specification")):
        where = f"workflow.specification.files[{i}]"
        sizes[_get(entry, "id", str, where)] = int(_get(entry, "sizeInBytes", (int, float), where))
    return sizes


def _names(entry: Mapping[str, Any], key: str, where: str) -> list[str]:
    names = _optional(entry, key, where)
    for name in names:
        if not isinstance(name, str):
            raise TraceError(f"{where}: {key} holds {type(name).__name__}, which is no file's id")
    return names


def _optional(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    return _get(entry, key, list, where) if entry.get(key) is not None else []


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
