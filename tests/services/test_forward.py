"""Calls that belong to another coordinator."""

import asyncio

import grpc
import grpc.aio
import pytest

from mainspring import limits
from mainspring.ids import shard_of
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring.wire import to_payload
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import Cancel, Read, Submit
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.forward import forwarded_metadata
from tests.services.fake_reader import FakeReader
from tests.services.rig import (
    Host,
    define,
    ended,
    fields_in,
    plan_of,
    reason_in,
    retry_ms_in,
    shards_total,
    story,
)

PLAN = plan_of({"id": "a", "executor": "echo"})
ECHO = to_payload(define({"id": "a", "executor": "echo"}))


def names_of(shard: int, count: int) -> list[str]:
    """Return ids of workflows of a shard."""
    return [name for name in (f"wf-{n}" for n in range(10_000)) if shard_of(name, shards_total) == shard][:count]


@story
async def test_every_call_goes_to_the_owner_and_its_answer_comes_back() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        two.loop.answers[Cancel] = lambda event: Answer(
            event.token, event.shard, event.workflow_id, AnswerCode.OK, WorkflowStatus.CANCELLING
        )
        submitted = await one.workflows.Submit(client_pb2.SubmitRequest(definition=ECHO))
        (event,) = two.loop.events
        assert isinstance(event, Submit)
        assert (submitted.created, submitted.workflow_id) == (True, event.workflow_id)
        two.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED)
        two.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED, output=b"1")
        call = one.workflows
        assert (await call.Get(client_pb2.GetRequest(workflow_id="wf-1"))).workflow.nodes_total == 1
        assert len((await call.ListNodes(client_pb2.ListNodesRequest(workflow_id="wf-1"))).nodes) == 1
        node = await call.GetNode(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="a", instance=-1))
        assert node.output.data == b"1"
        assert len((await call.GetHistory(client_pb2.GetHistoryRequest(workflow_id="wf-1"))).events) == 4
        result = await call.GetResult(client_pb2.GetResultRequest(workflow_id="wf-1", wait_ms=10))
        assert result.result.output.data == b'{"sum":3}'
        cancelled = await call.Cancel(client_pb2.CancelRequest(workflow_id="wf-1"))
        assert cancelled.status == workflow_pb2.WORKFLOW_STATUS_CANCELLING
        header = client_pb2.SubmitStreamRequest(header=client_pb2.SubmitRequest(workflow_id="wf-2"))
        streamed = await call.SubmitStream(iter([header, client_pb2.SubmitStreamRequest(chunk=ECHO.data)]))
        assert streamed.submitted.workflow_id == "wf-2"
        messages = [message async for message in call.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))]
        assert len(messages) == 1
        assert one.loop.events == []


@story
async def test_the_owners_error_comes_back_as_it_is() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await one.workflows.Get(client_pb2.GetRequest(workflow_id="nobody"))
        assert (raised.value.code(), reason_in(raised.value)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert "nobody" in (raised.value.details() or "")
        asked = client_pb2.CancelRequest(workflow_id="wf-1", reason="x" * 2_000)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await one.workflows.Cancel(asked)
        assert fields_in(raised.value) == ["reason"]


@story
async def test_a_coordinator_that_leaves_answers_and_forwards_until_its_server_stops() -> None:
    async with Host("one") as one, Host("two") as two:
        ours, theirs = names_of(0, 1) + names_of(1, 1)
        one.own(two, [1])
        for host, name in ((one, ours), (two, theirs)):
            host.store(name, PLAN, WorkflowStatus.SUCCEEDED)
        await one.services.leave()
        for name in (ours, theirs):
            answer = await one.workflows.Get(client_pb2.GetRequest(workflow_id=name))
            assert answer.workflow.workflow_id == name


@story
async def test_a_forwarded_call_for_a_shard_that_is_not_ours_is_refused_not_forwarded() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        for call in (
            one.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1"), metadata=forwarded_metadata),
            one.workflows.Submit(client_pb2.SubmitRequest(definition=ECHO), metadata=forwarded_metadata),
            one.workflows.GetResult(client_pb2.GetResultRequest(workflow_id="wf-1"), metadata=forwarded_metadata),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert (raised.value.code(), reason_in(raised.value)) == (grpc.StatusCode.UNAVAILABLE, "NOT_OWNER")
            assert retry_ms_in(raised.value) > 0
        watch = one.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"), metadata=forwarded_metadata)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await watch.read()
        assert reason_in(raised.value) == "NOT_OWNER"
        wait = one.workflows.WaitMany(client_pb2.WaitManyRequest(workflow_ids=["wf-1"]), metadata=forwarded_metadata)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await wait.read()
        assert reason_in(raised.value) == "NOT_OWNER"
        many = client_pb2.SubmitManyRequest(definitions=[ECHO], items=[client_pb2.SubmitManyItem(workflow_id="w")])
        answer = await one.workflows.SubmitMany(many, metadata=forwarded_metadata)
        assert [outcome.reason for outcome in answer.outcomes] == ["NOT_OWNER"]
        assert two.loop.events == []


@story
async def test_a_call_waits_for_an_owner_and_succeeds_when_there_is_one() -> None:
    async with Host("one") as one, Host("two") as two:
        one.loop.serving.clear()
        two.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED)
        call = asyncio.ensure_future(one.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1")))
        asyncio.get_running_loop().call_later(0.12, one.own, two)
        assert (await call).workflow.workflow_id == "wf-1"


@story
async def test_without_an_owner_a_call_ends_before_its_deadline_with_a_hint() -> None:
    async with Host("one") as one:
        one.loop.serving.clear()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await one.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1"), timeout=0.6)
        assert (raised.value.code(), reason_in(raised.value)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert retry_ms_in(raised.value) > 0
        assert "no owner" in (raised.value.details() or "")


@story
async def test_an_owner_that_moved_on_meanwhile_is_looked_for_again() -> None:
    async with Host("one") as one, Host("two") as two:
        # What `one` believes is stale: `two` says NOT_OWNER, then owns it.
        one.own(two)
        two.loop.serving.clear()
        two.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED)
        call = asyncio.ensure_future(one.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1")))
        asyncio.get_running_loop().call_later(0.12, two.loop.serving.update, dict.fromkeys(range(shards_total), 2))
        assert (await call).workflow.workflow_id == "wf-1"


@story
async def test_a_dead_owner_is_waited_out_until_another_takes_over() -> None:
    async with Host("one") as one, Host("two") as two:
        for shard in range(shards_total):
            one.directory.owners[shard] = ("c" * 32, "127.0.0.1:1")
        one.loop.serving.clear()
        two.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED)
        call = asyncio.ensure_future(one.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1")))
        asyncio.get_running_loop().call_later(0.3, one.own, two)
        assert (await call).workflow.workflow_id == "wf-1"


@story
async def test_submit_many_is_split_by_owner_and_put_together_again() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two, shards=[1, 3])
        names = [f"wf-{number}" for number in range(40)]
        other = to_payload(define({"id": "b", "executor": "echo"}))
        items = [
            client_pb2.SubmitManyItem(workflow_id=name, definition_index=index % 2) for index, name in enumerate(names)
        ]
        answer = await one.workflows.SubmitMany(client_pb2.SubmitManyRequest(definitions=[ECHO, other], items=items))
        assert [(outcome.workflow_id, outcome.created) for outcome in answer.outcomes] == [
            (name, True) for name in names
        ]
        for host, shards in ((one, (0, 2)), (two, (1, 3))):
            got = [event for event in host.loop.events if isinstance(event, Submit)]
            assert {event.shard for event in got} == set(shards)
            assert all(event.plan.nodes[0].id == "ab"[names.index(event.workflow_id) % 2] for event in got)


@story
async def test_items_of_submit_many_without_an_owner_are_answered_one_by_one() -> None:
    async with Host("one") as one:
        del one.loop.serving[2]
        here, nowhere = names_of(0, 1)[0], names_of(2, 1)[0]
        items = [client_pb2.SubmitManyItem(workflow_id=name) for name in (nowhere, here)]
        asked = client_pb2.SubmitManyRequest(definitions=[ECHO], items=items)
        answer = await one.workflows.SubmitMany(asked, timeout=0.7)
        assert [(outcome.reason, outcome.created) for outcome in answer.outcomes] == [
            ("UNAVAILABLE", False),
            ("", True),
        ]


@story
async def test_wait_many_follows_all_owners_and_a_shard_that_moves() -> None:
    async with Host("one") as one, Host("two", reader=FakeReader()) as two:
        one.own(two, shards=[1])
        moving, there, here = names_of(0, 1)[0], names_of(1, 1)[0], names_of(2, 1)[0]
        for host, name in ((one, moving), (two, there), (one, here)):
            host.run(name, PLAN)
        call = one.workflows.WaitMany(client_pb2.WaitManyRequest(workflow_ids=[moving, there, here]))
        await two.loop.wait_for(Read)
        await one.loop.wait_for(Read, 2)
        two.loop.tell(ended(there))
        first = await call.read()
        assert isinstance(first, client_pb2.WaitManyResponse)
        assert [result.workflow_id for result in first.results] == [there]
        two.run(moving, PLAN)
        one.directory.owners[0] = (two.directory.incarnation, two.address)
        one.loop.lose(0)
        await two.loop.wait_for(Read, 2)
        two.loop.tell(ended(moving))
        second = await call.read()
        assert isinstance(second, client_pb2.WaitManyResponse)
        assert [result.workflow_id for result in second.results] == [moving]
        one.loop.tell(ended(here))
        third = await call.read()
        assert isinstance(third, client_pb2.WaitManyResponse)
        assert [result.workflow_id for result in third.results] == [here]
        assert await call.read() is grpc.aio.EOF


@story
async def test_a_long_poll_follows_its_shard() -> None:
    async with Host("one") as one, Host("two") as two:
        name = names_of(0, 1)[0]
        one.run(name, PLAN)
        two.run(name, PLAN)
        call = asyncio.ensure_future(
            one.workflows.GetResult(client_pb2.GetResultRequest(workflow_id=name, wait_ms=limits.result_wait_ms_max))
        )
        await one.loop.wait_for(Read)
        one.directory.owners[0] = (two.directory.incarnation, two.address)
        one.loop.lose(0)
        await two.loop.wait_for(Read)
        two.loop.tell(ended(name))
        assert (await call).result.output.data == b'"done"'
