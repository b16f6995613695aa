"""Reading workflows: from memory, from the database, by page."""

from typing import Any, NoReturn

import grpc
import grpc.aio
import orjson
import pytest

from mainspring import limits
from mainspring.errors import Failure, UnavailableError
from mainspring.failures import failure_to_json
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring_coordinator.engine.effects import Answer, AnswerCode, MapView
from mainspring_coordinator.engine.events import Cancel
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.store.protocol import StoredAttempt
from mainspring_coordinator.workflow_reads import to_token
from tests.services.rig import (
    Host,
    define,
    error_of,
    fields_in,
    plan_of,
    reason_in,
    retry_ms_in,
    running,
    status_in,
    story,
)

A = {"id": "a", "executor": "echo"}
B = {"id": "b", "executor": "echo", "input": {"from": "${a.x}", "n": "${input.n}"}}
ECHO = define(A)
EACH = {"id": "each", "executor": "echo", "map": {"over": "${a.list}"}, "input": {"it": "${item}", "at": "${index}"}}


@story
async def test_a_running_workflow_is_read_from_memory_with_its_counts() -> None:
    async with Host() as host:
        plan = plan_of(A, EACH)
        maps = {1: MapView(3, 1, bytes([NodeStatus.SUCCEEDED, NodeStatus.RUNNING, NodeStatus.WAITING]))}
        host.run("wf-1", plan, version=9, statuses=bytes([NodeStatus.SUCCEEDED, NodeStatus.RUNNING]), maps=maps)
        answer = await host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1"))
        workflow = answer.workflow
        assert (workflow.version, workflow.status, workflow.nodes_total) == (9, workflow_pb2.WORKFLOW_STATUS_RUNNING, 2)
        assert workflow.definition_hash == plan.hash.hex()
        counts = {count.status: count.count for count in workflow.node_counts}
        assert counts == {
            workflow_pb2.NODE_STATUS_WAITING: 1,
            workflow_pb2.NODE_STATUS_RUNNING: 2,
            workflow_pb2.NODE_STATUS_SUCCEEDED: 2,
        }


@story
async def test_a_row_that_is_ahead_of_what_is_shown_tells_nothing_of_an_end_that_is_not() -> None:
    async with Host() as host:
        failure = failure_to_json(Failure("E", "broken"))
        host.run("wf-1", plan_of(A), version=2, statuses=bytes([NodeStatus.RUNNING]))
        host.add_row("wf-1", 0, -1, NodeStatus.BACKOFF, failure=failure, run_us=9, version=3)
        (node,) = (await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id="wf-1"))).nodes
        assert node.status == workflow_pb2.NODE_STATUS_RUNNING
        assert (node.run_us, node.HasField("failure")) == (0, False)
        host.run("wf-1", plan_of(A), version=3, statuses=bytes([NodeStatus.BACKOFF]))
        (node,) = (await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id="wf-1"))).nodes
        assert (node.run_us, node.failure.message) == (9, "broken")


@story
async def test_an_ended_workflow_is_read_from_the_database_and_counts_what_was_skipped() -> None:
    async with Host() as host:
        failure = failure_to_json(Failure("E", "broken", node_id="a"))
        host.store("wf-1", plan_of(A, B), WorkflowStatus.FAILED, failure=failure)
        host.add_row("wf-1", 0, -1, NodeStatus.FAILED, failure=failure)
        await host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1"))
        workflow = (await host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1"))).workflow
        assert (workflow.status, workflow.failure.message, workflow.ended_at_us) == (5, "broken", 9_000)
        assert {count.status: count.count for count in workflow.node_counts} == {7: 1, 8: 1}
        assert host.reader.calls.count("node_page") == 1, "what has ended is counted once"
        assert host.loop.proofs == [], "what has ended needs no proof"


@story
async def test_a_plan_that_is_not_in_memory_is_read_from_the_database() -> None:
    async with Host() as host:
        plan = plan_of(A)
        host.store("wf-1", plan, WorkflowStatus.SUCCEEDED)
        host.reader.plans[plan.hash] = plan.definition
        host.plans._kept.clear()
        answer = await host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1"))
        assert answer.workflow.nodes_total == 1


@story
async def test_not_found_is_said_only_after_a_proof_and_a_second_look() -> None:
    async with Host() as host:
        error = await error_of(host.workflows.Get(client_pb2.GetRequest(workflow_id="nobody")))
        assert (error.code(), reason_in(error)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert len(host.loop.proofs) == 1

        def appear() -> None:
            host.store("late", plan_of(A), WorkflowStatus.SUCCEEDED)

        host.loop.on_prove = appear
        answer = await host.workflows.Get(client_pb2.GetRequest(workflow_id="late"))
        assert answer.workflow.status == workflow_pb2.WORKFLOW_STATUS_SUCCEEDED


@story
async def test_a_read_that_cannot_be_proven_current_is_unavailable_with_a_hint_when_to_try_again() -> None:
    def unproven(*_: object) -> NoReturn:
        raise UnavailableError("this coordinator gave up its term; the outcome is unknown, try again")

    async with Host() as host:
        host.store("wf-1", plan_of(A), WorkflowStatus.SUCCEEDED)
        host.loop.on_prove = unproven
        absent = await error_of(host.workflows.Get(client_pb2.GetRequest(workflow_id="nobody")))
        host.loop.on_ask = unproven
        present = await error_of(host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1")))
        for error in (absent, present):
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_ms_in(error) > 0


@story
async def test_a_workflow_that_is_neither_in_memory_nor_ended_is_unavailable_for_now() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A), WorkflowStatus.RUNNING)
        error = await error_of(host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1")))
        assert (error.code(), reason_in(error)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


@story
async def test_nodes_are_listed_in_order_with_begun_instances_behind_their_node() -> None:
    async with Host() as host:
        plan = plan_of(A, EACH, {"id": "c", "executor": "x", "depends_on": ["each"]})
        statuses = bytes([NodeStatus.SUCCEEDED, NodeStatus.RUNNING, NodeStatus.WAITING])
        maps = {
            1: MapView(4, 1, bytes([NodeStatus.SUCCEEDED, NodeStatus.RUNNING, NodeStatus.WAITING, NodeStatus.BACKOFF]))
        }
        active = {(1, 1): running(1, 1), (1, 3): running(1, 3, status=NodeStatus.BACKOFF, attempt=2, retry_at_us=77)}
        host.run("wf-1", plan, statuses=statuses, maps=maps, active=active, reasons={1: "its turn has not come yet"})
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED)
        host.add_row("wf-1", 1, -1, NodeStatus.RUNNING, attempt=0, width=4)
        host.add_row("wf-1", 1, 0, NodeStatus.SUCCEEDED)
        host.add_row("wf-1", 1, 1, NodeStatus.RUNNING)
        host.add_row("wf-1", 1, 3, NodeStatus.BACKOFF, attempt=2, failure=failure_to_json(Failure("E", "again")))
        wanted = [("a", -1), ("each", -1), ("each", 0), ("each", 1), ("each", 3), ("c", -1)]
        for size in (1, 2, 3, 6, 0):
            got: list[client_pb2.Node] = []
            token = ""
            while True:
                page = await host.workflows.ListNodes(
                    client_pb2.ListNodesRequest(workflow_id="wf-1", page_size=size, page_token=token)
                )
                got += page.nodes
                token = page.next_page_token
                if not token:
                    break
            assert [(node.node_id, node.instance) for node in got] == wanted
        each, third, last = got[1], got[4], got[5]
        assert (each.width, each.instances_ended, list(each.depends_on)) == (4, 1, ["a"])
        assert each.waiting_reason == "its turn has not come yet"
        assert (third.retry_at_us, third.failure.message, third.status) == (
            77,
            "again",
            workflow_pb2.NODE_STATUS_BACKOFF,
        )
        assert last.waiting_reason == "waits for each"


@story
async def test_a_map_that_was_stopped_tells_how_many_of_its_instances_had_ended() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A, EACH), WorkflowStatus.FAILED)
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED)
        host.add_row("wf-1", 1, -1, NodeStatus.CANCELLED, attempt=0, width=4)
        for instance, status in enumerate((NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.BACKOFF)):
            host.add_row("wf-1", 1, instance, status)
        page = await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id="wf-1"))
        assert [node.instances_ended for node in page.nodes] == [0, 2, 0, 0, 0]
        got = await host.workflows.GetNode(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="each", instance=-1))
        assert (got.node.instances_ended, got.node.width) == (2, 4)


@story
async def test_nodes_are_filtered_by_state_wherever_it_is_known() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A, B), WorkflowStatus.CANCELLED)
        host.add_row("wf-1", 0, -1, NodeStatus.BACKOFF)
        for status, names in ((8, ["a", "b"]), (6, []), (4, [])):
            page = await host.workflows.ListNodes(
                client_pb2.ListNodesRequest(workflow_id="wf-1", statuses=[status])  # type: ignore[list-item]  # plain numbers
            )
            assert [node.node_id for node in page.nodes] == names


_bad_pages: list[tuple[str, str, Any]] = [
    ("page_size", "ListNodes", client_pb2.ListNodesRequest(workflow_id="w", page_size=1_001)),
    ("page_token", "ListNodes", client_pb2.ListNodesRequest(workflow_id="w", page_token="!")),
    ("page_token", "ListNodes", client_pb2.ListNodesRequest(workflow_id="w", page_token="eyJhIjoxfQ==")),
    ("page_token", "ListNodes", client_pb2.ListNodesRequest(workflow_id="w", page_token="x" * 600)),
    ("statuses[0]", "ListNodes", client_pb2.ListNodesRequest(workflow_id="w", statuses=[10])),  # type: ignore[list-item]  # out of bounds
    ("statuses", "ListNodes", client_pb2.ListNodesRequest(workflow_id="w", statuses=[1] * 17)),  # type: ignore[list-item]  # plain numbers
    ("workflow_id", "ListNodes", client_pb2.ListNodesRequest()),
    ("page_token", "GetHistory", client_pb2.GetHistoryRequest(workflow_id="w", page_token="Wy0xXQ==")),
    ("page_size", "GetHistory", client_pb2.GetHistoryRequest(workflow_id="w", page_size=1_001)),
    ("statuses[0]", "List", client_pb2.ListRequest(statuses=[7])),  # type: ignore[list-item]  # out of bounds
    ("name", "List", client_pb2.ListRequest(name="x" * 129)),
    ("id_prefix", "List", client_pb2.ListRequest(id_prefix="x" * 201)),
    ("submitted_from_us", "List", client_pb2.ListRequest(submitted_from_us=-1)),
    ("page_token", "List", client_pb2.ListRequest(page_token="WzFd")),
    ("page_token", "List", client_pb2.ListRequest(page_token=to_token(1, "é"))),
    ("page_token", "List", client_pb2.ListRequest(page_token=to_token(2**63, "w"))),
    ("id_prefix", "List", client_pb2.ListRequest(id_prefix="é")),
    ("reason", "Cancel", client_pb2.CancelRequest(workflow_id="w", reason="x" * 1_025)),
    ("request_id", "Cancel", client_pb2.CancelRequest(workflow_id="w", request_id="x" * 65)),
    ("workflow_id", "Cancel", client_pb2.CancelRequest(workflow_id="/")),
    ("workflow_id", "Get", client_pb2.GetRequest()),
    ("workflow_id", "GetNode", client_pb2.GetNodeRequest()),
    ("wait_ms", "GetResult", client_pb2.GetResultRequest(workflow_id="w", wait_ms=60_001)),
]


@pytest.mark.parametrize(
    ("field", "method", "asked"), _bad_pages, ids=[f"{m}-{f}-{i}" for i, (f, m, _) in enumerate(_bad_pages)]
)
def test_a_read_out_of_its_bounds_is_refused_with_its_field(field: str, method: str, asked: Any) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            error = await error_of(getattr(host.workflows, method)(asked))
            assert (error.code(), fields_in(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    told()


@story
async def test_a_nodes_input_is_made_again_as_the_engine_made_it() -> None:
    async with Host() as host:
        sum_node = {"id": "sum", "executor": "echo", "input": "${each}"}
        host.store("wf-1", plan_of(A, B, EACH, sum_node), WorkflowStatus.SUCCEEDED)
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED, output=b'{"x":5,"list":["p","q"]}')
        host.add_row("wf-1", 1, -1, NodeStatus.SUCCEEDED, output=b"7", progress=b'{"done":1}')
        host.add_row("wf-1", 2, -1, NodeStatus.SUCCEEDED, attempt=0, width=2)
        host.add_row("wf-1", 2, 0, NodeStatus.SUCCEEDED, output=b"1")
        host.add_row("wf-1", 2, 1, NodeStatus.SUCCEEDED, output=b"2")
        host.add_row("wf-1", 3, -1, NodeStatus.SUCCEEDED, output=b"3")
        failure = failure_to_json(Failure("E", "first"))
        host.reader.attempt_rows["wf-1"] = [StoredAttempt(1, -1, 1, "w0", 1, 2, 3, failure)]
        read = host.workflows.GetNode
        node = await read(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="b", instance=-1))
        assert orjson.loads(node.input.data) == {"from": 5, "n": 1}
        assert (node.output.data, node.progress.data) == (b"7", b'{"done":1}')
        assert [(item.attempt, item.worker, item.failure.message) for item in node.attempts] == [(1, "w0", "first")]
        instance = await read(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="each", instance=1))
        assert orjson.loads(instance.input.data) == {"it": "q", "at": 1}
        whole = await read(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="each", instance=-1))
        assert not whole.HasField("input")
        assert whole.output.data == b"[1,2]"
        after = await read(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="sum", instance=-1))
        assert after.input.data == b"[1,2]"


@story
async def test_a_node_that_waits_again_after_its_worker_was_lost_is_not_shown_with_it() -> None:
    async with Host() as host:
        host.run("wf-1", plan_of(A), version=2, statuses=bytes([NodeStatus.READY]))
        host.add_row("wf-1", 0, -1, NodeStatus.READY, worker="gone", redeliveries=1, run_us=0)

        async def starts(workflow_id: str) -> list[tuple[str, str]]:
            told = await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id=workflow_id))
            started = client_pb2.HISTORY_EVENT_TYPE_ATTEMPT_STARTED
            return [(event.worker, event.note) for event in told.events if event.type == started]

        node = (
            await host.workflows.GetNode(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="a", instance=-1))
        ).node
        assert (node.status, node.worker, node.started_at_us) == (workflow_pb2.NODE_STATUS_READY, "", 0)
        assert await starts("wf-1") == [("gone", "that worker has it no more; it waits for another")]
        host.run("wf-2", plan_of(A), version=3, statuses=bytes([NodeStatus.RUNNING]))
        host.add_row("wf-2", 0, -1, NodeStatus.RUNNING, worker="heir", redeliveries=1, version=3, run_us=0)
        assert await starts("wf-2") == [("heir", "1 worker died under it before")]


@pytest.mark.parametrize(
    ("node", "instance", "said"),
    [
        ("z", -1, "has no node 'z'; list its nodes with: mainspring get wf-1"),
        ("a", 0, "has no instance a[0]; list its nodes with: mainspring get wf-1"),
        ("a", -2, "has no instance a[-2]; "),
        ("each", 9, "has no instance each[9] that has begun; list its nodes with: mainspring get wf-1"),
    ],
)
def test_a_node_or_instance_that_is_not_there_is_not_found(node: str, instance: int, said: str) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            host.store("wf-1", plan_of(A, EACH), WorkflowStatus.SUCCEEDED)
            asked = client_pb2.GetNodeRequest(workflow_id="wf-1", node_id=node, instance=instance)
            error = await error_of(host.workflows.GetNode(asked))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert said in (error.details() or "")
            assert node in (error.details() or "")

    told()


@story
async def test_an_input_that_cannot_be_made_is_left_out() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A, EACH), WorkflowStatus.FAILED)
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED, output=b'{"list":1}')
        host.add_row("wf-1", 1, 0, NodeStatus.FAILED)
        node = await host.workflows.GetNode(client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="each", instance=0))
        assert not node.HasField("input")


@story
async def test_history_is_in_the_order_of_time_with_ends_before_starts() -> None:
    async with Host() as host:
        failure = failure_to_json(Failure("E", "first"))
        host.store("wf-1", plan_of(A, EACH, B), WorkflowStatus.SUCCEEDED)
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED, attempt=2, started_at_us=2_500, ended_at_us=3_000)
        host.reader.attempt_rows["wf-1"] = [StoredAttempt(0, -1, 1, "w0", 1_000, 2_000, 3, failure)]
        host.add_row("wf-1", 1, -1, NodeStatus.SUCCEEDED, attempt=0, width=2, started_at_us=3_000, ended_at_us=5_000)
        host.add_row("wf-1", 1, 0, NodeStatus.SUCCEEDED, started_at_us=3_000, ended_at_us=4_000)
        host.add_row("wf-1", 1, 1, NodeStatus.SUCCEEDED, started_at_us=4_000, ended_at_us=5_000)
        host.add_row("wf-1", 2, -1, NodeStatus.SUCCEEDED, started_at_us=5_000, ended_at_us=9_000)
        got: list[client_pb2.HistoryEvent] = []
        token = ""
        while True:
            asked = client_pb2.GetHistoryRequest(workflow_id="wf-1", page_size=4, page_token=token)
            page = await host.workflows.GetHistory(asked)
            got += page.events
            token = page.next_page_token
            if not token:
                break
        names = [
            (event.at_us, client_pb2.HistoryEventType.Name(event.type)[19:], event.node_id, event.instance)
            for event in got
        ]
        assert names == [
            (1_000, "WORKFLOW_SUBMITTED", "", -1),
            (1_000, "ATTEMPT_STARTED", "a", -1),
            (2_000, "ATTEMPT_FAILED", "a", -1),
            (2_500, "ATTEMPT_STARTED", "a", -1),
            (3_000, "NODE_SUCCEEDED", "a", -1),
            (3_000, "NODE_EXPANDED", "each", -1),
            (3_000, "ATTEMPT_STARTED", "each", 0),
            (4_000, "NODE_SUCCEEDED", "each", 0),
            (4_000, "ATTEMPT_STARTED", "each", 1),
            (5_000, "NODE_SUCCEEDED", "each", 1),
            (5_000, "NODE_SUCCEEDED", "each", -1),
            (5_000, "ATTEMPT_STARTED", "b", -1),
            (9_000, "NODE_SUCCEEDED", "b", -1),
            (9_000, "WORKFLOW_ENDED", "", -1),
        ]
        assert (got[2].worker, got[2].failure.message, got[5].note) == ("w0", "first", "2 instances")
        assert host.reader.calls.count("attempts") == 1, "the pages of one history are told once"


@story
async def test_history_tells_a_cancel_with_its_reason_and_final_failures() -> None:
    async with Host() as host:
        host.store(
            "wf-1",
            plan_of(A, B),
            WorkflowStatus.CANCELLED,
            cancel_reason="enough",
            closing_until_us=4_000 + limits.cancel_grace_ms * 1_000,
        )
        host.add_row("wf-1", 0, -1, NodeStatus.CANCELLED, ended_at_us=5_000)
        host.add_row("wf-1", 1, -1, NodeStatus.FAILED, ended_at_us=6_000, failure=failure_to_json(Failure("E", "m")))
        page = await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id="wf-1"))
        told = [(event.at_us, client_pb2.HistoryEventType.Name(event.type)[19:], event.note) for event in page.events]
        assert told == [
            (1_000, "WORKFLOW_SUBMITTED", ""),
            (2_000, "ATTEMPT_STARTED", ""),
            (2_000, "ATTEMPT_STARTED", ""),
            (4_000, "CANCEL_REQUESTED", "enough"),
            (5_000, "NODE_CANCELLED", ""),
            (6_000, "ATTEMPT_FAILED", ""),
            (6_000, "NODE_FAILED", ""),
            (9_000, "WORKFLOW_ENDED", "CANCELLED"),
        ]


@story
async def test_what_took_an_output_from_the_cache_is_shown_as_cached() -> None:
    async with Host() as host:
        failure = failure_to_json(Failure("E", "first"))
        host.store("wf-1", plan_of(A, EACH), WorkflowStatus.SUCCEEDED)
        # Its first attempt failed before; of that the row still has the worker and the time.
        host.add_row("wf-1", 0, -1, NodeStatus.SUCCEEDED, attempt=0, started_at_us=2_000, output=b'{"list":[1]}')
        host.reader.attempt_rows["wf-1"] = [StoredAttempt(0, -1, 1, "w1", 2_000, 2_500, 3, failure)]
        host.add_row("wf-1", 1, -1, NodeStatus.SUCCEEDED, attempt=0, width=1, worker="", started_at_us=3_000)
        host.add_row("wf-1", 1, 0, NodeStatus.SUCCEEDED, attempt=0, worker="", started_at_us=0, output=b"1")
        listed = (await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id="wf-1"))).nodes
        told = [(node.node_id, node.instance, node.cached, node.worker, node.started_at_us) for node in listed]
        assert told == [("a", -1, True, "", 0), ("each", -1, False, "", 3_000), ("each", 0, True, "", 0)]
        asked = client_pb2.GetNodeRequest(workflow_id="wf-1", node_id="each", instance=0)
        detail = await host.workflows.GetNode(asked)
        assert (detail.input.data, detail.output.data) == (b'{"it":1,"at":0}', b"1")
        page = await host.workflows.GetHistory(client_pb2.GetHistoryRequest(workflow_id="wf-1"))
        assert [
            (client_pb2.HistoryEventType.Name(event.type)[19:], event.worker, event.note)
            for event in page.events
            if (event.node_id, event.instance) in (("a", -1), ("each", 0))
        ] == [
            ("ATTEMPT_STARTED", "w1", ""),
            ("ATTEMPT_FAILED", "w1", ""),
            ("NODE_SUCCEEDED", "", "cached"),
            ("NODE_SUCCEEDED", "", "cached"),
        ]


@story
async def test_workflows_are_listed_by_page_newest_first() -> None:
    async with Host() as host:
        for number in range(7):
            host.store(f"wf-{number}", plan_of(A), WorkflowStatus.RUNNING, submitted_at_us=100 + number // 2)
        got: list[str] = []
        token = ""
        while True:
            page = await host.workflows.List(client_pb2.ListRequest(page_size=3, page_token=token, id_prefix="wf"))
            got += [workflow.workflow_id for workflow in page.workflows]
            token = page.next_page_token
            if not token:
                break
        assert got == [f"wf-{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
        failed = await host.workflows.List(client_pb2.ListRequest(statuses=[5]))  # type: ignore[list-item]  # a plain number
        assert list(failed.workflows) == []


@story
async def test_a_cancel_is_answered_with_the_state_after_it() -> None:
    async with Host() as host:
        host.loop.answers[Cancel] = lambda event: Answer(
            event.token, event.shard, event.workflow_id, AnswerCode.OK, WorkflowStatus.CANCELLING
        )
        answer = await host.workflows.Cancel(client_pb2.CancelRequest(workflow_id="wf-1", reason="why"))
        assert answer.status == workflow_pb2.WORKFLOW_STATUS_CANCELLING
        (event,) = host.loop.events
        assert isinstance(event, Cancel)
        assert event.reason == "why"


@story
async def test_cancelling_what_has_ended_changes_nothing_and_what_is_not_there_is_not_found() -> None:
    async with Host() as host:
        host.store("wf-1", plan_of(A), WorkflowStatus.SUCCEEDED)
        answer = await host.workflows.Cancel(client_pb2.CancelRequest(workflow_id="wf-1"))
        assert answer.status == workflow_pb2.WORKFLOW_STATUS_SUCCEEDED
        error = await error_of(host.workflows.Cancel(client_pb2.CancelRequest(workflow_id="wf-2")))
        assert error.code() is grpc.StatusCode.NOT_FOUND


@story
async def test_an_error_names_the_workflow_it_is_about() -> None:
    async with Host() as host:
        error = await error_of(host.workflows.Get(client_pb2.GetRequest(workflow_id="nobody")))
        assert "nobody" in str(status_in(error).details[0])


@story
async def test_large_reads_end_a_page_before_a_message_gets_too_large() -> None:
    async with Host() as host:
        count = 200
        host.store("wf-1", plan_of(*({"id": f"n{n}", "executor": "e"} for n in range(count))), WorkflowStatus.FAILED)
        failure = failure_to_json(Failure("E", "m", stack="s" * limits.failure_stack_bytes_max))
        for number in range(count):
            host.add_row("wf-1", number, -1, NodeStatus.FAILED, failure=failure)
        pages: list[int] = []
        token = ""
        while True:
            page = await host.workflows.ListNodes(client_pb2.ListNodesRequest(workflow_id="wf-1", page_token=token))
            assert page.ByteSize() < limits.message_bytes_max
            pages.append(len(page.nodes))
            token = page.next_page_token
            if not token:
                break
        assert sum(pages) == count
        assert len(pages) > 2


@story
async def test_reads_beyond_the_bound_of_waiting_ones_are_refused() -> None:
    async with Host() as host:
        host.services.reads._waiting = limits.reads_waiting_max
        error = await error_of(host.workflows.List(client_pb2.ListRequest()))
        assert (error.code(), reason_in(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY")
        host.services.reads._waiting = 0
