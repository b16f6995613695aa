"""Explain over the wire: the engine's reasons with what the streams know, or that all has ended."""

import grpc

from mainspring.v1 import client_pb2, worker_pb2, workflow_pb2
from mainspring_coordinator.engine.effects import (
    Answer,
    AnswerCode,
    Explanation,
    NodeReason,
    Verdict,
    WorkerReason,
)
from mainspring_coordinator.engine.events import Read
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.services.rig import Host, error_of, plan_of, story

A = {"id": "a", "executor": "echo"}


def scripted(host: Host, *workers: WorkerReason, nodes: tuple[NodeReason, ...] | None = None, left: int = 0) -> None:
    ready = NodeReason(0, -1, NodeStatus.READY, "all slots are taken")
    told = Explanation(WorkflowStatus.RUNNING, (ready,) if nodes is None else nodes, left, "affinity", workers)

    def answer(event: Read) -> Answer:
        return Answer(event.token, event.shard, event.workflow_id, AnswerCode.OK, told.status, explanation=told)

    host.loop.answers[Read] = answer


@story
async def test_workers_with_one_reason_come_together_and_those_that_come_closest_first() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A), WorkflowStatus.RUNNING)
        many = [WorkerReason(f"w{n:02}", f"{n:032x}", Verdict.EXECUTOR, "does not run it") for n in range(60)]
        full = WorkerReason("full", "f" * 32, Verdict.FULL, "gives 3 of its 3 slots")
        scripted(host, *many, full, left=7)
        told = await host.workflows.Explain(client_pb2.ExplainRequest(workflow_id="wf-1", node_id="a", instance=-1))
        (event,) = [event for event in host.loop.events if isinstance(event, Read)]
        assert event.about == ("a", -1)
        assert [(one.node_id, one.instance, one.reason) for one in told.nodes] == [("a", -1, "all slots are taken")]
        assert (told.strategy, told.nodes_left_out, told.status) == (
            "affinity",
            7,
            workflow_pb2.WORKFLOW_STATUS_RUNNING,
        )
        assert [(one.verdict, one.count, len(one.workers)) for one in told.workers] == [
            (client_pb2.WORKER_VERDICT_FULL, 1, 1),
            (client_pb2.WORKER_VERDICT_EXECUTOR, 60, 50),
        ]
        assert list(told.workers[0].workers) == ["full"]


@story
async def test_of_a_worker_that_has_been_silent_for_long_that_is_told() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A), WorkflowStatus.RUNNING)
        stream = host.fleet.Attach()
        hello = worker_pb2.Hello(name="w1", incarnation="c" * 32, executors=["x"], slots=1, workflows_max=1, protocol=1)
        await stream.write(worker_pb2.AttachRequest(seq=1, hello=hello))
        await stream.read()
        scripted(host, WorkerReason("w1", "c" * 32, Verdict.ABLE, "could take it"))
        request = client_pb2.ExplainRequest(workflow_id="wf-1", node_id="a", instance=-1)
        fresh = await host.workflows.Explain(request)
        assert fresh.workers[0].reason == "could take it"
        host.clock.us += 90_000_000
        old = await host.workflows.Explain(request)
        assert old.workers[0].reason == "could take it; its last message is 90 s old"
        stream.cancel()


@story
async def test_what_has_ended_is_said_to_have_ended() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A), WorkflowStatus.SUCCEEDED)
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED)
        whole = await host.workflows.Explain(client_pb2.ExplainRequest(workflow_id="wf-1", instance=-1))
        assert (whole.status, list(whole.nodes)) == (workflow_pb2.WORKFLOW_STATUS_SUCCEEDED, [])
        node = await host.workflows.Explain(client_pb2.ExplainRequest(workflow_id="wf-1", node_id="a", instance=-1))
        assert [one.reason for one in node.nodes] == ["it has ended: SUCCEEDED"]


@story
async def test_what_is_not_there_is_not_found_with_the_next_step() -> None:
    async with Host() as host:
        missing = await error_of(host.workflows.Explain(client_pb2.ExplainRequest(workflow_id="wf-0", instance=-1)))
        assert missing.code() is grpc.StatusCode.NOT_FOUND
        host.store("wf-1", plan_of(A), WorkflowStatus.RUNNING)
        scripted(host, nodes=())
        for request, said in (
            (client_pb2.ExplainRequest(workflow_id="wf-1", node_id="b", instance=-1), "has no node 'b'"),
            (client_pb2.ExplainRequest(workflow_id="wf-1", node_id="a", instance=4), "has no instance a[4]"),
        ):
            error = await error_of(host.workflows.Explain(request))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert said in str(error.details())
            assert "mainspring get wf-1" in str(error.details())
