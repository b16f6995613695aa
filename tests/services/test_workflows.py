"""The clients' calls: answers, errors with their details, pages."""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from mainspring import limits
from mainspring.errors import BusyError, StoreUnavailableError, UnavailableError
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring.wire import to_payload
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import Submit
from mainspring_coordinator.engine.status import WorkflowStatus
from tests.services.rig import (
    Host,
    define,
    error_of,
    fields_in,
    reason_in,
    retry_ms_in,
    story,
)

A = {"id": "a", "executor": "echo"}
B = {"id": "b", "executor": "echo", "input": {"from": "${a.x}", "n": "${input.n}"}}
ECHO = define(A)
EACH = {"id": "each", "executor": "echo", "map": {"over": "${a.list}"}, "input": {"it": "${item}", "at": "${index}"}}


def submit(**rest: Any) -> client_pb2.SubmitRequest:
    """Return a Submit that is in order."""
    return client_pb2.SubmitRequest(
        **{"workflow_id": "wf-1", "definition": to_payload(ECHO), "input": to_payload(b"1"), "request_id": "r", **rest}
    )


@story
async def test_a_submit_is_answered_with_what_the_engine_said() -> None:
    async with Host() as host:
        answer = await host.workflows.Submit(submit())
        assert (answer.workflow_id, answer.created, answer.status) == (
            "wf-1",
            True,
            workflow_pb2.WORKFLOW_STATUS_RUNNING,
        )
        (event,) = host.loop.events
        assert isinstance(event, Submit)
        assert (event.input, event.strategy, event.plan.name, len(event.digest)) == (b"1", "round-robin", "demo", 32)


@story
async def test_the_same_definition_written_otherwise_has_the_same_digest_and_is_compiled_once() -> None:
    async with Host() as host:
        await host.workflows.Submit(submit())
        await host.workflows.Submit(submit(definition=to_payload(b" " + ECHO)))
        await host.workflows.Submit(submit(input=to_payload(b"2")))
        first, same, other = host.loop.events
        assert isinstance(first, Submit)
        assert isinstance(same, Submit)
        assert isinstance(other, Submit)
        assert first.plan is same.plan
        assert first.digest == same.digest
        assert first.digest != other.digest
        assert len(host.plans) == 1


@story
async def test_a_submit_without_an_id_gets_one() -> None:
    async with Host() as host:
        answer = await host.workflows.Submit(submit(workflow_id=""))
        assert answer.workflow_id.startswith("wf-")


_bad_submits: list[tuple[str, str, dict[str, Any]]] = [
    ("workflow_id", "BAD_WORKFLOW_ID", {"workflow_id": "no spaces"}),
    ("workflow_id", "BAD_WORKFLOW_ID", {"workflow_id": "x" * 201}),
    ("definition", "EMPTY", {"definition": to_payload(b"")}),
    ("definition", "UNKNOWN_ENCODING", {"definition": workflow_pb2.Payload(encoding="yaml", data=b"a")}),
    ("definition", "DEFINITION_TOO_LARGE", {"definition": to_payload(b" " * (limits.definition_inline_bytes_max + 1))}),
    ("input", "NOT_JSON", {"input": to_payload(b"{")}),
    ("input", "PAYLOAD_TOO_LARGE", {"input": to_payload(b'"' + b"x" * limits.payload_bytes_max + b'"')}),
    ("request_id", "TOO_LONG", {"request_id": "r" * 65}),
]


@pytest.mark.parametrize(("field", "reason", "change"), _bad_submits, ids=[f"{f}-{r}" for f, r, _ in _bad_submits])
def test_a_submit_out_of_its_bounds_is_refused_with_its_field(field: str, reason: str, change: dict[str, Any]) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            error = await error_of(host.workflows.Submit(submit(**change)))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (reason_in(error), fields_in(error)) == (reason, [field])
            assert host.loop.events == []

    told()


@story
async def test_a_definition_that_cannot_run_is_refused_with_every_problem() -> None:
    async with Host() as host:
        bad = define(
            {"id": "a", "executor": "e", "depends_on": ["x"]}, {"id": "b", "executor": "e", "depends_on": ["y"]}
        )
        error = await error_of(host.workflows.Submit(submit(definition=to_payload(bad))))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_in(error) == "BAD_DEFINITION"
        assert len(fields_in(error)) == 2
        bad = b"\xff\xfe"
        error = await error_of(host.workflows.Submit(submit(definition=to_payload(bad))))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


_answers: list[tuple[str, grpc.StatusCode, str, Callable[[Submit], Answer | Exception]]] = [
    (
        "exists",
        grpc.StatusCode.ALREADY_EXISTS,
        "ALREADY_EXISTS",
        lambda event: Answer(event.token, event.shard, event.workflow_id, AnswerCode.ALREADY_EXISTS),
    ),
    (
        "full shard",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "BUSY",
        lambda event: Answer(event.token, event.shard, event.workflow_id, AnswerCode.BUSY, message="full"),
    ),
    ("full queue", grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", lambda _: BusyError("full", retry_after_ms=321)),
    ("unknown", grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", lambda _: UnavailableError("the outcome is unknown")),
]


@pytest.mark.parametrize(("name", "code", "reason", "script"), _answers, ids=[name for name, *_ in _answers])
def test_what_the_loop_answers_becomes_a_status_with_details(
    name: str, code: grpc.StatusCode, reason: str, script: Callable[[Submit], Answer | Exception]
) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            host.loop.answers[Submit] = script
            error = await error_of(host.workflows.Submit(submit()))
            assert (error.code(), reason_in(error)) == (code, reason)
            if code is not grpc.StatusCode.ALREADY_EXISTS:
                assert retry_ms_in(error) == (321 if name == "full queue" else 1_000 if name == "full shard" else 200)

    told()


@story
async def test_a_bug_is_told_as_an_incident_and_logged_with_its_stack() -> None:
    async with Host() as host:
        host.loop.answers[Submit] = lambda _: ZeroDivisionError("a bug")
        with capture_logs() as logs:
            error = await error_of(host.workflows.Submit(submit()))
        assert error.code() is grpc.StatusCode.INTERNAL
        (entry,) = [line for line in logs if line["log_level"] == "error"]
        assert entry["incident"] in (error.details() or "")
        assert isinstance(entry["exc_info"], ZeroDivisionError)
        assert "a bug" not in (error.details() or "")


@story
async def test_a_database_out_of_reach_is_unavailable_with_a_retry_hint() -> None:
    async with Host() as host:
        host.reader.failing = StoreUnavailableError("no route to the database")
        error = await error_of(host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1")))
        assert (error.code(), reason_in(error)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert retry_ms_in(error) > 0


@story
async def test_submit_many_answers_item_by_item_in_order() -> None:
    async with Host() as host:
        item = client_pb2.SubmitManyItem
        answer = await host.workflows.SubmitMany(
            client_pb2.SubmitManyRequest(
                definitions=[to_payload(ECHO), to_payload(b'{"name":"x","nodes":[]}')],
                items=[
                    item(workflow_id="w-0", input=to_payload(b"0")),
                    item(workflow_id="bad id"),
                    item(workflow_id="w-2", definition_index=1),
                    item(workflow_id="w-3", definition_index=2),
                    item(workflow_id="w-4", input=to_payload(b"{")),
                    item(),
                ],
            )
        )
        assert [(outcome.code, outcome.reason, outcome.created) for outcome in answer.outcomes] == [
            (0, "", True),
            (3, "BAD_WORKFLOW_ID", False),
            (3, "BAD_DEFINITION", False),
            (3, "INVALID_ARGUMENT", False),
            (3, "NOT_JSON", False),
            (0, "", True),
        ]
        assert "items[4].input" in answer.outcomes[4].message
        assert answer.outcomes[0].workflow_id == "w-0"
        assert answer.outcomes[5].workflow_id.startswith("wf-")
        inputs = {event.workflow_id: event.input for event in host.loop.events if isinstance(event, Submit)}
        assert inputs == {"w-0": b"0", answer.outcomes[5].workflow_id: b"null"}


@story
async def test_all_items_of_submit_many_are_in_the_loop_before_the_first_is_answered() -> None:
    async with Host() as host:
        seen: list[int] = []

        def answered(event: Submit) -> Answer:
            seen.append(sum(isinstance(posted, Submit) for posted in host.loop.events))
            return Answer(
                event.token, event.shard, event.workflow_id, AnswerCode.OK, WorkflowStatus.RUNNING, created=True
            )

        host.loop.answers[Submit] = answered
        items = [client_pb2.SubmitManyItem(workflow_id=f"w-{n}") for n in range(200)]
        await host.workflows.SubmitMany(client_pb2.SubmitManyRequest(definitions=[to_payload(ECHO)], items=items))
        assert seen == [200] * 200


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("items", client_pb2.SubmitManyRequest()),
        ("items", client_pb2.SubmitManyRequest(items=[client_pb2.SubmitManyItem()] * 1_001)),
        (
            "definitions",
            client_pb2.SubmitManyRequest(definitions=[to_payload(ECHO)] * 1_001, items=[client_pb2.SubmitManyItem()]),
        ),
        (
            "items",
            client_pb2.SubmitManyRequest(
                items=[client_pb2.SubmitManyItem(input=to_payload(b"x" * (limits.MIB - 100)))] * 3
                + [client_pb2.SubmitManyItem()] * 200
            ),
        ),
    ],
)
def test_a_submit_many_out_of_its_bounds_is_refused_as_a_whole(
    field: str, request_: client_pb2.SubmitManyRequest
) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            error = await error_of(host.workflows.SubmitMany(request_))
            assert (error.code(), fields_in(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    told()


@story
async def test_a_large_definition_comes_in_chunks() -> None:
    async with Host() as host:
        large = define(*({"id": f"n{n}", "executor": "echo", "input": "x" * 1_000} for n in range(4_000)))
        assert len(large) > limits.definition_inline_bytes_max
        parts = [client_pb2.SubmitStreamRequest(header=client_pb2.SubmitRequest(workflow_id="big"))]
        parts += [
            client_pb2.SubmitStreamRequest(chunk=large[start : start + limits.MIB])
            for start in range(0, len(large), limits.MIB)
        ]
        answer = await host.workflows.SubmitStream(iter(parts))
        assert answer.submitted.created
        (event,) = host.loop.events
        assert isinstance(event, Submit)
        assert len(event.plan.nodes) == 4_000


@story
async def test_who_begins_a_large_submit_and_sends_no_more_makes_way_for_others() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "chunk_wait_ms_max", 50)
        patch.setattr(limits, "submit_streams_max", 1)
        async with Host() as host:
            silent = host.workflows.SubmitStream()
            await silent.write(_Part(header=_Header(workflow_id="silent")))
            error = await error_of(silent)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "nothing came of the definition for 50 ms" in (error.details() or "")
            parts = [_Part(header=_Header(workflow_id="big")), _Part(chunk=ECHO)]
            assert (await host.workflows.SubmitStream(iter(parts))).submitted.created


_Part = client_pb2.SubmitStreamRequest
_Header = client_pb2.SubmitRequest


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("header", []),
        ("header", [_Part(chunk=ECHO)]),
        ("header", [_Part(header=_Header()), _Part(header=_Header())]),
        ("header.definition", [_Part(header=_Header(definition=to_payload(ECHO)))]),
        ("header.workflow_id", [_Part(header=_Header(workflow_id="a b")), _Part(chunk=ECHO)]),
        ("header.input", [_Part(header=_Header(input=to_payload(b"{"))), _Part(chunk=ECHO)]),
        ("chunk", [_Part(header=_Header())]),
        ("chunk", [_Part(header=_Header()), _Part(chunk=b" " * (limits.message_split_bytes + 1))]),
        ("chunk", [_Part(header=_Header()), *[_Part(chunk=b" " * limits.message_split_bytes)] * 33]),
    ],
)
def test_a_submit_stream_out_of_order_or_bounds_is_refused_with_its_field(
    field: str, parts: list[client_pb2.SubmitStreamRequest]
) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            error = await error_of(host.workflows.SubmitStream(iter(parts)))
            assert (error.code(), fields_in(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    told()
