"""Long JSON is read as short JSON is, in parts."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.definition import parse_definition
from mainspring.errors import DefinitionError
from mainspring.json_text import read_json, read_json_in_parts
from mainspring.limits import MIB

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(_values, st.sampled_from([None, 2]), st.booleans())
def test_what_is_read_in_parts_is_what_is_read_at_once(value: object, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert read_json_in_parts(text) == value == read_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        '{"a"',
        '{"a":',
        '{"a":1',
        '{"a":1,',
        '{"a":1,}',
        '{"a" 1}',
        "{a:1}",
        "{1:1}",
        '{"a":1}}',
        "1 2",
        '"\n"',
        "NaN",
        "[Infinity]",
        '{"a":[-Infinity]}',
        "nul",
        "[01]",
        "\ufeff{}",
        "[" * 100_000,
        '{"nodes":' * 50_000,
        "[[[" + "9" * 5_000 + "]]]",
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        read_json_in_parts(text.encode())
    with pytest.raises(json.JSONDecodeError):
        read_json(text.encode())


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(json.JSONDecodeError, match="not UTF-8"):
        read_json_in_parts(b'["\xff"]')


def test_a_long_definition_is_the_same_as_a_short_one_and_says_where_it_is_wrong() -> None:
    nodes = [{"id": f"n{n}", "executor": "work", "input": {"text": "x" * 100}} for n in range(20_000)]
    text = orjson.dumps({"name": "long", "nodes": nodes})
    assert len(text) > MIB
    definition = parse_definition(text, format="json")
    assert (len(definition.nodes), definition.nodes[-1].id) == (20_000, "n19999")
    with pytest.raises(DefinitionError, match=r"it is not JSON: Expecting ',' delimiter: line 1 column"):
        parse_definition(text.replace(b'"id":"n777",', b'"id":"n777"'), format="json")
