"""GetResult and WaitMany: no end is missed, none is told twice."""

import asyncio

import grpc
import grpc.aio
import pytest

from mainspring import limits
from mainspring.errors import Failure
from mainspring.failures import failure_to_json
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring_coordinator.engine.events import Event, Read
from mainspring_coordinator.engine.status import WorkflowStatus
from tests.services.rig import Host, ended, fields_in, plan_of, reason_in, story

PLAN = plan_of({"id": "a", "executor": "echo"})


def get(workflow_id: str = "wf-1", wait_ms: int = 30_000) -> client_pb2.GetResultRequest:
    """Return a GetResult."""
    return client_pb2.GetResultRequest(workflow_id=workflow_id, wait_ms=wait_ms)


@story
async def test_the_result_of_an_ended_workflow_comes_from_the_database() -> None:
    async with Host() as host:
        host.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED)
        result = (await host.workflows.GetResult(get())).result
        assert (result.status, result.output.data) == (workflow_pb2.WORKFLOW_STATUS_SUCCEEDED, b'{"sum":3}')
        assert (result.submitted_at_us, result.ended_at_us) == (1_000, 9_000)
        assert host.loop.is_quiet


@story
async def test_an_end_between_the_subscription_and_the_look_is_not_missed() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN)

        def end_before_the_answer(event: Event) -> None:
            # The commit of the end comes after the subscription; the look still shows the workflow running.
            assert isinstance(event, Read)
            host.loop.tell(ended("wf-1"))

        host.loop.on_ask = end_before_the_answer
        result = (await host.workflows.GetResult(get())).result
        assert result.output.data == b'"done"'
        assert host.loop.is_quiet


@story
async def test_an_end_after_the_look_answers_at_once() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN)
        asked = asyncio.ensure_future(host.workflows.GetResult(get()))
        await host.loop.wait_for(Read)
        failure = failure_to_json(Failure("E", "broken", node_id="a"))
        host.loop.tell(ended("wf-1", None, status=WorkflowStatus.FAILED, failure=failure))
        result = (await asked).result
        assert (result.status, result.failure.node_id) == (workflow_pb2.WORKFLOW_STATUS_FAILED, "a")
        assert not result.HasField("output")


@pytest.mark.parametrize("wait_ms", [0, 20])
def test_when_the_wait_passes_the_present_state_is_told(wait_ms: int) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            host.run("wf-1", PLAN)
            result = (await host.workflows.GetResult(get(wait_ms=wait_ms))).result
            assert (result.status, result.submitted_at_us) == (workflow_pb2.WORKFLOW_STATUS_RUNNING, 1_000)
            assert not result.HasField("output")
            assert host.loop.is_quiet

    told()


@story
async def test_a_caller_who_leaves_leaves_nothing_behind() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN)
        asked = asyncio.ensure_future(host.workflows.GetResult(get()))
        await host.loop.wait_for(Read)
        asked.cancel()
        await host.loop.wait_until_quiet()


@story
async def test_a_result_of_no_workflow_is_not_found() -> None:
    async with Host() as host:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await host.workflows.GetResult(get())
        assert (raised.value.code(), reason_in(raised.value)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert host.loop.is_quiet


@story
async def test_an_output_larger_than_any_request_is_read() -> None:
    async with Host() as host:
        large = b'"' + b"x" * (limits.map_output_bytes_max - 2) + b'"'
        host.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED, output=large)
        result = (await host.workflows.GetResult(get())).result
        assert len(result.output.data) == limits.map_output_bytes_max


@story
async def test_ends_that_are_committed_together_leave_in_one_message() -> None:
    async with Host() as host:
        names = [f"wf-{number}" for number in range(100)]
        for name in names:
            host.run(name, PLAN)
        call = host.workflows.WaitMany(client_pb2.WaitManyRequest(workflow_ids=names))
        await host.loop.wait_for(Read, 100)
        for name in names[:60]:
            host.loop.tell(ended(name))
        message = await call.read()
        assert isinstance(message, client_pb2.WaitManyResponse)
        assert [result.workflow_id for result in message.results] == names[:60]
        for name in names[60:]:
            host.loop.tell(ended(name))
        message = await call.read()
        assert isinstance(message, client_pb2.WaitManyResponse)
        assert len(message.results) == 40
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert host.loop.is_quiet


@story
async def test_each_workflow_is_reported_once_whoever_saw_its_end() -> None:
    async with Host() as host:
        for name in ("old", "both"):
            host.store(name, PLAN, WorkflowStatus.SUCCEEDED)
        host.run("new", PLAN)

        def end_meanwhile(event: Event) -> None:
            assert isinstance(event, Read)
            if event.workflow_id in ("both", "new"):
                host.loop.tell(ended(event.workflow_id))

        host.loop.on_ask = end_meanwhile
        asked = client_pb2.WaitManyRequest(workflow_ids=["old", "both", "new", "nobody", "new"])
        results: list[str] = []
        missing: list[str] = []
        async for message in host.workflows.WaitMany(asked):
            results += [result.workflow_id for result in message.results]
            missing += message.not_found
        assert sorted(results) == ["both", "new", "old"]
        assert missing == ["nobody"]


@story
async def test_outputs_are_left_out_when_they_are_not_wanted() -> None:
    async with Host() as host:
        host.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED)
        asked = client_pb2.WaitManyRequest(workflow_ids=["wf-1"], without_output=True)
        messages = [message async for message in host.workflows.WaitMany(asked)]
        assert [result.HasField("output") for message in messages for result in message.results] == [False]


@story
async def test_large_results_are_split_over_messages() -> None:
    async with Host() as host:
        large = b'"' + b"x" * (limits.MIB - 2) + b'"'
        names = [f"wf-{number}" for number in range(5)]
        for name in names:
            host.store(name, PLAN, WorkflowStatus.SUCCEEDED, output=large)
        sizes = [
            message.ByteSize()
            async for message in host.workflows.WaitMany(client_pb2.WaitManyRequest(workflow_ids=names))
        ]
        assert len(sizes) >= 3
        assert max(sizes) <= limits.message_split_bytes


@pytest.mark.parametrize(
    ("field", "ids"),
    [("workflow_ids", []), ("workflow_ids", ["w"] * 10_001), ("workflow_ids[1]", ["w", "not an id"])],
)
def test_a_wait_many_out_of_its_bounds_is_refused_with_its_field(field: str, ids: list[str]) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            call = host.workflows.WaitMany(client_pb2.WaitManyRequest(workflow_ids=ids))
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call.read()
            assert (raised.value.code(), fields_in(raised.value)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    told()
