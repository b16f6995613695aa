"""Errors cross a real connection and come out as they went in."""

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from mainspring.errors import (
    AlreadyExistsError,
    BadRequestError,
    BusyError,
    DeadlineError,
    DefinitionError,
    FencedError,
    MainspringError,
    NotFoundError,
    NotOwnerError,
    PreconditionError,
    Problem,
    SettingsError,
    StoreUnavailableError,
    UnavailableError,
)
from mainspring.limits import KIB
from mainspring.rpc_errors import error_from, error_of, retry_after_ms, status_of
from mainspring.v1 import client_pb2, client_pb2_grpc
from tests.client.scripted import serving


def over_the_wire(error: MainspringError) -> grpc.aio.AioRpcError:
    async def call() -> grpc.aio.AioRpcError:
        async with serving(Get=[error]) as (_, address), grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client_pb2_grpc.WorkflowsServiceStub(channel).Get(
                    client_pb2.GetRequest(workflow_id="w"), timeout=10
                )
            return caught.value

    return asyncio.run(call())


@pytest.mark.parametrize(
    ("error", "code", "same"),
    [
        (
            BadRequestError("too long", field="input", reason="PAYLOAD_TOO_LARGE"),
            "INVALID_ARGUMENT",
            lambda e: (e.field, e.reason),
        ),
        (NotFoundError("no workflow 'w'"), "NOT_FOUND", None),
        (AlreadyExistsError("taken"), "ALREADY_EXISTS", None),
        (BusyError("full", retry_after_ms=350), "RESOURCE_EXHAUSTED", lambda e: e.retry_after_ms),
        (UnavailableError("starting"), "UNAVAILABLE", None),
        (NotOwnerError("not ours"), "UNAVAILABLE", None),
        (DeadlineError("late"), "DEADLINE_EXCEEDED", None),
        (SettingsError("off"), "FAILED_PRECONDITION", None),
        (PreconditionError("it lives"), "FAILED_PRECONDITION", None),
    ],
)
def test_an_error_comes_out_as_it_went_in(
    error: MainspringError, code: str, same: Callable[[MainspringError], object] | None
) -> None:
    rpc_error = over_the_wire(error)
    assert rpc_error.code().name == code
    got = error_from(rpc_error)
    assert type(got) is type(error)
    assert str(got) == str(error)
    if same is not None:
        assert same(got) == same(error)


@pytest.mark.parametrize(
    ("error", "kind"), [(StoreUnavailableError("down"), UnavailableError), (FencedError({3: 7}), NotOwnerError)]
)
def test_what_only_a_coordinator_knows_is_unavailable_to_a_client(
    error: MainspringError, kind: type[MainspringError]
) -> None:
    rpc_error = over_the_wire(error)
    assert type(error_from(rpc_error)) is kind
    assert retry_after_ms(rpc_error) == 200


def test_every_problem_of_a_definition_arrives_with_its_node_and_field() -> None:
    problems = (
        Problem("UNKNOWN_DEPENDENCY", "no node 'x'", 'od"d]name', "depends_on"),
        Problem("CYCLE", "a -> b -> a", "a"),
        Problem("EMPTY", "has no nodes"),
        Problem("BAD_DURATION", "write it with a unit", "", "timeout"),
    )
    got = error_from(over_the_wire(DefinitionError(problems)))
    assert isinstance(got, DefinitionError)
    assert got.problems == problems


def test_a_thousand_problems_fit_into_the_trailers_and_the_rest_is_counted() -> None:
    problems = [Problem("UNKNOWN_DEPENDENCY", f"no node 'x{i}' " + "é" * 300, f"n{i}") for i in range(1_000)]
    error = DefinitionError(problems)
    assert status_of(error).ByteSize() < 6 * KIB
    got = error_from(over_the_wire(error))
    assert isinstance(got, DefinitionError)
    told = len(got.problems) - 1
    assert got.problems[:told] == tuple(problems[:told])
    rest = f"the definition has 1000 problems; the first {told} follow, 'mainspring validate FILE' shows all"
    assert got.problems[-1].message == rest


def test_the_longest_message_of_three_byte_letters_still_arrives() -> None:
    got = error_from(over_the_wire(NotFoundError("\u20ac" * 5_000)))
    assert isinstance(got, NotFoundError)
    assert str(got).endswith("…")


def test_details_carry_reason_thing_and_where_to_read_on() -> None:
    status = status_of(BusyError("full", retry_after_ms=5), {"workflow_id": "w"})
    info, retry, more = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.Help()
    assert [status.details[0].Unpack(info), status.details[1].Unpack(retry), status.details[2].Unpack(more)] == [
        True
    ] * 3
    assert (info.domain, info.reason, dict(info.metadata)) == ("mainspring", "BUSY", {"workflow_id": "w"})
    assert more.links[0].url == "docs/settings.md"


def test_a_message_over_grpcs_bound_is_not_worth_another_try() -> None:
    got = error_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "Sent message larger than max")
    assert isinstance(got, BadRequestError)


def test_a_reset_by_a_proxy_is_unavailable_but_our_own_internal_error_is_not() -> None:
    assert isinstance(error_of(grpc.StatusCode.INTERNAL, "RST_STREAM with error code 2"), UnavailableError)
    ours = over_the_wire(MainspringError("incident 7"))
    assert ours.code() is grpc.StatusCode.INTERNAL
    assert type(error_from(ours)) is MainspringError
    assert isinstance(error_of(6, "taken", reason="ALREADY_EXISTS"), AlreadyExistsError)
