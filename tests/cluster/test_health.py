"""What probes are told by real processes: while the database is away, and while a worker drains."""

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cluster.flows import gate
from tests.cluster.running import RealCluster, eventually, so
from tests.servers.ports import free_port
from tests.servers.process import PrivateServer


def test_while_the_database_is_away_a_coordinator_is_healthy_and_not_ready_and_grpc_says_the_same(
    own_server: PrivateServer, tmp_path: Path
) -> None:
    async def play() -> None:
        async with (
            RealCluster(own_server.url(own_server.new_database()), tmp_path, LEASE_TIMEOUT="2000") as cluster,
            httpx.AsyncClient() as http,
        ):
            await cluster.coordinator("c1")
            base = f"http://{cluster.http('c1')}"
            async with grpc.aio.insecure_channel(cluster.address("c1")) as channel:
                checking: Any = health_pb2_grpc.HealthStub(channel)

                async def told() -> tuple[int, int, int]:
                    answer = await checking.Check(health_pb2.HealthCheckRequest())
                    codes = [(await http.get(f"{base}{path}")).status_code for path in ("/health", "/ready")]
                    return codes[0], codes[1], answer.status

                async def says(health: int, ready: int, grpc_status: int) -> None:
                    async def agrees() -> bool:
                        return await told() == (health, ready, grpc_status)

                    await eventually(agrees)

                await says(200, 200, health_pb2.HealthCheckResponse.SERVING)
                assert "MariaDB" in (page := (await http.get(base)).text) or "MySQL" in page
                await asyncio.to_thread(own_server.halt)
                await says(200, 503, health_pb2.HealthCheckResponse.NOT_SERVING)
                assert (await http.get(f"{base}/health")).json()["distributedLock"] == "not_held"
                assert "not ready" in (await http.get(base)).text
                await asyncio.to_thread(own_server.start)
                await says(200, 200, health_pb2.HealthCheckResponse.SERVING)

    asyncio.run(play())


def test_a_worker_that_drains_is_healthy_and_not_ready(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        port = free_port()
        async with RealCluster(file_url, tmp_path) as cluster, httpx.AsyncClient() as http:
            await cluster.coordinator("c1")
            worker = await cluster.worker("w1", HTTP_PORT=str(port))
            base = f"http://127.0.0.1:{port}"
            assert (await http.get(f"{base}/ready")).status_code == 200
            handle = await cluster.client().submit(gate(), "open")
            await so(lambda: len(cluster.effects.read("start")) == 1)
            worker.ask_to_end()
            await worker.said("draining")
            answer = await http.get(f"{base}/ready")
            assert answer.status_code == 503
            assert answer.json()["checks"] == [
                {"name": "scheduler", "status": "rejected", "error": "draining: it takes no more work"}
            ]
            assert (await http.get(f"{base}/health")).status_code == 200
            cluster.effects.open_gate("open")
            await handle.result(30)
            assert await worker.exited == 0

    asyncio.run(play())
