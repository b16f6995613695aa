"""What probes are told, in each state of a coordinator, and over a real socket."""

import asyncio
import re
import socket
from dataclasses import dataclass, replace

import httpx
import pytest

from mainspring.authentication import Authenticator
from mainspring.errors import SettingsError
from mainspring.http_listener import HttpListeners
from mainspring.settings import CoordinatorSettings
from mainspring.usage import Usage
from mainspring.v1 import admin_pb2
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from mainspring_coordinator.metrics import Metrics
from mainspring_coordinator.probes import health, metrics_handler, page_handler, probe_handlers, ready
from mainspring_coordinator.status_page import Owner, Status, page

known = Status(
    name="engine-1",
    version="1.2.3",
    cluster="orders & <more>",
    database="MariaDB 10.11.19",
    unready=[],
    open_workflows=7,
    strategy="load-balanced",
    owners=[Owner("engine-1", "aa", "h1:7320", "h1:3000", 2), Owner("engine-2", "bb", "h2:7320", "h2:3000", 0)],
    shards=["aa", "aa", "bb", ""],
    serving=2,
    workers=[
        admin_pb2.Worker(
            name="w1",
            status=admin_pb2.WORKER_STATUS_DRAINING,
            assigned=1,
            busy=3,
            stays=True,
            slots=8,
            executors=["a", "b", "c", "d", "e", "f"],
        ),
        admin_pb2.Worker(name="w2", status=admin_pb2.WORKER_STATUS_DRAINING, stays=True, slots=8),
    ],
)


@dataclass
class Coordinator:
    instance_id: str = "engine-1"
    loop_silent: int = 200_000
    database_silent: int | None = 200_000
    held: bool = True
    stopping: bool = False

    def loop_silent_us(self) -> int:
        return self.loop_silent

    def database_silent_us(self) -> int | None:
        return self.database_silent

    def lock_held(self) -> bool:
        return self.held

    def draining(self) -> bool:
        return self.stopping

    def active_workflows(self) -> int:
        return 3

    def status(self) -> Status:
        return known


HEALTH = [
    (Coordinator(), 200, "healthy", "up", "held"),
    (Coordinator(database_silent=9_000_000), 200, "healthy", "down", "held"),
    (Coordinator(database_silent=None, held=False), 200, "healthy", "down", "not_held"),
    (Coordinator(stopping=True), 200, "healthy", "up", "held"),
    (Coordinator(loop_silent=9_000_000), 503, "unhealthy", "up", "held"),
]


@pytest.mark.parametrize(("coordinator", "code", "status", "database", "lock"), HEALTH)
def test_health_fails_only_when_the_control_loop_has_stopped(
    coordinator: Coordinator, code: int, status: str, database: str, lock: str
) -> None:
    told, body = health(coordinator, Usage(), 0)
    assert (told, body["status"], body["database"], body["distributedLock"]) == (code, status, database, lock)


def test_health_has_the_guides_fields() -> None:
    _, body = health(Coordinator(), Usage(), 0)
    assert list(body) == [
        "status", "timestamp", "instanceId", "uptime", "memory", "load", "database", "distributedLock"
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", body["timestamp"])
    assert body["instanceId"] == "engine-1"
    assert body["memory"]["rss"] > 1_000_000
    assert list(body["load"]) == ["activeWorkflows", "cpuUsage", "memoryUsage"]
    assert body["load"]["activeWorkflows"] == 3


READY = [
    (Coordinator(), 200, []),
    (Coordinator(database_silent=9_000_000), 503, ["database"]),
    (Coordinator(database_silent=None, held=False), 503, ["database", "lockManager"]),
    (Coordinator(loop_silent=9_000_000), 503, ["scheduler"]),
    (Coordinator(stopping=True), 503, ["scheduler"]),
    (Coordinator(held=False), 503, ["lockManager"]),
]


@pytest.mark.parametrize(("coordinator", "code", "rejected"), READY)
def test_ready_names_what_is_not(coordinator: Coordinator, code: int, rejected: list[str]) -> None:
    told, body = ready(coordinator)
    assert told == code
    assert body["status"] == ("not_ready" if rejected else "ready")
    assert [check["name"] for check in body["checks"]] == ["database", "scheduler", "lockManager"]
    assert [check["name"] for check in body["checks"] if check["status"] == "rejected"] == rejected
    assert all(("error" in check) == (check["name"] in rejected) for check in body["checks"])


def cells(html: str) -> list[list[str]]:
    """Return the rows of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in rows]


def test_the_page_shows_workflows_workers_shards_and_links() -> None:
    html = page(known)
    rows = cells(html)
    assert ["workflows that it owns and that have not ended", "7"] in rows
    assert ["engine-1", "h1:7320", "h1:3000", "2", "2"] in rows
    assert ["engine-2", "h2:7320", "h2:3000", "1", "0"] in rows
    assert ["w1", "draining", "", "3 of 8", "0 %", "a, b, c, d, e and 1 more"] in rows
    assert ["w2", "drained", "", "0 of 8", "0 %", ""] in rows
    assert "1 shards have no owner" in html
    assert "orders &amp; &lt;more&gt;" in html
    assert {f'href="/{path}"' for path in ("health", "ready", "metrics")} <= set(re.findall(r'href="[^"]*"', html))


def test_the_page_says_what_keeps_a_coordinator_from_being_ready_and_how_to_start_a_worker() -> None:
    html = page(replace(known, unready=["the database has not answered yet"], workers=[]))
    assert "not ready: the database has not answered yet" in html
    assert "mainspring worker --import MODULE" in html


def test_the_page_shows_what_is_paused_by_whom_and_why() -> None:
    assert "Paused" not in page(known)
    pause = Pause(5, "ann <admin>", "a fire")
    pauses = ClusterPauses(pause, {f"x{n:04}": pause for n in range(205)}, 5)
    html = page(replace(known, pauses=pauses, paused_workflows=3))
    rows = cells(html)
    assert ["the whole cluster", "ann &lt;admin&gt;", "a fire"] in rows
    assert ["executor x0007", "ann &lt;admin&gt;", "a fire"] in rows
    assert ["5 executors more", "", ""] in rows
    assert ["3 of the workflows that it owns", "", ""] in rows
    others = "workflows of other coordinators that are paused: mainspring pauses"
    assert others in html
    assert others in page(known), "it does not know whether there are some"
    assert others not in page(replace(known, owners=known.owners[:1]))


def test_the_page_names_two_hundred_workers_at_most() -> None:
    html = page(replace(known, workers=[admin_pb2.Worker(name=f"w{n}") for n in range(1_000)]))
    assert "and 800 more: mainspring workers" in html
    assert len(html) < 50_000


def listeners(settings: CoordinatorSettings, probe_port: int | None = None) -> HttpListeners:
    usage = Usage()
    return HttpListeners(
        settings,
        Authenticator(settings),
        probe_handlers(Coordinator(), usage),
        metrics_handler(Metrics("engine-1", usage)),
        pages={"/": page_handler(Coordinator())},
        host=settings.http_host,
        port=settings.http_port,
        probe_port=probe_port,
    )


def test_the_server_answers_on_a_free_port_and_stops() -> None:
    async def story() -> None:
        server = listeners(CoordinatorSettings.of(HTTP_PORT=0))
        await server.start()
        assert server.probe_port == server.port
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            assert (await client.get("/health")).json()["status"] == "healthy"
            assert (await client.get("/ready")).status_code == 200
            assert "h2:7320" in (await client.get("/")).text
            assert "engine_load" in (await client.get("/metrics")).text
            assert (await client.get("/nothing")).status_code == 404
            assert (await client.post("/health")).status_code == 405
        await server.stop()
        await server.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)

    asyncio.run(story())


@pytest.mark.parametrize("setting", ["HTTP_PORT", "HTTP_PROBE_PORT"])
def test_a_port_that_is_taken_is_named_with_the_setting_to_change(setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        http_port, probe_port = (port, None) if setting == "HTTP_PORT" else (0, port)

        async def story() -> None:
            server = listeners(CoordinatorSettings.of(HTTP_PORT=http_port), probe_port)
            try:
                await server.start()
            finally:
                await server.stop()

        with pytest.raises(SettingsError, match=rf"{setting}: cannot listen on 127\.0\.0\.1:{port}"):
            asyncio.run(story())
