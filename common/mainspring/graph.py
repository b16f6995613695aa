"""Whether a definition can run, and the graph that it makes.

Every problem is found, not only the first, and each names its node and says what to do. All passes are linear in nodes and edges and
none recurses along the graph; edges stand in flat arrays, so that a hundred thousand nodes with a million edges take a few megabytes.
"""

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from mainspring import limits
from mainspring.errors import DefinitionError, Problem
from mainspring.paths import PathError, Template
from mainspring.workflow import ABSENT, Definition, Json, Node, reserved_names

_node_id: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,{limits.node_id_bytes_max - 1}}}")
_name: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.: /-]{{0,{limits.name_bytes_max - 1}}}")
_everywhere: Final = frozenset({"input", "workflow"})
_in_map: Final = frozenset({"item", "index"})


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes by index, in the order of the definition."""

    ids: tuple[str, ...]
    index: dict[str, int]
    """By id."""
    indegree: "array[int]"
    """How many nodes each one depends on."""
    roots: tuple[int, ...]
    """Nodes that depend on none."""
    sinks: tuple[int, ...]
    """Nodes on which none depends."""
    order: "array[int]"
    """All nodes, each after those that it depends on."""
    inputs: tuple[Template, ...]
    """The compiled input of each node."""
    overs: tuple[Template | None, ...]
    """The compiled list of each `map` node."""
    output: Template | None
    """The compiled output of the workflow, None when the definition has none."""
    _children: "Edges"
    _parents: "Edges"

    def children_of(self, node: int) -> "array[int]":
        """Return the nodes that depend on a node."""
        return self._children.of(node)

    def parents_of(self, node: int) -> "array[int]":
        """Return the nodes that a node depends on."""
        return self._parents.of(node)


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Lists of nodes, one for each node, in two flat arrays."""

    offsets: "array[int]"
    targets: "array[int]"

    def of(self, node: int) -> "array[int]":
        """Return the list of a node."""
        return self.targets[self.offsets[node] : self.offsets[node + 1]]

    def __len__(self) -> int:
        return len(self.targets)


def check(definition: Definition) -> list[Problem]:
    """Return everything that is wrong with a definition; empty when it can run."""
    return _Check(definition).problems


def build_graph(definition: Definition) -> Graph:
    """Return a definition's graph; raises `DefinitionError` with every problem found."""
    found = _Check(definition)
    if found.problems or found.graph is None:
        raise DefinitionError(found.problems)
    return found.graph


class _Check:
    """One pass over a definition; leaves its problems, or its graph."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.problems: list[Problem] = []
        self.graph: Graph | None = None
        self._literals: dict[str, Template] = {}
        self.index: dict[str, int] = {}
        for node in definition.nodes:
            self.index.setdefault(node.id, len(self.index))
        self._whole()
        if len(definition.nodes) > limits.nodes_max:
            return
        for node in definition.nodes:
            self._node(node)
        self._duplicates()
        if not self.problems:
            self._compile()

    def _say(self, reason: str, message: str, node_id: str = "", field: str = "") -> None:
        self.problems.append(Problem(reason, message, node_id, field))

    def _whole(self) -> None:
        definition = self.definition
        count = len(definition.nodes)
        if not _name.fullmatch(definition.name):
            message = (
                f"{definition.name!r} is no name; use 1 to {limits.name_bytes_max} letters, digits and _.:/- or spaces"
            )
            self._say("BAD_NAME", message, field="name")
        if not count:
            self._say("EMPTY", "it has no nodes; give it one at least", field="nodes")
        if count > limits.nodes_max:
            message = f"it has {count} nodes, more than the {limits.nodes_max} allowed; split it into several workflows"
            self._say("TOO_MANY_NODES", message, field="nodes")
        self._range("timeout", definition.timeout_ms, limits.timeout_ms_max, "")

    def _duplicates(self) -> None:
        seen: set[str] = set()
        for node in self.definition.nodes:
            if node.id in seen:
                self._say("DUPLICATE_ID", "the id is used twice; every node needs one of its own", node.id, "id")
            seen.add(node.id)

    def _node(self, node: Node) -> None:
        if not _node_id.fullmatch(node.id):
            message = f"{node.id!r} is no id; use 1 to {limits.node_id_bytes_max} letters, digits and _.:-, not beginning with .:-"
            self._say("BAD_ID", message, node.id[:200], "id")
        elif node.id in reserved_names:
            self._say(
                "RESERVED_ID", f"{node.id!r} is a name that data paths use themselves; choose another", node.id, "id"
            )
        if not node.executor or len(node.executor.encode()) > limits.executor_bytes_max:
            message = f"an executor's name has 1 to {limits.executor_bytes_max} bytes"
            self._say("BAD_EXECUTOR", message, node.id, "executor")
        self._numbers(node)
        for parent in node.depends_on:
            if parent == node.id:
                self._say("SELF_DEPENDENCY", "it depends on itself; remove that", node.id, "depends_on")
            elif parent not in self.index:
                self._say(
                    "UNKNOWN_DEPENDENCY", f"there is no node {parent!r}{self._hint(parent)}", node.id, "depends_on"
                )
        if len(node.requires) > limits.labels_max:
            message = f"it requires {len(node.requires)} labels, more than {limits.labels_max}"
            self._say("TOO_MANY_LABELS", message, node.id, "requires")

    def _numbers(self, node: Node) -> None:
        retry = node.retry
        self._range("timeouts.start_to_close", node.start_to_close_ms, limits.timeout_ms_max, node.id)
        self._range("timeouts.schedule_to_start", node.schedule_to_start_ms, limits.timeout_ms_max, node.id)
        self._range("retry.initial", retry.initial_ms, limits.retry_interval_ms_max, node.id)
        self._range("retry.max_interval", retry.max_interval_ms, limits.retry_interval_ms_max, node.id)
        self._range("retry.multiplier", retry.multiplier, 1_000, node.id, low=1)
        self._range("retry.jitter", retry.jitter, 1, node.id)
        if retry.max_attempts is not None:
            self._range("retry.max_attempts", retry.max_attempts, limits.attempts_max, node.id, low=1)
        if node.map is not None:
            self._range("map.max_parallel", node.map.max_parallel, limits.max_parallel_max, node.id)

    def _range(self, field: str, value: float, high: float, node_id: str, *, low: float = 0) -> None:
        if not low <= value <= high:
            self._say("OUT_OF_RANGE", f"{value} is not within {low} to {high}", node_id, field)

    def _hint(self, name: str) -> str:
        close = get_close_matches(name, self.index, 1) if len(self.index) <= 10_000 else []
        return f"; did you mean {close[0]!r}?" if close else ""

    def _template(self, value: Json, node_id: str, field: str) -> Template | None:
        try:
            if isinstance(value, str | None):
                # Many nodes share a literal or a path; one compiled form serves them all.
                key = f"{value is None}{value}"
                if key not in self._literals:
                    self._literals[key] = Template.compile(value)
                return self._literals[key]
            return Template.compile(value)
        except PathError as error:
            self._say("BAD_PATH", str(error), node_id, field)
            return None

    def _known_roots(self, template: Template, allowed: frozenset[str], node_id: str, field: str) -> None:
        for root in sorted(template.references - allowed):
            if root in _in_map:
                self._say("BAD_PATH", f"`{root}` is known only in the input of a `map` node", node_id, field)
            elif root == node_id and node_id:
                self._say("SELF_DEPENDENCY", "its data path names the node itself", node_id, field)
            elif root not in self.index:
                self._say(
                    "UNKNOWN_DEPENDENCY",
                    f"a data path names {root!r}, which is no node{self._hint(root)}",
                    node_id,
                    field,
                )

    def _compile(self) -> None:
        definition, ids = self.definition, tuple(node.id for node in self.definition.nodes)
        inputs: list[Template] = []
        overs: list[Template | None] = []
        parents: list[set[int]] = []
        for node in definition.nodes:
            made = self._template(node.input, node.id, "input")
            over = self._over(node)
            names = set(node.depends_on)
            if made is not None:
                self._known_roots(
                    made, _everywhere | _in_map if node.map is not None else _everywhere, node.id, "input"
                )
                names |= made.references
                inputs.append(made)
            if over is not None:
                self._known_roots(over, _everywhere, node.id, "map.over")
                names |= over.references
            overs.append(over)
            parents.append({self.index[name] for name in names if name in self.index})
        output = None
        if definition.output is not ABSENT:
            output = self._template(definition.output, "", "output")  # type: ignore[arg-type]  # ABSENT is ruled out
            if output is not None:
                self._known_roots(output, _everywhere, "", "output")
        edges = sum(map(len, parents))
        if edges > limits.edges_max:
            message = f"it has {edges} dependencies, more than the {limits.edges_max} allowed; split it into several workflows"
            self._say("TOO_MANY_EDGES", message, field="nodes")
        if not self.problems:
            self._arrange(ids, tuple(inputs), tuple(overs), output, parents)

    def _over(self, node: Node) -> Template | None:
        if node.map is None:
            return None
        over = self._template(node.map.over, node.id, "map.over")
        if over is not None and not over.is_one_path:
            message = f'{node.map.over!r} is not one data path; write it as "${{node.list}}"'
            self._say("BAD_PATH", message, node.id, "map.over")
            return None
        return over

    def _arrange(
        self,
        ids: tuple[str, ...],
        inputs: tuple[Template, ...],
        overs: tuple[Template | None, ...],
        output: Template | None,
        parents: Sequence[set[int]],
    ) -> None:
        children: list[list[int]] = [[] for _ in ids]
        for node, above in enumerate(parents):
            for parent in above:
                children[parent].append(node)
        indegree = array("I", map(len, parents))
        order = topological_order(indegree, children)
        if len(order) < len(ids):
            cycle = " -> ".join(ids[node] for node in find_cycle(parents, set(order)))
            self._say("CYCLE", f"nodes wait for each other: {cycle}; remove one of these dependencies", field="nodes")
            return
        self.graph = Graph(
            ids,
            self.index,
            indegree,
            tuple(node for node, count in enumerate(indegree) if not count),
            tuple(node for node, below in enumerate(children) if not below),
            order,
            inputs,
            overs,
            output,
            _flat(children),
            _flat(sorted(above) for above in parents),
        )


def topological_order(indegree: Sequence[int], children: Sequence[Sequence[int]]) -> "array[int]":
    """Return nodes each after those above it (Kahn, 1962); those on or below a cycle are missing."""
    left = array("I", indegree)
    order = array("I", (node for node, count in enumerate(left) if not count))
    at = 0
    while at < len(order):
        for child in children[order[at]]:
            left[child] -= 1
            if not left[child]:
                order.append(child)
        at += 1
    return order


def find_cycle(parents: Sequence[Iterable[int]], settled: set[int]) -> list[int]:
    """Return a cycle as a path whose first node is its last, each node before those that depend on it."""
    node = next(node for node in range(len(parents)) if node not in settled)
    seen: dict[int, int] = {}
    path: list[int] = []
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        # A node that is not settled has a parent that is not: walking upwards must come back.
        node = min(parent for parent in parents[node] if parent not in settled)
    cycle = [*path[seen[node] :], node]
    cycle.reverse()
    return cycle


def _flat(lists: Iterable[Sequence[int]]) -> Edges:
    offsets, targets = array("I", [0]), array("I")
    for one in lists:
        targets.extend(one)
        offsets.append(len(targets))
    return Edges(offsets, targets)
