"""The gate: every method of every service, with every role and with none; what a call is refused with; calls that are sent on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mainspring.authentication import Authenticator
from mainspring.callers import Caller, Refusal, Role, caller_key, forwarded_key, from_text, to_text
from mainspring.errors import BusyError, MainspringError, NotAllowedError, UnauthenticatedError
from mainspring.rpc_errors import error_from
from mainspring.settings import CoordinatorSettings
from mainspring.tokens import line, new_token
from mainspring.v1 import admin_pb2, client_pb2, peers_pb2, worker_pb2
from mainspring_coordinator.auth.gate import Gate, caller, from_coordinator
from mainspring_coordinator.auth.methods import open_methods, roles_by_method
from mainspring_coordinator.auth.rates import Connections
from tests.services.rig import FakeClock, Host

contracts = (client_pb2, admin_pb2, worker_pb2, peers_pb2, health_pb2, reflection_pb2)
methods = {
    f"/{service.full_name}/{method.name}": method
    for contract in contracts
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
everybody = (*Role, None)


class Cluster:
    """A server with a handler for each method that answers who called, and a token for each role."""

    def __init__(self, folder: Path, *, rate: int = 5_000) -> None:
        self.tokens = {role: new_token() for role in Role}
        self.file = folder / "tokens.toml"
        self.file.write_text("\n".join(line(f"a-{role}", role, token, None) for role, token in self.tokens.items()))
        self.clock = FakeClock()
        self.refused: list[Refusal] = []
        authenticator = Authenticator(CoordinatorSettings.of(AUTH_TOKENS=str(self.file)))
        self.gate = Gate(authenticator, rate, self.clock, refused=self.refused.append)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Any]:
        server = grpc.aio.server(interceptors=(self.gate,))
        for contract in contracts:
            for service in contract.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: handler_of(method) for method in service.methods}
                server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel
        finally:
            await server.stop(None)

    async def ask(
        self, channel: grpc.aio.Channel, method: str, role: Role | None, more: Mapping[str, str] | None = None
    ) -> str:
        """The caller that the handler saw; raises what it was refused with."""
        metadata = dict(more or {})
        if role is not None:
            metadata["authorization"] = f"Bearer {self.tokens[role]}"
        return await called(channel, method, metadata)


believed: list[bool] = []
"""Of each call that was answered, whether it could have been sent on by a coordinator."""


def handler_of(method: Any) -> Any:
    async def answer(_request: Any, _context: Any) -> bytes:
        believed.append(from_coordinator())
        return to_text(caller()).encode()

    async def yielded(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield to_text(caller()).encode()

    async def written(_requests: Any, context: Any) -> None:
        await context.write(to_text(caller()).encode())

    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(written)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(yielded)
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(answer)
    return grpc.unary_unary_rpc_method_handler(answer)


async def called(channel: Any, method: str, metadata: Mapping[str, str]) -> str:
    kind = methods[method]
    options: dict[str, Any] = {"metadata": tuple(metadata.items()), "timeout": 10}
    try:
        if kind.client_streaming and kind.server_streaming:
            both = channel.stream_stream(method)(iter([b""]), **options)
            return b"".join([part async for part in both]).decode()
        if kind.server_streaming:
            stream = channel.unary_stream(method)(b"", **options)
            return b"".join([part async for part in stream]).decode()
        if kind.client_streaming:
            answer: bytes = await channel.stream_unary(method)(iter([b""]), **options)
            return answer.decode()
        answer = await channel.unary_unary(method)(b"", **options)
        return answer.decode()
    except grpc.aio.AioRpcError as error:
        raise error_from(error) from error


def test_the_table_has_every_method_of_every_service_that_is_served_and_no_other() -> None:
    served: set[str] = set()

    class Recorder:
        def add_generic_rpc_handlers(self, handlers: Any) -> None:
            del handlers

        def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
            served.update(f"/{service}/{name}" for name in handlers)

    async def told() -> None:
        host = Host()
        server: Any = Recorder()
        services = await host.put_on(server)
        await services.fleet.close()
        await services.close()
        host.plans.close()

    asyncio.run(told())
    assert served == set(methods)
    assert set(roles_by_method) | open_methods == served


@pytest.mark.parametrize("method", methods)
def test_a_method_is_open_to_its_roles_alone(method: str, tmp_path: Path) -> None:
    async def told() -> None:
        cluster = Cluster(tmp_path)
        async with cluster.serving() as channel:
            for role in everybody:
                try:
                    answer = await cluster.ask(channel, method, role)
                except (NotAllowedError, UnauthenticatedError) as error:
                    answer = type(error).__name__
                if method in open_methods:
                    assert answer == "admin anonymous", "who asks for health is not asked who it is"
                elif role is None:
                    assert answer == "UnauthenticatedError"
                elif role in roles_by_method[method]:
                    assert answer == f"{role} a-{role}"
                else:
                    assert answer == "NotAllowedError"

    asyncio.run(told())


SUBMIT, GET = "/mainspring.v1.WorkflowsService/Submit", "/mainspring.v1.WorkflowsService/Get"
PASS = "/mainspring.v1.PeersService/PassPermits"
REFUSED: list[tuple[dict[str, str], str]] = [
    ({}, "the call has no token; set MAINSPRING_TOKEN or MAINSPRING_TOKEN_FILE (docs/security.md)"),
    ({"authorization": "Basic aHVzaA=="}, "the authorization is not `Bearer TOKEN`"),
    ({"authorization": "Bearer "}, "the authorization is not `Bearer TOKEN`"),
    ({"authorization": "Bearer hush"}, "the token is not known here; use one that AUTH_TOKENS"),
    ({"authorization": "Bearer hush.hush.hush"}, "the token is not known here"),
    ({"authorization": "hush"}, "the authorization is not `Bearer TOKEN`"),
    (
        {"authorization": "Bearer hush", forwarded_key: "1"},
        "the coordinator that sent this call on is not known to its owner",
    ),
]


@pytest.mark.parametrize(("metadata", "told"), REFUSED)
def test_a_call_without_a_token_that_counts_is_told_what_to_do_and_never_the_token(
    metadata: dict[str, str], told: str, tmp_path: Path
) -> None:
    async def story() -> None:
        async with Cluster(tmp_path).serving() as channel:
            with pytest.raises(UnauthenticatedError) as refused:
                await called(channel, SUBMIT, metadata)
            assert told in str(refused.value)
            assert "hush" not in str(refused.value)

    asyncio.run(story())


def test_a_role_that_may_not_is_told_which_one_may(tmp_path: Path) -> None:
    async def told() -> None:
        cluster = Cluster(tmp_path)
        async with cluster.serving() as channel:
            with pytest.raises(NotAllowedError) as refused:
                await cluster.ask(channel, SUBMIT, Role.READ_ONLY)
            assert str(refused.value) == (
                "WorkflowsService.Submit needs the role `client` or `admin`, and 'a-read-only' has `read-only`; "
                "use a token with such a role"
            )

    asyncio.run(told())


def test_a_call_that_is_sent_on_needs_both_roles_and_keeps_its_callers_name(tmp_path: Path) -> None:
    async def told() -> None:
        cluster = Cluster(tmp_path)

        def on_behalf(who: Caller | None) -> dict[str, str]:
            return {forwarded_key: "1"} | ({caller_key: to_text(who)} if who is not None else {})

        billing, reader = Caller("billing é", Role.CLIENT), Caller("reader", Role.READ_ONLY)
        async with cluster.serving() as channel:
            said = await cluster.ask(channel, SUBMIT, Role.COORDINATOR, on_behalf(billing))
            assert from_text(said) == billing
            assert await cluster.ask(channel, GET, Role.COORDINATOR, on_behalf(reader)) == to_text(reader)
            with pytest.raises(NotAllowedError, match="'reader' has `read-only`"):
                await cluster.ask(channel, SUBMIT, Role.COORDINATOR, on_behalf(reader))
            with pytest.raises(NotAllowedError, match="does not say for whom"):
                await cluster.ask(channel, SUBMIT, Role.COORDINATOR, on_behalf(None))
            with pytest.raises(NotAllowedError, match="'a-read-only' has `read-only`"):
                await cluster.ask(channel, SUBMIT, Role.READ_ONLY, on_behalf(Caller("root", Role.ADMIN)))
            for role in (Role.CLIENT, Role.ADMIN):
                said = await cluster.ask(channel, SUBMIT, role, on_behalf(Caller("root", Role.ADMIN)))
                assert said == f"{role} a-{role}", "who is no coordinator speaks for itself alone"
            assert believed[-4:] == [True, True, False, False]
            with pytest.raises(NotAllowedError, match="PassPermits needs the role `coordinator`"):
                await cluster.ask(channel, PASS, Role.COORDINATOR, on_behalf(billing))

    asyncio.run(told())


def test_a_changed_file_of_tokens_counts_from_the_next_call_on(tmp_path: Path) -> None:
    async def told() -> None:
        cluster = Cluster(tmp_path)
        async with cluster.serving() as channel:
            await cluster.ask(channel, GET, Role.CLIENT)
            before = cluster.file.read_text()
            cluster.file.write_text("\n".join(one for one in before.splitlines() if "client" not in one))
            with pytest.raises(UnauthenticatedError):
                await cluster.ask(channel, GET, Role.CLIENT)
            assert await cluster.ask(channel, GET, Role.ADMIN)
            cluster.file.write_text("half a li")
            assert await cluster.ask(channel, GET, Role.ADMIN), "what cannot be read takes nobody's role"
            cluster.file.write_text(before)
            assert await cluster.ask(channel, GET, Role.CLIENT)

    asyncio.run(told())


def test_a_caller_that_calls_too_often_is_told_when_to_come_back_and_others_are_not(tmp_path: Path) -> None:
    async def told() -> None:
        cluster = Cluster(tmp_path, rate=2)
        async with cluster.serving() as channel:
            for _ in range(2):
                await cluster.ask(channel, GET, Role.CLIENT)
            with pytest.raises(
                BusyError, match=r"caller 'a-client' makes more than 2 calls a second .MAX_CALL_RATE."
            ) as busy:
                await cluster.ask(channel, GET, Role.CLIENT)
            assert busy.value.retry_after_ms == 500
            await cluster.ask(channel, GET, Role.ADMIN)
            for _ in range(10):
                await cluster.ask(channel, PASS, Role.COORDINATOR)
            cluster.clock.us += 500_000
            await cluster.ask(channel, GET, Role.CLIENT)
            for expected in (UnauthenticatedError, UnauthenticatedError, BusyError):
                with pytest.raises(expected):
                    await called(channel, GET, {"authorization": "Bearer guessed"})

    asyncio.run(told())


def test_each_call_that_is_not_let_in_is_counted_by_its_reason(tmp_path: Path) -> None:
    async def told() -> None:
        cluster = Cluster(tmp_path, rate=2)
        async with cluster.serving() as channel:
            await cluster.ask(channel, GET, Role.CLIENT)
            for role in (None, Role.READ_ONLY, Role.CLIENT, Role.CLIENT):
                with contextlib.suppress(MainspringError):
                    await cluster.ask(channel, SUBMIT, role)
            assert cluster.refused == [Refusal.UNAUTHENTICATED, Refusal.FORBIDDEN, Refusal.RATE]
            cluster.gate._connections = Connections(most=0)
            with pytest.raises(BusyError, match="connections with calls under way"):
                await cluster.ask(channel, GET, Role.ADMIN)
            assert cluster.refused[3:] == [Refusal.CONNECTIONS]

    asyncio.run(told())


def test_a_call_that_ends_by_a_fault_of_ours_counts_as_under_way_no_more(tmp_path: Path) -> None:
    class Faulty(Authenticator):
        @property
        def on(self) -> bool:
            return True

        def caller(self, authorization: str | None, certificate_names: Collection[str] = (), how: str = "") -> Caller:
            raise RecursionError("in a library")

    async def told() -> None:
        cluster = Cluster(tmp_path)
        cluster.gate = Gate(Faulty(CoordinatorSettings.of()), 5_000)
        async with cluster.serving() as channel:
            with pytest.raises(MainspringError):
                await cluster.ask(channel, GET, Role.CLIENT)
            assert cluster.gate._connections.hosts == 0

    asyncio.run(told())


def test_without_authentication_everybody_is_anonymous_and_may_do_all(tmp_path: Path) -> None:
    async def told() -> None:
        cluster = Cluster(tmp_path)
        cluster.gate = Gate(Authenticator(CoordinatorSettings.of()), 5_000)
        async with cluster.serving() as channel:
            assert await called(channel, SUBMIT, {}) == "admin anonymous"
            assert await called(channel, SUBMIT, {"authorization": "Bearer x", forwarded_key: "1"}) == "admin anonymous"
            assert believed[-1]
            assert await called(channel, PASS, {}) == "admin anonymous"

    asyncio.run(told())


def test_a_method_that_nobody_knows_is_unimplemented_as_ever(tmp_path: Path) -> None:
    async def told() -> None:
        async with Cluster(tmp_path).serving() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await channel.unary_unary("/mainspring.v1.WorkflowsService/Nothing")(b"", timeout=10)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(told())


def test_a_method_that_is_missing_in_the_table_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    less = {method: roles for method, roles in roles_by_method.items() if method != GET}
    monkeypatch.setattr("mainspring_coordinator.auth.gate.roles_by_method", less)

    async def told() -> None:
        cluster = Cluster(tmp_path)
        async with cluster.serving() as channel:
            with pytest.raises(MainspringError, match=r"WorkflowsService\.Get has no role that may call it"):
                await cluster.ask(channel, GET, Role.ADMIN)

    asyncio.run(told())


@pytest.mark.parametrize("text", ["", "client", "client ", "king x", "client " + "x" * 500])
def test_what_is_no_caller_is_not_taken_for_one(text: str) -> None:
    assert from_text(text) is None
