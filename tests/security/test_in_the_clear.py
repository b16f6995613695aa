"""What happens where a token would have to go to another host without TLS: nothing is sent, and nothing else stops."""

import asyncio
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from mainspring.access import Access
from mainspring.dial import Keepalive, open_channel
from mainspring.owner_hint import OwnerHint, owner_key
from mainspring.v1 import client_pb2
from mainspring_client.owners import Owners
from mainspring_client.stubs import Stubs
from mainspring_coordinator.forward import Forwarder
from mainspring_worker.config import WorkerConfig
from mainspring_worker.worker import Worker
from tests.client.commands import run
from tests.services.rig import INCARNATIONS, FakeDirectory, FakeLoop, shards_total

FAR = "10.0.0.7:7320"
TOKEN = Access(token="hush")


def test_a_client_is_told_before_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_TOKEN", "hush")
    refused = run("--address", FAR, "workers")
    assert refused.exit_code == 2
    assert f"the token would go to {FAR} in the clear; set TLS_CA" in refused.stderr
    assert "hush" not in refused.stderr


def test_a_client_does_not_follow_a_hint_to_an_owner_there() -> None:
    class Answered:
        async def trailing_metadata(self) -> Any:
            return ((owner_key, OwnerHint(0, shards_total, INCARNATIONS["two"], FAR).to_text()),)

    async def told() -> None:
        owners = Owners(lambda address: Stubs(address, Keepalive(), TOKEN))
        call: Any = Answered()
        await owners.learn(call)
        for number in range(shards_total * 4):
            assert owners.find(client_pb2.GetRequest(workflow_id=f"wf-{number}")) is None
        await owners.close()

    asyncio.run(told())


def test_a_coordinator_finds_no_owner_there_and_says_why_once() -> None:
    async def told() -> None:
        loop, directory = FakeLoop(), FakeDirectory("one")
        del loop.serving[0]
        directory.owners[0] = (INCARNATIONS["two"], FAR)
        forwarder = Forwarder(loop, directory, partial(open_channel, access=TOKEN))
        with capture_logs() as lines:
            assert [forwarder.find(0) for _ in range(3)] == [False] * 3
        (line,) = lines
        assert line["event"] == "coordinator_not_dialled"
        assert "hush" not in str(line)
        await forwarder.close()

    asyncio.run(told())


def test_a_worker_says_why_it_does_not_attach_and_goes_on() -> None:
    async def told() -> None:
        with capture_logs() as lines:
            worker = Worker(WorkerConfig("w1", [FAR], access=TOKEN), {})
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(30):
                while not lines:  # noqa: ASYNC110  (a log line is no signal)
                    await asyncio.sleep(0.01)
            await worker.drain(0)
            await running
        assert lines[0]["event"] == "coordinator_unreachable"
        assert "in the clear; set TLS_CA" in lines[0]["problem"]

    asyncio.run(told())
