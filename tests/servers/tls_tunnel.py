"""A way into a TLS server for programs that speak HTTP/2 in plain: takes connections on loopback and carries each over TLS."""

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Final, Self

_chunk_bytes: Final = 65_536


class TlsTunnel:
    """Carries each connection to a port of loopback, whose certificate must be for localhost and signed by the authority."""

    def __init__(self, port: int, authority: Path) -> None:
        """`authority` is the file of its certificate."""
        self._to = port
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.set_alpn_protocols(["h2"])
        self._server: asyncio.Server | None = None
        self._carried: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        """Where plain connections are taken."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._carried)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        writers = [writer]
        self._writers.add(writer)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._to, ssl=self._context, server_hostname="localhost")
            writers.append(there[1])
            self._writers.add(there[1])
            await asyncio.gather(_carry(reader, there[1]), _carry(there[0], writer))
        except OSError:
            pass  # the server is away: to the program it looks the same
        finally:
            for each in writers:
                each.transport.abort()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
                self._writers.discard(each)
            self._carried.discard(task)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end, and end the other one with it."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_chunk_bytes):
            writer.write(chunk)
            await writer.drain()
    writer.transport.abort()
