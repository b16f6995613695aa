"""Data paths: how a node's input, a map's list and a workflow's output name data of other nodes.

An input template is any JSON value. A string that is exactly "${expression}" becomes the value of the expression; a string with
"${...}" inside has the values put in, strings as they are and other values as compact JSON; "$${" is a literal "${". Expressions are
JMESPath over an object that has, by name, the outputs of the nodes, `input` (the workflow's input), `workflow` (its id and name), and
within a `map` node `item` and `index`.

Everything is compiled once and pure afterwards. "${node}" alone hands the bytes through without looking into them, so integers of any
size survive there. An expression that looks into a value reads every integer exactly; one beyond 64 bits cannot be written again, and
picking it is a `PathError`.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import orjson

from mainspring.expressions import Budget, Expression, PathError
from mainspring.json_text import read_json, trimmed
from mainspring.limits import json_depth_max, path_bytes_max, paths_in_input_max
from mainspring.workflow import Json

__all__ = ["NotAListError", "PathError", "Scope", "Template"]

Scope: TypeAlias = Mapping[str, bytes]
"""JSON bytes by root name."""

_no_roots: Final[frozenset[str]] = frozenset()
_integer_min: Final = -(2**63)
_integer_max: Final = 2**64 - 1
_bytes_a_step: Final = 64
_plain_key: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_Text: TypeAlias = tuple[str | Expression, ...]
"""A string with values in it. No JSON value is a tuple, so that the two cannot be confused."""


class NotAListError(PathError):
    """A `map` runs over something that is not a list."""


class _Data:
    """The scope of one rendering; each root is parsed once at most."""

    __slots__ = ("_parsed", "budget", "raw")

    def __init__(self, raw: Scope) -> None:
        self.raw = raw
        self.budget = Budget()
        self._parsed: dict[str, object] = {}

    def parsed(self, root: str) -> object:
        if root not in self._parsed:
            self._parsed[root] = read_json(self.raw[root])
        return self._parsed[root]


class Template:
    """A JSON value with data paths, compiled; immutable."""

    __slots__ = ("_compiled", "_literal", "is_literal", "references")

    def __init__(self, compiled: object, paths: Sequence[Expression]) -> None:
        # Most have one expression or none: their sets are shared.
        self.references: frozenset[str] = (
            paths[0].roots if len(paths) == 1 else _no_roots.union(*(p.roots for p in paths))
        )
        """The names of the roots that its expressions begin with."""
        self.is_literal = not paths
        """It has no expression: it renders to the same bytes always."""
        self._compiled = None if self.is_literal else compiled
        self._literal = trimmed(orjson.dumps(compiled)) if self.is_literal else b""

    @classmethod
    def compile(cls, value: Json) -> "Template":
        """Compile a value; raises the first `PathError` of `attempt`."""
        template, errors = cls.attempt(value)
        if template is None:
            raise errors[0]
        return template

    @classmethod
    def attempt(cls, value: Json) -> "tuple[Template | None, list[PathError]]":
        """Compile a value, or return all that is wrong with it: expressions, bounds, and what JSON cannot hold."""
        compiling = _Compiling()
        compiled, errors = compiling.value(value, 0), compiling.errors
        if len(compiling.paths) > paths_in_input_max:
            count = len(compiling.paths)
            errors.append(PathError(f"it has {count} data paths, more than the {paths_in_input_max} allowed"))
        return (None, errors) if errors else (cls(compiled, compiling.paths), [])

    def render(self, scope: Scope) -> bytes:
        """Return the JSON bytes for a scope that holds every name in `references`; raises `PathError`."""
        if self.is_literal:
            return self._literal
        compiled = self._compiled
        if isinstance(compiled, Expression) and compiled.whole is not None:
            return scope[compiled.whole]
        return _written(_filled(compiled, _Data(scope)), self._shown)

    def evaluate_list(self, scope: Scope) -> list[bytes]:
        """Return the elements of the list that this one expression names, as JSON bytes; raises `NotAListError`, `PathError`."""
        return list(self.elements(scope)[1])

    def elements(self, scope: Scope) -> tuple[int, Iterator[bytes]]:
        """As `evaluate_list`: how many elements there are, and what writes one after the other; a long list takes its time."""
        path = self._compiled
        assert isinstance(path, Expression), "a map's `over` is checked to be one expression"
        data = _Data(scope)
        found = path.evaluate(data.parsed, data.budget)
        if not isinstance(found, list):
            kinds = {dict: "an object", str: "a string", type(None): "null", bool: "a boolean"}
            raise NotAListError(f"${{{path.text}}} is {kinds.get(type(found), 'a number')}, not a list")
        return len(found), (_written(element, self._shown) for element in found)

    @property
    def is_one_path(self) -> bool:
        """Whether the value is exactly one expression."""
        return isinstance(self._compiled, Expression)

    def __repr__(self) -> str:
        return f"Template({self._shown()})"

    def _shown(self) -> str:
        if self.is_literal:
            return self._literal.decode()
        return ", ".join(f"${{{path.text}}}" for path in _paths_in(self._compiled))


class _Compiling:
    """Compiles one value; leaves its expressions, and what is wrong."""

    __slots__ = ("errors", "paths")

    def __init__(self) -> None:
        self.paths: list[Expression] = []
        self.errors: list[PathError] = []

    def value(self, value: object, depth: int) -> object:
        """Return the compiled form."""
        kind = type(value)
        if kind is int and depth <= json_depth_max and _integer_min <= value <= _integer_max:  # type: ignore[operator]  # an int
            return value
        if depth > json_depth_max:
            self.errors.append(PathError(f"it is nested deeper than {json_depth_max} levels"))
        elif isinstance(value, str):
            return self._string(value)
        elif isinstance(value, list):
            return [self._within(number, one, depth) for number, one in enumerate(value)]
        elif isinstance(value, dict):
            plain = all(type(key) is str and key.isascii() for key in value)
            return {key if plain else self._key(key): self._within(key, one, depth) for key, one in value.items()}
        elif (reason := _not_json(value)) is not None:
            self.errors.append(PathError(reason))
        return value

    def _within(self, step: object, value: object, depth: int) -> object:
        before = len(self.errors)
        compiled = self.value(value, depth + 1)
        if len(self.errors) > before:
            for error in self.errors[before:]:
                error.at = _step_to(step) + error.at
        return compiled

    def _string(self, text: str) -> object:
        if "${" not in text and text.isascii():
            return text
        try:
            _check_unicode(text, "text")
            if "${" not in text:
                return text
            compiled = _compile_text(text)
        except PathError as error:
            self.errors.append(error)
            return text
        if isinstance(compiled, Expression):
            self.paths.append(compiled)
        elif isinstance(compiled, tuple):
            self.paths += (part for part in compiled if isinstance(part, Expression))
        return compiled

    def _key(self, key: object) -> str:
        try:
            if isinstance(key, str):
                _check_unicode(key, "key")
                return key
            raise PathError(f"the key {key!r} is a {type(key).__name__}; keys are strings, put it in quotes")  # noqa: TRY301  (all of a key's errors are collected here)
        except PathError as error:
            self.errors.append(error)
        return ""


def _not_json(value: object) -> str | None:
    """Return why a value that is neither text nor container is not JSON, None when it is."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        fits = _integer_min <= value <= _integer_max
        return None if fits else f"the integer {value} does not fit into 64 bits; write it as a string"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} is a number that JSON does not have; use null or a string"
    return f"{value!r} is a {type(value).__name__}, which JSON does not have; make it a string, a number, a list or an object"


def _step_to(step: object) -> str:
    return f".{step}" if isinstance(step, str) and _plain_key.fullmatch(step) else f"[{step!r}]"


def _check_unicode(text: str, what: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PathError(f"the {what} {text[:80]!r} has half a surrogate pair, which JSON cannot hold") from error


def _compile_text(text: str) -> str | Expression | _Text:
    if text.startswith("${") and text.endswith("}") and (walk := Expression.walk(text[2:-1])) is not None:
        return walk
    parts: list[str | Expression] = []
    literal, at = "", 0
    while (found := text.find("${", at)) >= 0:
        if found > at and text[found - 1] == "$":
            literal += text[at : found - 1] + "${"
            at = found + 2
            continue
        if literal := literal + text[at:found]:
            parts.append(literal)
        end = _end_of_expression(text, found + 2)
        parts.append(_expression(text[found + 2 : end], found + 2))
        literal, at = "", end + 1
    if literal := literal + text[at:]:
        parts.append(literal)
    if len(parts) == 1:
        return parts[0]
    return tuple(parts)


def _expression(text: str, start: int) -> Expression:
    try:
        return Expression.compile(text)
    except PathError as error:
        error.position = start + (error.position or 0)
        raise


def _end_of_expression(text: str, start: int) -> int:
    """Return the index of the brace that closes an expression; braces in quotes and in {…} of its own do not."""
    depth, at, quote = 0, start, ""
    stop = min(len(text), start + path_bytes_max + 1)
    while at < stop:
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
    if stop < len(text):
        raise PathError(
            f'"${{" at position {start - 2} is not closed within {path_bytes_max} bytes', position=start - 2
        )
    message = f'"${{" at position {start - 2} is not closed by a "}}"; write "$${{" for a literal "${{"'
    raise PathError(message, position=start - 2)


def _paths_in(compiled: object) -> Iterator[Expression]:
    if isinstance(compiled, Expression):
        yield compiled
    elif isinstance(compiled, tuple | list):
        for element in compiled:
            yield from _paths_in(element)
    elif isinstance(compiled, dict):
        for element in compiled.values():
            yield from _paths_in(element)


def _filled(compiled: object, data: _Data) -> object:
    """Return the value with its expressions evaluated, in a form that orjson writes."""
    if isinstance(compiled, Expression):
        if compiled.whole is None:
            return compiled.evaluate(data.parsed, data.budget)
        raw = data.raw[compiled.whole]
        data.budget.spend(len(raw) // _bytes_a_step)
        return orjson.Fragment(raw)
    if isinstance(compiled, tuple):
        return "".join(part if isinstance(part, str) else _as_text(part, data) for part in compiled)
    if isinstance(compiled, list):
        return [_filled(element, data) for element in compiled]
    if isinstance(compiled, dict):
        return {key: _filled(element, data) for key, element in compiled.items()}
    return compiled


def _as_text(path: Expression, data: _Data) -> str:
    value = path.evaluate(data.parsed, data.budget)
    text = value if isinstance(value, str) else _written(value, lambda: f"${{{path.text}}}").decode()
    data.budget.spend(len(text) // _bytes_a_step)
    return text


def _written(value: object, source: Callable[[], str]) -> bytes:
    try:
        return trimmed(orjson.dumps(value))
    except orjson.JSONEncodeError as error:
        raise PathError(f"{source()} gives a value that cannot be written as JSON: {error}") from error
