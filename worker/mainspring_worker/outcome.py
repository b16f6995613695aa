"""What becomes of an executor's return value, or of its exception: plain data within its bounds."""

import math
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson

from mainspring.errors import Failure
from mainspring.failures import not_json, payload_too_large
from mainspring.limits import (
    error_type_bytes_max,
    failure_message_bytes_max,
    failure_stack_bytes_max,
    payload_bytes_max,
)
from mainspring.wire import clip
from mainspring_worker.context import NonRetryable

_strict: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    output: bytes = b""
    failure: Failure | None = None
    cancelled: bool = False
    """It stopped because it was told to."""

    @property
    def size(self) -> int:
        """Return about how many bytes it takes in a message."""
        failure = self.failure
        return len(self.output) + (4 * (len(failure.message) + len(failure.stack)) if failure is not None else 0)


def returned(value: object) -> Ended:
    """Return the outcome of a returned value: its JSON, or a failure that names what in it is not JSON."""
    try:
        data = orjson.dumps(value, option=_strict)
    except (TypeError, ValueError) as error:
        where = next(_not_json(value, "result"), f"result: {error}")
        return Ended(
            failure=Failure(
                not_json, f"{where}; return plain dicts, lists, strings, numbers, booleans or None", non_retryable=True
            )
        )
    if b"null" in data:
        # orjson writes NaN and infinities as null, which would lose them silently.
        found = next(_not_json(value, "result"), None)
        if found is not None:
            return Ended(failure=Failure(not_json, found, non_retryable=True))
    if len(data) > payload_bytes_max:
        message = f"the result has {len(data)} bytes, more than {payload_bytes_max}; store it elsewhere and return a reference"
        return Ended(failure=Failure(payload_too_large, message, non_retryable=True))
    return Ended(data)


def raised(error: BaseException) -> Ended:
    """Return the outcome of an exception."""
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    if isinstance(error, NonRetryable) and error.__cause__ is not None and not error.args:
        name = type(error.__cause__).__qualname__
    stack = "".join(traceback.format_exception(error))
    return Ended(
        failure=Failure(
            clip(name, error_type_bytes_max),
            clip(str(error), failure_message_bytes_max),
            clip(stack, failure_stack_bytes_max),
            isinstance(error, NonRetryable),
        )
    )


def _not_json(value: object, path: str) -> Iterator[str]:
    """Yield what of a value JSON cannot hold, with the path to it."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path} is {value}, which JSON does not have"
    elif type(value) is dict:
        for key, inner in value.items():
            if type(key) is not str:
                yield f"{path} has the key {key!r} of type {type(key).__name__}; keys are strings"
            else:
                yield from _not_json(inner, f"{path}.{key}")
    elif type(value) in (list, tuple):
        for index, inner in enumerate(value):  # type: ignore[arg-type]  # a list or a tuple, as was just seen
            yield from _not_json(inner, f"{path}[{index}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        yield f"{path} is of type {type(value).__name__}, which JSON does not have"
    elif type(value) is int and not -(2**63) <= value < 2**64:
        yield f"{path} is {value}, which does not fit into 64 bits; return it as a string"
