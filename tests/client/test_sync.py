"""The synchronous client, from one thread and from several, against a real server in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mainspring.errors import NotFoundError, UnavailableError
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring_client import Submission, SyncClient, SyncHandle, WorkflowStatus
from tests.client.answers import definition, ended, many_submitted, node, result, seen, submitted, workflow
from tests.client.conftest import Served


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mainspring-sync-client"]


def test_it_does_what_the_asynchronous_client_does(served: Served) -> None:
    many = client_pb2.WaitManyResponse(results=[ended("a"), ended("b")])
    script = {
        "Submit": [submitted],
        "SubmitMany": [many_submitted],
        "GetResult": [result(output=b"7")],
        "WaitMany": [[many]],
        "Watch": [[seen(1, node(), snapshot=True), seen(2, status=workflow_pb2.WORKFLOW_STATUS_SUCCEEDED)]],
        "List": [client_pb2.ListResponse(workflows=[workflow()])],
        "Get": [client_pb2.GetResponse(workflow=workflow())],
        "Cancel": [client_pb2.CancelResponse(status=workflow_pb2.WORKFLOW_STATUS_CANCELLING)],
        "ListNodes": [client_pb2.ListNodesResponse(nodes=[node("a"), node("b")])],
    }
    with served(**script) as (_, address), SyncClient(address) as client:
        handle = client.submit(definition, workflow_id="w")
        assert handle.result(timeout=5) == 7
        assert handle.cancel() is WorkflowStatus.CANCELLING
        assert [update.workflow.version for update in handle.watch()] == [1, 2]
        assert [one.node_id for one in handle.nodes()] == ["a", "b"]
        first, second = client.submit_many([Submission(definition), Submission(definition)])
        assert isinstance(first, SyncHandle)
        assert isinstance(second, SyncHandle)
        assert [one.workflow_id for one in client.wait_many(["a", "b"])] == ["a", "b"]
        assert [one.workflow_id for one in client.list()] == ["w"]
        assert handle.get().status is WorkflowStatus.RUNNING
    assert client_threads() == []


def test_errors_are_those_of_the_asynchronous_client(served: Served) -> None:
    with (
        served(Get=[NotFoundError("no workflow 'w'")]) as (_, address),
        SyncClient(address) as client,
        pytest.raises(NotFoundError, match="no workflow 'w'"),
    ):
        client.get("w")


def test_several_threads_use_one_client_and_clients_share_one_thread(served: Served) -> None:
    with (
        served(Submit=[submitted], GetResult=[result(output=b"7")]) as (scripted, address),
        SyncClient(address) as one,
        SyncClient(address) as two,
        ThreadPoolExecutor(8) as pool,
    ):
        outputs = list(pool.map(lambda n: (one, two)[n % 2].submit(definition).result(), range(40)))
        assert outputs == [7] * 40
        assert len(client_threads()) == 1
    assert len({request.workflow_id for request in scripted.requests["Submit"]}) == 40


@pytest.mark.parametrize("call", [lambda c: c.wait("w"), lambda c: list(c.watch("w"))])
def test_closing_ends_the_calls_of_other_threads(served: Served, call: Callable[[SyncClient], object]) -> None:
    asked = threading.Event()

    async def never(_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    with served(GetResult=[never], Watch=[[never]]) as (_, address), ThreadPoolExecutor(1) as pool:
        client = SyncClient(address)
        waiting = pool.submit(call, client)
        assert asked.wait(10)
        client.close()
        with pytest.raises(UnavailableError, match="closed"):
            waiting.result(10)
        client.close()
        with pytest.raises(UnavailableError, match="closed"):
            client.get("w")
    assert client_threads() == []


def test_an_iteration_left_early_ends_its_stream(served: Served) -> None:
    with (
        served(Watch=[[seen(1, node(), snapshot=True), seen(2, node())]]) as (_, address),
        SyncClient(address) as client,
    ):
        updates = client.watch("w")
        assert next(updates).workflow.version == 1
        updates.close()  # type: ignore[attr-defined]  # pyright: ignore  (a generator, typed as what it is used as)
    assert client_threads() == []
