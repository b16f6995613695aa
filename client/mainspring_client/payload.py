"""User data on its way to the wire and back: JSON, checked before it leaves, so that an error names the place in it."""

from math import isfinite
from typing import Final, Protocol, runtime_checkable

import orjson

from mainspring.errors import BadRequestError
from mainspring.limits import definition_bytes_max, payload_bytes_max
from mainspring.v1 import workflow_pb2
from mainspring.workflow import Definition, Json

_scalars: Final = (str, int, bool, type(None))


@runtime_checkable
class Builder(Protocol):
    """Something that makes a definition, such as `mainspring.Workflow`."""

    def definition(self) -> Definition:
        """Return the definition."""
        ...


def encode_json(value: object, field: str, *, bytes_max: int = payload_bytes_max) -> bytes:
    """Return `value` as JSON bytes. `BadRequestError` names the place of what is not JSON, or the bound passed."""
    _check(value, field)
    try:
        data = orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise BadRequestError(f"{field}: cannot be written as JSON: {error}", field=field, reason="NOT_JSON") from error
    if len(data) > bytes_max:
        raise BadRequestError(
            f"{field}: {len(data)} bytes are over the bound of {bytes_max}; store it elsewhere and pass a reference",
            field=field,
            reason="PAYLOAD_TOO_LARGE",
        )
    return data


def encode_definition(definition: object) -> bytes:
    """Return the JSON bytes of a definition, a builder, or a mapping. Whether it can run, the coordinator says."""
    if isinstance(definition, Builder):
        definition = definition.definition()
    if isinstance(definition, Definition):
        # Reading and writing definitions is work that a client which only follows workflows never needs.
        from mainspring.definition import canonical_bytes  # noqa: PLC0415

        return canonical_bytes(definition)
    if isinstance(definition, bytes):
        return definition
    if not isinstance(definition, dict):
        raise BadRequestError(
            f"definition: pass a Workflow, a Definition, or the mapping of its JSON, not a {type(definition).__name__}",
            field="definition",
        )
    return encode_json(definition, "definition", bytes_max=definition_bytes_max)


def decode_json(payload: workflow_pb2.Payload) -> Json:
    """Return the value of a payload; None for an empty one."""
    return orjson.loads(payload.data) if payload.data else None


def _check(root: object, field: str) -> None:
    """Refuse what `orjson` would write as something else (NaN as null) or refuse without saying where."""
    todo: list[tuple[object, str]] = [(root, field)]
    while todo:
        value, where = todo.pop()
        if isinstance(value, _scalars):
            continue
        if isinstance(value, float):
            if not isfinite(value):
                raise BadRequestError(
                    f"{where}: {value} is not JSON; use null or a string", field=field, reason="NOT_JSON"
                )
        elif isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise BadRequestError(
                        f"{where}: the key {key!r} is a {type(key).__name__}; JSON has only strings",
                        field=field,
                        reason="NOT_JSON",
                    )
                todo.append((item, f"{where}.{key}"))
        elif isinstance(value, list | tuple):
            todo.extend((item, f"{where}[{index}]") for index, item in enumerate(value))
        else:
            raise _not_json(field, f"{where}: a {type(value).__name__} is not JSON; convert it")


def _not_json(field: str, message: str) -> BadRequestError:
    return BadRequestError(message, field=field, reason="NOT_JSON")
