"""`/health`, `/ready` and `/metrics` over HTTP, for probes and Prometheus, and `/`, a page for people.

`/health` says whether the process should live: it fails only when the control loop has stopped, so that no probe restarts a healthy
process because its database is away. `/ready` says whether work should be sent here. No answer waits for anything: each judges by
how long ago a part was last heard of, so that a stalled part cannot stall a probe.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mainspring.http_listener import Handler
from mainspring.usage import Usage
from mainspring_coordinator.metrics import Metrics
from mainspring_coordinator.status_page import Status, page

_silent_us_max: Final = 5_000_000
"""A part that was not heard of for longer does not work."""


class Probed(Protocol):
    """A coordinator as its probes see it; nothing here may block."""

    @property
    def instance_id(self) -> str:
        """ENGINE_INSTANCE_ID."""
        ...

    def loop_silent_us(self) -> int:
        """Return since when the control loop has not run."""
        ...

    def database_silent_us(self) -> int | None:
        """Return since when the database has not answered, None when it never did."""
        ...

    def lock_held(self) -> bool:
        """Tell whether a term is under way and its lease fresh."""
        ...

    def draining(self) -> bool:
        """Tell whether the process is about to stop."""
        ...

    def active_workflows(self) -> int:
        """Return how many unfinished workflows are ours."""
        ...

    def status(self) -> Status:
        """Return what the page for people shows."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `/ready`."""

    name: str
    error: str | None

    def to_json(self) -> dict[str, str]:
        """Return it as the guide writes it."""
        if self.error is None:
            return {"name": self.name, "status": "fulfilled"}
        return {"name": self.name, "status": "rejected", "error": self.error}


def health(probed: Probed, usage: Usage, started_s: float) -> tuple[int, dict[str, Any]]:
    """Return status code and body of `/health`."""
    healthy = probed.loop_silent_us() <= _silent_us_max
    body = {
        "status": "healthy" if healthy else "unhealthy",
        # Shown to people; no decision rests on it.
        "timestamp": datetime.fromtimestamp(time.time_ns() / 1e9, UTC).isoformat(timespec="milliseconds"),
        "instanceId": probed.instance_id,
        "uptime": round(time.monotonic() - started_s, 3),
        "memory": usage.memory_bytes(),
        "load": {
            "activeWorkflows": probed.active_workflows(),
            "cpuUsage": round(usage.cpu_percent(), 1),
            "memoryUsage": round(usage.memory_percent(), 1),
        },
        "database": "down" if _database_error(probed) else "up",
        "distributedLock": "held" if probed.lock_held() else "not_held",
    }
    return (200 if healthy else 503), body


def ready(probed: Probed) -> tuple[int, dict[str, Any]]:
    """Return status code and body of `/ready`."""
    checks = ready_checks(probed)
    fine = all(check.error is None for check in checks)
    body = {"status": "ready" if fine else "not_ready", "checks": [check.to_json() for check in checks]}
    return (200 if fine else 503), body


def ready_checks(probed: Probed) -> Sequence[Check]:
    """Return what `/ready` looks at; the gRPC health service says the same."""
    return [
        Check("database", _database_error(probed)),
        Check("scheduler", _scheduler_error(probed)),
        Check("lockManager", None if probed.lock_held() else "no term is under way; the log says why"),
    ]


def _database_error(probed: Probed) -> str | None:
    silent_us = probed.database_silent_us()
    if silent_us is None:
        return "the database has not answered yet"
    return f"the database has not answered for {silent_us // 1_000} ms" if silent_us > _silent_us_max else None


def _scheduler_error(probed: Probed) -> str | None:
    silent_us = probed.loop_silent_us()
    if silent_us > _silent_us_max:
        return f"the control loop has not run for {silent_us // 1_000} ms"
    return "draining: the process is about to stop" if probed.draining() else None


def probe_handlers(probed: Probed, usage: Usage) -> Mapping[str, Handler]:
    """Return what answers `/health` and `/ready`."""
    started_s = time.monotonic()

    async def get_health(_request: Request) -> Response:
        code, body = health(probed, usage, started_s)
        return JSONResponse(body, code)

    async def get_ready(_request: Request) -> Response:
        code, body = ready(probed)
        return JSONResponse(body, code)

    return {"/health": get_health, "/ready": get_ready}


def page_handler(probed: Probed) -> Handler:
    """Return what answers `/`."""

    async def get_page(_request: Request) -> Response:
        return HTMLResponse(page(probed.status()), headers={"cache-control": "no-store"})

    return get_page


def metrics_handler(metrics: Metrics) -> Handler:
    """Return what answers `/metrics`."""

    async def get_metrics(_request: Request) -> Response:
        return Response(await metrics.scraped(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return get_metrics
