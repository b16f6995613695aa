"""HTTP: by TLS with a plain port for probes, `/metrics` by a token, and certificates that change."""

import asyncio
import json
import logging
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from h11 import LocalProtocolError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mainspring.authentication import Authenticator
from mainspring.callers import Role
from mainspring.http_listener import BadRequests, HttpListeners
from mainspring.settings import CoordinatorSettings, WorkerSettings
from mainspring.tokens import line, new_token
from tests.servers.certificates import Authority
from tests.services.rig import FakeClock


async def say(request: Request) -> Response:
    return PlainTextResponse(request.url.path)


@asynccontextmanager
async def serving(**values: Any) -> AsyncIterator[HttpListeners]:
    settings = CoordinatorSettings.of(**values)
    probes = {"/health": say, "/ready": say}
    port = 0 if settings.tls.cert else None
    listeners = HttpListeners(settings, Authenticator(settings), probes, say, host="127.0.0.1", port=0, probe_port=port)
    await listeners.start()
    try:
        yield listeners
    finally:
        await listeners.stop()


async def get(url: str, tls: ssl.SSLContext | bool = True, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(verify=tls) as client:
        answer = await client.get(url, headers=headers)
        return answer.status_code, answer.text


def trusting(ca: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca.path))


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def served(ca: Authority) -> dict[str, str]:
    """The settings of who serves by TLS."""
    server = ca.sign("server")
    return {"TLS_CERT": str(server.cert), "TLS_KEY": str(server.key), "TLS_CA": str(ca.path)}


def test_probes_are_answered_by_tls_and_on_a_plain_port_of_their_own(ca: Authority, served: dict[str, str]) -> None:
    async def told() -> None:
        async with serving(**served) as http:
            assert http.probe_port != http.port
            for path in ("/health", "/ready"):
                assert await get(f"https://127.0.0.1:{http.port}{path}", trusting(ca)) == (200, path)
                assert await get(f"http://127.0.0.1:{http.probe_port}{path}") == (200, path)
            assert (await get(f"http://127.0.0.1:{http.probe_port}/metrics"))[0] == 404
            with pytest.raises(httpx.ConnectError, match=r"self-signed|local issuer"):
                await get(f"https://127.0.0.1:{http.port}/health")

    asyncio.run(told())


def test_callers_must_show_a_certificate_where_that_is_required(ca: Authority, served: dict[str, str]) -> None:
    async def told() -> None:
        async with serving(**served, TLS_CLIENT_CERTS="required") as http:
            url = f"https://127.0.0.1:{http.port}/health"
            with pytest.raises(httpx.HTTPError):
                await get(url, trusting(ca))
            shown = trusting(ca)
            client = ca.sign("client")
            shown.load_cert_chain(client.cert, client.key)
            assert await get(url, shown) == (200, "/health")
            assert await get(f"http://127.0.0.1:{http.probe_port}/health") == (200, "/health")

    asyncio.run(told())


def test_new_connections_take_a_changed_certificate(ca: Authority, served: dict[str, str], tmp_path: Path) -> None:
    async def told() -> None:
        async with serving(**served) as http:
            url = f"https://127.0.0.1:{http.port}/health"
            assert (await get(url, trusting(ca)))[0] == 200
            later = Authority(tmp_path, "later")
            new = later.sign("renewed")
            shutil.copyfile(new.cert, served["TLS_CERT"])
            assert (await get(url, trusting(ca)))[0] == 200, "half a change is none"
            shutil.copyfile(new.key, served["TLS_KEY"])
            assert (await get(url, trusting(later)))[0] == 200
            with pytest.raises(httpx.ConnectError):
                await get(url, trusting(ca))

    asyncio.run(told())


def test_metrics_want_a_token_where_there_is_authentication(tmp_path: Path) -> None:
    tokens = {role: new_token() for role in Role}
    file = tmp_path / "tokens.toml"
    file.write_text("\n".join(line(f"a-{role}", role, token, None) for role, token in tokens.items()))

    async def told() -> None:
        async with serving(AUTH_TOKENS=str(file)) as http:
            url = f"http://127.0.0.1:{http.port}"
            assert await get(f"{url}/health") == (200, "/health")
            code, text = await get(f"{url}/metrics")
            header = "send the header `Authorization: Bearer TOKEN` (docs/security.md)\n"
            assert (code, text) == (401, f"the call has no token; {header}")
            codes = {role: (await get(f"{url}/metrics", token=token))[0] for role, token in tokens.items()}
            assert {role for role, code in codes.items() if code == 200} == {Role.READ_ONLY, Role.ADMIN}
            assert set(codes.values()) == {200, 403}
            code, text = await get(f"{url}/metrics", token=tokens[Role.WORKER])
            assert text == "/metrics needs the role `read-only` or `admin`, and 'a-worker' has `worker`\n"
        async with serving(AUTH_TOKENS=str(file), METRICS_AUTH="false") as http:
            assert await get(f"http://127.0.0.1:{http.port}/metrics") == (200, "/metrics")
        async with serving() as http:
            assert await get(f"http://127.0.0.1:{http.port}/metrics") == (200, "/metrics")

    asyncio.run(told())


def test_metrics_that_anybody_may_read_are_on_the_plain_port_too(served: dict[str, str]) -> None:
    async def told() -> None:
        async with serving(**served, METRICS_AUTH="false") as http:
            assert await get(f"http://127.0.0.1:{http.probe_port}/metrics") == (200, "/metrics")

    asyncio.run(told())


def test_a_worker_serves_its_probes_by_the_same_settings(ca: Authority, served: dict[str, str]) -> None:
    async def told() -> None:
        # Loaded here, because the worker's metrics begin to measure when they are loaded.
        from mainspring_worker.config import WorkerConfig  # noqa: PLC0415
        from mainspring_worker.probes import WorkerProbes  # noqa: PLC0415
        from mainspring_worker.worker import Worker  # noqa: PLC0415
        from tests.servers.ports import free_port  # noqa: PLC0415

        ports = {"HTTP_PORT": free_port(), "HTTP_PROBE_PORT": free_port()}
        settings = WorkerSettings.of(**served, **ports)
        worker = Worker(WorkerConfig("w1", ["127.0.0.1:1"]), {})
        async with WorkerProbes("w1").serving(worker, settings):
            code, text = await get(f"https://127.0.0.1:{ports['HTTP_PORT']}/health", trusting(ca))
            assert (code, json.loads(text)["status"]) == (200, "healthy")
            assert (await get(f"http://127.0.0.1:{ports['HTTP_PROBE_PORT']}/ready"))[0] == 503
            assert (await get(f"http://127.0.0.1:{ports['HTTP_PROBE_PORT']}/metrics"))[0] == 404

    asyncio.run(told())


NO_CHUNKS = b"GET /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"


async def sent(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.readuntil(b"\r\n")
    writer.close()
    return answer


def test_requests_that_are_none_are_refused_and_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> None:
        async with serving() as http:
            for nonsense in (NO_CHUNKS, NO_CHUNKS.replace(b"GET", b"HEAD"), b"\xff\xff\r\n\r\n") * 10:
                assert b" 400 " in await sent(http.port, nonsense)

    with caplog.at_level("WARNING"):
        asyncio.run(told())
    assert "Traceback" not in caplog.text
    assert len(caplog.records) <= 2, "a line a second"


def test_after_a_second_a_bad_request_is_told_of_again_and_faults_are_always() -> None:
    clock = FakeClock()
    bad_requests = BadRequests(clock)

    def told(level: int, error: Exception | None = None) -> bool:
        fault = (type(error), error, None) if error is not None else None
        return bad_requests.filter(logging.LogRecord("uvicorn.error", level, "", 0, "", (), fault))

    assert [told(logging.WARNING) for _ in range(3)] == [True, False, False]
    clock.us += 1_000_000
    assert told(logging.WARNING)
    assert [told(logging.ERROR, RuntimeError("ours")) for _ in range(2)] == [True, True]
    assert not told(logging.ERROR, LocalProtocolError("theirs"))
