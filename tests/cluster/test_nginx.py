"""nginx, with the shipped configuration, before three coordinators: clients go through it, and a worker begins through it."""

import asyncio
import json
import re
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mainspring.access import Access, TlsFiles
from mainspring.settings import CoordinatorSettings
from mainspring_client import Client, Handle, Submission
from tests.cluster.checks import all_ended, started_once
from tests.cluster.flows import chain, load
from tests.cluster.running import Process, RealCluster, eventually
from tests.servers.nginx import Nginx, directives, required

make = Path(__file__).parents[2] / "deploy/credentials/make.py"
names = ("c1", "c2", "c3")
idle_s = 5 * 60
"""A stream that is idle for so long lives on, says the deployment guide."""
timeouts = ("grpc_read_timeout", "grpc_send_timeout", "client_body_timeout")
units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, str(make), str(tmp_path / "credentials")], check=True, capture_output=True)
    return tmp_path / "credentials"


def before(cluster: RealCluster, folder: Path, credentials: Path, exchanged: Mapping[str, str] | None = None) -> Nginx:
    """nginx before the three coordinators of a cluster."""
    return Nginx(
        folder,
        credentials=credentials / "nginx",
        grpc=[cluster.address(name) for name in names],
        http=[cluster.http(name) for name in names],
        exchanged=exchanged,
    )


def secure(credentials: Path, holder: str) -> dict[str, str]:
    """The settings of TLS and tokens, as the Compose file has them."""
    folder = credentials / holder
    found = {
        "TLS_CERT": str(folder / "tls.crt"),
        "TLS_KEY": str(folder / "tls.key"),
        "TLS_CA": str(folder / "ca.crt"),
        "MAINSPRING_TOKEN_FILE": str(folder / "token"),
    }
    return found | ({"AUTH_TOKENS": str(folder / "tokens")} if holder == "coordinator" else {})


async def coordinator(cluster: RealCluster, name: str, credentials: Path) -> Process:
    """Start a coordinator that is reached by TLS alone, but for its probes."""
    port = cluster.http(name).rpartition(":")[2]
    return await cluster.coordinator(name, HTTP_PORT="0", HTTP_PROBE_PORT=port, **secure(credentials, "coordinator"))


def client_of(nginx: Nginx, credentials: Path, token: str) -> Client:
    """A client that goes through nginx."""
    folder = credentials / "client"
    access = Access(TlsFiles(str(folder / "ca.crt")), token_file=str(folder / token))
    return Client(f"localhost:{nginx.tls_port}", access=access, timeout=30)


def seconds(value: str) -> float:
    return float(value[:-1]) * units[value[-1]]


def get(url: str, context: Any = None) -> Any:
    with urllib.request.urlopen(url, timeout=10, context=context) as answer:
        return json.loads(answer.read())


def channel(nginx: Nginx, credentials: Path) -> grpc.aio.Channel:
    """A channel over TLS, as any gRPC program opens one."""
    authority = (credentials / "client/ca.crt").read_bytes()
    return grpc.aio.secure_channel(f"localhost:{nginx.tls_port}", grpc.ssl_channel_credentials(authority))


def test_a_client_and_a_worker_go_through_it_and_the_worker_then_dials_each_coordinator_once(
    chosen_url: str, tmp_path: Path, credentials: Path
) -> None:
    required()

    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            processes = await asyncio.gather(*(coordinator(cluster, name, credentials) for name in names))
            await asyncio.gather(*(cluster.ready(name) for name in names))
            with before(cluster, tmp_path, credentials) as nginx:
                async with client_of(nginx, credentials, "admin-token") as client:
                    through = f"localhost:{nginx.tls_port}"
                    contact = {"MAINSPRING_ADDRESS": through, **secure(credentials, "worker")}
                    worker = await cluster.worker("w1", slots=16, through="", **contact)

                    async def attached_to_each_once() -> bool:
                        return [row.workers for row in await client.coordinators()] == [1, 1, 1]

                    await eventually(attached_to_each_once)
                    told = [json.loads(line) for line in worker.lines]
                    dialled = [line["address"] for line in told if line["event"] == "attached" and "level" in line]
                    assert len(dialled) == len(set(dialled)) == 3
                    assert through in dialled
                    assert set(dialled) - {through} <= {cluster.address(name) for name in names}
                    await all_ended(client, await load(client, 4))
                    # Two requests in one message that is larger than what nginx takes of a body unless told otherwise.
                    large = {f"large-{number}": "x" * 700_000 for number in range(2)}
                    requests = [Submission(chain(1, "noop"), text, name) for name, text in large.items()]
                    answers = await client.submit_many(requests)
                    assert all(isinstance(answer, Handle) for answer in answers), answers
                    await all_ended(client, dict(large))
                    # A coordinator that is gone is passed over, and no call fails; the one through which the worker began, perhaps.
                    await processes[0].killed()
                    await all_ended(client, await load(client, 4, "after-"))
                    started_once(cluster.effects)
                log = nginx.log("access")
                assert re.search(r'"POST /mainspring\.v1\.WorkflowsService/SubmitMany" 200 0 ', log)
                assert "FleetService/Attach" in log

    asyncio.run(play())


def test_http_goes_to_the_coordinators_on_both_ports_and_grpc_over_tls(
    file_url: str, tmp_path: Path, credentials: Path
) -> None:
    required()

    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            await coordinator(cluster, "c2", credentials)  # the other two are down
            await cluster.ready("c2")
            with before(cluster, tmp_path, credentials) as nginx:
                async with channel(nginx, credentials) as opened:
                    stub: Any = health_pb2_grpc.HealthStub(opened)
                    for _ in range(4):
                        answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                        assert answer.status == health_pb2.HealthCheckResponse.SERVING
                context = ssl.create_default_context(cafile=str(credentials / "client/ca.crt"))
                for base, over in (
                    (f"http://localhost:{nginx.http_port}", None),
                    (f"https://localhost:{nginx.tls_port}", context),
                ):
                    health = await asyncio.to_thread(get, f"{base}/health", over)
                    assert (health["status"], health["instanceId"]) == ("healthy", "c2")
                    assert (await asyncio.to_thread(get, f"{base}/ready", over))["status"] == "ready"
                    with pytest.raises(HTTPError, match="404"):
                        await asyncio.to_thread(get, f"{base}/metrics", over)

    asyncio.run(play())


@pytest.mark.parametrize(("hour", "lives"), [("6s", True), ("100ms", False)])
def test_an_idle_stream_lives_as_long_as_the_timeouts_say(
    hour: str, lives: bool, file_url: str, tmp_path: Path, credentials: Path
) -> None:
    required()

    async def play() -> None:
        # Without pings on the coordinator's side, which nginx would take for a sign of life.
        async with RealCluster(file_url, tmp_path, KEEPALIVE_TIME="86400000") as cluster:
            process = await coordinator(cluster, "c1", credentials)
            await cluster.ready("c1")
            with before(
                cluster, tmp_path, credentials, exchanged={f"{one} 1h;": f"{one} {hour};" for one in timeouts}
            ) as nginx:
                async with channel(nginx, credentials) as opened:
                    stub: Any = health_pb2_grpc.HealthStub(opened)
                    stream = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                    assert (await stream.read()).status == health_pb2.HealthCheckResponse.SERVING
                    if not lives:
                        with pytest.raises(grpc.aio.AioRpcError):
                            await asyncio.wait_for(stream.read(), 30)
                        return
                    reading = asyncio.ensure_future(stream.read())
                    # Five minutes of its hour.
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(6 * idle_s / 3_600):
                            await asyncio.shield(reading)
                    ending = asyncio.ensure_future(process.end(20))
                    assert (await reading).status == health_pb2.HealthCheckResponse.NOT_SERVING
                    await ending

    asyncio.run(play())


@pytest.mark.parametrize("name", timeouts)
def test_the_timeouts_are_longer_than_three_heartbeats_and_than_an_idle_stream(name: str) -> None:
    heartbeat_s = CoordinatorSettings.load([], {}).heartbeat_interval_ms / 1_000
    (value,) = directives(name)
    assert seconds(value) >= 3 * heartbeat_s
    assert seconds(value) > idle_s


def test_the_file_has_the_values_of_the_guide() -> None:
    assert [value.split()[0] for value in directives("listen")] == ["80", "443"]
    assert directives("client_max_body_size") == ["0"]
    upstreams = [value.split()[0] for value in directives("server")]
    hosts = [f"workflow-engine-{number}" for number in (1, 2, 3)]
    assert upstreams == [f"{host}:{port}" for port in (7320, 3000) for host in hosts]
    # What was sent to one coordinator is never sent to another by nginx.
    assert "non_idempotent" not in " ".join(directives("grpc_next_upstream"))
