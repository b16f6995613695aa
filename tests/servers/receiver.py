"""A receiver of webhooks on a free port of the loopback: what it got, and how it answers."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import orjson


@dataclass(frozen=True)
class Post:
    """One request."""

    path: str
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes
    status: int
    """What it was answered."""

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found


class Receiver:
    """Answers 200; or what `statuses` holds, one after the other; and nothing while it is shut."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        """What was answered, in this order."""
        self.arrived = threading.Event()
        self.statuses: list[int] = []
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.take(self.path, {key.lower(): value for key, value in self.headers.items()}, body)
                self.send_response(status)
                if status // 100 == 3:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815  (named by the base class)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (named by the base class)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook?token=hidden-token"

    def shut(self) -> None:
        """Take requests, and answer none."""
        self._open.clear()

    def open(self) -> None:
        """Answer all."""
        self._open.set()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        late = not self._open.is_set()
        self.arrived.set()
        self._open.wait(60)
        with self._lock:
            # Whoever waited for so long has most likely gone.
            status = 503 if late else self.statuses.pop(0) if self.statuses else 200
            self.posts.append(Post(path, headers, body, status))
        return status

    def taken(self) -> list[Post]:
        """Return what was answered well."""
        with self._lock:
            return [post for post in self.posts if post.status == 200]
