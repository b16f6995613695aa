"""What a client waits for survives the death of the coordinator that it waits at."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mainspring.errors import UnavailableError
from mainspring.v1 import client_pb2
from mainspring_client import Client, WorkflowStatus
from tests.client.answers import RUNNING, SUCCEEDED, definition, ended, node, result, seen, submitted, workflow
from tests.client.scripted import Step, serving


async def result_of(client: Client) -> object:
    return await client.handle("w").result(timeout=20)


async def results_of(client: Client) -> object:
    return [found.output async for found in client.wait_many(["w"])]


async def last_of(client: Client) -> object:
    return [update.workflow.status async for update in client.watch("w")][-1]


@pytest.mark.parametrize(("work", "expected"), [(result_of, 7), (results_of, [7]), (last_of, WorkflowStatus.SUCCEEDED)])
def test_waiting_goes_on_at_the_successor(
    work: Callable[[Client], Coroutine[Any, Any, object]], expected: object
) -> None:
    async def play() -> None:
        waiting = asyncio.Event()

        async def never(_: object) -> None:
            waiting.set()
            await asyncio.Event().wait()

        succeeded: dict[str, list[Step]] = {
            "GetResult": [result(output=b"7")],
            "WaitMany": [[client_pb2.WaitManyResponse(results=[ended(output=b"7")])]],
            "Watch": [[seen(4, node(), snapshot=True, status=SUCCEEDED)]],
        }
        watched: list[Step] = [seen(1, node(), snapshot=True), never]
        async with serving(GetResult=[never], WaitMany=[[never]], Watch=[watched]) as (_, address):
            client = Client(address)
            task = asyncio.create_task(work(client))
            await waiting.wait()
        async with serving(address, **succeeded):
            assert await task == expected
        await client.close()

    asyncio.run(play())


def test_a_wait_ends_when_nobody_has_answered_for_the_clients_timeout() -> None:
    async def play() -> None:
        async with serving(GetResult=[result(RUNNING)], Get=[client_pb2.GetResponse(workflow=workflow())]) as (
            _,
            address,
        ):
            client = Client(address, timeout=0.5)
            await client.get("w")
        with pytest.raises(UnavailableError, match=f"no coordinator answers at {address}"):
            await client.get("w")
        with pytest.raises(UnavailableError, match=f"no coordinator answers at {address}"):
            await anext(client.watch("w"))
        await client.close()

    asyncio.run(play())


def test_a_submit_over_the_death_of_a_coordinator_is_one_workflow() -> None:
    async def play() -> None:
        asked: list[client_pb2.SubmitRequest] = []
        arrived = asyncio.Event()

        async def dies(request: client_pb2.SubmitRequest) -> None:
            asked.append(request)
            arrived.set()
            await asyncio.Event().wait()

        async with serving(Submit=[dies]) as (_, address):
            client = Client(address)
            task = asyncio.create_task(client.submit(definition))
            await arrived.wait()
        async with serving(address, Submit=[submitted]) as (successor, _):
            handle = await task
            (again,) = successor.requests["Submit"]
            assert asked == [again]
            assert handle.workflow_id == again.workflow_id
        await client.close()

    asyncio.run(play())
