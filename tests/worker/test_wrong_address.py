"""Addresses at which no coordinator is: the worker says so, names the setting, does not flood its log, and goes on trying."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from structlog.testing import capture_logs

from mainspring.v1 import worker_pb2 as wire
from mainspring_worker import links
from tests.servers.ports import free_port
from tests.worker.scripted import Coordinator, coordinators, running, until, wait_s


@asynccontextmanager
async def nothing() -> AsyncIterator[str]:
    yield f"127.0.0.1:{free_port()}"


@asynccontextmanager
async def web_server() -> AsyncIterator[str]:
    """As if the port of the probes had been given."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def other_service() -> AsyncIterator[str]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


def about(logs: Sequence[Any], address: str) -> list[Any]:
    """Return the warnings about an address."""
    return [line for line in logs if line["event"] == "coordinator_unreachable" and line["address"] == address]


@pytest.mark.parametrize(
    ("place", "problem"),
    [(nothing, "UNAVAILABLE"), (web_server, "UNAVAILABLE"), (other_service, "UNIMPLEMENTED")],
)
def test_an_address_without_a_coordinator_is_named_with_its_setting(
    place: "type[AbstractAsyncContextManager[str]]", problem: str
) -> None:
    async def scene() -> None:
        with capture_logs() as logs:
            async with place() as address, running([address]) as worker:
                await until(lambda: about(logs, address))
                (line,) = about(logs, address)
                assert line["log_level"] == "warning"
                assert line["problem"].startswith(problem)
                assert "MAINSPRING_ADDRESS (--address)" in line["next_step"]
                assert worker.attached == 0

    asyncio.run(scene())


def test_the_warning_comes_once_in_a_while_not_at_each_try(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    async def scene() -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with capture_logs() as logs:
                async with running([address]):
                    await until(lambda: tries >= 4)
                    assert len(about(logs, address)) == 1
            monkeypatch.setattr(links, "unreachable_warning_interval_ms", 0)
            with capture_logs() as logs:
                async with running([address]):
                    await until(lambda: len(about(logs, address)) >= 2)

    asyncio.run(scene())


def test_a_refusal_is_told_once_in_a_while_and_another_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = wire.Goodbye(reason=wire.GOODBYE_REASON_NAME_TAKEN, message="the name is taken")
    stepping_down = wire.Goodbye(reason=wire.GOODBYE_REASON_STEPPING_DOWN, message="not me")

    async def refused(refusals: Sequence[wire.Goodbye]) -> list[str]:
        async with coordinators() as [coordinator]:
            coordinator.refusals = list(refusals)
            with capture_logs() as logs:
                async with running([coordinator.address]):
                    await coordinator.session()
            assert len(coordinator.hellos) == len(refusals) + 1
            return [line["message"] for line in logs if line["event"] == "goodbye"]

    assert asyncio.run(refused([taken] * 3 + [stepping_down])) == ["the name is taken", "not me"]
    monkeypatch.setattr(links, "unreachable_warning_interval_ms", 0)
    assert asyncio.run(refused([taken] * 3)) == ["the name is taken"] * 3


def test_an_address_that_the_cluster_names_wrongly_is_its_coordinators_setting() -> None:
    async def scene() -> None:
        with capture_logs() as logs:
            async with coordinators() as [reached]:
                hidden = Coordinator("b" * 32)
                hidden.address = f"127.0.0.1:{free_port()}"
                reached.peers = [reached, hidden]
                async with running([reached.address]) as worker, asyncio.timeout(wait_s):
                    await reached.session()
                    await until(lambda: about(logs, hidden.address))
                    assert "ADVERTISE_HOST" in about(logs, hidden.address)[0]["next_step"]
                    assert about(logs, reached.address) == []
                    assert worker.attached == 1

    asyncio.run(scene())
