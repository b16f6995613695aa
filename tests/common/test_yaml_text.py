"""YAML as another way to write JSON, and what it may not be."""

from datetime import date
from typing import Any

import pytest
import yaml

from mainspring.limits import json_depth_max
from mainspring.yaml_text import NotYamlError, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: 2024-01-31", {"a": "2024-01-31"}),
        ("a: 2024-99-99", {"a": "2024-99-99"}),
        ("a: =", {"a": "="}),
        ("a: 123456789012345678901234567890", {"a": 123456789012345678901234567890}),
        ("a: &x {b: [1.5, yes, ~]}\nc: *x", {"a": {"b": [1.5, True, None]}, "c": {"b": [1.5, True, None]}}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("", None),
    ],
)
def test_values_are_those_of_json(text: str, value: Any) -> None:
    assert read_yaml(text.encode()) == value


def test_the_plain_loader_would_have_made_a_date() -> None:
    assert yaml.safe_load("2024-01-31") == date(2024, 1, 31)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' stands twice (line 3, column 1)"),
        ("{1: 2}", "the key '1' is no string; put it in quotes (line 1, column 2)"),
        ("{[1]: 2}", "the key of this mapping is no string; put it in quotes (line 1, column 2)"),
        ("a: &a [*a]", "a value stands within itself (line 1, column 4)"),
        ("a: .nan", "nan is a number that JSON does not have; use null or a string (line 1, column 4)"),
        (
            "a: !!binary aGk=",
            "could not determine a constructor for the tag 'tag:yaml.org,2002:binary' (line 1, column 4)",
        ),
        (
            "a: !!python/object/apply:os.system [ls]",
            "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system' (line 1, column 4)",
        ),
        ("a: !!int x", "invalid literal for int() with base 10: 'x'"),
        ("[" * 100_000, f"it is nested deeper than {json_depth_max} levels (line 1, column {json_depth_max + 1})"),
        ("- " * 100_000, f"it is nested deeper than {json_depth_max} levels (line 1, column {2 * json_depth_max + 1})"),
    ],
)
def test_what_json_does_not_have_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(NotYamlError) as caught:
        read_yaml(text.encode())
    assert str(caught.value) == message


@pytest.mark.parametrize("text", [b"a: [", b"a: 1\n---\nb: 2", b"\xff\xfe\x00", b"\x00"])
def test_what_is_not_yaml_is_refused(text: bytes) -> None:
    with pytest.raises(NotYamlError):
        read_yaml(text)


def test_aliases_cannot_make_much_of_little() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    with pytest.raises(NotYamlError, match="with its aliases it has more than 5000000 values"):
        read_yaml("\n".join(lines).encode())
