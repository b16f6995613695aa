"""Between the wire contract and the nouns: payloads, failures, text that must fit its bound.

Payloads are JSON bytes with an encoding tag. Nothing that arrives is trusted: what does not parse or is over its bound becomes a
`BadRequestError` that names the field.
"""

from typing import Final

import orjson

from mainspring.errors import BadRequestError, Failure
from mainspring.limits import (
    error_type_bytes_max,
    failure_message_bytes_max,
    failure_stack_bytes_max,
    payload_bytes_max,
)
from mainspring.v1 import workflow_pb2 as wire

json_encoding: Final = "json"
null: Final = b"null"
protocol_version: Final = 1


def serves_protocol(theirs: int, ours: int = protocol_version) -> bool:
    """Tell whether a coordinator of protocol `ours` serves a worker of `theirs`: the same, or the one before, never a later one.

    So an upgrade begins with the coordinators, and their workers follow one by one.
    """
    return max(1, ours - 1) <= theirs <= ours


def clip(text: str, bytes_max: int) -> str:
    """Return `text`, cut so that it takes at most `bytes_max` bytes in UTF-8; a cut text ends in "…". Lone surrogates become "?"."""
    data = text.encode("utf-8", "replace")
    if len(data) <= bytes_max:
        return data.decode()
    return data[: bytes_max - 3].decode("utf-8", "ignore") + "…"


def to_payload(data: bytes) -> wire.Payload:
    """Wrap JSON bytes."""
    return wire.Payload(encoding=json_encoding, data=data)


def check_payload(payload: wire.Payload, field: str, *, bytes_max: int = payload_bytes_max) -> bytes:
    """Return the JSON bytes of a payload that came from outside; an empty one is null.

    Raises `BadRequestError` when the encoding is unknown, the size over `bytes_max` or the bytes are not JSON.
    """
    if payload.encoding not in ("", json_encoding):
        raise BadRequestError(
            f"{field}: encoding {payload.encoding[:32]!r} is not known; send UTF-8 JSON with encoding {json_encoding!r}",
            field=field,
            reason="UNKNOWN_ENCODING",
        )
    data = payload.data
    if not data:
        return null
    if len(data) > bytes_max:
        raise BadRequestError(
            f"{field}: {len(data)} bytes are over the bound of {bytes_max}; store the data elsewhere and pass a reference",
            field=field,
            reason="PAYLOAD_TOO_LARGE",
        )
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"{field}: not JSON: {error}", field=field, reason="NOT_JSON") from error
    return data


def to_failure(failure: Failure) -> wire.Failure:
    """Put a failure on the wire, every text cut to its bound."""
    return wire.Failure(
        type=clip(failure.type, error_type_bytes_max),
        message=clip(failure.message, failure_message_bytes_max),
        stack=clip(failure.stack, failure_stack_bytes_max),
        non_retryable=failure.non_retryable,
        node_id=failure.node_id,
    )


def from_failure(failure: wire.Failure) -> Failure:
    """Take a failure from the wire, every text cut to its bound."""
    return Failure(
        type=clip(failure.type, error_type_bytes_max),
        message=clip(failure.message, failure_message_bytes_max),
        stack=clip(failure.stack, failure_stack_bytes_max),
        non_retryable=failure.non_retryable,
        node_id=failure.node_id,
    )
