"""What comes at the ports and is no call at all: no TLS, no HTTP/2, no HTTP, frames out of order, connections that only stand there."""

import asyncio
import gzip
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

from tests.fuzz.callers import Metadata

_preface: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_end_stream, _end_headers = 1, 4
_submit: Final = "/mainspring.v1.WorkflowsService/Submit"
_answer_s: Final = 0.3
"""How long an answer is waited for: many a connection only stands there."""
bomb_bytes: Final = 60 * 2**20
"""What the compressed message becomes when it is unpacked; packed it fits into the window that a server opens at first."""

Chunks = Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Port:
    """Where something comes."""

    name: str
    number: int
    tls: ssl.SSLContext | None
    """As whom; None: the port speaks no TLS."""


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def block(*headers: tuple[str, str]) -> bytes:
    """Return headers as HPACK writes them when it saves nothing."""
    out = bytearray()
    for name, value in headers:
        out += b"\0" + bytes((len(name),)) + name.encode() + _length(len(value)) + value.encode()
    return bytes(out)


def _length(number: int) -> bytes:
    if number < 127:
        return bytes((number,))
    out, number = bytearray((127,)), number - 127
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def call_headers(path: str = _submit, *more: tuple[str, str]) -> bytes:
    """Return the headers of a call of gRPC."""
    pseudo = ((":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost"))
    return block(*pseudo, ("te", "trailers"), ("content-type", "application/grpc"), *more)


def _noise(rng: Random, _metadata: Metadata) -> Chunks:
    yield rng.randbytes(rng.choice((1, 50, 3_000)))


def _nothing(_rng: Random, _metadata: Metadata) -> Chunks:
    yield b""


def _other_protocol(rng: Random, _metadata: Metadata) -> Chunks:
    yield rng.choice(
        (
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3",
            b"SSH-2.0-x\r\n",
            b"EHLO x\r\n",
            b"*1\r\n$4\r\nPING\r\n",
        )
    )


def _noise_after_preface(rng: Random, _metadata: Metadata) -> Chunks:
    yield _preface + rng.randbytes(200)


def _unknown_frames(rng: Random, _metadata: Metadata) -> Chunks:
    yield _preface + frame(_SETTINGS, 0, 0)
    for _ in range(20):
        yield frame(
            rng.randrange(256),
            rng.randrange(256),
            rng.choice((0, 1, 2, 3, 2**31 - 1)),
            rng.randbytes(rng.randrange(60)),
        )


def _floods(rng: Random, _metadata: Metadata) -> Chunks:
    one = rng.choice(
        (
            frame(_SETTINGS, 0, 0),
            frame(_PING, 0, 0, bytes(8)),
            frame(_WINDOW, 0, 0, b"\0\0\0\1"),
            frame(_PRIORITY, 0, 1, b"\0\0\0\1\0"),
        )
    )
    yield _preface + frame(_SETTINGS, 0, 0) + one * 3_000


def _resets(_rng: Random, _metadata: Metadata) -> Chunks:
    yield _preface + frame(_SETTINGS, 0, 0)
    headers = call_headers()
    yield b"".join(
        frame(_HEADERS, _end_headers, stream, headers) + frame(_RST, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 800, 2)
    )


def _endless_headers(_rng: Random, _metadata: Metadata) -> Chunks:
    yield _preface + frame(_SETTINGS, 0, 0) + frame(_HEADERS, 0, 1, call_headers())
    more = block(*((f"x-{n}", "y" * 100) for n in range(100)))
    for _ in range(30):
        yield frame(_CONTINUATION, 0, 1, more)


def _header_bomb(_rng: Random, _metadata: Metadata) -> Chunks:
    # A long value into the table once, and then only its number, again and again.
    entry = b"\x40\x01x" + _length(3_000) + b"v" * 3_000
    yield _preface + frame(_SETTINGS, 0, 0) + frame(_HEADERS, 0, 1, call_headers() + entry)
    for _ in range(4):
        yield frame(_CONTINUATION, 0, 1, b"\xbe" * 8_000)


def _bad_frames(rng: Random, _metadata: Metadata) -> Chunks:
    yield _preface + frame(_SETTINGS, 0, 0)
    yield rng.choice(
        (
            frame(_DATA, 0, 1, b"x"),
            frame(_HEADERS, _end_headers, 2, call_headers()),
            frame(_HEADERS, _end_headers | 8, 1, b"\xff" + call_headers()),
            frame(_SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
            frame(_SETTINGS, 0, 0, b"\0\5\0\0\0\1"),
            frame(_SETTINGS, 1, 0, b"xxxxxx"),
            frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2,
            frame(_WINDOW, 0, 0, b"\0\0\0\0"),
            frame(_PUSH, 4, 1, b"\0\0\0\2" + call_headers()),
            frame(_GOAWAY, 0, 0, b"\0" * 8),
            frame(_CONTINUATION, 4, 1, b""),
            frame(_PING, 0, 0, b"abc"),
            b"\xff\xff\xff\0\0\0\0\0\1",
            frame(_HEADERS, _end_headers, 1, block((":method", "GET"), (":path", "x"))),
            frame(_HEADERS, _end_headers, 1, call_headers("/no/such/method")),
            frame(_HEADERS, _end_headers, 1, call_headers("not-a-path\r\nx: y")),
            frame(_HEADERS, _end_headers, 1, b"\xbf\xff\xff\xff\xff\xff\x0f"),
        )
    )


def _as_headers(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in metadata if isinstance(value, str))


def _bad_messages(rng: Random, metadata: Metadata) -> Chunks:
    """The frame of gRPC itself: its length, and whether it is compressed."""
    headers = call_headers(_submit, *_as_headers(metadata))
    yield _preface + frame(_SETTINGS, 0, 0) + frame(_HEADERS, _end_headers, 1, headers)
    body = rng.choice(
        (b"\0\xff\xff\xff\xffx", b"\0\0\0\0\x09x", b"\1\0\0\0\3abc", b"\2\0\0\0\0", b"\0", b"\0\0\0\0\0\0\0\0\0\0", b"")
    )
    yield frame(_DATA, rng.choice((0, _end_stream)), 1, body)


@cache
def _bomb() -> bytes:
    packed = gzip.compress(bytes(bomb_bytes))
    return b"\1" + struct.pack(">I", len(packed)) + packed


def _compression_bomb(_rng: Random, metadata: Metadata) -> Chunks:
    """A message that becomes a thousand times as long when it is unpacked."""
    headers = call_headers(_submit, *_as_headers(metadata), ("grpc-encoding", "gzip"))
    yield _preface + frame(_SETTINGS, 0, 0) + frame(_HEADERS, _end_headers, 1, headers)
    whole = _bomb()
    for at in range(0, len(whole), 16_384):
        yield frame(_DATA, 0 if at + 16_384 < len(whole) else _end_stream, 1, whole[at : at + 16_384])


of_grpc: Final[Mapping[str, Callable[[Random, Metadata], Chunks]]] = {
    "noise": _noise,
    "nothing": _nothing,
    "another protocol": _other_protocol,
    "noise after the preface": _noise_after_preface,
    "unknown frames": _unknown_frames,
    "floods": _floods,
    "rapid resets": _resets,
    "endless headers": _endless_headers,
    "header bomb": _header_bomb,
    "bad frames": _bad_frames,
    "bad message frames": _bad_messages,
    "compression bomb": _compression_bomb,
}


def _requests(rng: Random, metadata: Metadata) -> Chunks:
    lines = "".join(f"{name}: {value}\r\n" for name, value in _as_headers(metadata)).encode()
    path = rng.choice(
        (
            b"/",
            b"/metrics",
            b"/health",
            b"/ready",
            b"/../../etc/passwd",
            b"/%00",
            b"/" + b"a" * 9_000,
            b"*",
            b"//",
            b"/\xff",
        )
    )
    method = rng.choice(
        (
            b"GET",
            b"GET",
            b"HEAD",
            b"POST",
            b"PUT",
            b"DELETE",
            b"OPTIONS",
            b"TRACE",
            b"CONNECT",
            b"PRI",
            b"get",
            b"A" * 300,
        )
    )
    version = rng.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/2.0", b"X"))
    more = rng.choice(
        (
            b"",
            b"content-length: 5\r\n\r\nab",
            b"content-length: -1\r\n",
            b"content-length: 99999999999999999999\r\n",
            b"transfer-encoding: chunked\r\n\r\nzz\r\n",
            b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
            b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            b"connection: upgrade\r\nupgrade: websocket\r\n",
            b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
            b"expect: 100-continue\r\ncontent-length: 10\r\n",
            b"x: " + b"y" * 70_000 + b"\r\n",
            b"".join(b"x%d: y\r\n" % n for n in range(2_000)),
            b"no colon here\r\n",
            b": no name\r\n",
            b"x: a\0b\r\n",
            b"range: bytes=0-18446744073709551615\r\n",
        )
    )
    yield method + b" " + path + b" " + version + b"\r\nhost: x\r\n" + lines + more + b"\r\n"


def _pipelined(_rng: Random, _metadata: Metadata) -> Chunks:
    yield b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 50


def _slow(_rng: Random, _metadata: Metadata) -> Chunks:
    yield b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow:"


of_http: Final[Mapping[str, Callable[[Random, Metadata], Chunks]]] = {
    "HTTP noise": _noise,
    "HTTP nothing": _nothing,
    "HTTP requests": _requests,
    "HTTP pipelined": _pipelined,
    "HTTP slow": _slow,
}


async def throw(port: Port, chunks: Chunks, *, in_the_clear: bool = False, cut: bool = False) -> str:
    """Open a connection, send this, listen a moment, and go; return what came of it.

    `in_the_clear`: without TLS, whatever the port speaks; `cut`: go by a reset, and not by an end.
    """
    tls = None if in_the_clear else port.tls
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port.number, ssl=tls), 10)
    except TimeoutError:
        return "NO HANDSHAKE"
    except OSError:
        return "NO CONNECTION"
    answer = b""
    try:
        # It may end the connection at any byte, as it should.
        with suppress(OSError):
            async with asyncio.timeout(5):
                for chunk in chunks:
                    writer.write(chunk)
                    await writer.drain()
        with suppress(OSError):
            answer = await asyncio.wait_for(reader.read(65_536), _answer_s)
    finally:
        _leave(writer, cut=cut)
    if answer.startswith(b"HTTP/1."):
        return f"HTTP {answer[9:12].decode(errors='replace')}"
    return "ANSWERED" if answer else "ENDED" if reader.at_eof() else "SILENCE"


def _leave(writer: asyncio.StreamWriter, *, cut: bool) -> None:
    held = writer.get_extra_info("socket")
    if cut and held is not None:
        with suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort() if cut else writer.close()
