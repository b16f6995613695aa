"""What is checked before a definition may run, and the graph that comes out."""

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from mainspring import limits
from mainspring.definition import canonical_bytes
from mainspring.errors import DefinitionError
from mainspring.graph import Graph, build_graph, check
from mainspring.workflow import ABSENT, Affinity, Cache, Concurrency, Definition, MapOver, Node, Retry


def graph_of(depends: Mapping[str, Any], **rest: Any) -> Definition:
    nodes = (Node(name, "work", depends_on=tuple(on.split())) for name, on in depends.items())
    return Definition("test", tuple(nodes), **rest)


def told(definition: Definition) -> list[str]:
    return [str(problem) for problem in check(definition)]


def one(**fields: Any) -> Definition:
    return Definition("test", (replace(Node("a", "work"), **fields),))


@pytest.mark.parametrize(
    ("definition", "problems"),
    [
        (Definition("test", ()), ["definition, nodes: it has no nodes; give it one at least"]),
        (
            replace(one(), name="no\nname"),
            ["definition, name: 'no\\nname' is no name; use 1 to 128 letters, digits and _.:/- or spaces"],
        ),
        (replace(one(), timeout_ms=-1), ["definition, timeout: -1ms is not within 0s to 365d"]),
        (
            graph_of({".a": ""}),
            ["node '.a', id: '.a' is no id; use 1 to 128 letters, digits and _.:-, not beginning with .:-"],
        ),
        (graph_of({"item": ""}), ["node 'item', id: 'item' is a name that data paths use themselves; choose another"]),
        (
            Definition("test", (Node("a", "x"), Node("a", "y"))),
            ["node 'a', id: the id is used twice; every node needs one of its own"],
        ),
        (one(executor=""), ["node 'a', executor: '' has 0 bytes; use 1 to 128"]),
        (one(executor="\ud800"), [r"node 'a', executor: '\ud800' has half a surrogate pair, which JSON cannot hold"]),
        (
            graph_of({"fetch": "", "mail": "fetsh"}),
            ["node 'mail', depends_on: there is no node 'fetsh'; did you mean 'fetch'?"],
        ),
        (graph_of({"fetch": "", "mail": "qqq"}), ["node 'mail', depends_on: there is no node 'qqq'"]),
        (graph_of({"a": "a"}), ["node 'a', depends_on: it depends on itself; remove that"]),
        (one(input="${a}"), ["node 'a', input: its data path names the node itself"]),
        (
            graph_of({"a": "c", "b": "a", "c": "b", "d": "c"}),
            ["definition, nodes: nodes wait for each other: a -> b -> c -> a; remove one of these dependencies"],
        ),
        (
            one(input={"x": ["${b.}"]}),
            ["node 'a', input.x[0]: ${b.} is not a JMESPath expression: it ends too early (at column 3)"],
        ),
        (one(input="${b.c}"), ["node 'a', input: a data path names 'b', which is no node"]),
        (
            replace(one(), output={"x": "${ab}"}),
            ["definition, output: a data path names 'ab', which is no node; did you mean 'a'?"],
        ),
        (one(input="${item}"), ["node 'a', input: `item` is known only in the input of a `map` node"]),
        (replace(one(), output="${index}"), ["definition, output: `index` is known only in the input of a `map` node"]),
        (one(map=MapOver("${item}")), ["node 'a', map.over: `item` is known only in the input of a `map` node"]),
        (one(map=MapOver("abc")), ["node 'a', map.over: 'abc' is not one data path; write it as \"${node.list}\""]),
        (
            one(map=MapOver("x${input}")),
            ["node 'a', map.over: 'x${input}' is not one data path; write it as \"${node.list}\""],
        ),
        (one(map=MapOver("${input}", -1)), ["node 'a', map.max_parallel: -1 is not within 0 to 100000"]),
        (one(retry=Retry(max_attempts=0)), ["node 'a', retry.max_attempts: 0 is not within 1 to 100"]),
        (one(retry=Retry(initial_ms=8 * 86_400_000)), ["node 'a', retry.initial: 8d is not within 0s to 7d"]),
        (one(retry=Retry(max_interval_ms=-1)), ["node 'a', retry.max_interval: -1ms is not within 0s to 7d"]),
        (one(retry=Retry(multiplier=0.5)), ["node 'a', retry.multiplier: 0.5 is not within 1 to 1000"]),
        (one(retry=Retry(multiplier=float("nan"))), ["node 'a', retry.multiplier: nan is not within 1 to 1000"]),
        (one(retry=Retry(jitter=1.5)), ["node 'a', retry.jitter: 1.5 is not within 0 to 1"]),
        (one(retry=Retry(non_retryable=("",))), ["node 'a', retry.non_retryable: '' has 0 bytes; use 1 to 200"]),
        (
            one(retry=Retry(non_retryable=("E",) * 65)),
            ["node 'a', retry.non_retryable: it names 65 error types, more than the 64 allowed"],
        ),
        (one(start_to_close_ms=366 * 86_400_000), ["node 'a', timeouts.start_to_close: 366d is not within 0s to 365d"]),
        (one(schedule_to_start_ms=-5), ["node 'a', timeouts.schedule_to_start: -5ms is not within 0s to 365d"]),
        (
            one(requires={f"l{i}": "x" for i in range(65)}),
            ["node 'a', requires: it requires 65 labels, more than the 64 allowed"],
        ),
        (replace(one(), priority=10), ["definition, priority: 10 is not within 0 to 9"]),
        (one(priority=-1), ["node 'a', priority: -1 is not within 0 to 9"]),
        (
            replace(one(), fairness_key="k" * 129),
            [f"definition, fairness_key: '{'k' * 80}' has 129 bytes; use 0 to 128"],
        ),
        (one(requires={"zone": ()}), ["node 'a', requires.zone: it names 0 values; use 1 to 64"]),
        (
            one(affinity=Affinity("k" * 129)),
            [f"node 'a', affinity.key: {'k' * 80!r} has 129 bytes; use 1 to 128"],
        ),
        (
            one(concurrency=Concurrency("k" * 129, 1_001)),
            [
                f"node 'a', concurrency.key: {'k' * 80!r} has 129 bytes; use 1 to 128",
                "node 'a', concurrency.limit: 1001 is not within 1 to 1000",
            ],
        ),
        (
            one(concurrency=Concurrency("", 0)),
            [
                "node 'a', concurrency.key: '' has 0 bytes; use 1 to 128",
                "node 'a', concurrency.limit: 0 is not within 1 to 1000",
            ],
        ),
        (
            one(cache=Cache(999, "")),
            [
                "node 'a', cache.ttl: 999ms is not within 1s to 365d",
                "node 'a', cache.key: '' has 0 bytes; use 1 to 4096",
            ],
        ),
        (
            one(cache=Cache(limits.cache_ttl_ms_max + 1, "${item.name} of ${a}, ${nobody}")),
            [
                "node 'a', cache.ttl: 31536000001ms is not within 1s to 365d",
                "node 'a', cache.key: its data path names the node itself",
                "node 'a', cache.key: `item` is known only in the input of a `map` node",
                "node 'a', cache.key: a data path names 'nobody', which is no node",
            ],
        ),
        (
            one(strategy="locality", affinity=Affinity()),
            ["node 'a', affinity: `affinity` says nothing to the strategy 'locality'; remove one of the two"],
        ),
        (
            replace(one(), strategy="localty"),
            [
                (
                    "definition, strategy: 'localty' is no strategy; did you mean 'locality'? "
                    "There are round-robin, load-balanced, capability, locality, affinity"
                )
            ],
        ),
        (
            one(strategy="best"),
            [
                "node 'a', strategy: 'best' is no strategy; there are round-robin, load-balanced, capability, locality, affinity"
            ],
        ),
        (one(requires={"": "x"}), ["node 'a', requires: '' has 0 bytes; use 1 to 128"]),
        (
            one(input="x" * 2_000_000),
            ["node 'a', input: it has 2000002 bytes, more than the 1048576 allowed; pass a reference instead"],
        ),
    ],
)
def test_what_cannot_run_is_told_in_one_sentence(definition: Definition, problems: list[str]) -> None:
    assert told(definition) == problems
    with pytest.raises(DefinitionError) as caught:
        build_graph(definition)
    assert str(caught.value) == "\n".join(problems)


def test_everything_wrong_is_told_at_once() -> None:
    definition = Definition(
        "",
        (
            Node("a", "work", depends_on=("b",), input="${nosuch}"),
            Node("b", "", depends_on=("a", "nosuch2")),
            Node("c", "work", retry=Retry(jitter=2), input="${x.}"),
        ),
    )
    assert [problem.reason for problem in check(definition)] == [
        "BAD_NAME",
        "BAD_TEXT",
        "UNKNOWN_DEPENDENCY",
        "OUT_OF_RANGE",
        "UNKNOWN_DEPENDENCY",
        "BAD_PATH",
        "CYCLE",
    ]


def test_too_many_nodes_and_too_many_dependencies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "nodes_max", 3)
    monkeypatch.setattr(limits, "edges_max", 2)
    four = graph_of(dict.fromkeys("abcd", ""))
    assert told(four) == ["definition, nodes: it has 4 nodes, more than the 3 allowed; split it into several workflows"]
    three = graph_of({"a": "", "b": "a", "c": "a b"})
    assert told(three) == [
        "definition, nodes: it has 3 dependencies, more than the 2 allowed; split it into several workflows"
    ]


def test_a_long_cycle_is_shown_in_part() -> None:
    size = 5_000
    definition = graph_of({f"n{i}": f"n{(i - 1) % size}" for i in range(size)})
    (message,) = told(definition)
    assert message == (
        "definition, nodes: nodes wait for each other: "
        + " -> ".join(f"n{i}" for i in range(10))
        + " -> (4981 more) -> "
        + " -> ".join(f"n{i % size}" for i in range(size - 9, size + 1))
        + "; remove one of these dependencies"
    )


def test_hints_stop_when_they_would_take_long() -> None:
    names = {f"n{i}": "" for i in range(limits.hint_comparisons_max - 1)}
    definition = graph_of({**names, "last": "n0x m0x"})
    assert told(definition) == [
        "node 'last', depends_on: there is no node 'n0x'; did you mean 'n0'?",
        "node 'last', depends_on: there is no node 'm0x'",
    ]


def test_data_paths_are_dependencies_too() -> None:
    definition = Definition(
        "test",
        (
            Node("d", "work", input={"a": "${a.x}", "t": "${b} of ${input.n}"}, depends_on=("c", "a", "a")),
            Node("a", "work"),
            Node("b", "work", map=MapOver("${a.list}"), input="${[item, index, c]}"),
            Node("c", "work", input="${workflow.id}"),
        ),
        "${d}",
    )
    graph = build_graph(definition)
    assert graph.ids == ("d", "a", "b", "c")
    assert graph.index == {"d": 0, "a": 1, "b": 2, "c": 3}
    assert [list(graph.parents_of(node)) for node in range(4)] == [[1, 2, 3], [], [1, 3], []]
    assert [list(graph.children_of(node)) for node in range(4)] == [[], [0, 2], [0], [0, 2]]
    assert list(graph.indegree) == [3, 0, 2, 0]
    assert graph.roots == (1, 3)
    assert graph.sinks == (0,)
    assert list(graph.order) == [1, 3, 2, 0]
    assert graph.output is not None
    assert graph.output.references == {"d"}
    assert graph.overs[2] is not None
    assert graph.overs[0] is None


def test_identical_literals_and_texts_share_one_template() -> None:
    nodes = [Node(f"n{i}", "work", input={"a": [1]}) for i in range(3)]
    nodes += [Node(f"m{i}", "work", input="${n0.x}") for i in range(3)]
    graph = build_graph(Definition("test", tuple(nodes)))
    assert len({id(template) for template in graph.inputs}) == 2


@st.composite
def random_graphs(draw: st.DrawFn, *, cyclic: bool) -> Definition:
    """Up to 30 nodes in random order, some of the edges as data paths; with `cyclic`, edges may go anywhere."""
    size = draw(st.integers(1, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    note(f"seed {seed}")
    chance = random.Random(seed)
    nodes = []
    for place in range(size):
        others = [other for other in range(size) if other != place] if cyclic else list(range(place))
        parents = chance.sample(others, min(len(others), chance.randint(0, 3)))
        half = chance.randint(0, len(parents))
        nodes.append(
            Node(
                f"n{place}",
                "work",
                depends_on=tuple(f"n{parent}" for parent in parents[:half]),
                input=[f"${{n{parent}.x}}" for parent in parents[half:]],
            )
        )
    chance.shuffle(nodes)
    return Definition("test", tuple(nodes), ABSENT)


def edges_of(definition: Definition) -> set[tuple[str, str]]:
    edges = set()
    for node in definition.nodes:
        edges |= {(parent, node.id) for parent in node.depends_on}
        assert isinstance(node.input, list)
        edges |= {(str(text)[2:-3], node.id) for text in node.input}
    return edges


def assert_graph(graph: Graph, definition: Definition) -> None:
    edges = {(graph.index[parent], graph.index[child]) for parent, child in edges_of(definition)}
    nodes = range(len(graph.ids))
    place = {node: at for at, node in enumerate(graph.order)}
    assert sorted(place) == list(nodes)
    assert all(place[parent] < place[child] for parent, child in edges)
    assert {(parent, child) for parent in nodes for child in graph.children_of(parent)} == edges
    assert {(parent, child) for child in nodes for parent in graph.parents_of(child)} == edges
    assert all(list(graph.children_of(node)) == sorted(graph.children_of(node)) for node in nodes)
    assert list(graph.indegree) == [sum(child == node for _, child in edges) for node in nodes]
    assert graph.roots == tuple(node for node in nodes if not graph.indegree[node])
    assert graph.sinks == tuple(node for node in nodes if not any(parent == node for parent, _ in edges))


@given(random_graphs(cyclic=False))
def test_a_graph_without_cycles_is_put_in_order(definition: Definition) -> None:
    assert_graph(build_graph(definition), definition)


@given(random_graphs(cyclic=True))
def test_a_cycle_that_is_told_is_one_and_none_is_missed(definition: Definition) -> None:
    problems = check(definition)
    if not problems:
        assert_graph(build_graph(definition), definition)
        return
    (problem,) = problems
    assert problem.reason == "CYCLE"
    path = problem.message.removeprefix("nodes wait for each other: ").partition(";")[0].split(" -> ")
    assert path[0] == path[-1]
    if not any("more" in step for step in path):
        assert len(set(path)) == len(path) - 1
        assert set(pairwise(path)) <= edges_of(definition)


def test_the_largest_chain_needs_no_recursion() -> None:
    size = limits.nodes_max
    nodes = (Node(f"n{i}", "work", depends_on=(f"n{i - 1}",) if i else ()) for i in range(size))
    graph = build_graph(Definition("test", tuple(nodes)))
    assert list(graph.order) == list(range(size))
    assert graph.sinks == (size - 1,)


def test_a_cache_key_makes_dependencies_as_an_input_does() -> None:
    nodes = (
        Node("a", "work"),
        Node("b", "work", cache=Cache(1_000, "${a.day}")),
        Node("c", "work", cache=Cache(1_000)),
        Node("d", "work", input="${item}", map=MapOver("${input}"), cache=Cache(1_000, "${item} ${b}")),
    )
    graph = build_graph(Definition("n", nodes))
    assert [[*graph.parents_of(place)] for place in range(4)] == [[], [0], [], [1]]
    assert [key is not None for key in graph.cache_keys] == [False, True, False, True]
    assert build_graph(Definition("n", (Node("a", "work"),))).cache_keys == ()


def test_definitions_without_a_cache_have_the_hash_that_they_had() -> None:
    canonical = canonical_bytes(Definition("n", (Node("a", "work"),)))
    assert canonical == b'{"name":"n","nodes":[{"executor":"work","id":"a"}]}'
    cached = canonical_bytes(Definition("n", (Node("a", "work", cache=Cache(90_000, "k")),)))
    assert cached == b'{"name":"n","nodes":[{"cache":{"key":"k","ttl":"90s"},"executor":"work","id":"a"}]}'
