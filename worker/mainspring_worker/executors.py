"""Executors: the functions that a worker runs, and the registry of their names.

    @executor
    async def greet(name): ...

    @executor("resize", process=True)
    def resize_image(task, context): ...

A function takes nothing, the node's input, or the input and a `Context`, by its positional parameters. Coroutine functions run on the
worker's event loop, plain ones in a thread, and those with `process=True` in a process of their own.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar, overload

from mainspring.errors import SettingsError
from mainspring.limits import executor_bytes_max, executors_a_worker_max

_F = TypeVar("_F", bound=Callable[..., Any])


class Kind(Enum):
    """Where an executor runs."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Executor:
    """A registered function."""

    name: str
    function: Callable[..., Any]
    kind: Kind
    parameters: int
    """How many positional arguments it takes: 0, 1 (input) or 2 (input and context)."""

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
    if is_async and process:
        raise SettingsError(f"executor {name!r} is a coroutine function; process=True is for plain functions")
    kind = Kind.ASYNC if is_async else Kind.PROCESS if process else Kind.THREAD
    positional = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    if len(required) > 2:
        raise SettingsError(
            f"executor {name!r} needs {len(required)} arguments; it gets the input and, if it wants it, a context"
        )
    return Executor(name, function, kind, min(2, len(positional)))
