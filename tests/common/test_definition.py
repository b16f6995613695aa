"""The text forms of a definition: what is read, what is refused and in which words, and what comes back."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mainspring import limits
from mainspring.definition import (
    canonical_bytes,
    definition_from_json,
    definition_hash,
    definition_to_json,
    parse_definition,
)
from mainspring.durations import format_duration, parse_duration
from mainspring.errors import DefinitionError
from mainspring.workflow import ABSENT, Affinity, Cache, Concurrency, Definition, MapOver, Node, Retry, strategies

FULL = """
name: calendar-cleanup
timeout: 10m
nodes:
  fetch:
    executor: fetchOldCalendarMappings
    input: {limit: "${input.limit}"}
  delete:
    executor: deleteSingleCalendar
    map: {over: "${fetch.mappings}", max_parallel: 8}
    retry: {max_attempts: 5, initial: 200ms, multiplier: 3, max_interval: 5s, jitter: 0, non_retryable: [ValueError]}
    timeouts: {start_to_close: 30s, schedule_to_start: 1.5h}
    allow_failure: true
    requires: {zone: a}
    stop_on_disconnect: true
  mail:
    executor: sendEmailNotification
    depends_on: [delete]
output: "${delete}"
"""


def problems_of(value: Any) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        definition_from_json(value)
    return [str(problem) for problem in caught.value.problems]


def with_node(**fields: Any) -> dict[str, Any]:
    return {"name": "n", "nodes": [{"id": "a", "executor": "work", **fields}]}


def test_every_field_is_read() -> None:
    assert parse_definition(FULL, format="yaml") == Definition(
        name="calendar-cleanup",
        timeout_ms=600_000,
        output="${delete}",
        nodes=(
            Node("fetch", "fetchOldCalendarMappings", input={"limit": "${input.limit}"}),
            Node(
                "delete",
                "deleteSingleCalendar",
                input="${item}",
                map=MapOver("${fetch.mappings}", 8),
                retry=Retry(5, 200, 3.0, 5_000, 0.0, ("ValueError",)),
                start_to_close_ms=30_000,
                schedule_to_start_ms=5_400_000,
                allow_failure=True,
                requires={"zone": "a"},
                stop_on_disconnect=True,
            ),
            Node("mail", "sendEmailNotification", depends_on=("delete",)),
        ),
    )


def test_where_nodes_go_is_read() -> None:
    value = {
        "name": "n",
        "strategy": "locality",
        "nodes": [
            {"id": "a", "executor": "work", "requires": {"zone": ["b", "a", "b"], "gpu": "true"}},
            {"id": "b", "executor": "work", "affinity": {"key": "tenant", "mode": "hard"}},
            {"id": "c", "executor": "work", "strategy": "affinity", "affinity": {}},
        ],
    }
    definition = definition_from_json(value)
    assert definition.strategy == "locality"
    assert definition.nodes[0].requires == {"zone": ("b", "a", "b"), "gpu": "true"}
    assert definition.nodes[1].affinity == Affinity("tenant", hard=True)
    assert (definition.nodes[2].strategy, definition.nodes[2].affinity) == ("affinity", Affinity())
    assert definition_to_json(definition)["nodes"][0]["requires"] == {"zone": ["a", "b"], "gpu": "true"}  # type: ignore[index,call-overload]


def test_the_hash_of_a_definition_that_says_nothing_of_placement_is_what_it_always_was() -> None:
    canonical = canonical_bytes(parse_definition(FULL, format="yaml"))
    assert definition_hash(canonical).hex() == "438a86e598c40d58502d01bb4f6dee629354ef10885ca2bdc692a89553e1f1fe"


def test_a_mapping_and_a_list_of_nodes_are_the_same_definition() -> None:
    value = yaml.safe_load(FULL)
    listed = {**value, "nodes": [{"id": name, **node} for name, node in value["nodes"].items()]}
    assert definition_from_json(listed) == definition_from_json(value)


def test_an_output_of_null_is_not_an_absent_output() -> None:
    assert definition_from_json({**with_node(), "output": None}).output is None
    assert definition_from_json(with_node()).output is ABSENT


def test_a_map_node_without_input_gets_its_element_unless_it_says_null() -> None:
    assert definition_from_json(with_node(map={"over": "${input}"})).nodes[0].input == "${item}"
    silent = definition_from_json(with_node(map={"over": "${input}"}, input=None))
    assert silent.nodes[0].input is None
    assert definition_from_json(definition_to_json(silent)) == silent


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            5,
            (
                "definition: it must be an object with the fields name, nodes, output, timeout, strategy, affinity, priority, "
                "fairness_key"
            ),
        ),
        ({"name": "n"}, "definition, nodes: `nodes` must be given, as a list of nodes or a mapping from ids to nodes"),
        ({**with_node(), "name": 7}, "definition, name: `name` must be given, as a string"),
        ({**with_node(), "timout": "5m"}, "definition, timout: there is no field 'timout'; did you mean 'timeout'?"),
        (
            {**with_node(), "timeout": 30},
            "definition, timeout: 30 has no unit; write it with a unit, such as '30s' or '30ms'",
        ),
        (
            {"name": "n", "nodes": [5]},
            (
                "node '#1': it must be an object with the fields id, executor, input, depends_on, map, retry, timeouts, "
                "allow_failure, requires, strategy, affinity, stop_on_disconnect, priority, concurrency, cache"
            ),
        ),
        ({"name": "n", "nodes": [{"executor": "work"}]}, "node '#1', id: `id` must be given, as a string"),
        (
            {"name": "n", "nodes": {"a": {"id": "b", "executor": "work"}}},
            "node 'a', id: in a mapping from ids to nodes the key is the id; remove this field",
        ),
        ({"name": "n", "nodes": [{"id": "a"}]}, "node 'a', executor: `executor` must be given, as a string"),
        (with_node(dependson=["b"]), "node 'a', dependson: there is no field 'dependson'; did you mean 'depends_on'?"),
        (
            with_node(map={"over": "${input}", "zzz": 1}),
            "node 'a', map.zzz: there is no field 'zzz'; there are over, max_parallel",
        ),
        (with_node(depends_on="b"), "node 'a', depends_on: `depends_on` is a list of strings"),
        (with_node(map={}), "node 'a', map.over: `over` must be given, as a string"),
        (
            with_node(map={"over": "${input}", "max_parallel": 1.5}),
            "node 'a', map.max_parallel: `max_parallel` is a whole number",
        ),
        (with_node(retry={"max_attempts": None}), "node 'a', retry.max_attempts: `max_attempts` is a whole number"),
        (with_node(retry={"jitter": "0.1"}), "node 'a', retry.jitter: `jitter` is a number"),
        (
            with_node(retry={"initial": "soon"}),
            "node 'a', retry.initial: 'soon' is no duration; write it with a unit: 500ms, 30s, 5m, 2h or 1d",
        ),
        (
            with_node(timeouts={"start_to_close": 30}),
            "node 'a', timeouts.start_to_close: 30 has no unit; write it with a unit, such as '30s' or '30ms'",
        ),
        (with_node(priority="high"), "node 'a', priority: `priority` is a whole number"),
        ({**with_node(), "priority": None}, "definition, priority: `priority` is a whole number"),
        ({**with_node(), "fairness_key": 7}, "definition, fairness_key: `fairness_key` must be given, as a string"),
        (with_node(allow_failure="yes"), "node 'a', allow_failure: `allow_failure` is true or false"),
        (
            with_node(requires={"gpu": True}),
            "node 'a', requires: `requires` maps labels to values, or to lists of values, all of them strings; put them in quotes",
        ),
        (
            with_node(requires={"gpu": [True]}),
            "node 'a', requires: `requires` maps labels to values, or to lists of values, all of them strings; put them in quotes",
        ),
        (with_node(strategy=5), "node 'a', strategy: `strategy` is a string; put it in quotes"),
        (with_node(affinity="me"), "node 'a', affinity: it must be an object with the fields key, mode"),
        (with_node(affinity={"mode": "firm"}), "node 'a', affinity.mode: `mode` is soft or hard"),
        (with_node(affinity={"key": 7}), "node 'a', affinity.key: `key` is a string; put it in quotes"),
        (with_node(concurrency=3), "node 'a', concurrency: it must be an object with the fields key, limit"),
        (with_node(concurrency={"limit": 3}), "node 'a', concurrency.key: `key` must be given, as a string"),
        (
            with_node(concurrency={"key": "db"}),
            "node 'a', concurrency.limit: `limit` must be given: how many nodes of the key may run at once",
        ),
        (
            with_node(concurrency={"key": "db", "limit": "3"}),
            "node 'a', concurrency.limit: `limit` is a whole number",
        ),
        (
            with_node(concurrency={"key": "db", "limit": 3, "mode": "hard"}),
            "node 'a', concurrency.mode: there is no field 'mode'; there are key, limit",
        ),
        (with_node(cache="1h"), "node 'a', cache: it must be an object with the fields key, ttl"),
        (
            with_node(cache={"key": "k"}),
            "node 'a', cache.ttl: `ttl` must be given: how long an output counts, such as '1h'",
        ),
        (
            with_node(cache={"ttl": 60}),
            "node 'a', cache.ttl: 60 has no unit; write it with a unit, such as '60s' or '60ms'",
        ),
        (with_node(cache={"ttl": "1h", "key": 7}), "node 'a', cache.key: `key` is a string; put it in quotes"),
        (with_node(cache={"ttl": "1h", "age": 1}), "node 'a', cache.age: there is no field 'age'; there are key, ttl"),
    ],
)
def test_what_has_the_wrong_form_is_told_in_one_sentence(value: Any, problem: str) -> None:
    assert problem in problems_of(value)


def test_form_and_meaning_are_told_together_and_nothing_twice() -> None:
    value = {
        "name": "n",
        "nodes": [
            {"id": "a", "executor": "work", "retry": {"initial": 5}, "depends_on": ["c"]},
            {"id": "b", "executor": "work", "depends_on": ["a"], "surprise": 1},
            {"executor": "work"},
            {"id": "b"},
        ],
    }
    assert problems_of(value) == [
        "node 'a', retry.initial: 5 has no unit; write it with a unit, such as '5s' or '5ms'",
        (
            "node 'b', surprise: there is no field 'surprise'; there are id, executor, input, depends_on, map, retry, timeouts, "
            "allow_failure, requires, strategy, affinity, stop_on_disconnect, priority, concurrency, cache"
        ),
        "node '#3', id: `id` must be given, as a string",
        "node 'b', executor: `executor` must be given, as a string",
        "node 'a', depends_on: there is no node 'c'",
        "node 'b', id: the id is used twice; every node needs one of its own",
    ]


def test_unknown_fields_are_told_in_the_order_in_which_they_stand() -> None:
    fields = dict.fromkeys(("q", "w", "x", "y", "z", "k"), 1)
    with pytest.raises(DefinitionError) as caught:
        definition_from_json(with_node(**fields))
    assert [problem.field for problem in caught.value.problems] == list(fields)


def test_a_hundred_problems_are_told_and_the_others_counted() -> None:
    told = problems_of({"name": "n", "nodes": [{"id": f"n{i}", "executor": "work", "x": 1} for i in range(250)]})
    assert len(told) == limits.problems_max + 1
    assert told[-1] == "definition: there are 150 more problems; these are the first 100"


@pytest.mark.parametrize(
    ("text", "format_", "problem"),
    [
        ("{", "json", "definition: it is not JSON: "),
        (
            "name: [",
            "yaml",
            "definition: it is not YAML that can be read: did not find expected node content (line 2, column 1)",
        ),
    ],
)
def test_text_that_cannot_be_read_is_refused_with_its_place(text: str, format_: Any, problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_definition(text, format=format_)
    assert str(caught.value).startswith(problem)
    assert "line" in str(caught.value)


def test_a_definition_over_its_bytes_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainspring.definition.definition_bytes_max", 10)
    with pytest.raises(
        DefinitionError, match="it has 11 bytes, more than the 10 allowed; split it into several workflows"
    ):
        parse_definition(" " * 11, format="json")


def test_an_integer_beyond_64_bits_is_refused_where_it_stands_and_not_rounded() -> None:
    text = '{"name": "n", "nodes": [{"id": "a", "executor": "work", "input": {"x": 36893488147419103232}, "zz": 1}]}'
    with pytest.raises(DefinitionError) as caught:
        parse_definition(text, format="json")
    assert str(caught.value.problems[1]) == (
        "node 'a', input.x: the integer 36893488147419103232 does not fit into 64 bits; write it as a string"
    )


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("1.5s", 1_500),
        ("0s", 0),
    ],
)
def test_durations_have_a_unit(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "0.1ms", "1e3s", "5S", "1w", "٣s", "9" * 400 + "d"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert parse_duration(text) is None


@given(st.integers(0, limits.timeout_ms_max))
def test_a_duration_that_was_written_is_read_again(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


text_values = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text_values, inner, max_size=3),
    max_leaves=8,
)
intervals = st.integers(0, limits.retry_interval_ms_max)
retries = st.builds(
    Retry,
    max_attempts=st.none() | st.integers(1, 100),
    initial_ms=intervals,
    multiplier=st.floats(1, 1000),
    max_interval_ms=intervals,
    jitter=st.floats(0, 1),
    non_retryable=st.lists(text_values, max_size=2).map(tuple),
)
value_sets = st.sets(text_values, min_size=2, max_size=3).map(lambda values: tuple(sorted(values)))
affinities = st.none() | st.builds(Affinity, key=st.none() | text_values, hard=st.booleans())
nodes = st.builds(
    Node,
    id=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,8}", fullmatch=True),
    executor=text_values,
    input=json_values,
    depends_on=st.lists(text_values, max_size=3, unique=True).map(lambda names: tuple(sorted(names))),
    map=st.none() | st.builds(MapOver, over=text_values, max_parallel=st.integers(0, 100)),
    retry=retries,
    start_to_close_ms=intervals,
    schedule_to_start_ms=intervals,
    allow_failure=st.booleans(),
    requires=st.dictionaries(text_values, text_values | value_sets, max_size=2),
    strategy=st.sampled_from(("", *strategies)),
    affinity=affinities,
    stop_on_disconnect=st.booleans(),
    priority=st.none() | st.integers(0, 9),
    concurrency=st.none() | st.builds(Concurrency, key=text_values, limit=st.integers(1, 1_000)),
    cache=st.none() | st.builds(Cache, ttl_ms=st.integers(1_000, 10**9), key=st.none() | text_values),
)
definitions = st.builds(
    Definition,
    name=text_values,
    nodes=st.lists(nodes, max_size=4).map(tuple),
    output=st.just(ABSENT) | json_values,
    timeout_ms=intervals,
    strategy=st.sampled_from(("", *strategies)),
    affinity=affinities,
    priority=st.integers(0, 9),
    fairness_key=text_values,
)


@given(definitions)
def test_a_definition_comes_back_from_json_and_from_yaml_as_it_was(definition: Definition) -> None:
    value = definition_to_json(definition)
    assert parse_definition(json.dumps(value), format="json") == definition
    assert parse_definition(canonical_bytes(definition), format="json") == definition
    written = yaml.safe_dump(value, allow_unicode=True)
    assert parse_definition(written, format="yaml") == definition


@given(definitions)
def test_the_hash_does_not_depend_on_how_it_was_written(definition: Definition) -> None:
    value = definition_to_json(definition)
    turned = {key: value[key] for key in reversed(value)}
    turned["nodes"] = [dict(reversed(node.items())) for node in value["nodes"]]  # type: ignore[union-attr]  # nodes are a list of objects
    again = parse_definition(json.dumps(turned, indent=3), format="json")
    assert definition_hash(canonical_bytes(again)) == definition_hash(canonical_bytes(definition))
    assert len(definition_hash(canonical_bytes(again))) == 32


def test_what_json_cannot_hold_has_no_canonical_form() -> None:
    odd: Any = {1, 2}
    with pytest.raises(DefinitionError, match="a value cannot be written as JSON"):
        canonical_bytes(Definition("n", (Node("a", "work", input=odd),)))
