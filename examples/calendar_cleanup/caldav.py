"""A Radicale server as a process of its own, on a listening socket that it inherits (`servers.py` starts it).

It is Radicale's application over its usual file storage, served as its manual shows for WSGI. In front of it stands one
thing that a demo needs and a healthy server lacks: the first two deletes of one calendar are answered with 503.

On stdout: one JSON line {"calendar", "status"} a delete. It ends when its stdin closes,
and so does not outlive its starter.
"""

import argparse
import json
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import radicale.config
from radicale.app import Application

refusals = 2


class StumblingDeletes:
    """Refuses the first deletes of one calendar, and reports how each delete was answered."""

    def __init__(self, inner: WSGIApplication, calendar: str) -> None:
        self._inner = inner
        self._calendar = calendar
        self._refused = 0
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if environ["REQUEST_METHOD"] != "DELETE":
            return self._inner(environ, start_response)
        calendar = environ["PATH_INFO"].rstrip("/").rpartition("/")[2]

        def report(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
            say({"calendar": calendar, "status": int(status[:3])})
            return start_response(status, headers, exc_info)

        with self._lock:
            refuse = calendar == self._calendar and self._refused < refusals
            self._refused += refuse
        if refuse:
            report("503 Service Unavailable", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return []
        return self._inner(environ, report)


class QuietHandler(WSGIRequestHandler):
    """Writes no line a request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (named by the standard library)
        """Drop the line."""


class InheritedServer(socketserver.ThreadingMixIn, WSGIServer):
    """Serves on a socket that listens already, each connection on a thread of its own."""

    daemon_threads = True

    def __init__(self, descriptor: int, served: WSGIApplication) -> None:
        listening = socket.socket(fileno=descriptor)
        super().__init__(listening.getsockname(), QuietHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = listening.getsockname()
        self.setup_environ()
        self.set_app(served)


def say(event: dict[str, object]) -> None:
    """Write one event to stdout in one piece, so that those of several threads do not mix."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def application(folder: Path, user: str, password: str) -> WSGIApplication:
    """Return Radicale's application over `folder`, open to one user."""
    users = folder / "users"
    users.write_text(f"{user}:{password}\n")
    configuration = radicale.config.load()
    configuration.update(
        {
            "auth": {"type": "htpasswd", "htpasswd_filename": str(users), "htpasswd_encryption": "plain"},
            # fsync and the delay after an error protect a server on the net, not one that lives for a demo
            "storage": {"filesystem_folder": str(folder / "collections"), "_filesystem_fsync": "False"},
            "server": {"delay_on_error": "0"},
            "logging": {"level": "warning"},
        },
        "the demo",
        privileged=True,
    )
    served: WSGIApplication = Application(configuration)
    return served


def main() -> None:
    """Serve until stdin closes."""
    parser = argparse.ArgumentParser(description="A CalDAV server for the demo.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--password", required=True)
    parser.add_argument("--socket", type=int, required=True, help="the inherited listening socket")
    parser.add_argument("--stumble", required=True, help="the calendar whose first deletes are refused")
    options = parser.parse_args()
    served = StumblingDeletes(application(options.folder, options.user, options.password), options.stumble)
    with InheritedServer(options.socket, served) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
