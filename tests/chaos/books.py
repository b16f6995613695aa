"""What the database showed while the run went on, sample after sample: nothing in it may ever go back. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from mainspring.ids import epoch_of
from mainspring_coordinator.engine.status import (
    NodeStatus,
    WorkflowStatus,
    node_transitions,
    workflow_transitions,
)

violations_max: Final = 1_000
_unsure_ns: Final = 2_000_000_000
S = TypeVar("S")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be."""

    law: str
    """What was broken, in a few words."""
    what: str
    """Who, and how it shows."""

    def __str__(self) -> str:
        return f"{self.law}: {self.what}"


@dataclass(frozen=True, slots=True)
class ShardSeen:
    """A shard's row."""

    shard: int
    epoch: int
    holder: str
    """An incarnation, empty if it has none."""
    batch_seq: int


@dataclass(frozen=True, slots=True)
class WorkflowSeen:
    """What is sampled of a workflow's row."""

    workflow: str
    shard: int
    status: WorkflowStatus
    version: int


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What is sampled of a node's row."""

    workflow: str
    shard: int
    node: int
    instance: int
    status: NodeStatus
    attempt: int
    assignment: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A shard was seen with a new epoch, for the first time."""

    at_ns: int
    shard: int
    epoch: int
    holder: str


class _Last(dict[K, V]):
    """The rows as they were seen last; what is new can be taken back.

    A server shows a commit a moment before it is on disk. One that is killed in that moment has shown what then never was, and
    told nobody that it was done: so what was seen right before the server went away does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self._undo: deque[tuple[int, K, V | None]] = deque()

    def put(self, at_ns: int, key: K, value: V) -> V | None:
        """Take a row; return what was there."""
        while self._undo and self._undo[0][0] < at_ns - _unsure_ns:
            self._undo.popleft()
        before = self.get(key)
        if before != value:
            self._undo.append((at_ns, key, before))
            self[key] = value
        return before

    def take_back(self) -> None:
        """Forget what is new."""
        for _, key, before in reversed(self._undo):
            if before is None:
                del self[key]
            else:
                self[key] = before
        self._undo.clear()


class ShardBook:
    """The shards' rows."""

    def __init__(self) -> None:
        self.last: _Last[int, ShardSeen] = _Last()
        self.taken: list[Taken] = []
        self.committed_ns: dict[tuple[int, int], int] = {}
        """By shard and epoch, when the first commit under it was seen."""
        self.commits_ns: list[int] = []
        """When samples showed commits of any shard."""
        self.violations: list[Violation] = []

    def observe(self, at_ns: int, rows: Iterable[ShardSeen]) -> None:
        """Take a sample that was received at `at_ns`."""
        commits = False
        for row in rows:
            before = self.last.put(at_ns, row.shard, row)
            if before is None:
                continue
            self._compare(before, row)
            if row.epoch > before.epoch:
                self.taken.append(Taken(at_ns, row.shard, row.epoch, row.holder))
            if row.batch_seq > before.batch_seq:
                commits = True
                self.committed_ns.setdefault((row.shard, row.epoch), at_ns)
        if commits:
            self.commits_ns.append(at_ns)

    def broke(self) -> None:
        """The server went away."""
        self.last.take_back()

    def _compare(self, before: ShardSeen, row: ShardSeen) -> None:
        said = f"shard {row.shard} was {before} and then {row}"
        if row.epoch < before.epoch:
            self._violate("an epoch went back", said)
        if row.batch_seq < before.batch_seq:
            self._violate("a batch number went back", said)
        if row.epoch == before.epoch and row.holder not in ("", before.holder):
            self._violate("a shard changed hands within one epoch", said)

    def _violate(self, law: str, what: str) -> None:
        if len(self.violations) < violations_max:
            self.violations.append(Violation(law, what))


class RowBook:
    """The rows of workflows and nodes."""

    def __init__(self) -> None:
        self._workflows: _Last[str, WorkflowSeen] = _Last()
        self._nodes: _Last[tuple[str, int, int], NodeSeen] = _Last()
        self._assigned: _Last[tuple[int, int], tuple[str, int, int]] = _Last()
        self.violations: list[Violation] = []

    def observe(
        self, at_ns: int, workflows: Iterable[WorkflowSeen], nodes: Iterable[NodeSeen], epochs: Mapping[int, int]
    ) -> None:
        """Take a sample that was received at `at_ns`; `epochs` are of the shards, read after it."""
        for row in workflows:
            before = self._workflows.put(at_ns, row.workflow, row)
            if before is not None and before != row:
                if row.version <= before.version:
                    self._violate("a version did not go forward", f"{before}, then {row}")
                if row.status not in _workflows_after[before.status]:
                    self._violate("a workflow's state went back", f"{before}, then {row}")
        for node in nodes:
            self._look(at_ns, node, epochs)

    @property
    def workflows(self) -> int:
        """How many workflows were seen."""
        return len(self._workflows)

    def broke(self) -> None:
        """The server went away."""
        for last in (self._workflows, self._nodes, self._assigned):
            last.take_back()

    def _look(self, at_ns: int, row: NodeSeen, epochs: Mapping[int, int]) -> None:
        key = (row.workflow, row.node, row.instance)
        before = self._nodes.put(at_ns, key, row)
        if row.assignment:
            if epoch_of(row.assignment) > epochs[row.shard]:
                self._violate("an assignment of an epoch that nobody had", f"{row}; the shard's is {epochs[row.shard]}")
            other = self._assigned.put(at_ns, (row.shard, row.assignment), key)
            if other not in (None, key):
                self._violate("an assignment id was minted twice", f"{row}, and node {other}")
        if before is None or before == row:
            return
        said = f"{before}, then {row}"
        if row.status not in _nodes_after[before.status]:
            self._violate("a node's state went back", said)
        if before.status in _ended and (row.attempt, row.assignment) != (before.attempt, before.assignment):
            self._violate("a node that had ended was changed", said)
        if row.attempt < before.attempt or row.assignment < before.assignment:
            self._violate("an attempt or assignment went back", said)

    def _violate(self, law: str, what: str) -> None:
        if len(self.violations) < violations_max:
            self.violations.append(Violation(law, what))


def _closed(transitions: Mapping[S, frozenset[S]]) -> Mapping[S, frozenset[S]]:
    """Return what can be seen after each state, however many steps lie between two samples."""
    after: dict[S, frozenset[S]] = {}
    for start in transitions:
        seen, ahead = {start}, [start]
        while ahead:
            for state in transitions[ahead.pop()] - seen:
                seen.add(state)
                ahead.append(state)
        after[start] = frozenset(seen)
    return after


_workflows_after: Final = _closed(workflow_transitions)
_nodes_after: Final = _closed(node_transitions)
_ended: Final = frozenset(status for status, after in node_transitions.items() if not after)
