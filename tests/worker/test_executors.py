"""How functions become executors, and what becomes of what they return and raise."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from mainspring.errors import SettingsError
from mainspring.failures import not_json, payload_too_large
from mainspring.limits import failure_message_bytes_max, payload_bytes_max
from mainspring_worker import Context, NonRetryable
from mainspring_worker.execution import modules_of_processes
from mainspring_worker.executors import Kind, Registry, describe
from mainspring_worker.outcome import raised, returned


def nothing() -> None: ...
def with_input(data: object) -> None: ...
def with_both(data: object, context: Context) -> None: ...
def unannotated(data, ctx): ...  # type: ignore[no-untyped-def]
def only_context(context): ...  # type: ignore[no-untyped-def]
def context_first(about: Context, data: object) -> None: ...
def optional_context(data: object, context: Context | None = None) -> None: ...
def own_default(data: object, retries: int = 3) -> None: ...
def keyword_with_default(data: object, *, retries: int = 3) -> None: ...


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (nothing, []),
        (with_input, ["input"]),
        (with_both, ["input", "context"]),
        (unannotated, ["input", "context"]),
        (only_context, ["context"]),
        (context_first, ["context", "input"]),
        (optional_context, ["input", "context"]),
        (own_default, ["input"]),
        (keyword_with_default, ["input"]),
    ],
)
def test_a_function_gets_what_its_parameters_ask_for(function: Callable[..., Any], arguments: list[str]) -> None:
    assert describe(function, "f").arguments("input", "context") == arguments


def three(a: object, b: object, c: object) -> None: ...
def by_keyword(data: object, *, where: str) -> None: ...


@pytest.mark.parametrize(("function", "named"), [(three, "'c'"), (by_keyword, "'where'")])
def test_a_function_that_needs_more_is_refused(function: Callable[..., Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        describe(function, "f")


def test_a_name_that_is_taken_is_refused_and_both_places_are_named() -> None:
    registry = Registry()
    registry.add(describe(nothing, "greet"))
    registry.add(describe(nothing, "greet"))  # a module that is imported under two names registers itself twice
    with pytest.raises(SettingsError, match=r"'greet'.*nothing.*with_input"):
        registry.add(describe(with_input, "greet"))


def test_where_a_function_runs_depends_on_its_kind() -> None:
    async def coroutine() -> None: ...

    assert describe(coroutine, "f").kind is Kind.ASYNC
    assert describe(nothing, "f").kind is Kind.THREAD
    assert describe(nothing, "f", process=True).kind is Kind.PROCESS
    with pytest.raises(SettingsError, match="plain functions"):
        describe(async_in_module, "f", process=True)
    with pytest.raises(SettingsError, match="in a module"):
        describe(lambda: None, "f", process=True)


async def async_in_module() -> None: ...


def test_a_worker_announces_what_it_is_told_to_and_a_name_that_nothing_registers_stops_it() -> None:
    registry = Registry()
    registry.add(describe(nothing, "a"))
    registry.add(describe(nothing, "b"))
    assert sorted(registry.chosen(None)) == ["a", "b"]
    assert list(registry.chosen(["b"])) == ["b"]
    with pytest.raises(SettingsError, match=r"SUPPORTED_EXECUTORS names 'c'.*a, b"):
        registry.chosen(["b", "c"])
    with pytest.raises(SettingsError, match="--import"):
        Registry().chosen(None)


@pytest.mark.parametrize(
    ("value", "where", "kind"),
    [
        ({"a": [1, {"b": {1, 2}}]}, "result.a[1].b", "set"),
        ({"a": object()}, "result.a", "object"),
        ([Decimal(1)], "result[0]", "Decimal"),
        (datetime(2026, 1, 1, tzinfo=UTC), "result", "datetime"),
        ({1: "one"}, "result", "int"),
        ({"a": math.nan}, "result.a", "nan"),
        ([1.0, -math.inf, None], "result[1]", "-inf"),
        ({"n": 2**64}, "result.n", "64 bits"),
        (b"bytes", "result", "bytes"),
    ],
)
def test_what_is_not_json_fails_with_its_place_and_its_type(value: object, where: str, kind: str) -> None:
    failure = returned(value).failure
    assert failure is not None
    assert failure.type == not_json
    assert failure.non_retryable
    assert f"{where} " in failure.message
    assert kind in failure.message


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        ({"a": [1, "ä", None, True, 1.5]}, '{"a":[1,"ä",null,true,1.5]}'.encode()),
        ((1, (2,)), b"[1,[2]]"),
        ("null", b'"null"'),
        (2**64 - 1, b"18446744073709551615"),
    ],
)
def test_json_is_returned_as_it_is(value: object, data: bytes) -> None:
    assert returned(value).output == data


def test_a_lone_surrogate_and_a_cycle_are_failures_too() -> None:
    loop: list[object] = []
    loop.append(loop)
    for value in ("\ud800", loop):
        ended = _returned(value)
        assert ended.failure is not None, value


def _returned(value: object) -> Any:
    try:
        return returned(value)
    except RecursionError as error:
        return raised(error)


def test_a_result_over_a_mebibyte_is_refused_and_one_of_exactly_that_size_is_not() -> None:
    assert len(returned("x" * (payload_bytes_max - 2)).output) == payload_bytes_max
    failure = returned("x" * (payload_bytes_max - 1)).failure
    assert failure is not None
    assert (failure.type, failure.non_retryable) == (payload_too_large, True)
    assert str(payload_bytes_max) in failure.message


class OutOfPaperError(Exception):
    """A user's own."""


@pytest.mark.parametrize(
    ("error", "name", "final"),
    [
        (ValueError("no"), "ValueError", False),
        (OutOfPaperError("no"), f"{__name__}.OutOfPaperError", False),
        (NonRetryable("no"), "mainspring_worker.context.NonRetryable", True),
        (SystemExit("no"), "SystemExit", False),
    ],
)
def test_an_exception_becomes_a_failure_with_type_message_and_stack(
    error: BaseException, name: str, final: bool
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    failure = raised(caught.value).failure
    assert failure is not None
    assert (failure.type, failure.message, failure.non_retryable) == (name, "no", final)
    assert "test_executors.py" in failure.stack


def test_texts_of_a_failure_are_cut_to_their_bounds() -> None:
    failure = raised(ValueError("ä" * 100_000 + "\ud800")).failure
    assert failure is not None
    assert len(failure.message.encode()) <= failure_message_bytes_max
    assert failure.message.endswith("…")


def test_processes_import_the_modules_of_their_executors_and_the_script_itself_is_none() -> None:
    found = describe(math.sqrt, "root", process=True)
    assert modules_of_processes([found, describe(lambda _: 1, "thread")]) == ["math"]
    script: dict[str, Any] = {"__name__": "__main__"}
    exec("def heavy(_): ...", script)
    with pytest.raises(SettingsError, match=r"'heavy'.*module of its own"):
        modules_of_processes([describe(script["heavy"], "heavy", process=True)])


def test_all_threads_that_wait_for_the_end_of_an_attempt_see_it() -> None:
    context = Context("wf", "name", "node", -1, 1)
    assert not context.wait_cancelled(0)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(context.wait_cancelled, 20) for _ in range(4)]
        context.cancel("TIMED_OUT")
        assert [future.result() for future in waiting] == [True] * 4
    assert context.wait_cancelled(0)


def test_the_context_refuses_progress_that_is_not_json_or_too_large() -> None:
    told: list[bytes] = []
    context = Context("wf", "name", "node", 3, 2, {"at": 1}, told.append)
    context.progress({"at": 2})
    assert told == [b'{"at":2}']
    with pytest.raises(TypeError, match="JSON"):
        context.progress({1, 2})
    with pytest.raises(ValueError, match="4096"):
        context.progress("x" * 4096)
    assert context.idempotency_key == "wf/node/3"
    assert context.previous_progress == {"at": 1}
    assert not context.cancelled
