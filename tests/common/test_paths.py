"""Data paths: what they give, what they cost, and what is said when they cannot be followed."""

import json
import tracemalloc
from typing import Any

import jmespath
import jmespath.exceptions
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring import limits
from mainspring.definition import canonical_bytes
from mainspring.json_text import read_json
from mainspring.paths import NotAListError, PathError, Template
from mainspring.workflow import Definition, Json, Node

SCOPE_VALUES: dict[str, Any] = {
    "fetch": {
        "mappings": [{"old_id": "a", "n": 1, "tags": ["x"]}, {"old_id": "b", "n": 2, "tags": []}],
        "total": 2,
        "name": "räksmörgås",
        "deep-key": {"}": 7},
        "none": None,
    },
    "my-node": [1, [2, [3]]],
    "input": {"limit": 10, "who": "Ada"},
    "workflow": {"id": "wf-1", "name": "clean"},
    "item": {"old_id": "a"},
    "index": 0,
}
SCOPE = {name: orjson.dumps(value) for name, value in SCOPE_VALUES.items()}


def rendered(value: Any) -> Any:
    return orjson.loads(Template.compile(value).render(SCOPE))


@pytest.mark.parametrize(
    ("template", "value"),
    [
        (None, None),
        ({"a": [1, True, 1.5, "x"]}, {"a": [1, True, 1.5, "x"]}),
        ("${fetch.total}", 2),
        ("${ fetch.total }", 2),
        ("${fetch.mappings[*].old_id}", ["a", "b"]),
        ("${fetch.mappings[?n>`1`].old_id | [0]}", "b"),
        ("${fetch.mappings[-1].n}", 2),
        ("${fetch.mappings[7].n}", None),
        ("${fetch.total.what}", None),
        ("${fetch.none}", None),
        ('${"my-node"[1][0]}', 2),
        ('${"my-node"[][]}', [1, 2, 3]),
        ('${fetch."deep-key"."}"}', 7),
        ("${{total: fetch.total, who: input.who}}", {"total": 2, "who": "Ada"}),
        ("${[fetch.total, input.limit]}", [2, 10]),
        ("${fetch.nothing || input.who}", "Ada"),
        ("${length(fetch.mappings)}", 2),
        ("${sort_by(fetch.mappings, &n)[0].n}", 1),
        ("${fetch.*[].n}", [1, 2]),
        ("${'}'}", "}"),
        ('${fetch."} ${".x}', None),
        (
            "Dear ${input.who}, ${fetch.total} of ${fetch.mappings[0]}",
            'Dear Ada, 2 of {"old_id":"a","n":1,"tags":["x"]}',
        ),
        ("${fetch.name}!", "räksmörgås!"),
        ("$${fetch} costs $5", "${fetch} costs $5"),
        ("$${a}${fetch.total}", "${a}2"),
        ("$$${fetch.total}", "$${fetch.total}"),
        ({"x": "${index}", "y": ["${item}", {"z": "${workflow.id}"}]}, {"x": 0, "y": [{"old_id": "a"}, {"z": "wf-1"}]}),
    ],
)
def test_a_template_renders(template: Any, value: Any) -> None:
    assert rendered(template) == value


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("${a}", "a"),
        ("${a.b.c}", "a"),
        ("${a[*].b}", "a"),
        ("${a | b}", "a"),
        ("${a[?b == 'x'].c}", "a"),
        ("${a || b && !c}", "a b c"),
        ("${a == b}", "a b"),
        ("${[a, b.c]}", "a b"),
        ("${{x: a, y: b}}", "a b"),
        ("${length(a)}", "a"),
        ("${join(',', a[].b)}", "a"),
        ("${sort_by(a, &b.c)}", "a"),
        ("${map(&[b, c], a)}", "a"),
        ("${a.[b, c]}", "a"),
        ("${a.{x: b}}", "a"),
        ("${a[1:2]}", "a"),
        ("${a.*.b}", "a"),
        ('${"n-1".x} and ${b}', "n-1 b"),
        ("$${a}", ""),
        ("${`5`}", ""),
    ],
)
def test_references_are_the_names_looked_up_in_the_scope_itself(text: str, names: str) -> None:
    assert Template.compile({"x": [text]}).references == set(names.split())


@pytest.mark.parametrize(
    ("template", "at", "position", "message"),
    [
        ({"calendar": "${a.}"}, ".calendar", 4, "${a.} is not a JMESPath expression: it ends too early (at column 3)"),
        (["x ${a b}"], "[0]", 6, "${a b} is not a JMESPath expression: Unexpected token: b (at column 3)"),
        ("${a[?b=c]}", "", 6, "${a[?b=c]} is not a JMESPath expression: Unknown token '=' (at column 5)"),
        ("${a[?b==`x`]}", "", 2, "${a[?b==`x`]}: between backticks stands JSON; write strings as 'text'"),
        ("${}", "", 2, "a data path is empty; name a node, `input`, `workflow`, `item` or `index`"),
        ("x ${a", "", 2, '"${" at position 2 is not closed by a "}"; write "$${" for a literal "${"'),
        (
            "${@}",
            "",
            2,
            "${@} must begin with a name, not with `@`, `*` or `[`; name a node, `input`, `workflow`, `item` or `index`",
        ),
        (
            "${*.a}",
            "",
            2,
            "${*.a} must begin with a name, not with `@`, `*` or `[`; name a node, `input`, `workflow`, `item` or `index`",
        ),
        (
            "${length(@)}",
            "",
            2,
            "${length(@)} must begin with a name, not with `@`, `*` or `[`; name a node, `input`, `workflow`, `item` or `index`",
        ),
        ("${" + "a" * 4097 + "}", "", 0, '"${" at position 0 is not closed within 4096 bytes'),
        ("${" + "ä" * 3000 + "}", "", 2, "a data path of 6000 bytes is over the bound of 4096"),
        ("${!" + "!" * 150 + "a}", "", 2, "${!" + "!" * 150 + "a} is nested deeper than 100 levels"),
        (
            "${" + "(" * 2000 + "a" + ")" * 2000 + "}",
            "",
            2,
            "${" + "(" * 2000 + "a" + ")" * 2000 + "} is nested deeper than 100 levels",
        ),
        ({"a b": float("nan")}, "['a b']", None, "nan is a number that JSON does not have; use null or a string"),
        ({"a": 2**64}, ".a", None, "the integer 18446744073709551616 does not fit into 64 bits; write it as a string"),
        (
            {"a": {1}},
            ".a",
            None,
            "{1} is a set, which JSON does not have; make it a string, a number, a list or an object",
        ),
        ({"a": {1: 2}}, ".a", None, "the key 1 is a int; keys are strings, put it in quotes"),
        (["\ud800"], "[0]", None, r"the text '\ud800' has half a surrogate pair, which JSON cannot hold"),
        ({"\ud800": 1}, "", None, r"the key '\ud800' has half a surrogate pair, which JSON cannot hold"),
    ],
)
def test_a_template_that_cannot_be_compiled_says_what_and_where(
    template: Any, at: str, position: int | None, message: str
) -> None:
    with pytest.raises(PathError) as caught:
        Template.compile(template)
    assert (str(caught.value), caught.value.at, caught.value.position) == (message, at, position)


def test_all_errors_of_a_template_are_told() -> None:
    template, errors = Template.attempt({"a": "${", "b": ["${x.}", 2**70]})
    assert template is None
    assert [error.at for error in errors] == [".a", ".b[0]", ".b[1]"]


def test_a_template_has_bounds() -> None:
    with pytest.raises(PathError, match="it has 1001 data paths, more than the 1000 allowed"):
        Template.compile([f"${{a{i}}}" for i in range(limits.paths_in_input_max + 1)])
    deep: Any = 1
    for _ in range(limits.json_depth_max + 1):
        deep = [deep]
    with pytest.raises(PathError, match="it is nested deeper than 200 levels"):
        Template.compile(deep)


def test_a_whole_node_is_handed_through_unread() -> None:
    raw = b'{ "big": 123456789012345678901234567890, "not even": JSON }'
    assert Template.compile("${n}").render({"n": raw}) is raw
    assert Template.compile(["${n}", 1]).render({"n": b"[123456789012345678901234567890]"}) == (
        b"[[123456789012345678901234567890],1]"
    )


def test_literals_are_rendered_once() -> None:
    template = Template.compile({"a": "$${b}"})
    assert template.is_literal
    assert template.render({}) is template.render({})
    assert template.render({}) == b'{"a":"${b}"}'


def test_only_what_is_referenced_is_parsed() -> None:
    assert Template.compile("${a.b}").render({"a": b'{"b":1}', "c": b"not JSON"}) == b"1"


def test_integers_are_read_exactly_and_those_beyond_64_bits_cannot_be_picked() -> None:
    scope = {
        "a": b'{"big":[36893488147419103232,-9999999999999999999],"small":18446744073709551615,"low":-9223372036854775808}'
    }
    assert Template.compile("${[a.small, a.low]}").render(scope) == b"[18446744073709551615,-9223372036854775808]"
    assert Template.compile("${a.big[0] > `36893488147419103231`}").render(scope) == b"true"
    for text in ("${a.big}", "x ${a.big[0]}"):
        with pytest.raises(
            PathError, match=r"\$\{a\.big.*\} gives a value that cannot be written as JSON: Integer exceeds"
        ):
            Template.compile(text).render(scope)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "${length(fetch.total)}",
            "${length(fetch.total)}: In function length(), invalid type for value: 2, expected one of: ",
        ),
        ("${nosuch(fetch)}", "${nosuch(fetch)}: Unknown function: nosuch()"),
        ("${length(fetch, fetch)}", "${length(fetch, fetch)}: Expected 1 argument for function length(), received 2"),
        ("${fetch.mappings[::0]}", "${fetch.mappings[::0]}: slice step cannot be zero"),
    ],
)
def test_what_fails_on_the_data_names_the_expression(text: str, message: str) -> None:
    with pytest.raises(PathError) as caught:
        Template.compile(text).render(SCOPE)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "${a" + " | [@, @]" * 90 + "}",
        "${a" + " | [@, @][]" * 90 + "}",
        "${a" + " | {x: @, y: @}" * 90 + "}",
        "${to_string(a" + " | [@, @]" * 60 + ")}",
        "${a" + " | [@, @]" * 45 + " | @ == [@, @][1]}",
        "${[a" + " | [@, @]" * 45 + ", a" + " | [@, @]" * 45 + "] | [0] == [1]}",
        "${b | join('', [@, @])" + " | join('', [@, @])" * 80 + "}",
        "${contains([a" + " | [@, @]" * 45 + "], a" + " | [@, @]" * 45 + ")}",
        "${long[*].[" + ", ".join(["@"] * 800) + "]}",
    ],
)
def test_no_expression_makes_more_than_its_budget_allows(text: str) -> None:
    scope = {"a": b"[1]", "b": b'"xxxxxxxxxxxxxxxx"', "long": orjson.dumps(list(range(20_000)))}
    with pytest.raises(PathError, match="it takes more than 1000000 steps; do the work in an executor"):
        Template.compile(text).render(scope)


def test_a_template_cannot_repeat_a_large_value_beyond_its_budget() -> None:
    scope = {"a": orjson.dumps("x" * 1_000_000)}
    many: list[Json] = ["${a}"] * 1_000
    templates: list[Json] = [many, "${a}" * 1_000]
    for template in templates:
        with pytest.raises(PathError, match="it takes more than 1000000 steps"):
            Template.compile(template).render(scope)


def test_a_wide_list_with_twenty_fields_is_within_the_budget() -> None:
    fields = ", ".join(f"f{i}: x" for i in range(20))
    scope = {"a": orjson.dumps([{"x": 1}] * 30_000)}
    assert len(Template.compile(f"${{a[*].{{{fields}}}}}").evaluate_list(scope)) == 30_000


def test_a_map_runs_over_the_elements_of_a_list() -> None:
    assert Template.compile("${fetch.mappings}").evaluate_list(SCOPE)[1] == b'{"old_id":"b","n":2,"tags":[]}'
    assert Template.compile("${a}").evaluate_list({"a": b"[]"}) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${fetch}", "${fetch} is an object, not a list"),
        ("${fetch.name}", "${fetch.name} is a string, not a list"),
        ("${fetch.total}", "${fetch.total} is a number, not a list"),
        ("${fetch.nothing}", "${fetch.nothing} is null, not a list"),
        ("${fetch.total == `2`}", "${fetch.total == `2`} is a boolean, not a list"),
    ],
)
def test_a_map_over_anything_else_says_what_it_found(text: str, message: str) -> None:
    with pytest.raises(NotAListError) as caught:
        Template.compile(text).evaluate_list(SCOPE)
    assert str(caught.value) == message


names = st.sampled_from(["a", "b", "a-b", "c_1", "}", "x y", "é"])
data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
steps = st.lists(names | st.integers(-3, 3), max_size=5)


def quoted(name: str) -> str:
    return name if name.replace("_", "a").isalnum() and name.isascii() else json.dumps(name, ensure_ascii=False)


@given(data, names, steps)
def test_a_walk_gives_what_walking_by_hand_gives(value: Any, root: str, walk: list[str | int]) -> None:
    text = quoted(root) + "".join(f"[{step}]" if isinstance(step, int) else f".{quoted(step)}" for step in walk)
    expected = value
    for step in walk:
        if isinstance(step, str):
            expected = expected.get(step) if isinstance(expected, dict) else None
        elif isinstance(expected, list) and -len(expected) <= step < len(expected):
            expected = expected[step]
        else:
            expected = None
    scope = {root: orjson.dumps(value)}
    template = Template.compile([f"${{{text}}}"])
    assert template.references == {root}
    assert orjson.loads(template.render(scope)) == [expected]
    assert jmespath.search(text, {root: value}) == expected


@given(
    data,
    st.lists(
        st.sampled_from(
            [
                "[*]",
                "[]",
                ".*",
                ".a",
                ".b[0]",
                "[?a]",
                "[?@ == a]",
                " | [0]",
                " | [@, a]",
                " | {x: a, y: @}",
                "[1:]",
                " || b",
                " | keys(@)",
            ]
        ),
        max_size=5,
    ),
)
def test_an_expression_gives_what_the_library_gives(value: Any, parts: list[str]) -> None:
    text = "a" + "".join(parts)
    scope = {"a": value, "b": [1]}
    raw = {name: orjson.dumps(one) for name, one in scope.items()}
    try:
        expected = jmespath.search(text, scope)
    except jmespath.exceptions.JMESPathError:
        with pytest.raises(PathError):
            Template.compile([f"${{{text}}}"]).render(raw)
        return
    assert orjson.loads(Template.compile([f"${{{text}}}"]).render(raw)) == [expected]


@given(st.text("ab.[]*@|&!='`\"{}()?,:$ 01\\-<>", max_size=24))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    template, errors = Template.attempt({"x": "${" + text + "}"})
    assert (template is None) == bool(errors)


@given(data | st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_json_is_read_as_the_exact_reader_reads_it(value: Any) -> None:
    text = json.dumps(value).encode()
    assert read_json(text) == json.loads(text)


def test_what_is_kept_takes_no_more_memory_than_it_has_bytes() -> None:
    template = Template.compile("${input}")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [*template.evaluate_list({"input": b"[" + b"7," * 999 + b"7]"}), Template.compile([5]).render({})]
        kept.append(canonical_bytes(Definition("n", (Node("a", "work"),))))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(kept) < 100
