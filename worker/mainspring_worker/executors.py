"""Executors: the functions that a worker runs, and the registry of their names.

    @executor
    async def greet(name): ...

    @executor("resize", process=True)
    def resize_image(task, context): ...

A function may take the node's input, a `Context`, both in either order, or nothing. The parameter that is annotated `Context`, or named
`context`, gets the context; the other one gets the input. A parameter that is neither and has a default keeps it, unless it comes first.

Coroutine functions run on the worker's event loop, plain ones in a thread, and those with `process=True` in a process of their own.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar, get_args, overload

from mainspring.errors import SettingsError
from mainspring.limits import executor_bytes_max, executors_a_worker_max
from mainspring_worker.context import Context

_F = TypeVar("_F", bound=Callable[..., Any])
_given: Final = "an executor gets the node's input and, if it wants it, a context"


class Kind(Enum):
    """Where an executor runs."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


class Argument(Enum):
    """What a function is called with."""

    INPUT = "input"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Executor:
    """A registered function."""

    name: str
    function: Callable[..., Any]
    kind: Kind
    wants: tuple[Argument, ...]
    """What it is called with, in this order."""

    def arguments(self, data: object, context: object) -> list[object]:
        """Return the positional arguments of a call."""
        return [data if wanted is Argument.INPUT else context for wanted in self.wants]

    @property
    def place(self) -> str:
        """Return where it is defined, for people."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


class Registry:
    """Executors by name."""

    def __init__(self) -> None:
        self._executors: dict[str, Executor] = {}

    def add(self, found: Executor) -> None:
        """Register an executor; `SettingsError` when its name is taken by another function."""
        known = self._executors.get(found.name)
        if known is not None and known.place != found.place:
            raise SettingsError(
                f"two executors are named {found.name!r}: {known.place} and {found.place}; rename one of them"
            )
        self._executors[found.name] = found

    def __getitem__(self, name: str) -> Executor:
        return self._executors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._executors

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._executors)

    def chosen(self, names: Iterable[str] | None) -> Mapping[str, Executor]:
        """Return the executors that a worker announces: all, or those listed in SUPPORTED_EXECUTORS.

        `SettingsError` when a listed name is not registered, or there is none at all, or there are too many.
        """
        if names is None:
            chosen = dict(self._executors)
        else:
            missing = [name for name in names if name not in self._executors]
            if missing:
                known = ", ".join(self.names()) or "none"
                raise SettingsError(
                    f"SUPPORTED_EXECUTORS names {missing[0]!r}, which nothing registers; registered are: {known}"
                )
            chosen = {name: self._executors[name] for name in names}
        if not chosen:
            raise SettingsError("no executor is registered; name the module that has them: --import mypkg.tasks")
        if len(chosen) > executors_a_worker_max:
            raise SettingsError(
                f"{len(chosen)} executors are more than the {executors_a_worker_max} that a worker may announce"
            )
        return chosen


registry: Final = Registry()
"""What `@executor` registers into."""


@overload
def executor(function: _F, /) -> _F: ...
@overload
def executor(name: str | None = None, /, *, process: bool = False) -> Callable[[_F], _F]: ...
def executor(function: Any = None, /, *, process: bool = False) -> Any:
    """Register a function as an executor, under its own name or another one."""
    if callable(function):
        registry.add(describe(function, function.__name__, process=process))
        return function
    name: str | None = function

    def register(decorated: _F) -> _F:
        registry.add(describe(decorated, name if name is not None else decorated.__name__, process=process))
        return decorated

    return register


def describe(function: Callable[..., Any], name: str, *, process: bool = False) -> Executor:
    """Return an executor for a function; `SettingsError` when its name or its parameters do not fit."""
    if not name or len(name.encode()) > executor_bytes_max:
        raise SettingsError(f"an executor's name has 1 to {executor_bytes_max} bytes, not {len(name.encode())}")
    is_async = inspect.iscoroutinefunction(function)
    if process and "<locals>" in function.__qualname__:
        raise SettingsError(f"executor {name!r} is defined within a function; for process=True define it in a module")
    if is_async and process:
        raise SettingsError(f"executor {name!r} is a coroutine function; process=True is for plain functions")
    kind = Kind.ASYNC if is_async else Kind.PROCESS if process else Kind.THREAD
    return Executor(name, function, kind, _wants(function, name))


def _wants(function: Callable[..., Any], name: str) -> tuple[Argument, ...]:
    wants: list[Argument] = []
    for parameter in inspect.signature(function).parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.KEYWORD_ONLY and required:
            raise SettingsError(f"executor {name!r} needs {parameter.name!r} by keyword; {_given}")
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            continue
        wanted = Argument.CONTEXT if _is_context(parameter) else Argument.INPUT
        if wanted not in wants:
            wants.append(wanted)
        elif required and wants == [Argument.INPUT]:
            # Two parameters that say nothing of themselves: the input, then the context.
            wants.append(Argument.CONTEXT)
        elif required:
            raise SettingsError(f"executor {name!r} needs an argument for {parameter.name!r}; {_given}")
        else:
            break
    return tuple(wants)


def _is_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return parameter.name == "context"
    if isinstance(annotation, str):
        # The module postpones its annotations; resolving them could import what the function never uses.
        return any(part.strip().rpartition(".")[2] == Context.__name__ for part in annotation.split("|"))
    return annotation is Context or Context in get_args(annotation)
