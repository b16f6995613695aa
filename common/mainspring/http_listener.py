"""How coordinators and workers serve HTTP within their event loops: plain or by TLS, with a bound on what is under way.

Needs starlette and uvicorn, which coordinators and workers install and clients do not.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import uvicorn
from h11 import LocalProtocolError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from mainspring.authentication import Authenticator
from mainspring.callers import Role
from mainspring.clock import BootClock, Clock
from mainspring.errors import SettingsError, UnauthenticatedError
from mainspring.limits import http_requests_max, refusals_told_interval_ms
from mainspring.settings_security import Serving
from mainspring.tls import http_context

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
metrics_roles: Final = (Role.READ_ONLY, Role.ADMIN)
"""Who may read `/metrics`, and a page."""
_how_to_call: Final = "send the header `Authorization: Bearer TOKEN` (docs/security.md)"


class BadRequests(logging.Filter):
    """Lets through what uvicorn logs, but of requests that are none only a line a second: who sends them may go on.

    When a request's body turns out to be none, uvicorn has answered 400, and takes it for our fault that the handler answers as well.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self._clock = clock if clock is not None else BootClock()
        self._next_us = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is logged."""
        if record.exc_info is not None and isinstance(record.exc_info[1], LocalProtocolError):
            return False
        if record.levelno != logging.WARNING:
            return True
        now_us = self._clock.now_us()
        if now_us < self._next_us:
            return False
        self._next_us = now_us + refusals_told_interval_ms * 1_000
        return True


_bad_requests: Final = BadRequests()


class _Protocol(H11Protocol):
    """Uvicorn's, which does not look whether an answer may still be sent to a request that turns out to be none."""

    def send_400_response(self, msg: str) -> None:
        """Answer 400 as far as that goes, and end the connection."""
        # An answer has been begun already, or, to HEAD, may have no text: then its end is the answer.
        with contextlib.suppress(LocalProtocolError):
            super().send_400_response(msg)
        self.transport.close()


class _Server(uvicorn.Server):
    """Uvicorn within a process that handles its signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class HttpListener:
    """Serves an application on the running event loop."""

    def __init__(
        self, app: Starlette, host: str, port: int, *, setting: str = "HTTP_PORT", tls: ssl.SSLContext | None = None
    ) -> None:
        """Port 0 takes a free one; `setting` names what the port is set by."""
        self._app = app
        self._host = host
        self._port = port
        self._setting = setting
        self._tls = tls
        self._listener: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is served, once started."""
        return self._port

    async def start(self) -> None:
        """Listen. `SettingsError` names a port that is taken."""
        self._listener = listener = _listen(self._host, self._port, self._setting)
        self._port = listener.getsockname()[1]
        tls = self._tls
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            limit_concurrency=http_requests_max,
            ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
        )
        config.load()
        logging.getLogger("uvicorn.error").addFilter(_bad_requests)
        self._server = server = _Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self._task = asyncio.create_task(server.main_loop())

    async def stop(self) -> None:
        """Stop listening and end what is open; bounded."""
        if self._server is None or self._task is None or self._listener is None:
            return
        self._server.should_exit = True
        await self._task
        await self._server.shutdown(sockets=[self._listener])
        self._server = None


class HttpListeners:
    """All that a process serves over HTTP, by its settings.

    The main port has `/health`, `/ready` and `/metrics`, by TLS where there is a certificate. Probes that have neither certificate nor
    token are answered on a port of their own then, which has `/metrics` only if anybody may read it.
    """

    def __init__(
        self,
        settings: Serving,
        authenticator: Authenticator,
        probes: Mapping[str, Handler],
        metrics: Handler,
        *,
        host: str,
        port: int | None,
        probe_port: int | None,
        pages: Mapping[str, Handler] = MappingProxyType({}),
    ) -> None:
        """`probes` by path, and `pages`, which want a token where there is authentication. Ports: None: not served; 0: a free one."""
        routes = [Route(path, handler) for path, handler in probes.items()]
        guarded = Route("/metrics", guard(metrics, authenticator) if settings.metrics_auth else metrics)
        tls = http_context(settings.tls, client_certs=settings.wants_client_certs) if settings.tls.cert else None
        plain = [*routes, *([Route("/metrics", metrics)] if not settings.metrics_auth else [])]
        self._main = self._probes = None
        if port is not None:
            shown = [Route(path, guard(handler, authenticator)) for path, handler in pages.items()]
            self._main = HttpListener(Starlette(routes=[*routes, guarded, *shown]), host, port, tls=tls)
        if probe_port is not None:
            self._probes = HttpListener(Starlette(routes=plain), host, probe_port, setting="HTTP_PROBE_PORT")

    @property
    def port(self) -> int:
        """The main port, once started; 0: none."""
        return self._main.port if self._main is not None else 0

    @property
    def probe_port(self) -> int:
        """The port where `/health` and `/ready` answer plain calls, once started; 0: none."""
        return self._probes.port if self._probes is not None else self.port

    async def start(self) -> None:
        """Listen on all ports. `SettingsError` names one that is taken."""
        for listener in (self._main, self._probes):
            if listener is not None:
                await listener.start()

    async def stop(self) -> None:
        """Stop all; bounded."""
        for listener in (self._main, self._probes):
            if listener is not None:
                await listener.stop()


def guard(handler: Handler, authenticator: Authenticator) -> Handler:
    """Put the question for a token before a handler; where there is no authentication, everybody may pass."""

    async def guarded(request: Request) -> Response:
        try:
            caller = authenticator.caller(request.headers.get("authorization"), how=_how_to_call)
        except UnauthenticatedError as error:
            return PlainTextResponse(f"{error}\n", 401, {"WWW-Authenticate": "Bearer"})
        if caller.role not in metrics_roles:
            wanted = " or ".join(f"`{role}`" for role in metrics_roles)
            return PlainTextResponse(
                f"{request.url.path} needs the role {wanted}, and {caller.name!r} has `{caller.role}`\n", 403
            )
        return await handler(request)

    return guarded


def _listen(host: str, port: int, setting: str) -> socket.socket:
    bare = host.strip("[]")
    try:
        return socket.create_server(
            (bare, port), family=socket.AF_INET6 if ":" in bare else socket.AF_INET, backlog=128
        )
    except OSError as error:
        raise SettingsError(
            f"{setting}: cannot listen on {host}:{port}: {error.strerror}; free the port or set {setting} (0: a free one) "
            "or HTTP_HOST"
        ) from error
