"""Workflows are run again: under which id, what is copied in which parts, and what cannot be run again."""

import zlib
from typing import Any

import grpc
import pytest

from mainspring import limits
from mainspring.errors import Failure, UnavailableError
from mainspring.failures import completed_by_operator, failure_to_json, skipped_by_operator
from mainspring.ids import is_workflow_id
from mainspring.v1 import admin_pb2, client_pb2, workflow_pb2
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import CopyNodes, Rerun
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.reruns import rerun_id
from tests.services.rig import Host, error_of, fields_in, plan_of, reason_in, shards_total, story

ALL = admin_pb2.RerunWorkflowRequest(workflow_id="wf", request_id="r1")
FAILED = admin_pb2.RerunWorkflowRequest(workflow_id="wf", request_id="r1", from_failed=True)
diamond = plan_of(
    {"id": "a", "executor": "x"},
    {"id": "b", "executor": "x", "depends_on": ["a"]},
    {"id": "c", "executor": "x", "depends_on": ["a"]},
    {"id": "d", "executor": "x", "depends_on": ["b", "c"]},
)


def from_nodes(*ids: str) -> admin_pb2.RerunWorkflowRequest:
    return admin_pb2.RerunWorkflowRequest(workflow_id="wf", request_id="r1", node_ids=ids)


def served(host: Host) -> Host:
    """Let the loop store what it is given: copies and new workflows are there from then on."""

    def copy(event: CopyNodes) -> Answer:
        for (node, instance), row in list(host.reader.node_rows.get(event.source, {}).items()):
            if node in event.nodes and event.after < (node, instance) <= event.until:
                host.reader.node_rows.setdefault(event.workflow_id, {})[node, instance] = row
        return Answer(event.token, event.shard, event.workflow_id, AnswerCode.OK)

    def begin(event: Rerun) -> Answer:
        host.store(event.workflow_id, event.plan, WorkflowStatus.RUNNING, rerun_of=event.source)
        return Answer(event.token, event.shard, event.workflow_id, AnswerCode.OK, created=True)

    host.loop.answers |= {CopyNodes: copy, Rerun: begin}
    return host


def failed(host: Host, statuses: dict[int, NodeStatus], **rest: Any) -> None:
    """Let a workflow of a diamond have failed, with such nodes."""
    host.store("wf", diamond, WorkflowStatus.FAILED)
    for node, status in statuses.items():
        host.add_row("wf", node, -1, status, **rest)


def copied(host: Host) -> list[tuple[int, ...]]:
    return [event.nodes for event in host.loop.events if isinstance(event, CopyNodes)]


@story
async def test_all_of_a_workflow_is_run_again_with_nothing_copied() -> None:
    async with Host() as host:
        failed(served(host), {0: NodeStatus.SUCCEEDED})
        made = await host.admin.RerunWorkflow(ALL)
        assert (made.created, made.nodes_kept, made.nodes_anew) == (True, 0, 4)
        (event,) = host.loop.events
        assert isinstance(event, Rerun)
        assert (event.source, event.workflow_id, event.plan, event.input) == (
            "wf",
            made.workflow_id,
            diamond,
            b'{"n":1}',
        )
        assert (event.digest, event.strategy) == (b"d" * 32, "round-robin")
        told = [(one.entry.act, one.entry.subject, one.entry.outcome) for one in host.loop.audited]
        assert told == [("RerunWorkflow", "wf, all of it", ""), ("RerunWorkflow", "wf, all of it", "done")]


@pytest.mark.parametrize(
    ("request_", "statuses", "kept"),
    [
        (FAILED, {0: NodeStatus.SUCCEEDED, 1: NodeStatus.FAILED, 2: NodeStatus.SUCCEEDED}, [0, 2]),
        (FAILED, {0: NodeStatus.SUCCEEDED, 1: NodeStatus.CANCELLED, 2: NodeStatus.CANCELLED}, [0]),
        (FAILED, {0: NodeStatus.FAILED, 1: NodeStatus.SUCCEEDED, 2: NodeStatus.SUCCEEDED}, []),
        (FAILED, dict.fromkeys(range(4), NodeStatus.SUCCEEDED), [0, 1, 2, 3]),
        (from_nodes("b"), dict.fromkeys(range(4), NodeStatus.SUCCEEDED), [0, 2]),
        (from_nodes("b", "d"), {0: NodeStatus.SUCCEEDED, 1: NodeStatus.SUCCEEDED, 2: NodeStatus.FAILED}, [0]),
    ],
)
def test_what_is_not_run_again_is_copied(
    request_: admin_pb2.RerunWorkflowRequest, statuses: dict[int, NodeStatus], kept: list[int]
) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            failed(served(host), statuses)
            made = await host.admin.RerunWorkflow(request_)
            assert (made.nodes_kept, made.nodes_anew) == (len(kept), 4 - len(kept))
            assert copied(host) == ([tuple(kept)] if kept else [])
            assert type(host.loop.events[-1]) is Rerun

    told()


@story
async def test_what_an_operator_skipped_is_kept_and_what_the_end_skipped_is_run() -> None:
    for failure, kept in ((failure_to_json(Failure(skipped_by_operator, "why")), 2), (None, 1)):
        async with Host() as host:
            failed(served(host), {0: NodeStatus.SUCCEEDED})
            host.add_row("wf", 1, -1, NodeStatus.SKIPPED, failure=failure)
            assert (await host.admin.RerunWorkflow(FAILED)).nodes_kept == kept


@story
async def test_a_map_is_copied_with_its_instances_in_parts_of_bounded_size() -> None:
    plan = plan_of({"id": "m", "executor": "x", "map": {"over": "${input}"}}, {"id": "z", "executor": "x"})
    width = 1_234
    async with Host() as host:
        served(host).store("wf", plan, WorkflowStatus.FAILED)
        host.add_row("wf", 0, -1, NodeStatus.SUCCEEDED, width=width)
        for instance in range(width):
            host.add_row("wf", 0, instance, NodeStatus.SUCCEEDED, output=b"1")
        host.add_row("wf", 1, -1, NodeStatus.FAILED)
        made = await host.admin.RerunWorkflow(FAILED)
        parts = [event for event in host.loop.events if isinstance(event, CopyNodes)]
        assert [part.nodes for part in parts] == [(0,)] * 3, "a page of rows is cut in two"
        assert [part.after for part in parts[1:]] == [part.until for part in parts[:-1]]
        assert len(host.reader.node_rows[made.workflow_id]) == width + 1
        assert max(part.until[1] - part.after[1] for part in parts[1:]) <= limits.rerun_rows_a_part_max


@story
async def test_large_outputs_make_small_parts() -> None:
    async with Host() as host:
        large = b"x" * (limits.rerun_bytes_a_part_max // 2)
        failed(served(host), dict.fromkeys(range(3), NodeStatus.SUCCEEDED), output=large)
        await host.admin.RerunWorkflow(FAILED)
        assert copied(host) == [(0, 1), (2,)]


@story
async def test_a_call_made_again_finds_the_same_workflow_and_passes_over_what_was_copied() -> None:
    async with Host() as host:
        failed(served(host), dict.fromkeys(range(2), NodeStatus.SUCCEEDED))
        begin = host.loop.answers[Rerun]
        host.loop.answers[Rerun] = lambda event: UnavailableError("the coordinator is gone")
        await error_of(host.admin.RerunWorkflow(FAILED))
        assert copied(host) == [(0, 1)]
        host.loop.answers[Rerun] = begin
        made = await host.admin.RerunWorkflow(FAILED)
        assert copied(host) == [(0, 1)]
        assert made.created
        again = await host.admin.RerunWorkflow(FAILED)
        assert (again.workflow_id, again.created, again.nodes_kept) == (made.workflow_id, False, 2)
        other = await host.admin.RerunWorkflow(from_nodes("b"))
        assert other.workflow_id != made.workflow_id, "what is to be copied is part of its name"


@story
async def test_it_is_done_where_the_old_workflow_is_owned() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        failed(served(two), {0: NodeStatus.SUCCEEDED})
        made = await one.admin.RerunWorkflow(admin_pb2.RerunWorkflowRequest(workflow_id="wf"))
        assert made.workflow_id in two.reader.workflows
        assert not one.loop.events


def test_the_id_follows_from_the_call_and_falls_into_the_shard() -> None:
    for name in ("order-17", "w" * 200, "order-17+0123456789"):
        request = admin_pb2.RerunWorkflowRequest(workflow_id=name, request_id="r")
        made = rerun_id(request, 1_024, submitted_at_us=7, is_rerun=True)
        assert made == rerun_id(request, 1_024, submitted_at_us=7, is_rerun=True)
        assert made != rerun_id(request, 1_024, submitted_at_us=8, is_rerun=True), "another workflow, by the same id"
        assert zlib.crc32(made.encode()) % 1_024 == zlib.crc32(name.encode()) % 1_024
        assert is_workflow_id(made)
    assert made.startswith("order-17+")
    assert made.count("+") == 1
    assert rerun_id(request, shards_total, submitted_at_us=7, is_rerun=False).startswith("order-17+0123456789+")


# -- what cannot be run again ------------------------------------------------------------------------------------------------


@story
async def test_only_what_has_ended_is_run_again() -> None:
    async with Host() as host:
        served(host).store("wf", diamond, WorkflowStatus.RUNNING)
        error = await error_of(host.admin.RerunWorkflow(FAILED))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "mainspring cancel wf" in (error.details() or "")
        assert not host.loop.events


@story
async def test_a_workflow_that_is_not_there_any_more_is_not_found() -> None:
    async with Host() as host:
        error = await error_of(served(host).admin.RerunWorkflow(FAILED))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "RETENTION_DAYS" in (error.details() or "")


@pytest.mark.parametrize("id_is_used_again", [False, True])
def test_one_that_is_removed_while_it_is_copied_is_not_made(id_is_used_again: bool) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            failed(served(host), {0: NodeStatus.SUCCEEDED})

            def removed(event: object) -> None:
                if isinstance(event, CopyNodes):
                    del host.reader.workflows["wf"]
                    if id_is_used_again:
                        host.store("wf", diamond, WorkflowStatus.RUNNING, submitted_at_us=2_000)

            host.loop.on_ask = removed
            error = await error_of(host.admin.RerunWorkflow(FAILED))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert not [event for event in host.loop.events if isinstance(event, Rerun)]

    told()


@story
async def test_there_is_nothing_to_run_again_of_what_succeeded_as_a_whole() -> None:
    async with Host() as host:
        served(host).store("wf", diamond, WorkflowStatus.SUCCEEDED)
        for node in range(4):
            host.add_row("wf", node, -1, NodeStatus.SUCCEEDED)
        error = await error_of(host.admin.RerunWorkflow(FAILED))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "--from" in (error.details() or "")
        assert (await host.admin.RerunWorkflow(from_nodes("d"))).nodes_kept == 3


@story
async def test_nodes_that_there_are_not_are_not_found() -> None:
    async with Host() as host:
        failed(served(host), {})
        error = await error_of(host.admin.RerunWorkflow(from_nodes("a", "z")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "'z'" in (error.details() or "")


@story
async def test_an_id_that_another_workflow_has_is_not_taken() -> None:
    async with Host() as host:
        failed(served(host), {})
        taken = rerun_id(FAILED, shards_total, submitted_at_us=1_000, is_rerun=False)
        host.store(taken, diamond, WorkflowStatus.RUNNING)
        error = await error_of(host.admin.RerunWorkflow(FAILED))
        assert (error.code(), reason_in(error)) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (admin_pb2.RerunWorkflowRequest(workflow_id="a b"), "workflow_id"),
        (admin_pb2.RerunWorkflowRequest(workflow_id="wf", from_failed=True, node_ids=["a"]), "node_ids"),
        (admin_pb2.RerunWorkflowRequest(workflow_id="wf", node_ids=["a"] * 1_001), "node_ids"),
        (admin_pb2.RerunWorkflowRequest(workflow_id="wf", node_ids=["a", "x" * 129]), "node_ids[1]"),
        (admin_pb2.RerunWorkflowRequest(workflow_id="wf", request_id="x" * 65), "request_id"),
        (admin_pb2.RerunWorkflowRequest(workflow_id="wf", reason="x" * 1_025), "reason"),
    ],
)
def test_what_is_not_clear_is_refused(request_: admin_pb2.RerunWorkflowRequest, field: str) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            assert fields_in(await error_of(host.admin.RerunWorkflow(request_))) == [field]

    told()


# -- what is read of it --------------------------------------------------------------------------------------------------------


@story
async def test_what_was_taken_over_is_read_as_it_was_and_history_says_from_where() -> None:
    async with Host() as host:
        host.store("new", diamond, WorkflowStatus.RUNNING, rerun_of="wf", submitted_at_us=5_000)
        host.add_row("new", 0, -1, NodeStatus.SUCCEEDED, version=1)
        host.add_row("new", 1, -1, NodeStatus.RUNNING, started_at_us=6_000)
        statuses = bytes([NodeStatus.SUCCEEDED, NodeStatus.RUNNING, NodeStatus.READY, NodeStatus.WAITING])
        host.run("new", diamond, statuses=statuses)
        got = (await host.workflows.Get(client_pb2.GetRequest(workflow_id="new"))).workflow
        assert got.rerun_of == "wf"
        assert {count.status: count.count for count in got.node_counts}[workflow_pb2.NODE_STATUS_SUCCEEDED] == 1
        listed = (await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id="new"))).nodes
        assert [(node.status, node.ended_at_us) for node in listed][:2] == [
            (workflow_pb2.NODE_STATUS_SUCCEEDED, 3_000),
            (workflow_pb2.NODE_STATUS_RUNNING, 0),
        ]
        told = (await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id="new"))).events
        assert [(event.at_us, event.type, event.note) for event in told] == [
            (5_000, client_pb2.HISTORY_EVENT_TYPE_WORKFLOW_SUBMITTED, ""),
            (5_000, client_pb2.HISTORY_EVENT_TYPE_NODE_SUCCEEDED, "taken over from wf, where it ran on w1"),
            (6_000, client_pb2.HISTORY_EVENT_TYPE_ATTEMPT_STARTED, ""),
        ]
        assert (await host.workflows.List(client_pb2.ListRequest())).workflows[0].rerun_of == "wf"


@story
async def test_history_and_nodes_say_what_an_operator_did() -> None:
    async with Host() as host:
        host.store("wf", diamond, WorkflowStatus.SUCCEEDED)
        for node, (status, kind) in enumerate(
            [
                (NodeStatus.SUCCEEDED, completed_by_operator),
                (NodeStatus.SKIPPED, skipped_by_operator),
                (NodeStatus.SKIPPED, ""),
            ]
        ):
            failure = failure_to_json(Failure(kind, "an operator did it: why")) if kind else None
            host.add_row("wf", node, -1, status, failure=failure, attempt=0, started_at_us=0, worker="")
        told = (await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id="wf"))).events
        assert [(event.type, event.node_id, event.note) for event in told if event.node_id] == [
            (client_pb2.HISTORY_EVENT_TYPE_NODE_SUCCEEDED, "a", "an operator did it: why"),
            (client_pb2.HISTORY_EVENT_TYPE_NODE_SKIPPED, "b", "an operator did it: why"),
        ]
        assert not any(event.HasField("failure") for event in told)
        nodes = (await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id="wf"))).nodes
        assert [node.failure.type for node in nodes] == ["", skipped_by_operator, "", ""]
