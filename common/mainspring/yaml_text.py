"""Reading YAML as nothing more than another way to write JSON.

Values are those of JSON: a date stays text, and tags for anything else are refused. Keys are strings, each once. Aliases are values
that stand in several places; they are counted in each, so that a few lines cannot become more than a definition may hold.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import yaml

from mainspring.limits import json_depth_max, yaml_values_max

_tag: Final = "tag:yaml.org,2002:"
_left_as_text: Final = frozenset({f"{_tag}timestamp", f"{_tag}value"})
# libyaml's parser is ten times faster; PyYAML has it wherever there is a wheel.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYamlError(ValueError):
    """The text is not YAML, or says what JSON cannot."""


def read_yaml(data: bytes) -> object:
    """Return the JSON value of YAML text; raises `NotYamlError` with the line."""
    try:
        _check_depth(data)
        loader = _Loader(data)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _check(root)
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise NotYamlError(f"{error.problem or error.context}{where}") from error
    except yaml.YAMLError as error:
        raise NotYamlError(str(error).splitlines()[0]) from error
    except RecursionError as error:
        raise NotYamlError("it is nested too deep") from error
    except ValueError as error:
        raise NotYamlError(str(error)) from error


def _check_depth(data: bytes) -> None:
    """Refuse deep nesting before anything is composed: libyaml composes by recursion, and the stack would run out under it."""
    depth = 0
    for event in yaml.parse(data, Loader=_Safe):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > json_depth_max:
                raise _refusal(event, f"it is nested deeper than {json_depth_max} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check(root: yaml.Node) -> None:
    """Refuse keys that JSON does not have, values within themselves, and too many values."""
    sizes: dict[int, int] = {}
    above: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, leaving = stack.pop()
        if id(node) in sizes:
            continue
        if leaving:
            above.remove(id(node))
            size = sizes[id(node)] = 1 + sum(sizes[id(child)] for child in _children(node))
            if size > yaml_values_max:
                raise _refusal(node, f"with its aliases it has more than {yaml_values_max} values")
        elif isinstance(node, yaml.ScalarNode):
            sizes[id(node)] = 1
        elif id(node) in above:
            raise _refusal(node, "a value stands within itself")
        else:
            if isinstance(node, yaml.MappingNode):
                _check_keys(node)
            above.add(id(node))
            stack.append((node, True))
            stack += [(child, False) for child in _children(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in {f"{_tag}str", f"{_tag}merge"}:
            shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "of this mapping"
            raise _refusal(key, f"the key {shown} is no string; put it in quotes")
        if key.value in seen:
            raise _refusal(key, f"the key {key.value!r} stands twice")
        seen.add(key.value)


def _refusal(at: Any, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


class _Loader(_Safe):  # type: ignore[misc]  # one of two classes, with the same methods
    """Makes values of JSON only."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (as the library has it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _left_as_text]
        for first, resolvers in _Safe.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012  (as the library has it)
        tag: constructor
        for tag, constructor in _Safe.yaml_constructors.items()
        if tag is None or tag in {f"{_tag}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if isinstance(value, float) and not math.isfinite(value):
            raise _refusal(node, f"{value} is a number that JSON does not have; use null or a string")
        return value
