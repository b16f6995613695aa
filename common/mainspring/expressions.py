"""One expression of a data path: JMESPath, compiled once, evaluated within bounds.

JMESPath can copy and nest what it finds ("a | [@, @] | [@, @]" doubles with each step), so evaluation has a budget, and what an
expression builds is counted before it is written. Most expressions only walk from name to name; these are compiled and followed here,
several times faster than by the interpreter, with the same meaning.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, TypeAlias

from jmespath.exceptions import JMESPathError, LexerError, ParseError
from jmespath.functions import Functions
from jmespath.parser import Parser
from jmespath.visitor import TreeInterpreter

from mainspring.errors import MainspringError
from mainspring.limits import path_bytes_max, path_depth_max, path_steps_max

_name: Final = r'(?:[A-Za-z_][A-Za-z0-9_]*|"[^"\\\x00-\x1f]+")'
_walk: Final = re.compile(rf"\s*({_name})((?:\.{_name}|\[-?[0-9]{{1,9}}\])*)\s*", re.ASCII)
_step: Final = re.compile(rf"\.({_name})|\[(-?[0-9]+)\]")

_walk_characters_max: Final = path_bytes_max // 4  # within the bound whatever the characters
_walks_kept: Final = 1_024

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
_builders: Final = frozenset({"multi_select_list", "multi_select_dict", "function_expression"})
_deep_functions: Final = frozenset({"contains", "to_string"})
"""Functions that look at all that is within their arguments."""
_characters_a_step: Final = 64
_value_size: Final = 16
"""What a value counts, in characters."""
_Tree: TypeAlias = Any
"""A node of the library's syntax tree: a dict with `type`, `children` and perhaps `value`."""


class PathError(MainspringError):
    """A data path is malformed, or cannot be evaluated on the data that there is."""

    def __init__(self, message: str, *, at: str = "", position: int | None = None) -> None:
        self.at = at
        """Where in the template the string stands, for example ".calendar[0]"; empty: it is the template."""
        self.position = position
        """Where in that string the error is, in characters from 0, if it has a place."""
        super().__init__(message)


class Budget:
    """What one rendering may cost; shared by all its expressions."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = path_steps_max

    def spend(self, steps: int) -> None:
        """Take steps away; raises `PathError` when none is left."""
        self.left -= steps
        if self.left < 0:
            raise PathError(f"it takes more than {path_steps_max} steps; do the work in an executor")

    def spend_on(self, value: object) -> None:
        """Take away what writing a value costs; what stands in it several times counts each time."""
        stack, size = [value], _value_size
        while stack:
            one = stack.pop()
            if isinstance(one, str):
                size += len(one)
            elif isinstance(one, list):
                size += len(one) * _value_size
                stack += one
            elif isinstance(one, dict):
                size += len(one) * _value_size
                stack += one.values()
            if size >= _characters_a_step:
                self.spend(size // _characters_a_step)
                size %= _characters_a_step


class Expression:
    """A compiled expression; immutable."""

    __slots__ = ("_builds", "_steps", "_tree", "roots", "text", "whole")

    def __init__(self, text: str, roots: frozenset[str], steps: "tuple[str | int, ...] | None", tree: _Tree) -> None:
        self.text = text
        self.roots = roots
        """The names that it looks up in the scope itself."""
        self.whole = next(iter(roots)) if steps == () else None
        """The root's name when the expression is nothing else."""
        self._steps = steps
        self._tree = tree
        self._builds = tree is not None and any(node["type"] in _builders for node, _ in _walked(tree))

    @classmethod
    def walk(cls, text: str) -> "Expression | None":
        """Compile an expression that only walks from name to name, and is not long; None for all others."""
        return _walk_of(text) if len(text) <= _walk_characters_max else None

    @classmethod
    def compile(cls, text: str) -> "Expression":
        """Compile an expression; raises `PathError`, whose position counts within `text`."""
        walk = cls.walk(text)
        if walk is not None:
            return walk
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > path_bytes_max:
            raise PathError(f"a data path of {size} bytes is over the bound of {path_bytes_max}")
        if not text.strip():
            raise PathError("a data path is empty; name a node, `input`, `workflow`, `item` or `index`")
        tree = _parsed(text)
        return cls(text, frozenset(_roots(tree, text)), None, tree)

    def evaluate(self, parsed: Callable[[str], object], budget: Budget) -> object:
        """Return the value; `parsed` gives a root's value. Raises `PathError`."""
        if self._steps is not None:
            (root,) = self.roots
            return _follow(parsed(root), self._steps)
        scope = {root: parsed(root) for root in self.roots}
        try:
            value = _Interpreter(budget, self._builds).visit(self._tree, scope)
            if self._builds:
                budget.spend_on(value)
        except PathError as error:
            raise PathError(f"${{{self.text}}}: {error}") from error
        except RecursionError as error:
            raise PathError(f"${{{self.text}}}: the data is nested too deep") from error
        # ValueError holds JMESPathError; the functions raise the others for values that they do not expect.
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise PathError(f"${{{self.text}}}: {str(error).splitlines()[0]}") from error
        return value


@lru_cache(_walks_kept)
def _walk_of(text: str) -> Expression | None:
    """Return a walk; a wide definition has the same one in many nodes."""
    walk = _walk.fullmatch(text)
    return Expression(text, frozenset((_unquoted(walk[1]),)), _steps(walk[2]), None) if walk else None


class _Interpreter(TreeInterpreter):
    """Evaluates a tree within a budget."""

    def __init__(self, budget: Budget, builds: bool) -> None:
        super().__init__()
        self._budget = budget
        self._deep = builds
        self._library = Functions()

    def visit(self, node: _Tree, *args: Any, **kwargs: Any) -> Any:
        self._budget.left -= 1
        if self._budget.left < 0:
            self._budget.spend(0)
        if node["type"] == "field":  # by far the most frequent; the method would raise and catch for all but objects
            (value,) = args
            return value.get(node["value"]) if isinstance(value, dict) else None
        return super().visit(node, *args, **kwargs)

    def visit_multi_select_dict(self, node: _Tree, value: Any) -> Any:
        if value is None:
            return None
        return {pair["value"]: self.visit(pair["children"][0], value) for pair in node["children"]}

    def visit_flatten(self, node: _Tree, value: Any) -> Any:
        result = super().visit_flatten(node, value)
        self._budget.spend(len(result or ()))
        return result

    def visit_comparator(self, node: _Tree, value: Any) -> Any:
        if self._deep and node["value"] in {"eq", "ne"}:
            sides = [self.visit(child, value) for child in node["children"]]
            for side in sides:
                self._budget.spend_on(side)
            return self.COMPARATOR_FUNC[node["value"]](*sides)
        return super().visit_comparator(node, value)

    def visit_function_expression(self, node: _Tree, value: Any) -> Any:
        name, arguments = node["value"], [self.visit(child, value) for child in node["children"]]
        for argument in arguments:
            if name in _deep_functions:
                self._budget.spend_on(argument)
            elif isinstance(argument, list | dict):
                self._budget.spend(len(argument))
            elif isinstance(argument, str):
                self._budget.spend(len(argument) // _characters_a_step)
        if name == "join" and len(arguments) == 2 and isinstance(arguments[1], list):
            glue = len(arguments[0]) if isinstance(arguments[0], str) else 0
            length = sum(glue + len(one) for one in arguments[1] if isinstance(one, str))
            self._budget.spend(length // _characters_a_step)
        return self._library.call_function(name, arguments)


def _steps(text: str) -> tuple[str | int, ...]:
    """Return the steps of ".a.b[0]"; most have names only, and are cut without looking closer."""
    if '"' not in text and "[" not in text:
        return tuple(text.split(".")[1:])
    steps = (match.groups() for match in _step.finditer(text))
    return tuple(int(index) if index else _unquoted(name) for name, index in steps)


def _unquoted(name: str) -> str:
    return name[1:-1] if name[0] == '"' else name


def _follow(value: object, steps: tuple[str | int, ...]) -> object:
    for step in steps:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        elif isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def _parsed(text: str) -> _Tree:
    try:
        tree: _Tree = Parser().parse(text).parsed
    except ParseError as error:
        position = error.lexer_position if isinstance(error, LexerError) else error.lex_position
        reason = error.message if isinstance(error, LexerError) else error.msg
        if error.token_type in {None, "EOF"}:
            reason = "it ends too early"
        message = f"${{{text}}} is not a JMESPath expression: {reason} (at column {position + 1})"
        raise PathError(message, position=position) from error
    except PendingDeprecationWarning as error:
        # Where warnings are errors; elsewhere the old form of literals is taken.
        raise PathError(f"${{{text}}}: between backticks stands JSON; write strings as 'text'") from error
    except RecursionError as error:
        raise PathError(f"${{{text}}} is nested deeper than {path_depth_max} levels") from error
    except JMESPathError as error:
        raise PathError(f"${{{text}}} is not a JMESPath expression: {str(error).splitlines()[0]}") from error
    if any(depth > path_depth_max for _, depth in _walked(tree)):
        raise PathError(f"${{{text}}} is nested deeper than {path_depth_max} levels")
    return tree


def _walked(tree: _Tree) -> Iterator[tuple[_Tree, int]]:
    stack = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        # A slice has numbers for children.
        stack += [(child, depth + 1) for child in node["children"] if isinstance(child, dict)]


def _roots(tree: _Tree, text: str) -> Iterator[str]:
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
        raise PathError(
            f"${{{text}}} must begin with a name, not with `@`, `*` or `[`; name a node, `input`, `workflow`, `item` or `index`"
        )
