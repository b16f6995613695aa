"""A worker's `/health`, `/ready` and `/metrics`, as the guide has them for every engine."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mainspring.errors import SettingsError
from mainspring_worker.metrics import WorkerMetrics
from mainspring_worker.worker import Worker


class _Server(uvicorn.Server):
    """Serves within our event loop; signals are the worker's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


class WorkerProbes:
    """What a worker tells of itself over HTTP."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._started_s = time.monotonic()
        self.metrics = WorkerMetrics(instance_id)

    @asynccontextmanager
    async def serving(self, worker: Worker, host: str, port: int) -> AsyncIterator[None]:
        """Serve while the block runs. `SettingsError` when the port is taken."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise SettingsError(
                f"HTTP_PORT: {host}:{port} cannot be used ({error.strerror}); set HTTP_PORT or --http-port"
            ) from error
        config = uvicorn.Config(
            self.app(worker), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        server = _Server(config)
        task = asyncio.get_running_loop().create_task(server.serve([listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task
            listener.close()

    def app(self, worker: Worker) -> Starlette:
        """Return the application."""
        self.metrics.watch(worker)

        async def health(request: Request) -> JSONResponse:
            del request
            return JSONResponse(self.health(worker))

        async def ready(request: Request) -> JSONResponse:
            del request
            status, body = self.ready(worker)
            return JSONResponse(body, status)

        async def metrics(request: Request) -> Response:
            del request
            return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

        return Starlette(routes=[Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)])

    def health(self, worker: Worker) -> dict[str, Any]:
        """Return the body of `/health`; that it is answered at all shows that the worker's loop turns."""
        return {
            "status": "healthy",
            # Shown to people; no decision rests on it.
            "timestamp": datetime.fromtimestamp(time.time_ns() / 1e9, UTC).isoformat(timespec="milliseconds"),
            "instanceId": self._instance_id,
            "uptime": round(time.monotonic() - self._started_s, 3),
            "memory": worker.usage.memory_bytes(),
            "load": {
                "activeWorkflows": worker.active_workflows,
                "cpuUsage": round(worker.load.cpu, 1),
                "memoryUsage": round(worker.load.memory, 1),
            },
            "database": worker.database,
            "distributedLock": worker.lock,
        }

    def ready(self, worker: Worker) -> tuple[int, dict[str, Any]]:
        """Return status and body of `/ready`."""
        error = "draining: it takes no more work" if worker.draining else ""
        error = error or ("" if worker.attached else "not attached to any coordinator")
        if not error:
            return 200, {"status": "ready", "checks": [{"name": "scheduler", "status": "fulfilled"}]}
        return 503, {"status": "not_ready", "checks": [{"name": "scheduler", "status": "rejected", "error": error}]}
