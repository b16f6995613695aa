"""The client against a real server whose answers are written down."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
import orjson
import pytest

from mainspring.errors import (
    AlreadyExistsError,
    BadRequestError,
    BusyError,
    DeadlineError,
    MainspringError,
    NotFoundError,
    SettingsError,
    UnavailableError,
    WorkflowCancelledError,
    WorkflowFailedError,
)
from mainspring.limits import MIB, submit_many_items_max
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring_client import Client, Handle, Submission, WorkflowFilter, WorkflowStatus
from tests.client.answers import (
    CANCELLED,
    FAILED,
    RUNNING,
    definition,
    ended,
    many_submitted,
    node,
    result,
    seen,
    submitted,
    workflow,
)
from tests.client.scripted import Scripted, serving

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def told(scene: Callable[[Client, Scripted], Awaitable[None]], *, timeout: float = 20, **script: Any) -> Scripted:
    """Play a scene against a script."""

    async def play() -> Scripted:
        async with serving(**script) as (scripted, address), Client(address, timeout=timeout) as client:
            await scene(client, scripted)
            return scripted

    return asyncio.run(play())


def test_a_workflow_is_submitted_with_ids_made_by_the_client() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        handle = await client.submit(definition, {"year": 2024})
        assert handle.created is True
        assert handle.workflow_id.startswith("wf-")

    (request,) = told(scene, Submit=[submitted]).requests["Submit"]
    assert orjson.loads(request.definition.data) == definition
    assert orjson.loads(request.input.data) == {"year": 2024}
    assert request.workflow_id
    assert request.request_id


def test_every_try_of_a_submit_has_the_same_ids() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        await client.submit(definition)

    script = [UNAVAILABLE, BusyError("full", retry_after_ms=1), grpc.StatusCode.DEADLINE_EXCEEDED, submitted]
    requests = told(scene, Submit=script).requests["Submit"]
    assert len(requests) == 4
    assert len({(request.workflow_id, request.request_id) for request in requests}) == 1


@pytest.mark.parametrize(
    "error", [AlreadyExistsError("taken"), NotFoundError("none"), BadRequestError("bad"), MainspringError("incident 7")]
)
def test_what_another_try_cannot_change_is_tried_once(error: MainspringError) -> None:
    async def scene(client: Client, _: Scripted) -> None:
        with pytest.raises(type(error), match=str(error)):
            await client.submit(definition)

    assert len(told(scene, Submit=[error]).requests["Submit"]) == 1


def test_a_busy_cluster_is_left_alone_for_as_long_as_it_asks() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        began = asyncio.get_running_loop().time()
        await client.submit(definition)
        assert asyncio.get_running_loop().time() - began >= 0.25

    told(scene, Submit=[BusyError("full", retry_after_ms=250), submitted])


def test_a_cluster_that_stays_busy_is_reported_within_the_callers_deadline() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        with pytest.raises(BusyError, match="the queue of shard 3 is full"):
            await client.submit(definition)

    # The second try has time left, on a slow machine too; for a third one there is none.
    scripted = told(scene, timeout=2.0, Submit=[BusyError("the queue of shard 3 is full", retry_after_ms=1_000)])
    assert max(scripted.deadlines) <= 2.0


def test_a_wrong_address_says_which_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def ask() -> None:
        async with Client(f"127.0.0.1:{port}", connect_timeout=0.2) as client:
            await client.get("w")

    with pytest.raises(UnavailableError) as caught:
        asyncio.run(ask())
    for part in (f"127.0.0.1:{port}", "MAINSPRING_ADDRESS", "--address", "mainspring dev"):
        assert part in str(caught.value)


def test_an_address_that_is_none_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_ADDRESS", "http://here/x")
    with pytest.raises(SettingsError, match=r"MAINSPRING_ADDRESS: 'http://here/x'"):
        Client()


def test_the_environment_gives_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> WorkflowStatus:
        async with serving(Get=[client_pb2.GetResponse(workflow=workflow())]) as (_, address):
            monkeypatch.setenv("MAINSPRING_ADDRESS", address)
            async with Client() as client:
                return (await client.get("w")).status

    assert asyncio.run(ask()) is WorkflowStatus.RUNNING


def test_several_addresses_are_tried_and_a_dead_one_is_left() -> None:
    answer = client_pb2.GetResponse(workflow=workflow())

    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            dead = f"127.0.0.1:{listener.getsockname()[1]}"
        async with serving(Get=[answer]) as (second, second_address):
            async with serving(Get=[answer]) as (first, first_address):
                client = Client(f"{dead},{first_address},{second_address}", connect_timeout=5)
                await client.get("w")
                asked = len(first.requests.get("Get", ()))
            for _ in range(3):
                await client.get("w")  # the first one is gone, or was never asked
            assert len(second.requests["Get"]) == 4 - asked
            await client.close()

    asyncio.run(play())


def test_a_closed_client_refuses_to_call() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        await client.close()
        with pytest.raises(UnavailableError, match="closed"):
            await client.get("w")

    told(scene)


def test_closing_ends_the_calls_under_way() -> None:
    async def scene(client: Client, scripted: Scripted) -> None:
        asked = asyncio.Event()

        async def never(_: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        scripted.script = {"GetResult": [never]}
        waiting = asyncio.create_task(client.wait("w"))
        await asked.wait()
        await client.close()
        with pytest.raises(UnavailableError, match="closed"):
            await waiting

    told(scene)


# Results


def test_a_result_is_waited_for_over_polls_that_break() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        assert await client.handle("w").result() == [1, "zwei"]

    scripted = told(scene, GetResult=[UNAVAILABLE, result(RUNNING), UNAVAILABLE, result(output=b'[1,"zwei"]')])
    assert {request.wait_ms for request in scripted.requests["GetResult"]} == {60_000}


def test_a_failed_workflow_raises_with_its_node_and_where_to_look() -> None:
    failure = workflow_pb2.Failure(type="ValueError", message="no such year", node_id="fetch", stack="Traceback")

    async def scene(client: Client, _: Scripted) -> None:
        with pytest.raises(WorkflowFailedError, match="mainspring get w fetch") as caught:
            await client.handle("w").result()
        assert caught.value.failure.stack == "Traceback"
        outcome = await client.handle("w").wait()
        assert (outcome.status, outcome.output) == (WorkflowStatus.FAILED, None)

    told(scene, GetResult=[result(FAILED, failure=failure)])


def test_a_cancelled_workflow_raises() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        with pytest.raises(WorkflowCancelledError, match="mainspring history w"):
            await client.handle("w").result()

    told(scene, GetResult=[result(CANCELLED)])


def test_the_callers_deadline_ends_the_wait_but_not_the_workflow() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        with pytest.raises(DeadlineError, match=r"is RUNNING after 0\.3 s and goes on"):
            await client.handle("w").result(timeout=0.3)

    async def held(request: client_pb2.GetResultRequest) -> client_pb2.GetResultResponse:
        await asyncio.sleep(request.wait_ms / 1000)
        return result(RUNNING)(request)

    scripted = told(scene, GetResult=[held])
    assert all(request.wait_ms <= 300 for request in scripted.requests["GetResult"])
    assert len(scripted.requests["GetResult"]) < 10


def test_many_results_come_in_the_order_of_their_ends_and_once_across_a_break() -> None:
    def batch(*ids: str) -> client_pb2.WaitManyResponse:
        return client_pb2.WaitManyResponse(results=[ended(one, output=b'"' + one.encode() + b'"') for one in ids])

    async def scene(client: Client, _: Scripted) -> None:
        got = [(one.workflow_id, one.output) async for one in client.wait_many(["a", "b", client.handle("c"), "d"])]
        assert got == [("b", "b"), ("d", "d"), ("a", "a"), ("c", "c")]

    scripted = told(scene, WaitMany=[[batch("b"), UNAVAILABLE], [batch("b", "d")], [batch("a"), batch("c")]])
    asked = [sorted(request.workflow_ids) for request in scripted.requests["WaitMany"]]
    assert asked == [["a", "b", "c", "d"], ["a", "c", "d"], ["a", "c"]]


def test_unknown_ids_are_named_after_all_others_were_given() -> None:
    answers = [
        client_pb2.WaitManyResponse(results=[ended("a")], not_found=["x"]),
        client_pb2.WaitManyResponse(results=[ended("b")]),
    ]

    async def scene(client: Client, _: Scripted) -> None:
        results = client.wait_many(["a", "x", "b"])
        assert [(await anext(results)).workflow_id, (await anext(results)).workflow_id] == ["a", "b"]
        with pytest.raises(NotFoundError, match="'x'"):
            await anext(results)

    told(scene, WaitMany=[answers])


# Watching


def watched(*streams: Any) -> tuple[list[tuple[int, bool, list[str]]], Scripted]:
    updates: list[tuple[int, bool, list[str]]] = []

    async def scene(client: Client, _: Scripted) -> None:
        async for update in client.watch("w"):
            updates.append((update.workflow.version, update.snapshot, [one.label for one in update.nodes]))  # noqa: PERF401  (kept if it raises)

    return updates, told(scene, Watch=list(streams))


def test_a_watch_joins_the_parts_of_a_snapshot_and_ends_with_the_workflow() -> None:
    updates, _ = watched(
        [
            seen(3, node("a"), snapshot=True, more=True),
            seen(3, node("m", instance=7), snapshot=True),
            seen(4, node("a")),
            seen(5, status=workflow_pb2.WORKFLOW_STATUS_SUCCEEDED),
        ]
    )
    assert updates == [(3, True, ["a", "m[7]"]), (4, False, ["a"]), (5, False, [])]


def test_a_watch_that_breaks_within_a_snapshot_begins_the_snapshot_anew() -> None:
    updates, scripted = watched(
        [seen(3, node("a"), snapshot=True, more=True), UNAVAILABLE],
        [seen(3, node("a"), snapshot=True, more=True), seen(3, node("b"), snapshot=True), UNAVAILABLE],
        [seen(2, node("a"), snapshot=True), seen(6, snapshot=True, status=CANCELLED)],
    )
    assert updates == [(3, True, ["a", "b"]), (6, True, [])]
    assert [request.after_version for request in scripted.requests["Watch"]] == [0, 0, 3]


def test_a_watch_of_nothing_is_not_found() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        with pytest.raises(NotFoundError):
            await anext(client.watch("w"))

    told(scene, Watch=[NotFoundError("no workflow 'w'")])


# Many at once


def test_many_workflows_are_cut_by_number_and_share_their_definition() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        handles = await client.submit_many(
            Submission(definition, {"n": n}, f"w{n}") for n in range(submit_many_items_max + 1)
        )
        assert [handle.workflow_id for handle in handles if isinstance(handle, Handle)] == [
            f"w{n}" for n in range(submit_many_items_max + 1)
        ]

    requests = told(scene, SubmitMany=[many_submitted]).requests["SubmitMany"]
    assert sorted(len(request.items) for request in requests) == [1, submit_many_items_max]
    assert all(len(request.definitions) == 1 for request in requests)


def test_many_workflows_are_cut_by_size() -> None:
    async def scene(client: Client, _: Scripted) -> None:
        await client.submit_many(Submission(definition, "x" * (MIB - 2)) for _ in range(5))

    requests = told(scene, SubmitMany=[many_submitted]).requests["SubmitMany"]
    assert sorted(len(request.items) for request in requests) == [1, 2, 2]
    assert all(request.ByteSize() <= 3 * MIB for request in requests)


def test_each_item_gets_its_own_error_and_only_transient_ones_are_sent_again() -> None:
    def first(request: client_pb2.SubmitManyRequest) -> client_pb2.SubmitManyResponse:
        outcomes = [
            client_pb2.SubmitManyOutcome(workflow_id="a", created=True),
            client_pb2.SubmitManyOutcome(workflow_id="b", code=6, reason="ALREADY_EXISTS", message="'b' is taken"),
            client_pb2.SubmitManyOutcome(workflow_id="c", code=14, reason="NOT_OWNER", message="moving"),
        ]
        return client_pb2.SubmitManyResponse(outcomes=outcomes)

    async def scene(client: Client, _: Scripted) -> None:
        many = [Submission(definition, None, one) for one in "abc"]
        wrong = Submission(definition, {"at": [1, float("nan")]})
        a, b, c, d = await client.submit_many([*many, wrong])
        assert isinstance(a, Handle)
        assert isinstance(b, AlreadyExistsError)
        assert isinstance(c, Handle)
        assert isinstance(d, BadRequestError)
        assert str(d) == "input.at[1]: nan is not JSON; use null or a string"

    requests = told(scene, SubmitMany=[first, many_submitted]).requests["SubmitMany"]
    assert [[item.workflow_id for item in request.items] for request in requests] == [["a", "b", "c"], ["c"]]


def test_a_large_definition_goes_by_stream_in_parts() -> None:
    large = {
        "name": "large",
        "nodes": [{"id": f"n{n}", "executor": "noop", "input": "x" * 1_000} for n in range(5_000)],
    }

    def answer(parts: list[client_pb2.SubmitStreamRequest]) -> client_pb2.SubmitStreamResponse:
        return client_pb2.SubmitStreamResponse(submitted=submitted(parts[0].header))

    async def scene(client: Client, _: Scripted) -> None:
        handle = await client.submit(large, workflow_id="w")
        assert handle.created is True
        (other,) = await client.submit_many([Submission(large)])
        assert isinstance(other, Handle)

    first, _ = told(scene, SubmitStream=[UNAVAILABLE, answer]).requests["SubmitStream"][-2:]
    assert not first[0].header.definition.data
    assert orjson.loads(b"".join(part.chunk for part in first[1:])) == large
    assert all(len(part.chunk) <= 2 * MIB for part in first)


# Reading


def test_a_list_is_read_page_by_page_up_to_its_limit() -> None:
    def page(request: client_pb2.ListRequest) -> client_pb2.ListResponse:
        start = int(request.page_token or 0)
        ids = [f"w{n}" for n in range(start, start + min(request.page_size, 2))]
        return client_pb2.ListResponse(
            workflows=[workflow(workflow_id=one) for one in ids],
            next_page_token=str(start + len(ids)) if start < 6 else "",
        )

    async def scene(client: Client, _: Scripted) -> None:
        failed = WorkflowFilter(statuses=(WorkflowStatus.FAILED,), id_prefix="w")
        assert [one.workflow_id async for one in client.list(failed)] == [f"w{n}" for n in range(8)]
        assert [one.workflow_id async for one in client.list(limit=3)] == ["w0", "w1", "w2"]

    request = told(scene, List=[page]).requests["List"][0]
    assert (list(request.statuses), request.id_prefix) == ([FAILED], "w")


def test_nodes_history_node_and_cancel_are_read_from_a_handle() -> None:
    detail = client_pb2.GetNodeResponse(
        node=node(),
        input=workflow_pb2.Payload(data=b"[2]"),
        attempts=[client_pb2.Attempt(attempt=1, worker="w1", failure=workflow_pb2.Failure(type="OSError"))],
    )
    pages = [
        client_pb2.ListNodesResponse(nodes=[node("a")], next_page_token="1"),
        client_pb2.ListNodesResponse(nodes=[node("b")]),
    ]
    event = client_pb2.HistoryEvent(
        at_us=5, type=client_pb2.HISTORY_EVENT_TYPE_ATTEMPT_STARTED, node_id="a", instance=-1
    )

    async def scene(client: Client, _: Scripted) -> None:
        handle = client.handle("w")
        assert [one.node_id async for one in handle.nodes()] == ["a", "b"]
        assert [one.type async for one in handle.history()] == ["ATTEMPT_STARTED"]
        read = await handle.node("a")
        assert (read.input, read.output) == ([2], None)
        assert read.attempts[0].failure is not None
        assert await handle.cancel("x" * 5_000) is WorkflowStatus.CANCELLED

    scripted = told(
        scene,
        ListNodes=pages,
        GetNode=[detail],
        GetHistory=[client_pb2.GetHistoryResponse(events=[event])],
        Cancel=[client_pb2.CancelResponse(status=CANCELLED)],
    )
    assert len(scripted.requests["Cancel"][0].reason.encode()) <= 1_024


# Bad input


@pytest.mark.parametrize(
    ("submit", "message"),
    [
        (lambda c: c.submit(definition, {"a": {1: 2}}), "input.a: the key 1 is a int; JSON has only strings"),
        (lambda c: c.submit(definition, {"a": [{"b": object()}]}), "input.a[0].b: a object is not JSON; convert it"),
        (lambda c: c.submit(definition, 2**70), "input: cannot be written as JSON: Integer exceeds 64-bit range"),
        (
            lambda c: c.submit(definition, "x" * MIB),
            "input: 1048578 bytes are over the bound of 1048576; store it elsewhere and pass a reference",
        ),
        (
            lambda c: c.submit(definition, workflow_id="a b"),
            "workflow_id 'a b' is no id; use 1 to 200 letters, digits and '-_.:@+='",
        ),
        (
            lambda c: c.submit(["a"]),
            "definition: pass a Workflow, a Definition, or the mapping of its JSON, not a list",
        ),
    ],
)
def test_bad_input_is_refused_before_it_is_sent(
    submit: Callable[[Client], Coroutine[Any, Any, Handle]], message: str
) -> None:
    async def scene(client: Client, _: Scripted) -> None:
        with pytest.raises(BadRequestError) as caught:
            await submit(client)
        assert str(caught.value) == message

    assert told(scene).requests == {}
