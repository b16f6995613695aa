"""Reads of a workflow that is deleted for its age: it is there as a whole, or there is none."""

from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

from mainspring.v1 import client_pb2, workflow_pb2
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.services.rig import Host, error_of, plan_of, story

PLAN = plan_of({"id": "a", "executor": "echo"}, {"id": "b", "executor": "echo"})
NAME = "wf-1"
Call = Callable[[Host], Coroutine[Any, Any, object]]


def ended(host: Host, submitted_at_us: int = 1_000, *succeeded: int) -> None:
    """Let the workflow have ended, with rows of these nodes."""
    host.reader.node_rows.pop(NAME, None)
    host.store(NAME, PLAN, WorkflowStatus.SUCCEEDED, submitted_at_us=submitted_at_us)
    for node in succeeded:
        host.add_row(NAME, node, -1, NodeStatus.SUCCEEDED, output=b"1")


def delete(host: Host) -> None:
    del host.reader.workflows[NAME], host.reader.node_rows[NAME]


def deleted_before(host: Host, name: str) -> None:
    """Let the workflow be deleted between the look at its own row and this read."""
    read = getattr(host.reader, name)

    def late(*arguments: Any) -> object:
        if NAME in host.reader.workflows:
            delete(host)
        return read(*arguments)

    setattr(host.reader, name, late)


async def _get(host: Host) -> object:
    return await host.workflows.Get(client_pb2.GetRequest(workflow_id=NAME))


async def _list_nodes(host: Host) -> object:
    return await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id=NAME))


async def _get_node(host: Host) -> object:
    return await host.workflows.GetNode(client_pb2.GetNodeRequest(workflow_id=NAME, node_id="a", instance=-1))


async def _history(host: Host) -> object:
    return await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id=NAME))


async def _watch(host: Host) -> object:
    return [response async for response in host.workflows.Watch(client_pb2.WatchRequest(workflow_id=NAME))]


@pytest.mark.parametrize(
    ("call", "read"),
    [
        (_get, "node_page"),
        (_list_nodes, "node_page"),
        (_get_node, "node"),
        (_history, "attempts"),
        (_watch, "node_page"),
    ],
)
def test_one_that_goes_while_it_is_read_is_not_shown_in_part(call: Call, read: str) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            ended(host, 1_000, 0, 1)
            await call(host)
        async with Host() as host:
            ended(host, 1_000, 0, 1)
            deleted_before(host, read)
            error = await error_of(call(host))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert NAME in (error.details() or "")

    told()


@story
async def test_one_whose_definition_went_with_it_is_not_found() -> None:
    async with Host() as host:
        ended(host, 1_000, 0, 1)
        host.plans._kept.clear()
        deleted_before(host, "plan")
        assert (await error_of(_get(host))).code() is grpc.StatusCode.NOT_FOUND


@story
async def test_one_that_ended_and_went_since_it_was_seen_in_memory_is_not_found() -> None:
    async with Host() as host:
        host.run(NAME, PLAN)
        del host.reader.workflows[NAME]
        assert (await error_of(_get(host))).code() is grpc.StatusCode.NOT_FOUND


@story
async def test_what_is_remembered_of_one_is_not_told_of_the_next_of_its_id() -> None:
    async with Host() as host:
        ended(host, 1_000, 0, 1)
        first = await host.workflows.Get(client_pb2.GetRequest(workflow_id=NAME))
        told = await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id=NAME))
        delete(host)
        ended(host, 2_000, 0)
        second = await host.workflows.Get(client_pb2.GetRequest(workflow_id=NAME))
        again = await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id=NAME))
        counts = [{one.status: one.count for one in answer.workflow.node_counts} for answer in (first, second)]
        skipped = workflow_pb2.NODE_STATUS_SKIPPED
        assert [found.get(skipped, 0) for found in counts] == [0, 1]
        assert [told.events[0].at_us, again.events[0].at_us] == [1_000, 2_000]
        assert len(told.events) > len(again.events)
