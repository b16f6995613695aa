"""One call of raw bytes, from its first message to its status; nothing here knows what the bytes mean."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from tests.fuzz.callers import Metadata
from tests.fuzz.contract import Method

_answers_max: Final = 50
_given_up: Final = "GIVEN UP"
"""Our own word: we ended the call, as we meant to."""


_cut_off: Final = "CUT OFF"
"""Our own word again: the other side ended the call under our first write, and gRPC has lost its status."""
_local: Final = "Internal error from Core"


@dataclass(frozen=True, slots=True)
class Answered:
    """How a call ended."""

    code: str
    """The name of its status; OK too when the answers were more than we wanted to hear."""
    details: str
    seconds: float
    answers: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent."""

    method: Method
    parts: Sequence[bytes]
    """One message; of a stream, its messages, after which it is half-closed."""
    metadata: Metadata
    timeout_s: float
    abandoned: bool = False
    """It is given up as soon as it was sent."""
    compressed: bool = False


def named(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """Return how a call ended, and the words for it."""
    details = error.details() or ""
    return _cut_off if _local in details else error.code().name, details


async def make(channel: grpc.aio.Channel, call: Call) -> Answered:
    """Make a call; it ends within its time."""
    began = time.monotonic()
    answers: list[bytes] = []
    code, details = await _made(channel, call, answers)
    return Answered(code, details, time.monotonic() - began, answers)


async def _made(channel: grpc.aio.Channel, call: Call, answers: list[bytes]) -> tuple[str, str]:
    method = call.method
    options: dict[str, Any] = {"metadata": call.metadata, "timeout": call.timeout_s}
    if call.compressed:
        options["compression"] = grpc.Compression.Gzip
    try:
        began: Any = _begin(channel, method, call.parts, options)
        if call.abandoned:
            await asyncio.sleep(0)
            began.cancel()
        if method.server_streaming:
            async for answer in began:
                answers.append(answer)
                if len(answers) >= _answers_max:
                    began.cancel()
                    return "OK", ""
        else:
            answers.append(await began)
        return (await began.code()).name, await began.details() or ""
    except grpc.aio.AioRpcError as error:
        return named(error)
    except asyncio.CancelledError:
        # gRPC's way to say that we gave the call up; a task that is cancelled itself says so again at its next wait.
        if call.abandoned:
            return _given_up, ""
        raise


def _begin(channel: Any, method: Method, parts: Sequence[bytes], options: dict[str, Any]) -> Any:
    if method.client_streaming and method.server_streaming:
        return channel.stream_stream(method.path)(iter(parts), **options)
    if method.client_streaming:
        return channel.stream_unary(method.path)(iter(parts), **options)
    message = parts[0] if parts else b""
    if method.server_streaming:
        return channel.unary_stream(method.path)(message, **options)
    return channel.unary_unary(method.path)(message, **options)
