"""Watch: a snapshot, changes, the end; never a lower version."""

from typing import Any

import grpc
import grpc.aio
import pytest

from mainspring import limits
from mainspring.ids import shard_of
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring_coordinator.engine.effects import Changed
from mainspring_coordinator.engine.events import Read
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.services.rig import Host, ended, plan_of, running, shards_total, story

A = {"id": "a", "executor": "echo"}
B = {"id": "b", "executor": "echo", "depends_on": ["a"]}
PLAN = plan_of(A, B)
READY, RUNNING, SUCCEEDED = (bytes([status]) for status in (NodeStatus.READY, NodeStatus.RUNNING, NodeStatus.SUCCEEDED))
SHARD = shard_of("wf-1", shards_total)


def step(host: Host, plan: Plan, version: int, statuses: bytes, *nodes: tuple[int, int], **rest: Any) -> None:
    """Commit a change of the workflow."""
    host.run("wf-1", plan, version, statuses=statuses, **rest)
    host.loop.tell(Changed(SHARD, "wf-1", version, WorkflowStatus.RUNNING, list(nodes)))


def end(host: Host, plan: Plan, version: int, status: WorkflowStatus = WorkflowStatus.SUCCEEDED) -> None:
    """Commit the end of the workflow."""
    del host.loop.views["wf-1"]
    host.store("wf-1", plan, status, version=version)
    host.loop.tell(Changed(SHARD, "wf-1", version, status, []))
    host.loop.tell(ended("wf-1", status=status))


async def read(call: Any) -> client_pb2.WatchResponse:
    """Return the next message."""
    message = await call.read()
    assert isinstance(message, client_pb2.WatchResponse), message
    return message


@story
async def test_a_watch_is_a_snapshot_then_changes_until_the_end() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN, 1, statuses=READY + bytes([NodeStatus.WAITING]))
        call = host.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))
        first = await read(call)
        assert (first.snapshot, first.more, first.workflow.version) == (True, False, 1)
        assert [node.node_id for node in first.nodes] == ["a", "b"]
        host.add_row("wf-1", 0, -1, NodeStatus.RUNNING)
        step(host, PLAN, 2, RUNNING + bytes([NodeStatus.WAITING]), (0, -1), active={(0, -1): running(0)})
        change = await read(call)
        assert (change.snapshot, change.workflow.version) == (False, 2)
        assert [(node.node_id, node.status, node.worker) for node in change.nodes] == [("a", 4, "w1")]
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED)
        host.add_row("wf-1", 1, -1, NodeStatus.SUCCEEDED)
        host.loop.tell(Changed(SHARD, "wf-1", 3, WorkflowStatus.RUNNING, [(0, -1), (1, -1)]))
        end(host, PLAN, 4)
        last = await read(call)
        assert (last.workflow.status, last.workflow.version) == (workflow_pb2.WORKFLOW_STATUS_SUCCEEDED, 4)
        assert [(node.node_id, node.status) for node in last.nodes] == [("a", 6), ("b", 6)]
        assert await call.read() is grpc.aio.EOF
        assert not any(host.loop.subscribers.values())
        assert host.loop.lost_subscribers == []


@story
async def test_the_end_of_a_workflow_that_failed_is_a_snapshot_with_what_was_skipped() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN, 1)
        call = host.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))
        await read(call)
        host.add_row("wf-1", 0, -1, NodeStatus.FAILED)
        end(host, PLAN, 2, WorkflowStatus.FAILED)
        last = await read(call)
        assert last.snapshot
        assert [(node.node_id, node.status) for node in last.nodes] == [("a", 7), ("b", 8)]
        assert await call.read() is grpc.aio.EOF


@story
async def test_nothing_is_sent_until_the_version_is_higher_and_then_a_snapshot() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN, 5)
        call = host.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1", after_version=5))
        await host.loop.wait_for(Read)
        step(host, PLAN, 6, RUNNING + READY, (0, -1))
        message = await read(call)
        assert (message.snapshot, message.workflow.version) == (True, 6)


@story
async def test_watching_what_has_ended_is_a_snapshot_and_the_end() -> None:
    async with Host() as host:
        host.store("wf-1", PLAN, WorkflowStatus.SUCCEEDED, version=7)
        for after, count in ((0, 1), (7, 0)):
            asked = client_pb2.WatchRequest(workflow_id="wf-1", after_version=after)
            assert len([message async for message in host.workflows.Watch(asked)]) == count


@story
async def test_a_large_snapshot_comes_in_parts() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(*({"id": f"n{n}", "executor": "e"} for n in range(2_500))), WorkflowStatus.SUCCEEDED)
        messages = [message async for message in host.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))]
        assert [(len(message.nodes), message.snapshot, message.more) for message in messages] == [
            (1_000, True, True),
            (1_000, True, True),
            (500, True, False),
        ]


@story
async def test_more_changes_than_the_bound_become_a_snapshot() -> None:
    async with Host() as host:
        count = limits.watch_nodes_a_change_max + 1
        plan = plan_of(*({"id": f"n{n}", "executor": "e"} for n in range(count)))
        host.run("wf-1", plan, 1)
        call = host.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))
        first = await read(call)
        assert not first.more
        step(host, plan, 2, RUNNING * count, *((node, -1) for node in range(count)))
        message = await read(call)
        assert (message.snapshot, len(message.nodes)) == (True, count)


@story
async def test_changes_that_come_while_a_message_is_made_are_told_together() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN, 1)
        call = host.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))
        await read(call)
        for version in range(2, 40):
            step(host, PLAN, version, RUNNING * 2, (version % 2, -1))
        message = await read(call)
        assert (message.workflow.version, len(message.nodes)) == (39, 2)


@story
async def test_a_watch_follows_its_shard_and_never_goes_back() -> None:
    async with Host("one") as one, Host("two") as two:
        one.run("wf-1", PLAN, 5)
        call = one.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))
        assert (await read(call)).workflow.version == 5
        # The new owner is first seen behind what was shown, as a stale answer would be, then ahead of it.
        two.run("wf-1", PLAN, 4)
        one.own(two, shards=[])
        one.directory.owners[SHARD] = (two.directory.incarnation, two.address)
        one.loop.lose(SHARD)
        await two.loop.wait_for(Read)
        step(two, PLAN, 6, RUNNING + READY, (0, -1))
        message = await read(call)
        assert (message.snapshot, message.workflow.version) == (True, 6)
        two.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED)
        two.add_row("wf-1", 1, -1, NodeStatus.SUCCEEDED)
        two.loop.tell(Changed(SHARD, "wf-1", 7, WorkflowStatus.RUNNING, [(0, -1), (1, -1)]))
        end(two, PLAN, 8)
        assert (await read(call)).workflow.version == 8
        assert await call.read() is grpc.aio.EOF


@story
async def test_a_watch_of_no_workflow_is_not_found() -> None:
    async with Host() as host:
        call = host.workflows.Watch(client_pb2.WatchRequest(workflow_id="nobody"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert host.loop.lost_subscribers == []


@story
async def test_a_watcher_who_leaves_leaves_nothing_behind() -> None:
    async with Host() as host:
        host.run("wf-1", PLAN, 5)
        call = host.workflows.Watch(client_pb2.WatchRequest(workflow_id="wf-1"))
        await read(call)
        call.cancel()
        await host.loop.wait_until_quiet()
