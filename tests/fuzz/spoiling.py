"""Bytes that are no message, or hardly one: made from the bytes of a message that is in order."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from mainspring.limits import message_bytes_max


def varint(value: int, at_least: int = 1) -> bytes:
    """Return a number as it stands on the wire; longer than it need be where so many bytes are wanted."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < at_least:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """Return what stands before a field."""
    return varint(number << 3 | wire_type)


def noise(rng: Random, data: bytes) -> bytes:
    """Bytes by chance."""
    return rng.randbytes(rng.choice((1, 2, 5, 20, 100, 1_000)))


def flipped(rng: Random, data: bytes) -> bytes:
    """Some bits are others."""
    out = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncated(rng: Random, data: bytes) -> bytes:
    """It ends too early; an empty one ends within its first field."""
    return data[: rng.randrange(1, len(data))] if len(data) > 1 else b"\x0a"


def wrong_types(rng: Random, data: bytes) -> bytes:
    """A field of each number has another type on the wire, two of which do not exist."""
    bodies = (
        varint(rng.getrandbits(40)),
        rng.randbytes(8),
        varint(3) + b"abc",
        b"",
        b"",
        rng.randbytes(4),
        b"\0",
        b"\0",
    )
    added = [(number, rng.randrange(8)) for number in range(1, 16)]
    return data + b"".join(tag(number, kind) + bodies[kind] for number, kind in added[: rng.randint(1, 15)])


def huge_numbers(rng: Random, data: bytes) -> bytes:
    """Numbers of more bytes than a number has, lengths beyond the end, the field 0 and fields that are too high."""
    number = rng.randint(1, 12)
    return data + rng.choice(
        (
            tag(number, 0) + b"\xff" * 9 + b"\x7f",
            tag(number, 0) + b"\xff" * 40,
            tag(number, 0) + varint(1, at_least=10),
            tag(number, 2) + varint(2**31 - 1) + b"x",
            tag(number, 2) + varint(2**63) + b"x",
            tag(number, 2) + varint(2**64 - 1) + b"x",
            varint(0) + b"\1",
            varint((2**29 << 3) | 0) + b"\1",
            b"\xff" * 11,
        )
    )


def nested(rng: Random, data: bytes) -> bytes:
    """Groups, or fields within fields, a hundred to fifty thousand deep."""
    depth = rng.choice((101, 1_000, 50_000))
    number = rng.randint(1, 12)
    if rng.random() < 0.5:
        return data + tag(number, 3) * depth + tag(number, 4) * depth
    inner = b""
    for _ in range(min(depth, 1_000)):
        inner = tag(number, 2) + varint(len(inner)) + inner
    return data + inner


def bad_text(rng: Random, data: bytes) -> bytes:
    """Every text field that there may be holds what is no UTF-8."""
    bad = rng.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"a\x80"))
    return data + b"".join(tag(number, 2) + varint(len(bad)) + bad for number in range(1, 13))


def repeated(rng: Random, data: bytes) -> bytes:
    """The same message many times over, which is one message to the decoder."""
    return (data or b"\x0a\0") * rng.choice((2, 10, 200) if len(data) < 5_000 else (2,))


def unknown_fields(rng: Random, data: bytes) -> bytes:
    """Fields of which this version knows nothing, as a later one may send them."""
    fields = [(rng.choice((19, 100, 5_000, 2**29 - 1)), rng.choice((0, 2, 5))) for _ in range(rng.randint(1, 50))]
    bodies = {0: varint(7), 2: varint(4) + b"\xff\0ab", 5: b"abcd"}
    return data + b"".join(tag(number, kind) + bodies[kind] for number, kind in fields)


def oversized(rng: Random, data: bytes) -> bytes:
    """A message just over the bound of one, of a field that nobody knows."""
    return data + tag(1_000, 2) + varint(message_bytes_max) + bytes(message_bytes_max)


spoilers: Final[Mapping[str, Callable[[Random, bytes], bytes]]] = {
    "random bytes": noise,
    "flipped bits": flipped,
    "truncated": truncated,
    "wrong wire types": wrong_types,
    "huge varints": huge_numbers,
    "deep nesting": nested,
    "no UTF-8": bad_text,
    "repeated": repeated,
    "unknown fields": unknown_fields,
}
