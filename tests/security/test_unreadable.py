"""Messages that no protobuf can read: the callers' fault, and only of callers that may call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mainspring.authentication import Authenticator
from mainspring.callers import Refusal, Role
from mainspring.dial import server_options
from mainspring.settings import CoordinatorSettings
from mainspring.tokens import line, new_token
from mainspring.v1 import worker_pb2
from mainspring_coordinator.auth.gate import Gate
from tests.security.test_gate import methods
from tests.services.rig import Host, reason_in

NONSENSE = b"\xff\xff\xff"
ATTACH = "/mainspring.v1.FleetService/Attach"
TOKENS = {role: new_token() for role in (Role.ADMIN, Role.COORDINATOR)}
REFUSED: list[Refusal] = []


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """All services behind a gate."""
    (folder / "tokens.toml").write_text(
        "\n".join(line(f"a-{role}", role, token, None) for role, token in TOKENS.items())
    )
    authenticator = Authenticator(CoordinatorSettings.of(AUTH_TOKENS=str(folder / "tokens.toml")))
    gate = Gate(authenticator, 5_000, refused=REFUSED.append)
    server = grpc.aio.server(options=server_options(), interceptors=(gate,))
    host = Host()
    services = await host.put_on(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await services.leave()
        await server.stop(None)
        await services.close()
        host.plans.close()


async def sent(channel: Any, method: str, token: str) -> tuple[list[bytes], grpc.aio.AioRpcError | None]:
    """The answers to a message that is none, and what the call ended with."""
    kind = methods[method]
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[kind.client_streaming, kind.server_streaming](method)
    message = iter([NONSENSE]) if kind.client_streaming else NONSENSE
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    call = make(message, metadata=metadata, timeout=10)
    try:
        return ([part async for part in call] if kind.server_streaming else [await call]), None
    except grpc.aio.AioRpcError as error:
        return [], error


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_read_is_the_callers_fault_in_every_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    REFUSED.clear()

    async def told() -> None:
        async with serving(tmp_path) as channel:
            for method in methods:
                role = Role.COORDINATOR if "PeersService" in method else Role.ADMIN
                answers, error = await sent(channel, method, TOKENS[role])
                if method == ATTACH:
                    (last,) = answers
                    goodbye = worker_pb2.AttachResponse.FromString(last).goodbye
                    assert goodbye.reason == worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR
                    assert "cannot be read" in goodbye.message
                    continue
                assert error is not None, method
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, error)
                assert reason_in(error) == "UNREADABLE", method

    asyncio.run(told())
    assert set(REFUSED) == {Refusal.UNREADABLE}
    assert len(REFUSED) == len(methods) - 1, "a worker is told by Goodbye"
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err + caplog.text


def test_nothing_is_read_of_who_may_not_call(tmp_path: Path) -> None:
    async def told() -> None:
        async with serving(tmp_path) as channel:
            for method in methods:
                if "Health" in method:
                    continue
                _, error = await sent(channel, method, "")
                assert error is not None, method
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED, (method, error)

    asyncio.run(told())
