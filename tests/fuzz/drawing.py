"""Messages drawn from their descriptors: each field by its type, or by its name where the cluster has something of that name.

Half of the values are what the cluster knows, so that a message gets past the first check; the others are at and beyond every bound.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mainspring import limits
from tests.fuzz.contract import new

texts: Final = (
    *("", " ", "a", "A" * 64, "b" * 65, "c" * 128, "d" * 129, "e" * 200, "f" * 201, "g" * 1_025, "h" * 70_000),
    *(
        "\0",
        "a\0b",
        "\n",
        "\r\n: x",
        "'; DROP TABLE workflows; --",
        "%s%n{}{0}",
        "../../etc/passwd",
        "\x1b[31m",
        "%",
        "_",
    ),
    *(
        "ä" * 101,
        "\U0001f600" * 33,
        "\u202e",
        "\ufeff",
        "\uffff",
        "é",
        "null",
        "-1",
        "NaN",
        "0" * 32,
        "F" * 32,
        "a\u0000" * 16,
    ),
)
numbers: Final = (0, 1, 2, 15, 16, 100, 255, 1_000, 1_001, 10_001, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
long_numbers: Final = (*numbers, 2**32, 2**53 + 1, 2**63 - 1)
unsigned_numbers: Final = (*long_numbers, 2**63, 2**64 - 1)
negative: Final = (-1, -2, -(2**31))
long_negative: Final = (*negative, -(2**63))
floats: Final = (0.0, -0.0, 1.0, 50.0, 100.0, 100.1, -1.0, 3.4e38, float("inf"), float("-inf"), float("nan"))
documents: Final = (
    *(
        b"",
        b"null",
        b"{}",
        b"[]",
        b"0",
        b'"x"',
        b"{",
        b"[1,",
        b"\xff\xfe",
        b"NaN",
        b"-0",
        b"1e999",
        b"1" * 400,
        b'"\\ud800"',
    ),
    *(b'{"a":1,"a":2}', b"[" * 300 + b"]" * 300, b"[" * 100_000, b'{"a":' * 190 + b"1" + b"}" * 190, b"\xef\xbb\xbf{}"),
    *(b'"' + b"x" * (limits.payload_bytes_max - 2) + b'"', b'"' + b"x" * limits.payload_bytes_max + b'"'),
)
_values: Final[Mapping[int, Sequence[Any]]] = {
    FieldDescriptor.CPPTYPE_STRING: texts,
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
    FieldDescriptor.CPPTYPE_FLOAT: floats,
    FieldDescriptor.CPPTYPE_DOUBLE: floats,
    FieldDescriptor.CPPTYPE_UINT32: numbers,
    FieldDescriptor.CPPTYPE_UINT64: unsigned_numbers,
    FieldDescriptor.CPPTYPE_INT32: (*[number for number in numbers if number < 2**31], *negative),
    FieldDescriptor.CPPTYPE_INT64: (*long_numbers, *long_negative),
}
_set: Final = 0.75
"""How many of its fields a drawn message has."""


def definition(*nodes: dict[str, Any], **rest: Any) -> bytes:
    """Return a definition as it is sent."""
    return json.dumps({"name": "fuzzed", "nodes": list(nodes), **rest}).encode()


definitions: Final = (
    definition({"id": "a", "executor": "fuzzed"}),
    definition({"id": "a", "executor": "fuzzed"}, {"id": "b", "executor": "fuzzed", "depends_on": ["a"]}),
    definition({"id": "m", "executor": "fuzzed", "map": {"over": "${input}"}}),
    definition({"id": "a", "executor": "nobody-runs-this", "priority": 9, "timeouts": {"start_to_close": "1s"}}),
    definition({"id": "a", "executor": "fuzzed", "concurrency": {"key": "fuzz-key", "limit": 2}}),
    definition({"id": "a", "executor": "fuzzed"}, {"id": "a", "executor": "fuzzed"}),
    definition({"id": "a", "executor": "fuzzed", "depends_on": ["a"]}),
    definition({"id": "a", "executor": "fuzzed", "input": "${input" + ".x" * 200 + "}"}),
    definition({"id": "a", "executor": 7, "nonsense": True}, output="${a[?x==`(a+)+`]}"),
    definition(*({"id": f"n{i}", "executor": "fuzzed"} for i in range(300))),
    definition(name="\U0001f600" * 200, nodes=[]),
)


def token(*parts: int | str) -> str:
    """Return a page token with these parts, as the coordinators write theirs."""
    return urlsafe_b64encode(json.dumps(parts).encode()).decode()


tokens: Final = (
    *(
        "",
        "=",
        "AAAA",
        token(),
        token(0, "x"),
        token(2**63, "x"),
        token(-(2**63) - 1, ""),
        token(10**30, "y"),
        token("x", 0),
    ),
    *(
        token(1, "\0"),
        token(1, "\U0001f600"),
        token(5, 5),
        token(0, 0, 0),
        token(2**31, 2**31),
        token(-1, -5),
        token(0),
    ),
    *(
        urlsafe_b64encode(b'{"a":1}').decode(),
        urlsafe_b64encode(b"[true,null]").decode(),
        urlsafe_b64encode(b"[1.5,[]]").decode(),
    ),
)


@dataclass(slots=True)
class Known:
    """What the cluster has, by the names of the fields that ask for it."""

    by_field: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    def put(self, name: str, *values: Any) -> None:
        """Add values; of each field the last two hundred are kept."""
        kept = self.by_field.setdefault(name, [])
        kept += [value for value in values if value not in kept]
        del kept[:-200]


class Draw:
    """Draws messages by one source of chance."""

    def __init__(self, rng: Random, known: Known) -> None:
        self._rng = rng
        self._known = known

    def message(self, descriptor: Any, filled: float = _set) -> Message:
        """Return a message; each of its fields is there with this probability."""
        drawn = new(descriptor)
        for one in descriptor.fields:
            if self._rng.random() < filled:
                self._fill(drawn, one)
        return drawn

    def _fill(self, message: Message, one: Any) -> None:
        rng = self._rng
        if not one.is_repeated:
            if one.message_type is not None:
                getattr(message, one.name).CopyFrom(self._inner(one))
            else:
                setattr(message, one.name, self._scalar(one))
            return
        # Rarely so many that a bound is passed.
        count = rng.choice((0, 1, 1, 2, 3)) if rng.random() < 0.99 else limits.items_a_message_max + 1
        place = getattr(message, one.name)
        if one.message_type is None:
            place.extend(self._scalar(one) for _ in range(count))
        elif one.message_type.GetOptions().map_entry:
            for _ in range(min(count, 3)):
                entry = self.message(one.message_type, 1.0)
                place[entry.key] = entry.value  # type: ignore[attr-defined]  # only maps of scalars are in the contract
        else:
            inner = [self._inner(one) for _ in range(min(count, 3))]
            for index in range(count):
                place.add().CopyFrom(inner[index % len(inner)])

    def _inner(self, one: Any) -> Message:
        if one.message_type.name == "Payload" and self._rng.random() < 0.9:
            return self._payload(one)
        return self.message(one.message_type)

    def _payload(self, one: Any) -> Message:
        """A payload that is read as JSON, and where a definition is meant, more often than not as one."""
        drawn = new(one.message_type)
        payload: Any = drawn
        payload.encoding = self._rng.choice(("", "json", "json", "cbor"))
        is_definition = one.name in {"definition", "definitions"} and self._rng.random() < 0.8
        payload.data = self._rng.choice(definitions if is_definition else documents[:-2])
        return drawn

    def _scalar(self, one: Any) -> Any:
        rng = self._rng
        known = self._known.by_field.get(one.name)
        if known and rng.random() < 0.6:
            value = rng.choice(known)
            if _fits(one, value):
                return value
        if one.name == "page_token":
            return rng.choice(tokens)
        if one.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice(documents)
        if one.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            declared = [value.number for value in one.enum_type.values]
            return rng.choice((*declared, *declared, 99, -1, 2**31 - 1))
        return rng.choice(_values[one.cpp_type])  # a type that the contract did not have before has its values there


_bits: Final = {
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64),
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63),
    FieldDescriptor.CPPTYPE_ENUM: (0, 2**31),
}


def _fits(one: Any, value: Any) -> bool:
    """Tell whether a field can hold a value: another message may have a field of the same name and another type."""
    if isinstance(value, str):
        return bool(one.type == FieldDescriptor.TYPE_STRING)
    low, high = _bits.get(one.cpp_type, (0, 0))
    return isinstance(value, int) and low <= value < high
