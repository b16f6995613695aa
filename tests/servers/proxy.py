"""A TCP proxy that swallows one statement, or its answer, and then plays dead: to the client the connection breaks, while the server
keeps its end open and knows nothing.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from enum import Enum
from typing import Self

_chunk_bytes = 65_536


class Swallow(Enum):
    """What is lost."""

    REQUEST = "request"
    REPLY = "reply"


class SwallowingProxy:
    """Forwards to a port of loopback."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._armed: tuple[bytes, Swallow, Callable[[], None]] | None = None
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.swallowed = threading.Event()
        self._spawn(self._accept)

    def point_to(self, port: int) -> None:
        """Take new connections to another port; those that are open stay where they are."""
        self._target = port

    def arm(self, statement: str, what: Swallow, then: Callable[[], None] = lambda: None) -> None:
        """Swallow the next such statement or its answer; `then` runs before the client can know of it."""
        self._armed = (b"\x03" + statement.encode(), what, then)

    def close(self) -> None:
        """End everything."""
        with self._lock:
            sockets = [self._listener, *self._sockets]
        for held in sockets:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._sockets += [client, server]
                pair = _Pair(self, client, server)
                self._spawn(pair.to_server)
                self._spawn(pair.to_client)

    def fires(self, chunk: bytes) -> tuple[Swallow, Callable[[], None]] | None:
        """Tell whether a client's packet is the one to be swallowed; only once."""
        with self._lock:
            if self._armed is None or not chunk[4:].startswith(self._armed[0]):
                return None
            _, what, then = self._armed
            self._armed = None
            return what, then


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: SwallowingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._dead = False
        self._reply_lost: Callable[[], None] | None = None

    def to_server(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._client.recv(_chunk_bytes):
                if (hit := self._proxy.fires(chunk)) is not None:
                    what, then = hit
                    if what is Swallow.REQUEST:
                        self._break(then)
                        return
                    self._reply_lost = then
                self._server.sendall(chunk)
            if not self._dead:
                self._server.shutdown(socket.SHUT_RDWR)

    def to_client(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._server.recv(_chunk_bytes):
                if self._reply_lost is not None:
                    self._break(self._reply_lost)
                    return
                self._client.sendall(chunk)
            self._client.shutdown(socket.SHUT_RDWR)

    def _break(self, then: Callable[[], None]) -> None:
        self._dead = True
        then()
        self._proxy.swallowed.set()
        self._client.shutdown(socket.SHUT_RDWR)
