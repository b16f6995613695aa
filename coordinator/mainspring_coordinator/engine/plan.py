"""A definition, compiled once and shared by all its workflows.

Everything that can be known before a workflow runs is worked out here, so that a node's turn costs array look-ups only.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mainspring.definition import canonical_bytes, definition_hash
from mainspring.graph import Graph, build_graph
from mainspring.limits import priority_max
from mainspring.paths import Template
from mainspring.workflow import Affinity, Cache, Concurrency, Definition, Needed, Node
from mainspring_coordinator.engine.ready import ClassKey, Rank

_own_workflow: Final = Affinity()


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The compiled form; nothing in it ever changes."""

    hash: bytes
    """SHA-256 of `definition`: 32 bytes."""
    definition: bytes
    """The canonical JSON."""
    name: str
    timeout_ms: int
    strategy: str
    """How the definition wants workers to be chosen for nodes that say nothing else; empty: as the coordinator does."""
    graph: Graph
    nodes: tuple[Node, ...]
    indegree: "array[int]"
    """By node: how many others it depends on."""
    class_keys: tuple[ClassKey, ...]
    """By node: what a worker must have to run it."""
    classes: frozenset[ClassKey]
    """All of them."""
    ranks: tuple[Rank, ...]
    """By node: what its place in the order of those that wait depends on."""
    affinities: tuple[Affinity, ...]
    """By node: which others go to the same worker, where affinity is the strategy."""
    concurrency: tuple[Concurrency | None, ...]
    """By node: of what it needs a permit. Empty if no node needs one."""
    caches: tuple[Cache | None, ...]
    """By node: whether it may take the output of another one. Empty if no node may."""
    input_refs: tuple[tuple[int, ...], ...]
    """By node: the nodes whose outputs its input names, or the key of its cache."""
    over_refs: tuple[tuple[int, ...], ...]
    """By node: the nodes whose outputs its `map` names."""
    output_refs: tuple[int, ...]
    """The nodes whose outputs the workflow's output names; without such a one, the nodes that no other depends on."""
    needed: bytearray
    """By node: 1 if its output is named anywhere."""


def _indexes(graph: Graph, template: Template | None) -> tuple[int, ...]:
    if template is None or not template.references:
        return ()
    index = graph.index
    return tuple(sorted(index[name] for name in template.references if name in index))


def _class_keys(definition: Definition, keys: dict[ClassKey, ClassKey]) -> Iterator[ClassKey]:
    """Yield one a node, kept in `keys`: nodes that are alike share one object."""
    by_executor: dict[str, ClassKey] = {}
    usual = _strategy(definition)
    for node in definition.nodes:
        # Nearly all nodes name an executor and nothing else.
        plain = not node.requires and not node.strategy and node.affinity is None
        key = by_executor.get(node.executor) if plain else None
        if key is None:
            requires = tuple(sorted((label, _needed(needed)) for label, needed in node.requires.items()))
            key = ClassKey(node.executor, requires, strategy=_strategy(node) or usual)
            key = keys.setdefault(key, key)
            if plain:
                by_executor[node.executor] = key
        yield key


def _strategy(of: Node | Definition) -> str:
    return of.strategy or ("affinity" if of.affinity is not None else "")


def _needed(needed: Needed) -> str | tuple[str, ...]:
    values = (needed,) if isinstance(needed, str) else tuple(sorted(set(needed)))
    return values[0] if len(values) == 1 else values


def compile_plan(definition: Definition, canonical: bytes | None = None) -> Plan:
    """Compile a definition; raises `DefinitionError` with every problem found."""
    graph = build_graph(definition)
    data = canonical if canonical is not None else canonical_bytes(definition)
    keys: dict[ClassKey, ClassKey] = {}
    class_keys = tuple(_class_keys(definition, keys))
    by_priority = [Rank(priority, definition.fairness_key) for priority in range(priority_max + 1)]
    ranks = (by_priority[definition.priority if node.priority is None else node.priority] for node in definition.nodes)
    affinity = definition.affinity or _own_workflow
    input_refs = tuple(_indexes(graph, template) for template in graph.inputs)
    if graph.cache_keys:
        key_refs = (_indexes(graph, template) for template in graph.cache_keys)
        input_refs = tuple(tuple(sorted({*refs, *more})) for refs, more in zip(input_refs, key_refs, strict=True))
    over_refs = tuple(_indexes(graph, template) for template in graph.overs)
    output_refs = _indexes(graph, graph.output) if graph.output is not None else tuple(graph.sinks)
    needed = bytearray(len(definition.nodes))
    for refs in _chain(input_refs, over_refs, (output_refs,)):
        for ref in refs:
            needed[ref] = 1
    return Plan(
        hash=definition_hash(data),
        definition=data,
        name=definition.name,
        timeout_ms=definition.timeout_ms,
        strategy=_strategy(definition),
        graph=graph,
        nodes=definition.nodes,
        indegree=array("I", graph.indegree),
        class_keys=class_keys,
        classes=frozenset(keys),
        ranks=tuple(ranks),
        affinities=tuple(node.affinity or affinity for node in definition.nodes),
        concurrency=_concurrency(definition),
        caches=_caches(definition),
        input_refs=input_refs,
        over_refs=over_refs,
        output_refs=output_refs,
        needed=needed,
    )


def _concurrency(definition: Definition) -> tuple[Concurrency | None, ...]:
    found = tuple(node.concurrency for node in definition.nodes)
    return found if any(found) else ()


def _caches(definition: Definition) -> tuple[Cache | None, ...]:
    found = tuple(node.cache for node in definition.nodes)
    return found if any(found) else ()


def _chain(*groups: Sequence[tuple[int, ...]]) -> Sequence[tuple[int, ...]]:
    return [refs for group in groups for refs in group if refs]
