"""All that is known after a run, as plain values: what clients saw, what executors did, what was done to whom, what the database holds."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.chaos.flows import node_ids
from tests.cluster.effects import Effect, read_lines

Key = tuple[str, str, int]
"""A node or instance: (workflow, node id, instance)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client."""

    client: str
    op: str
    workflow: str
    invoked_ns: int
    ended_ns: int
    """0: the client died before it knew."""
    outcome: str
    """"ok", "refused" or "unknown"."""
    error: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expect: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Inflicted:
    """One fault as it was done."""

    name: str
    kind: str
    target: str
    began_ns: int
    ended_ns: int
    held: Mapping[int, int] = field(default_factory=dict[int, int])
    """The shards that the target had, with their epochs."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A workflow as the database has it in the end."""

    workflow: str
    shard: int
    status: WorkflowStatus
    version: int
    output: Any = None
    failure: str = ""
    """Its type."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as the database has it in the end."""

    status: NodeStatus
    attempt: int
    assignment: int
    worker: str
    started_at_us: int
    width: int = 0
    output: Any = None


@dataclass(frozen=True, slots=True)
class ShardRow:
    """A shard as the database has it in the end."""

    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """One run."""

    calls: Sequence[Call]
    effects: Sequence[Effect]
    faults: Sequence[Inflicted]
    workflows: Mapping[str, WorkflowRow]
    nodes: Mapping[Key, NodeRow]
    attempts: Mapping[Key, Sequence[int]]
    """The numbers of the attempts that have failed."""
    shards: Mapping[int, ShardRow]
    live: Mapping[str, str]
    """The running coordinators' incarnations, by name."""
    kinds: Mapping[str, str]
    """The kind of each workflow that was ever submitted."""
    ended: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """When members ended by themselves."""
    offset_us: int = 0
    """What must be added to the journals' time to get the database's."""
    slots: int = 16


def read_calls(folder: Path) -> Sequence[Call]:
    """Return what all clients logged, in the order in which calls were made."""
    calls: list[Call] = []
    for path in folder.glob("*.jsonl"):
        begun: dict[int, dict[str, Any]] = {}
        for line in read_lines(path):
            if line["act"] == "invoke":
                begun[line["call"]] = line
                continue
            calls.append(_call(path.stem, begun.pop(line["call"]), line))
        calls += [_call(path.stem, first, {"act": "unknown", "at_ns": 0}) for first in begun.values()]
    return sorted(calls, key=lambda call: call.invoked_ns)


def _call(client: str, first: Mapping[str, Any], last: Mapping[str, Any]) -> Call:
    return Call(
        client,
        first["op"],
        first["workflow"],
        first["at_ns"],
        last["at_ns"],
        last["act"],
        last.get("error", ""),
        last.get("answer", {}),
        first.get("expect", {}),
    )


def kinds_of(calls: Sequence[Call]) -> Mapping[str, str]:
    """Return the kind of each workflow that was submitted."""
    return {call.workflow: call.expect["kind"] for call in calls if call.op == "submit"}


def read_faults(path: Path) -> Sequence[Inflicted]:
    """Return the faults that were really done, in the order in which they began."""
    found = [
        Inflicted(
            line["name"],
            line["kind"],
            line["target"],
            line["began_ns"],
            line["ended_ns"],
            {int(shard): epoch for shard, epoch in line["held"].items()},
            line["seconds"],
        )
        for line in (read_lines(path) if path.exists() else ())
        if line["injected"]
    ]
    return sorted(found, key=lambda fault: fault.began_ns)


def read_ended(path: Path) -> Mapping[str, Sequence[int]]:
    """Return when members ended by themselves, or had to be killed because they did not end."""
    ended: dict[str, list[int]] = defaultdict(list)
    for line in read_lines(path) if path.exists() else ():
        ended[line["member"]].append(line["at_ns"])
    return ended


_of_workflows: Final = "SELECT workflow_id, shard_id, status, version, output, failure FROM workflows"
_of_nodes: Final = (
    "SELECT workflow_id, node, instance, status, attempt, assignment, worker, started_at_us, width, output FROM nodes"
)


def read_rows(
    read: Any, kinds: Mapping[str, str]
) -> tuple[Mapping[str, WorkflowRow], Mapping[Key, NodeRow], Mapping[Key, Sequence[int]], Mapping[int, ShardRow]]:
    """Return the workflows, nodes, failed attempts and shards; `read` runs a statement and gives its rows."""
    workflows = {
        name: WorkflowRow(
            name, shard, WorkflowStatus(status), version, _json(output), (_json(failure) or {}).get("type", "")
        )
        for name, shard, status, version, output, failure in read(_of_workflows)
    }
    nodes: dict[Key, NodeRow] = {}
    for name, node, instance, status, attempt, assignment, worker, started_at_us, width, output in read(_of_nodes):
        nodes[name, node_ids(kinds[name])[int(node)], instance] = NodeRow(
            NodeStatus(status), attempt, assignment, worker, started_at_us, width, _json(output)
        )
    attempts: dict[Key, list[int]] = defaultdict(list)
    for name, node, instance, attempt in read("SELECT workflow_id, node, instance, attempt FROM attempts"):
        attempts[name, node_ids(kinds[name])[int(node)], instance].append(attempt)
    shards = {
        shard: ShardRow(epoch, holder or "")
        for shard, epoch, holder in read("SELECT shard_id, epoch, holder FROM shards")
    }
    return workflows, nodes, attempts, shards


def _json(data: bytes | None) -> Any:
    return json.loads(data) if data else None
