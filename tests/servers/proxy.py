"""A TCP proxy between a store and its server that makes one statement go wrong: it, or its answer, is lost and the connection breaks
while the server keeps its end open; the server seems to refuse it; or the answer is held back.

The statement may be one of several in a message. What is lost is then the whole message, or all of its answers; what is refused ends
the message there, as on a server.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

from tests.servers.messages import Answers, error, query, statements_of

_chunk_bytes = 65_536


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
    refusal: int | None = None
    """The number of the error that comes in place of the server's answer; None: the connection breaks."""
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
        self._arm(_Fault(statement.encode(), applied, refusal=number))

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

    def fault_of(self, statements: Sequence[bytes]) -> "tuple[_Fault, int] | None":
        """Return what happens to a client's message, and at which of its statements; only once."""
        with self._lock:
            armed = self._armed
            for at, statement in enumerate(statements):
                if armed is not None and statement.startswith(armed.statement):
                    self._armed = None
                    return armed, at
            return None


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: SwallowingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._dead = False
        self._fault: tuple[_Fault, int] | None = None
        """What happens to the server's next answers, and to which of them."""
        self._alone = True
        """Whether the statement that it happens to was the only one of its message."""

    def to_server(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._client.recv(_chunk_bytes):
                statements = statements_of(chunk)
                found = self._proxy.fault_of(statements)
                if found is not None and not found[0].reaches_server:
                    fault, at = found
                    if fault.refusal is None:
                        self._break(fault)
                        return
                    if not at:
                        self._refuse(fault.refusal, at)
                        continue
                    # Those before it are done.
                    chunk = query(statements[:at])
                self._fault, self._alone = found, len(statements) < 2
                self._server.sendall(chunk)
            if not self._dead:
                self._server.shutdown(socket.SHUT_RDWR)

    def to_client(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._server.recv(_chunk_bytes):
                found, self._fault = self._fault, None
                if found is None:
                    self._client.sendall(chunk)
                    continue
                answers = self._all_of(chunk)
                fault, at = found
                if fault.held is not None:
                    self._proxy.swallowed.set()
                    fault.held.wait()
                    self._client.sendall(answers.whole())
                elif fault.refusal is not None:
                    self._refuse(fault.refusal, at, answers.first(at))
                else:
                    self._break(fault)
                    return
            self._client.shutdown(socket.SHUT_RDWR)

    def _all_of(self, chunk: bytes) -> Answers:
        answers = Answers()
        while not answers.add(chunk) and not self._alone:
            chunk = self._server.recv(_chunk_bytes)
            if not chunk:
                break
        return answers

    def _refuse(self, number: int, at: int, before: bytes = b"") -> None:
        self._proxy.swallowed.set()
        self._client.sendall(before + error(number, at))

    def _break(self, fault: _Fault) -> None:
        self._dead = True
        fault.then()
        self._proxy.swallowed.set()
        self._client.shutdown(socket.SHUT_RDWR)
