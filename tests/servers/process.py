"""What the private servers have in common: a process in a folder of its own, ready when it answers, ended by its id."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import pymysql
from pymysql.connections import Connection

from tests.servers.ports import free_port

start_s_max: Final = 60
stop_s_max: Final = 30
_poll_s: Final = 0.05
_user: Final = "mainspring"
_password: Final = "p@ss/word:é"  # awkward by intent: it must survive the URL and the driver


class ServerError(Exception):
    """A server did not start or stop."""


class PrivateServer:
    """A server process; subclasses say which program and how."""

    kind = "server"

    def __init__(self, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        """Serve at `host`; `prefix` is a command that runs the server's, for example in a network namespace."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"mainspring-{self.kind}-"))
        self.host = host
        self.port = free_port()
        self._prefix = tuple(prefix)
        self.process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count(1)

    # -- what a subclass says --------------------------------------------------------------------------------------------------

    @classmethod
    def missing(cls) -> str:
        """Return why there can be none here, empty if there can."""
        raise NotImplementedError

    def install(self) -> None:
        """Make the data folder."""
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        """Return the server's command line."""
        raise NotImplementedError

    @property
    def socket_path(self) -> Path:
        """The server's Unix socket, for the administrator."""
        return self.folder / "s.sock"

    @property
    def log_path(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    # -- what users do ---------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server, for the first time or again, and return when it answers."""
        first = not (self.folder / "data").exists()
        if first:
            self.install()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await_ready()
        if first:
            self._make_user()
        return self

    def stop(self) -> None:
        """End the server and remove its folder."""
        self.halt(signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def halt(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process and keep its data, so that it can be started again."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(stop_s_max)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(stop_s_max)

    def pause(self) -> None:
        """Stop the process without ending it."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def new_database(self, prefix: str = "test") -> str:
        """Make an empty database and return its name."""
        name = f"{prefix}_{next(self._databases)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str, *, port: int | None = None, query: str = "") -> str:
        """Return the URL of a database; `port`: of a proxy in between."""
        return f"mysql://{_user}:{quote(_password, safe='')}@{self.host}:{port or self.port}/{database}{query}"

    def plain_url(self, database: str, *, port: int | None = None, query: str = "", connections_max: int = 0) -> str:
        """Return the URL of a database for a user of its own, who has all rights there and no other: none to write on a read-only server,
        or to connect when it is full. `connections_max`: of this user; 0: no bound of its own.
        """
        user = f"'{database}'@'127.0.0.1'"
        self.execute(
            f"CREATE USER {user} IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS {connections_max}",
            f"GRANT ALL ON {database}.* TO {user}",
        )
        return f"mysql://{database}:x@127.0.0.1:{port or self.port}/{database}{query}"

    def copy(self) -> Self:
        """Return another server, not yet started, with this one's data as they are at this moment: a replica to be promoted."""
        other = type(self)()
        self.pause()
        try:
            shutil.copytree(self.folder / "data", other.folder / "data")
        finally:
            self.resume()
        (other.folder / "data" / "auto.cnf").unlink(missing_ok=True)  # the identity of a MySQL server
        return other

    def execute(self, *statements: str) -> Sequence[tuple[Any, ...]]:
        """Run statements as the administrator; return the rows of the last."""
        with contextlib.closing(self.administrator()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def administrator(self, database: str | None = None, *, read_timeout_s: float | None = None) -> "Connection[Any]":
        """Connect as the administrator; `ConnectionRefusedError` when nobody listens."""
        # Asked with a socket of our own first: the driver forgets to close one that could not connect.
        if not listens(self.socket_path):
            raise ConnectionRefusedError(f"{self.kind} does not listen on {self.socket_path}")
        return pymysql.connect(
            unix_socket=str(self.socket_path),
            user="root",
            password="",
            database=database,
            autocommit=True,
            ssl_disabled=True,
            read_timeout=read_timeout_s,
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _await_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + start_s_max
        while True:
            with contextlib.suppress(pymysql.Error, ConnectionRefusedError):
                self.administrator().close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.log_path.read_text(errors="replace")[-3000:]
                self.stop()
                raise ServerError(f"{self.kind} did not start; it said:\n{said}")
            # Nothing signals that a server listens: it is asked again after the process had time to go on.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_poll_s)

    def _make_user(self) -> None:
        of = "127.0.0.1" if self.host == "127.0.0.1" else "%"
        self.execute(
            f"CREATE USER '{_user}'@'{of}' IDENTIFIED BY '{_password}'",
            f"GRANT ALL ON *.* TO '{_user}'@'{of}'",
        )


def listens(path: Path) -> bool:
    """Tell whether a server listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
