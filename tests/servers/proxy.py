"""A TCP proxy between a store and its server that makes one statement go wrong: it, or its answer, is lost and the connection breaks
while the server keeps its end open; the server seems to refuse it; or the answer is held back.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Self

_chunk_bytes = 65_536
_query = b"\x03"


class Swallow(Enum):
    """What is lost."""

    REQUEST = "request"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class _Fault:
    """What happens to the next statement that begins so."""

    statement: bytes
    reaches_server: bool
    then: Callable[[], None] = lambda: None
    answer: bytes | None = None
    """Comes in place of the server's answer; None: the connection breaks."""
    held: threading.Event | None = None
    """The server's answer waits for it."""


class SwallowingProxy:
    """Forwards to a port of loopback. One fault at a time; a fault fits one statement of any connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._armed: _Fault | None = None
        self._sockets: list[socket.socket] = []
        self._held: list[threading.Event] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.swallowed = threading.Event()
        """The fault has happened."""
        self._spawn(self._accept)

    def point_to(self, port: int) -> None:
        """Take new connections to another port; those that are open stay where they are."""
        self._target = port

    def arm(self, statement: str, what: Swallow, then: Callable[[], None] = lambda: None) -> None:
        """Swallow the next such statement or its answer; `then` runs before the client can know of it."""
        self._arm(_Fault(statement.encode(), what is Swallow.REPLY, then))

    def refuse(self, statement: str, number: int, *, applied: bool = False) -> None:
        """Answer the next such statement with an error of this number; `applied`: although the server has done it."""
        self._arm(_Fault(statement.encode(), applied, answer=_error(number)))

    def hold(self, statement: str) -> threading.Event:
        """Keep the answer to the next such statement back until the event is set."""
        held = threading.Event()
        self._held.append(held)
        self._arm(_Fault(statement.encode(), reaches_server=True, held=held))
        return held

    def close(self) -> None:
        """End everything."""
        for held in self._held:
            held.set()
        with self._lock:
            sockets = [self._listener, *self._sockets]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _arm(self, fault: _Fault) -> None:
        with self._lock:
            self.swallowed.clear()
            self._armed = fault

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # the server is away: to the client it looks the same
                    client.close()
                    continue
                with self._lock:
                    self._sockets += [client, server]
                pair = _Pair(self, client, server)
                self._spawn(pair.to_server)
                self._spawn(pair.to_client)

    def fault_of(self, chunk: bytes) -> _Fault | None:
        """Return what happens to a client's packet; only once."""
        with self._lock:
            if self._armed is None or not chunk[4:].startswith(_query + self._armed.statement):
                return None
            fault, self._armed = self._armed, None
            return fault


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: SwallowingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._dead = False
        self._fault: _Fault | None = None
        """What happens to the server's next answer."""

    def to_server(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._client.recv(_chunk_bytes):
                fault = self._proxy.fault_of(chunk)
                if fault is not None and not fault.reaches_server:
                    if self._happens(fault):
                        continue
                    return
                self._fault = fault
                self._server.sendall(chunk)
            if not self._dead:
                self._server.shutdown(socket.SHUT_RDWR)

    def to_client(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._server.recv(_chunk_bytes):
                fault, self._fault = self._fault, None
                if fault is not None and fault.held is not None:
                    self._proxy.swallowed.set()
                    fault.held.wait()
                elif fault is not None:
                    if self._happens(fault):
                        continue
                    return
                self._client.sendall(chunk)
            self._client.shutdown(socket.SHUT_RDWR)

    def _happens(self, fault: _Fault) -> bool:
        """Tell whether the connection goes on."""
        if fault.answer is not None:
            self._proxy.swallowed.set()
            self._client.sendall(fault.answer)
            return True
        self._dead = True
        fault.then()
        self._proxy.swallowed.set()
        self._client.shutdown(socket.SHUT_RDWR)
        return False


def _error(number: int) -> bytes:
    """Return a packet that answers a statement with an error."""
    payload = b"\xff" + number.to_bytes(2, "little") + b"#HY000" + f"error {number} of a test".encode()
    return len(payload).to_bytes(3, "little") + b"\x01" + payload
