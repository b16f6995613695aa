"""The MySQL protocol as far as a test needs it to let one statement of a message go wrong. All sequence numbers stay as they are.

Statements of one message are told apart by the words that ours begin with, so none of these may stand behind a semicolon in a payload.
"""

import re
from collections.abc import Sequence
from typing import Final

_query: Final = b"\x03"
_between: Final = re.compile(rb";(?=(?:SET @|UPDATE |INSERT |DELETE |DO |COMMIT))")
_header_bytes: Final = 4
_error: Final = 0xFF
_more_results: Final = 8


def statements_of(packet: bytes) -> Sequence[bytes]:
    """Return the statements that a client's packet holds; none if it is no query."""
    body = packet[_header_bytes:]
    return _between.split(body[len(_query) :]) if body.startswith(_query) else ()


def query(statements: Sequence[bytes]) -> bytes:
    """Return a client's packet with these statements."""
    body = _query + b";".join(statements)
    return len(body).to_bytes(3, "little") + b"\0" + body


def error(number: int, at: int) -> bytes:
    """Return a packet that answers the statement at a place, from 0, of its message with an error."""
    body = bytes([_error]) + number.to_bytes(2, "little") + b"#HY000" + f"error {number} of a test".encode()
    return len(body).to_bytes(3, "little") + bytes([at + 1]) + body


class Answers:
    """What a server answers to the statements of a message, none of which reads anything."""

    def __init__(self) -> None:
        self._data = b""

    def add(self, chunk: bytes) -> bool:
        """Take in what came; tell whether this is all."""
        self._data += chunk
        packets = self._packets()
        return bool(packets) and (packets[-1][_header_bytes] == _error or not _has_more(packets[-1]))

    def first(self, count: int) -> bytes:
        """Return the answers to the first so many statements, as if another one followed."""
        return b"".join(_with_more(packet) for packet in self._packets()[:count])

    def whole(self) -> bytes:
        """Return all of it."""
        return self._data

    def _packets(self) -> list[bytes]:
        packets: list[bytes] = []
        rest = self._data
        while len(rest) >= _header_bytes:
            end = _header_bytes + int.from_bytes(rest[:3], "little")
            if len(rest) < end:
                break
            packets.append(rest[:end])
            rest = rest[end:]
        return packets


def _has_more(packet: bytes) -> bool:
    return bool(packet[_status(packet)] & _more_results)


def _with_more(packet: bytes) -> bytes:
    at = _status(packet)
    return packet[:at] + bytes([packet[at] | _more_results]) + packet[at + 1 :]


def _status(packet: bytes) -> int:
    """Return where the status begins: behind two numbers of one, three or more bytes, which the first byte of each tells."""
    at = _header_bytes + 1
    for _ in range(2):
        at += {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(packet[at], 1)
    return at
