"""Reading JSON without losing digits, and writing it without holding more memory than it takes.

orjson is fast, and reads integers beyond 64 bits as floating point. Such digits would change silently on their way through a workflow,
so text that may hold them is read a second time, exactly; that is rare, and finding out costs little.
"""

import json
from typing import Final

import orjson

_digits: Final = bytes(48 if 48 <= byte <= 57 else byte if byte == 45 else 32 for byte in range(256))
"""Turns all digits into "0" and all else but "-" into spaces."""
_long: Final = b"0" * 20
_long_negative: Final = b"-" + b"0" * 19
"""Shorter integers fit into 64 bits, whatever their digits."""


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
