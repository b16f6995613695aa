"""A worker's `/health`, `/ready` and `/metrics`, as the guide has them for every engine."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mainspring.authentication import Authenticator
from mainspring.http_listener import HttpListeners
from mainspring.settings import WorkerSettings
from mainspring_worker.metrics import WorkerMetrics
from mainspring_worker.worker import Worker


class WorkerProbes:
    """What a worker tells of itself over HTTP."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._started_s = time.monotonic()
        self.metrics = WorkerMetrics(instance_id)

    @asynccontextmanager
    async def serving(self, worker: Worker, settings: WorkerSettings) -> AsyncIterator[None]:
        """Serve by the settings while the block runs. `SettingsError` when a port is taken or a file cannot be used."""
        listeners = self.listeners(worker, settings)
        try:
            await listeners.start()
            yield
        finally:
            await listeners.stop()

    def listeners(self, worker: Worker, settings: WorkerSettings) -> HttpListeners:
        """Return what serves it."""
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

        return HttpListeners(
            settings,
            Authenticator(settings),
            {"/health": health, "/ready": ready},
            metrics,
            host=settings.http_host,
            port=settings.http_port or None,
            probe_port=settings.http_probe_port or None,
        )

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
