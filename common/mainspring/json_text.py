"""Reading JSON without losing digits, and writing it without holding more memory than it takes.

orjson is fast, and reads integers beyond 64 bits as floating point. Such digits would change silently on their way through a workflow,
so text that may hold them is read a second time, exactly; that is rare, and finding out costs little.
"""

import json
import re
from collections.abc import Callable
from typing import Final, NoReturn

import orjson

_digits: Final = bytes(48 if 48 <= byte <= 57 else byte if byte == 45 else 32 for byte in range(256))
"""Turns all digits into "0" and all else but "-" into spaces."""
_long: Final = b"0" * 20
_long_negative: Final = b"-" + b"0" * 19
"""Shorter integers fit into 64 bits, whatever their digits."""


_space: Final = re.compile(r"[ \t\n\r]*")
_levels: Final = 2
"""How deep containers are taken apart: a definition is an object, whose nodes are an array or an object."""


def trimmed(written: bytes) -> bytes:
    """Return what orjson wrote, without the rest of the buffer that it wrote to: 4 KiB for a number, 16 MiB for 600 KB."""
    return bytes(memoryview(written))


def read_json(data: bytes) -> object:
    """Return the value of JSON text, integers of any size exactly; raises `json.JSONDecodeError`."""
    value: object = orjson.loads(data)
    marks = data.translate(_digits)
    if _long not in marks and _long_negative not in marks:
        return value
    # A string or a fraction may have as many digits; that costs time only.
    try:
        exact: object = json.loads(data)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deep around a long number", data.decode(), 0) from error
    return exact


def read_json_in_parts(data: bytes) -> object:
    """As `read_json`, for text that is long and not deep: no part of it keeps other threads from running for long.

    It is three times slower, because orjson, like any other parser in C, lets nobody else run before it has read all.
    """
    try:
        text = data.decode()
        value, at = _read(json.JSONDecoder(parse_constant=_refuse).raw_decode, text, _after_space(text, 0), _levels)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError(f"not UTF-8: {error.reason}", "", error.start) from error
    except (RecursionError, ValueError) as error:
        raise json.JSONDecodeError(f"it cannot be read: {error}", "", 0) from error
    if at < len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return value


def _read(decode: Callable[[str, int], tuple[object, int]], text: str, at: int, levels: int) -> tuple[object, int]:
    """Return the value that begins at a place, and the place of what follows it."""
    opening = text[at : at + 1] if levels else ""
    if opening not in ("{", "["):
        value, at = decode(text, at)
        return value, _after_space(text, at)
    closing = "}" if opening == "{" else "]"
    members: dict[str, object] = {}
    elements: list[object] = []
    at = _after_space(text, at + 1)
    if text[at : at + 1] == closing:
        return members if opening == "{" else elements, _after_space(text, at + 1)
    while True:
        if opening == "{":
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
            name, at = decode(text, at)
            at = _past(":", text, _after_space(text, at))
            members[str(name)], at = _read(decode, text, at, levels - 1)
        else:
            element, at = _read(decode, text, at, levels - 1)
            elements.append(element)
        if text[at : at + 1] == closing:
            return members if opening == "{" else elements, _after_space(text, at + 1)
        at = _past(",", text, at)


def _past(mark: str, text: str, at: int) -> int:
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r} delimiter", text, at)
    return _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _space.match(text, at)
    assert found is not None
    return found.end()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is a number that JSON does not have")
