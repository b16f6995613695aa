"""Redis, from the system or from the folder of the user's cache that `.ci/redis` has made; and a server that only pretends to be one."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Self

import pytest

from tests.servers.ports import free_port

_start_s_max: Final = 20
_stop_s_max: Final = 20
_poll_s: Final = 0.02
_cache: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mainspring/redis-server"


def required() -> str:
    """Return the path of redis-server; skip the test where there is none, or fail it where there must be one, as in CI."""
    found = shutil.which("redis-server") or shutil.which("redis-server", path=str(_cache / "usr/bin"))
    if found is not None:
        return found
    reason = "no redis-server here; put it on PATH, or run .ci/redis on Debian or Ubuntu"
    if os.environ.get("MAINSPRING_TEST_REDIS_SERVER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


class Redis:
    """A private server with a password, which keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.program = required()
        self.port = free_port()
        self.url = f"redis://:h%40sh@127.0.0.1:{self.port}/1"
        self._folder = folder / "redis"
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *more: str) -> None:
        """Start it, or start it again, with these arguments more, and return when it listens."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", "h@sh", "--save", "", *more]
        libraries = ":".join(str(found) for found in (_cache / "usr/lib").glob("*"))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, *arguments, "--dir", str(self._folder)],
                stdout=log,
                stderr=log,
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
            )
        until_s = time.monotonic() + _start_s_max
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until_s, "redis-server does not listen"
            time.sleep(_poll_s)  # no signal comes from another process

    def pause(self) -> None:
        """Let it stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and return when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_stop_s_max)
            self._process = None


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Pretender:
    """Takes connections, and answers as it is told to."""

    def __init__(self, talk: Talk, port: int = 0) -> None:
        self._talk = talk
        self.port = port
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What REDIS_URL would be."""
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the other end has gone, or the test has
        finally:
            writer.close()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hear everything and say nothing."""
    while await reader.read(65_536):
        pass


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hear something and go."""
    await reader.read(1)


async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say what no Redis says."""
    while await reader.read(65_536):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n\x00\xff")
        await writer.drain()


async def promise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announce a value of 100 GB, and bring it byte by byte for as long as somebody reads."""
    while b"CLIENT" in await reader.read(65_536):
        writer.write(b"+OK\r\n")  # that is how it greets
    writer.write(b"$100000000000\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(_poll_s)


async def wrong_kinds(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer everything by a number."""
    while data := await reader.read(65_536):
        writer.write(b":7\r\n" * max(1, data.count(b"*")))
        await writer.drain()
