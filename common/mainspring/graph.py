"""Whether a definition can run, and the graph that it makes.

Every problem is found, not only the first, and each names its node and says what to do. All passes are linear in nodes and edges and
none recurses along the graph; edges stand in flat arrays, so that a hundred thousand nodes with a million edges take a few megabytes.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from mainspring import limits
from mainspring.durations import format_duration
from mainspring.errors import DefinitionError, Problem
from mainspring.paths import Template
from mainspring.problems import Problems
from mainspring.workflow import (
    ABSENT,
    Affinity,
    Cache,
    Definition,
    Json,
    Needed,
    Node,
    default_retry,
    reserved_names,
    strategies,
)

_node_id: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,{limits.node_id_bytes_max - 1}}}")
_name: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.: /-]{{0,{limits.name_bytes_max - 1}}}")
_everywhere: Final = frozenset({"input", "workflow"})
_in_map: Final = frozenset({"item", "index"})
_cycle_nodes_shown: Final = 20


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
    cache_keys: tuple[Template | None, ...]
    """The compiled cache key of each node that has one; empty if no node has."""
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
    return _Check(definition).problems.all()


def build_graph(definition: Definition) -> Graph:
    """Return a definition's graph; raises `DefinitionError` with every problem found."""
    found = _Check(definition)
    if found.problems or found.graph is None:
        raise DefinitionError(found.problems.all())
    return found.graph


class _Check:
    """One pass over a definition; leaves its problems, or its graph."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.problems = Problems()
        self.graph: Graph | None = None
        self._by_text: dict[str | None, Template] = {}
        self._by_literal: dict[bytes, Template] = {}
        self._warned: set[tuple[str, str]] = set()
        self.index: dict[str, int] = {}
        for place, node in enumerate(definition.nodes):
            self.index.setdefault(node.id, place)
        self._whole()
        if len(definition.nodes) > limits.nodes_max:
            return
        for place, node in enumerate(definition.nodes):
            self._node(node, place)
        self._compile()

    def _say(self, reason: str, message: str, node_id: str = "", field: str = "") -> None:
        self.problems.say(reason, message, node_id, field)

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
        self._time("timeout", definition.timeout_ms, limits.timeout_ms_max, "")
        self._placement(definition.strategy, definition.affinity, "")
        self._range("priority", definition.priority, limits.priority_max, "")
        self._text("fairness_key", definition.fairness_key, limits.fairness_key_bytes_max, "", least=0)

    def _node(self, node: Node, place: int) -> None:
        if not _node_id.fullmatch(node.id):
            message = f"{node.id[:200]!r} is no id; use 1 to {limits.node_id_bytes_max} letters, digits and _.:-, not beginning with .:-"
            self._say("BAD_ID", message, node.id[:200], "id")
        elif node.id in reserved_names:
            message = f"{node.id!r} is a name that data paths use themselves; choose another"
            self._say("RESERVED_ID", message, node.id, "id")
        if self.index[node.id] != place:
            self._say("DUPLICATE_ID", "the id is used twice; every node needs one of its own", node.id, "id")
        self._text("executor", node.executor, limits.executor_bytes_max, node.id)
        self._numbers(node)
        self._lists(node)
        if node.strategy or node.affinity is not None:
            self._placement(node.strategy, node.affinity, node.id)

    def _lists(self, node: Node) -> None:
        for parent in node.depends_on:
            if parent == node.id:
                self._say("SELF_DEPENDENCY", "it depends on itself; remove that", node.id, "depends_on")
            elif parent not in self.index:
                message = f"there is no node {parent!r}{self._hint(parent)}"
                self._unknown(message, parent, node.id, "depends_on")
        if node.requires:
            self._labels(node)
        if node.retry is not default_retry:
            self._error_types(node)

    def _labels(self, node: Node) -> None:
        if len(node.requires) > limits.labels_max:
            message = f"it requires {len(node.requires)} labels, more than the {limits.labels_max} allowed"
            self._say("TOO_MANY_LABELS", message, node.id, "requires")
        for label, value in node.requires.items():
            self._text("requires", label, limits.name_bytes_max, node.id)
            self._needed(f"requires.{label}", value, node.id)

    def _error_types(self, node: Node) -> None:
        types = node.retry.non_retryable
        if len(types) > limits.non_retryable_max:
            message = f"it names {len(types)} error types, more than the {limits.non_retryable_max} allowed"
            self._say("OUT_OF_RANGE", message, node.id, "retry.non_retryable")
        for one in types:
            self._text("retry.non_retryable", one, limits.error_type_bytes_max, node.id)

    def _needed(self, field: str, needed: Needed, node_id: str) -> None:
        values = [needed] if isinstance(needed, str) else needed
        if not 1 <= len(values) <= limits.values_a_label_max:
            message = f"it names {len(values)} values; use 1 to {limits.values_a_label_max}"
            self._say("OUT_OF_RANGE", message, node_id, field)
        for value in values:
            self._text(field, value, limits.name_bytes_max, node_id, least=0)

    def _placement(self, strategy: str, affinity: Affinity | None, node_id: str) -> None:
        if strategy and strategy not in strategies:
            known = ", ".join(strategies)
            close = self.problems.closest(strategy, strategies)
            hint = f"did you mean {close!r}? There are {known}" if close else f"there are {known}"
            self._say("UNKNOWN_STRATEGY", f"{strategy[:80]!r} is no strategy; {hint}", node_id, "strategy")
        if affinity is None:
            return
        if strategy not in ("", "affinity"):
            message = f"`affinity` says nothing to the strategy {strategy[:80]!r}; remove one of the two"
            self._say("CONTRADICTION", message, node_id, "affinity")
        if affinity.key is not None:
            self._text("affinity.key", affinity.key, limits.affinity_key_bytes_max, node_id)

    def _numbers(self, node: Node) -> None:
        retry, interval_max, time_max = node.retry, limits.retry_interval_ms_max, limits.timeout_ms_max
        # Nearly every node has the defaults, and those are in range.
        if retry is not default_retry and retry != default_retry:
            self._time("retry.initial", retry.initial_ms, interval_max, node.id)
            self._time("retry.max_interval", retry.max_interval_ms, interval_max, node.id)
            self._range("retry.multiplier", retry.multiplier, limits.retry_multiplier_max, node.id, low=1)
            self._range("retry.jitter", retry.jitter, 1, node.id)
            if retry.max_attempts is not None:
                self._range("retry.max_attempts", retry.max_attempts, limits.attempts_max, node.id, low=1)
        if node.start_to_close_ms or node.schedule_to_start_ms:
            self._time("timeouts.start_to_close", node.start_to_close_ms, time_max, node.id)
            self._time("timeouts.schedule_to_start", node.schedule_to_start_ms, time_max, node.id)
        if node.map is not None:
            self._range("map.max_parallel", node.map.max_parallel, limits.max_parallel_max, node.id)
        if node.priority is not None:
            self._range("priority", node.priority, limits.priority_max, node.id)
        if node.concurrency is not None:
            self._text("concurrency.key", node.concurrency.key, limits.concurrency_key_bytes_max, node.id)
            self._range("concurrency.limit", node.concurrency.limit, limits.concurrency_limit_max, node.id, low=1)
        if node.cache is not None:
            self._time("cache.ttl", node.cache.ttl_ms, limits.cache_ttl_ms_max, node.id, low_ms=limits.cache_ttl_ms_min)
            if node.cache.key is not None:
                self._text("cache.key", node.cache.key, limits.cache_key_bytes_max, node.id)

    def _range(self, field: str, value: float, high: float, node_id: str, *, low: float = 0) -> None:
        if not low <= value <= high:
            self._say("OUT_OF_RANGE", f"{value} is not within {low} to {high}", node_id, field)

    def _time(self, field: str, ms: int, high_ms: int, node_id: str, *, low_ms: int = 0) -> None:
        if not low_ms <= ms <= high_ms:
            message = f"{format_duration(ms)} is not within {format_duration(low_ms)} to {format_duration(high_ms)}"
            self._say("OUT_OF_RANGE", message, node_id, field)

    def _text(self, field: str, value: str, bytes_max: int, node_id: str, *, least: int = 1) -> None:
        if value.isascii() and least <= len(value) <= bytes_max:
            return
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            self._say("BAD_TEXT", f"{value[:80]!r} has half a surrogate pair, which JSON cannot hold", node_id, field)
            return
        if not least <= size <= bytes_max:
            self._say("BAD_TEXT", f"{value[:80]!r} has {size} bytes; use {least} to {bytes_max}", node_id, field)

    def _hint(self, name: str) -> str:
        close = self.problems.closest(name, self.index)
        return f"; did you mean {close!r}?" if close is not None else ""

    def _unknown(self, message: str, name: str, node_id: str, field: str) -> None:
        # Once a node and name: a definition may depend on what its data paths name as well.
        if (node_id, name) not in self._warned:
            self._warned.add((node_id, name))
            self._say("UNKNOWN_DEPENDENCY", message, node_id, field)

    def _template(self, value: Json, node_id: str, field: str) -> Template | None:
        text = value if isinstance(value, str) else None
        if value is None or text is not None:
            # Many nodes share a text; one compiled form serves them all.
            shared = self._by_text.get(text)
            if shared is not None:
                return shared
        template, errors = Template.attempt(value)
        for error in errors:
            self._say("BAD_PATH", str(error), node_id, field + error.at)
        if template is None:
            return None
        if template.is_literal:
            literal = template.render({})
            if len(literal) > limits.payload_bytes_max:
                message = f"it has {len(literal)} bytes, more than the {limits.payload_bytes_max} allowed; pass a reference instead"
                self._say("TOO_LARGE", message, node_id, field)
            template = self._by_literal.setdefault(literal, template)
        if value is None or text is not None:
            self._by_text[text] = template
        return template

    def _known_roots(self, template: Template, allowed: frozenset[str], node_id: str, field: str) -> None:
        strange = [root for root in template.references if root not in allowed and root not in self.index]
        if node_id in template.references:
            strange.append(node_id)
        for root in sorted(strange):
            if root in _in_map:
                self._say("BAD_PATH", f"`{root}` is known only in the input of a `map` node", node_id, field)
            elif root == node_id and node_id:
                self._say("SELF_DEPENDENCY", "its data path names the node itself", node_id, field)
            elif root not in self.index:
                message = f"a data path names {root!r}, which is no node{self._hint(root)}"
                self._unknown(message, root, node_id, field)

    def _compile(self) -> None:
        inputs: list[Template] = []
        overs: list[Template | None] = []
        cache_keys: list[Template | None] = []
        offsets, targets = array("I", [0]), array("I")
        # A reserved name is never a node in a data path; a node that has one is told already.
        index = {name: place for name, place in self.index.items() if name not in reserved_names}
        for place, node in enumerate(self.definition.nodes):
            made = self._template(node.input, node.id, "input")
            over = self._over(node)
            names = set(node.depends_on)
            if made is not None:
                if made.references:
                    self._known_roots(made, _allowed(node), node.id, "input")
                    names |= made.references
                inputs.append(made)
            key = None if node.cache is None else self._cache_key(node, node.cache)
            if key is not None:
                names |= key.references
            cache_keys.append(key)
            if over is not None:
                self._known_roots(over, _everywhere, node.id, "map.over")
                names |= over.references
            overs.append(over)
            known = [index[name] for name in names if name in index]
            if place in known:
                known.remove(place)  # told already
            known.sort()
            targets.extend(known)
            offsets.append(len(targets))
        output = None
        if self.definition.output is not ABSENT:
            output = self._template(self.definition.output, "", "output")  # type: ignore[arg-type]  # ABSENT is ruled out
            if output is not None:
                self._known_roots(output, _everywhere, "", "output")
        if len(targets) > limits.edges_max:
            message = f"it has {len(targets)} dependencies, more than the {limits.edges_max} allowed; split it into several workflows"
            self._say("TOO_MANY_EDGES", message, field="nodes")
            return
        keys = tuple(cache_keys) if any(key is not None for key in cache_keys) else ()
        self._arrange(tuple(inputs), tuple(overs), keys, output, Edges(offsets, targets))

    def _cache_key(self, node: Node, cache: Cache) -> Template | None:
        key = None if cache.key is None else self._template(cache.key, node.id, "cache.key")
        if key is not None:
            self._known_roots(key, _allowed(node), node.id, "cache.key")
        return key

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
        inputs: tuple[Template, ...],
        overs: tuple[Template | None, ...],
        cache_keys: tuple[Template | None, ...],
        output: Template | None,
        parents: Edges,
    ) -> None:
        ids = tuple(node.id for node in self.definition.nodes)
        children = turned(parents)
        indegree = array("I", (parents.offsets[node + 1] - parents.offsets[node] for node in range(len(ids))))
        order = topological_order(indegree, children)
        if len(order) < len(ids):
            cycle = _shown([ids[node] for node in find_cycle(parents, set(order))])
            self._say("CYCLE", f"nodes wait for each other: {cycle}; remove one of these dependencies", field="nodes")
        if self.problems:
            return
        self.graph = Graph(
            ids,
            self.index,
            indegree,
            tuple(node for node, count in enumerate(indegree) if not count),
            tuple(node for node in range(len(ids)) if children.offsets[node] == children.offsets[node + 1]),
            order,
            inputs,
            overs,
            cache_keys,
            output,
            children,
            parents,
        )


def _allowed(node: Node) -> frozenset[str]:
    """Return the names that data paths of a node may begin with, beside other nodes'."""
    return _everywhere | _in_map if node.map is not None else _everywhere


def turned(edges: Edges) -> Edges:
    """Return the same edges seen from their other ends, each list in order."""
    size = len(edges.offsets) - 1
    counts = array("I", [0]) * (size + 1)
    for target in edges.targets:
        counts[target + 1] += 1
    offsets = array("I", accumulate(counts))
    free, targets = array("I", offsets), array("I", [0]) * len(edges.targets)
    for node in range(size):
        for target in edges.of(node):
            targets[free[target]] = node
            free[target] += 1
    return Edges(offsets, targets)


def topological_order(indegree: Sequence[int], children: Edges) -> "array[int]":
    """Return nodes each after those above it (Kahn, 1962); those on or below a cycle are missing."""
    left = array("I", indegree)
    order = array("I", (node for node, count in enumerate(left) if not count))
    at = 0
    while at < len(order):
        for child in children.of(order[at]):
            left[child] -= 1
            if not left[child]:
                order.append(child)
        at += 1
    return order


def find_cycle(parents: Edges, settled: set[int]) -> list[int]:
    """Return a cycle as a path whose first node is its last, each node before those that depend on it."""
    node = next(node for node in range(len(parents.offsets) - 1) if node not in settled)
    seen: dict[int, int] = {}
    path: list[int] = []
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        # A node that is not settled has a parent that is not: walking upwards must come back.
        node = min(parent for parent in parents.of(node) if parent not in settled)
    cycle = [*path[seen[node] :], node]
    cycle.reverse()
    return cycle


def _shown(cycle: Sequence[str]) -> str:
    if len(cycle) <= _cycle_nodes_shown:
        return " -> ".join(cycle)
    half = _cycle_nodes_shown // 2
    return " -> ".join([*cycle[:half], f"({len(cycle) - 2 * half} more)", *cycle[-half:]])
