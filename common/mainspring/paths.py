"""Data paths: how a node's input, a map's list and a workflow's output name data of other nodes.

An input template is any JSON value. A string that is exactly "${expression}" becomes the value of the expression; a string with
"${...}" inside has the values put in, strings as they are and other values as compact JSON; "$${" is a literal "${". Expressions are
JMESPath over an object that has, by name, the outputs of the nodes, `input` (the workflow's input), `workflow` (its id and name), and
within a `map` node `item` and `index`.

Everything is compiled once and pure afterwards. "${node}" alone hands the bytes through without looking into them, so integers of any
size survive; an expression that looks into a value reads integers beyond 64 bits as floating point, as JSON readers do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import jmespath
import orjson
from jmespath.exceptions import JMESPathError
from jmespath.parser import Parser

from mainspring.errors import MainspringError
from mainspring.limits import json_depth_max, path_bytes_max, paths_in_input_max
from mainspring.workflow import Json

Scope: TypeAlias = Mapping[str, bytes]
"""JSON bytes by root name."""

_first_child_only: Final = frozenset(
    {"subexpression", "index_expression", "projection", "value_projection", "filter_projection", "flatten", "pipe"}
)
_all_children: Final = frozenset(
    {
        "or_expression",
        "and_expression",
        "not_expression",
        "comparator",
        "function_expression",
        "multi_select_list",
        "multi_select_dict",
        "key_val_pair",
    }
)
_integer_min: Final = -(2**63)
_integer_max: Final = 2**64 - 1


class PathError(MainspringError):
    """A data path is malformed, or cannot be evaluated on the data that there is."""


class NotAListError(PathError):
    """A `map` runs over something that is not a list."""


@dataclass(frozen=True, slots=True)
class _Path:
    """One expression."""

    text: str
    roots: frozenset[str]
    compiled: Any
    whole: str
    """The root's name when the expression is nothing else, else empty."""

    def value(self, data: "_Data") -> object:
        """Return the value in a form that orjson writes."""
        if self.whole:
            return orjson.Fragment(data.raw[self.whole])
        return self.search(data)

    def search(self, data: "_Data") -> object:
        """Return the value as Python objects."""
        try:
            return self.compiled.search({root: data.parsed(root) for root in self.roots})
        except JMESPathError as error:
            raise PathError(f"${{{self.text}}}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Text:
    """A string with values in it."""

    parts: tuple["str | _Path", ...]


class _Data:
    """The scope of one rendering; each root is parsed once at most."""

    __slots__ = ("_parsed", "raw")

    def __init__(self, raw: Scope) -> None:
        self.raw = raw
        self._parsed: dict[str, object] = {}

    def parsed(self, root: str) -> object:
        if root not in self._parsed:
            self._parsed[root] = orjson.loads(self.raw[root])
        return self._parsed[root]


class Template:
    """A JSON value with data paths, compiled; immutable."""

    __slots__ = ("_compiled", "_literal", "_source", "is_literal", "references")

    def __init__(self, source: Json, compiled: object, references: frozenset[str]) -> None:
        self._source = source
        self._compiled = compiled
        self.references = references
        """The names of the roots that its expressions begin with."""
        self.is_literal = not any(True for _ in _paths_in(compiled))
        """It has no expression: it renders to the same bytes always."""
        self._literal = orjson.dumps(_filled(compiled, _Data({}))) if self.is_literal else b""

    @classmethod
    def compile(cls, value: Json) -> "Template":
        """Compile a value; raises `PathError` for a malformed expression, one over its bound, or too many of them."""
        compiled = _compile(value, 0)
        paths = list(_paths_in(compiled))
        if len(paths) > paths_in_input_max:
            raise PathError(f"it has {len(paths)} data paths, more than {paths_in_input_max}")
        return cls(value, compiled, frozenset(root for path in paths for root in path.roots))

    def render(self, scope: Scope) -> bytes:
        """Return the JSON bytes for a scope that holds every name in `references`; raises `PathError`."""
        if self.is_literal:
            return self._literal
        compiled = self._compiled
        if type(compiled) is _Path and compiled.whole:
            return scope[compiled.whole]
        try:
            return orjson.dumps(_filled(compiled, _Data(scope)))
        except orjson.JSONEncodeError as error:
            raise PathError(f"the value cannot be written as JSON: {error}") from error

    def evaluate_list(self, scope: Scope) -> list[bytes]:
        """Return the elements of the list that this one expression names, as JSON bytes; raises `NotAListError`, `PathError`."""
        path = self._compiled
        assert type(path) is _Path, "a map's `over` is checked to be one expression"
        found = path.search(_Data(scope))
        if not isinstance(found, list):
            kind = {dict: "an object", str: "a string", type(None): "null", bool: "a boolean"}.get(
                type(found), "a number"
            )
            raise NotAListError(f"${{{path.text}}} is {kind}, not a list")
        return [orjson.dumps(element) for element in found]

    @property
    def is_one_path(self) -> bool:
        """Whether the value is exactly one expression."""
        return type(self._compiled) is _Path

    def __repr__(self) -> str:
        return f"Template({self._source!r})"


def _compile(value: Json, depth: int) -> object:
    if depth > json_depth_max:
        raise PathError(f"it is nested deeper than {json_depth_max} levels")
    if isinstance(value, str):
        return _compile_text(value) if "${" in value else value
    if isinstance(value, list):
        return [_compile(element, depth + 1) for element in value]
    if isinstance(value, dict):
        return {key: _compile(element, depth + 1) for key, element in value.items()}
    if type(value) is int and not _integer_min <= value <= _integer_max:
        raise PathError(f"the integer {value} does not fit into 64 bits; write it as a string")
    return value


def _compile_text(text: str) -> object:
    parts: list[str | _Path] = []
    literal, at = "", 0
    while at < len(text):
        if text.startswith("$${", at):
            literal, at = literal + "${", at + 3
        elif text.startswith("${", at):
            end = _end_of_expression(text, at + 2)
            if literal:
                parts.append(literal)
                literal = ""
            parts.append(_compile_path(text[at + 2 : end]))
            at = end + 1
        else:
            literal, at = literal + text[at], at + 1
    if literal:
        parts.append(literal)
    if not any(isinstance(part, _Path) for part in parts):
        return "".join(str(part) for part in parts)
    if len(parts) == 1:
        return parts[0]
    return _Text(tuple(parts))


def _end_of_expression(text: str, start: int) -> int:
    """Return the index of the brace that closes an expression; braces in quotes and in {…} of its own do not."""
    depth, at, quote = 0, start, ""
    while at < len(text):
        character = text[at]
        if quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif character in "'\"`":
            quote = character
        elif character == "{":
            depth += 1
        elif character == "}":
            if not depth:
                return at
            depth -= 1
        at += 1
    raise PathError(
        f'"${{" at position {start - 2} of {text!r} is not closed by a "}}"; write "$${{" for a literal "${{"'
    )


def _compile_path(text: str) -> _Path:
    if len(text.encode()) > path_bytes_max:
        raise PathError(f"a data path of {len(text.encode())} bytes is over the bound of {path_bytes_max}")
    if not text.strip():
        raise PathError("a data path is empty; name a node, `input`, `item` or `index`")
    try:
        tree = Parser().parse(text).parsed
        compiled = jmespath.compile(text)
    except JMESPathError as error:
        first_line = str(error).splitlines()[0]
        raise PathError(f"${{{text}}} is not a JMESPath expression: {first_line}") from error
    roots = frozenset(_roots(tree, text))
    whole = tree["value"] if tree["type"] == "field" else ""
    return _Path(text, roots, compiled, whole)


def _roots(tree: Mapping[str, Any], text: str) -> Iterator[str]:
    """Yield the names that an expression looks up in the scope itself, not within what it has found there."""
    kind = tree["type"]
    if kind == "field":
        yield tree["value"]
    elif kind in _first_child_only:
        yield from _roots(tree["children"][0], text)
    elif kind in _all_children:
        for child in tree["children"]:
            yield from _roots(child, text)
    elif kind in ("current", "identity"):
        raise PathError(f"${{{text}}} must begin with the name of a node, `input`, `item` or `index`")


def _paths_in(compiled: object) -> Iterator[_Path]:
    if isinstance(compiled, _Path):
        yield compiled
    elif isinstance(compiled, _Text):
        yield from (part for part in compiled.parts if isinstance(part, _Path))
    elif isinstance(compiled, list):
        for element in compiled:
            yield from _paths_in(element)
    elif isinstance(compiled, dict):
        for element in compiled.values():
            yield from _paths_in(element)


def _filled(compiled: object, data: _Data) -> object:
    if isinstance(compiled, _Path):
        return compiled.value(data)
    if isinstance(compiled, _Text):
        return "".join(part if isinstance(part, str) else _as_text(part.search(data)) for part in compiled.parts)
    if isinstance(compiled, list):
        return [_filled(element, data) for element in compiled]
    if isinstance(compiled, dict):
        return {key: _filled(element, data) for key, element in compiled.items()}
    return compiled


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
