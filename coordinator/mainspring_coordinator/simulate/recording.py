"""What a workflow is to a simulation: its graph, how long each of its nodes runs, and the files that go between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mainspring.errors import MainspringError
from mainspring.graph import build_graph
from mainspring.workflow import Definition, Json, MapOver, Node, Retry

Place = tuple[str, int]
"""A node's id, and the number of its `map` instance; -1 for a node that is none."""


class RecordingError(MainspringError):
    """A file does not hold what a simulation needs; says what to write."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One workflow, to be run again."""

    name: str
    """What it is called in tables."""
    definition: Definition
    """Its graph, without data: `plain_definition` makes it."""
    run_us: Mapping[Place, int]
    """How long each attempt runs on a worker of speed 1."""
    widths: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many instances each `map` node has."""
    made: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    """By node: the files that it makes, with their bytes."""
    used: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """By node: the files that it reads."""

    @property
    def input(self) -> Json:
        """The workflow's input, which the `map` nodes of its definition go over."""
        return {_width_name(at): list(range(self.widths[id_])) for at, id_ in enumerate(sorted(self.widths))}

    @property
    def work_us(self) -> int:
        """How long all of it takes in one slot of speed 1."""
        return sum(self.run_us.values())

    def critical_path_us(self) -> int:
        """Return how long its longest chain takes on workers of speed 1."""
        graph = build_graph(self.definition)
        longest = dict.fromkeys(graph.ids, 0)
        for (id_, _), run_us in self.run_us.items():
            longest[id_] = max(longest[id_], run_us)
        ends: dict[int, int] = {}
        for node in graph.order:
            ends[node] = longest[graph.ids[node]] + max((ends[parent] for parent in graph.parents_of(node)), default=0)
        return max(ends.values(), default=0)


def plain_definition(definition: Definition, widths: Mapping[str, int]) -> Definition:
    """Return a definition with the same graph and the same wishes, but no data: what is recorded is when things ran, not with what.

    Each `map` node goes over a list in the workflow's input, of its recorded width; each node is tried once, and takes no output of others.
    """
    graph = build_graph(definition)
    lists = {id_: MapOver(f"${{input.{_width_name(at)}}}") for at, id_ in enumerate(sorted(widths))}
    nodes: list[Node] = []
    for place, node in enumerate(definition.nodes):
        parents = tuple(graph.ids[parent] for parent in graph.parents_of(place))
        over = replace(node.map, over=lists[node.id].over) if node.map is not None else None
        plain = replace(node, input=None, depends_on=parents, map=over, retry=Retry(max_attempts=1))
        nodes.append(replace(plain, start_to_close_ms=0, schedule_to_start_ms=0, cache=None))
    return replace(definition, nodes=tuple(nodes), output=len(nodes), timeout_ms=0)


def _width_name(at: int) -> str:
    return f"w{at}"
