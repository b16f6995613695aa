"""Operators act on nodes: where it is done, what a call that is made twice hears, and what cannot be done."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mainspring.errors import Failure, UnavailableError
from mainspring.failures import completed_by_operator, failure_to_json, skipped_by_operator
from mainspring.limits import payload_bytes_max
from mainspring.v1 import admin_pb2, workflow_pb2
from mainspring.wire import to_payload
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import ActOnNode, Audited
from mainspring_coordinator.engine.status import NodeAct, NodeStatus, WorkflowStatus
from tests.services.rig import Host, error_of, fields_in, plan_of, story

plan = plan_of({"id": "a", "executor": "x"}, {"id": "b", "executor": "x", "depends_on": ["a"]})
RETRY = admin_pb2.RetryNodeRequest(workflow_id="wf", node_id="a", instance=-1, attempt=2, reason="it hangs")
SKIP = admin_pb2.SkipNodeRequest(workflow_id="wf", node_id="a", instance=-1)
COMPLETE = admin_pb2.CompleteNodeRequest(workflow_id="wf", node_id="a", instance=-1, output=to_payload(b'{"n":1}'))


def answers(code: AnswerCode, *, created: bool = False, message: str = "") -> Callable[[Any], Answer]:
    return lambda event: Answer(event.token, event.shard, event.workflow_id, code, created=created, message=message)


def calls(host: Host) -> dict[NodeAct, Any]:
    return {
        NodeAct.RETRY: lambda: host.admin.RetryNode(RETRY),
        NodeAct.SKIP: lambda: host.admin.SkipNode(SKIP),
        NodeAct.COMPLETE: lambda: host.admin.CompleteNode(COMPLETE),
    }


@story
async def test_each_act_is_recorded_and_done_by_the_loop() -> None:
    async with Host() as host:
        host.loop.answers[ActOnNode] = answers(AnswerCode.OK, created=True)
        for act, call in calls(host).items():
            assert (await call()).changed
            event = host.loop.events[-1]
            assert isinstance(event, ActOnNode)
            assert (event.act, event.workflow_id, event.node_id, event.instance) == (act, "wf", "a", -1)
        retry, _, complete = host.loop.events
        assert isinstance(retry, ActOnNode)
        assert isinstance(complete, ActOnNode)
        assert (retry.attempt, retry.reason, complete.output) == (2, "it hangs", b'{"n":1}')
        told = [(one.entry.act, one.entry.subject, one.entry.outcome) for one in host.loop.audited]
        assert told[::2] == [(act, "wf/a", "") for act in ("RetryNode", "SkipNode", "CompleteNode")]
        assert {outcome for _, _, outcome in told[1::2]} == {"done"}


@story
async def test_what_is_so_already_changes_nothing() -> None:
    async with Host() as host:
        host.loop.answers[ActOnNode] = answers(AnswerCode.OK)
        for call in calls(host).values():
            assert not (await call()).changed


@story
async def test_it_is_done_where_the_shard_is_owned() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        two.loop.answers[ActOnNode] = answers(AnswerCode.OK, created=True)
        for call in calls(one).values():
            assert (await call()).changed
        assert [type(event) for event in two.loop.events] == [ActOnNode] * 3
        assert not one.loop.events


def ended(host: Host, status: NodeStatus, kind: str = "", **rest: Any) -> None:
    """Let the node have ended so, and its workflow too."""
    host.store("wf", plan, WorkflowStatus.SUCCEEDED)
    failure = failure_to_json(Failure(kind, "an operator did it")) if kind else None
    host.add_row("wf", 0, -1, status, failure=failure, **rest)
    host.loop.answers[ActOnNode] = answers(AnswerCode.NOT_FOUND)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("act", "status", "kind", "rest", "so"),
    [
        (NodeAct.COMPLETE, NodeStatus.SUCCEEDED, completed_by_operator, {"output": b'{"n":1}'}, True),
        (NodeAct.COMPLETE, NodeStatus.SUCCEEDED, completed_by_operator, {"output": b'{"n":2}'}, False),
        (NodeAct.COMPLETE, NodeStatus.SUCCEEDED, "", {"output": b'{"n":1}'}, False),
        (NodeAct.SKIP, NodeStatus.SKIPPED, skipped_by_operator, {}, True),
        (NodeAct.SKIP, NodeStatus.SKIPPED, "", {}, False),
        (NodeAct.RETRY, NodeStatus.SUCCEEDED, "", {"attempt": 3}, True),
        (NodeAct.RETRY, NodeStatus.SUCCEEDED, "", {"attempt": 2}, False),
        (NodeAct.RETRY, NodeStatus.SUCCEEDED, "", {"attempt": 0}, True),
    ],
)
def test_a_call_made_again_hears_that_it_is_so_though_the_node_has_ended(
    running: bool, act: NodeAct, status: NodeStatus, kind: str, rest: dict[str, Any], so: bool
) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            ended(host, status, kind, **rest)
            if running:
                host.run("wf", plan, statuses=bytes([status, NodeStatus.READY]))
                host.loop.answers[ActOnNode] = answers(AnswerCode.REFUSED, message="it has ended")
            if so:
                assert not (await calls(host)[act]()).changed
                return
            error = await error_of(calls(host)[act]())
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            said = "it has ended" if running else "mainspring rerun wf --from a"
            assert said in (error.details() or "")
            assert said in host.loop.audited[-1].entry.outcome

    told()


@story
async def test_what_is_not_there_is_not_found() -> None:
    async with Host() as host:
        host.loop.answers[ActOnNode] = answers(AnswerCode.NO_NODE, message="workflow 'wf' has no node 'a'")
        for call in calls(host).values():
            error = await error_of(call())
            assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "workflow 'wf' has no node 'a'")
        host.loop.answers[ActOnNode] = answers(AnswerCode.NOT_FOUND)
        for call in calls(host).values():
            error = await error_of(call())
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert "no workflow 'wf'" in (error.details() or "")
        ended(host, NodeStatus.SUCCEEDED)
        error = await error_of(
            host.admin.SkipNode(admin_pb2.SkipNodeRequest(workflow_id="wf", node_id="z", instance=-1))
        )
        assert "has no node 'z'" in (error.details() or "")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (admin_pb2.SkipNodeRequest(workflow_id="a b", node_id="a"), "workflow_id"),
        (admin_pb2.SkipNodeRequest(workflow_id="wf"), "node_id"),
        (admin_pb2.SkipNodeRequest(workflow_id="wf", node_id="x" * 129), "node_id"),
        (admin_pb2.SkipNodeRequest(workflow_id="wf", node_id="a", instance=-2), "instance"),
        (admin_pb2.SkipNodeRequest(workflow_id="wf", node_id="a", reason="x" * 1_025), "reason"),
    ],
)
def test_what_can_name_no_node_is_refused(request_: admin_pb2.SkipNodeRequest, field: str) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            assert fields_in(await error_of(host.admin.SkipNode(request_))) == [field]
            assert not host.loop.events

    told()


@pytest.mark.parametrize(
    "output",
    [
        to_payload(b"{"),
        to_payload(b'"' + b"x" * payload_bytes_max + b'"'),
        workflow_pb2.Payload(encoding="pickle", data=b"1"),
    ],
)
def test_an_output_is_json_and_bounded(output: workflow_pb2.Payload) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            request = admin_pb2.CompleteNodeRequest(workflow_id="wf", node_id="a", instance=-1, output=output)
            assert fields_in(await error_of(host.admin.CompleteNode(request))) == ["output"]
            assert not host.loop.events

    told()


@story
async def test_what_cannot_be_recorded_is_not_done() -> None:
    async with Host() as host:
        host.loop.answers[Audited] = lambda event: UnavailableError("the term is over")
        for call in calls(host).values():
            assert (await error_of(call())).code() is grpc.StatusCode.UNAVAILABLE
        assert not host.loop.events
