"""Connections by TLS: whom each side trusts, what is said when it does not, and certificates that change."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mainspring.access import Access, TlsFiles
from mainspring.certificates import read_authorities, read_identity, valid_until
from mainspring.channels import AccessChannel, check
from mainspring.dial import open_channel
from mainspring.errors import SettingsError
from mainspring.tls import hint, server_credentials
from tests.servers.certificates import Authority, Identity

released = asyncio.Event()


@asynccontextmanager
async def echo(files: TlsFiles | None, *, client_certs: bool = False) -> AsyncIterator[str]:
    """A server that says who called: the common name of the client's certificate and the authorization."""

    async def answer(_request: bytes, context: Any) -> bytes:
        names = context.auth_context().get("x509_common_name", [b""])
        said = dict(context.invocation_metadata()).get("authorization", "")
        return b"%s|%s" % (names[0], said.encode())

    async def answer_later(_request: bytes, context: Any) -> bytes:
        await released.wait()
        name: bytes = context.auth_context()["x509_common_name"][0]
        return name

    released.clear()
    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "Who": grpc.unary_unary_rpc_method_handler(answer),
        "Wait": grpc.unary_unary_rpc_method_handler(answer_later),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    if files is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", server_credentials(files, client_certs=client_certs))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def who(channel: Any) -> str:
    answer: bytes = await channel.unary_unary("/test.Echo/Who")(b"", timeout=10)
    return answer.decode()


async def asked(address: str, access: Access) -> str:
    """What the server says to one call, or the details and the hint of the failure."""
    async with open_channel(address, access=access) as channel:
        try:
            return await who(channel)
        except grpc.aio.AioRpcError as error:
            return hint(error.details() or "", by_tls=bool(access.tls.ca))


def files(ca: Authority, identity: Identity | None = None, server_name: str = "") -> TlsFiles:
    if identity is None:
        return TlsFiles(str(ca.path), server_name=server_name)
    return TlsFiles(str(ca.path), str(identity.cert), str(identity.key), server_name)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_each_side_trusts_whom_its_authority_has_signed(ca: Authority, tmp_path: Path) -> None:
    async def told() -> None:
        server, client = ca.sign("server"), ca.sign("client", "client.internal")
        stranger = Authority(tmp_path, "stranger")
        async with echo(files(ca, server)) as address:
            assert await asked(address, Access(files(ca))) == "|"
            assert "is not signed by whom TLS_CA names" in await asked(address, Access(files(stranger)))
            assert "set TLS_CA here" in await asked(address, Access())
        async with echo(files(ca, server), client_certs=True) as address:
            assert await asked(address, Access(files(ca, client))) == "client|"
            assert "it may want a certificate" in await asked(address, Access(files(ca)))
            forged = stranger.sign("forged")
            by_another = TlsFiles(str(ca.path), str(forged.cert), str(forged.key))
            assert "it may want a certificate" in await asked(address, Access(by_another))

    asyncio.run(told())


def test_a_coordinators_certificate_must_be_in_time_and_for_the_name_that_is_dialled(ca: Authority) -> None:
    async def told() -> None:
        elsewhere = ca.sign("elsewhere", "coordinator.internal")
        async with echo(files(ca, elsewhere)) as address:
            assert "set TLS_SERVER_NAME" in await asked(address, Access(files(ca)))
            assert await asked(address, Access(files(ca, server_name="coordinator.internal"))) == "|"
        async with echo(None) as address:
            assert "no TLS is spoken there" in await asked(address, Access(files(ca)))

    asyncio.run(told())
    assert "renew" in hint("Tls handshake failed: CERTIFICATE_VERIFY_FAILED: certificate has expired", by_tls=True)


def test_a_server_takes_a_changed_certificate_with_the_next_connection(ca: Authority, tmp_path: Path) -> None:
    async def told() -> None:
        server = ca.sign("server")
        async with echo(files(ca, server)) as address:
            before = open_channel(address, access=Access(files(ca)))
            assert await who(before) == "|"
            later = Authority(tmp_path, "later")
            later.sign("server", into=server)
            assert await asked(address, Access(files(later))) == "|"
            assert "is not signed" in await asked(address, Access(files(ca)))
            assert await who(before) == "|", "a connection that stands is not cut"
            server.key.write_text("half of a key")
            assert await asked(address, Access(files(later))) == "|", "what cannot be used is not taken"
            await before.close()

    asyncio.run(told())


def test_a_client_takes_changed_certificates_and_tokens_with_the_next_call(ca: Authority, tmp_path: Path) -> None:
    async def told() -> None:
        server, client = ca.sign("server"), ca.sign("client")
        token = tmp_path / "token"
        token.write_text("first\n")
        async with echo(files(ca, server), client_certs=True) as address:
            channel = open_channel(address, access=Access(files(ca, client), token_file=str(token)))
            assert await who(channel) == "client|Bearer first"
            ca.sign("renewed", into=client)
            token.write_text("second")
            assert await who(channel) == "renewed|Bearer second"
            token.write_text("")
            assert await who(channel) == "renewed|Bearer second", "an empty file is no token"
            await channel.close()

    asyncio.run(told())


def test_calls_that_are_under_way_end_where_they_began(ca: Authority) -> None:
    async def told() -> None:
        server, client = ca.sign("server"), ca.sign("client")
        async with echo(files(ca, server), client_certs=True) as address:
            channel: Any = open_channel(address, access=Access(files(ca, client)))
            waiting = channel.unary_unary("/test.Echo/Wait")(b"", timeout=10)
            await who(channel)
            ca.sign("renewed", into=client)
            assert await who(channel) == "renewed|"
            released.set()
            assert await waiting == b"client"
            await channel.close()

    asyncio.run(told())


def test_a_token_does_not_leave_the_host_in_the_clear(tmp_path: Path, ca: Authority) -> None:
    with pytest.raises(SettingsError, match=r"the token would go to 10\.0\.0\.7:7320 in the clear; set TLS_CA"):
        AccessChannel("10.0.0.7:7320", Access(token="hush"), [])

    async def told() -> None:
        for access, address in (
            (Access(token="hush", insecure=True), "10.0.0.7:7320"),
            (Access(files(ca), token="hush"), "10.0.0.7:7320"),
            (Access(token="hush"), "127.0.0.1:7320"),
            (Access(token="hush"), "localhost:7320"),
            (Access(token="hush"), "[::1]:7320"),
        ):
            await AccessChannel(address, access, []).close()

    asyncio.run(told())


def test_files_that_cannot_be_used_are_named_with_their_setting(ca: Authority, tmp_path: Path) -> None:
    good, old, other = ca.sign("good"), ca.sign("old", days=-1), ca.sign("other")
    text = tmp_path / "text"
    text.write_text("not PEM")
    for tls, told in (
        (TlsFiles(str(tmp_path / "none.pem")), r"TLS_CA: cannot read .*none\.pem: No such file"),
        (TlsFiles(str(text)), "TLS_CA: .* holds no certificates in PEM"),
        (TlsFiles("public", str(text), str(good.key)), "TLS_CERT, TLS_KEY: .* cannot be used"),
        (
            TlsFiles("public", str(good.cert), str(other.key)),
            "TLS_CERT, TLS_KEY: .* cannot be used .KEY_VALUES_MISMATCH",
        ),
        (
            TlsFiles("public", str(old.cert), str(old.key)),
            "TLS_CERT: the certificate in .* has expired at .*; renew it",
        ),
    ):
        with pytest.raises(SettingsError, match=told):
            check(Access(tls))
    with pytest.raises(SettingsError, match=r"MAINSPRING_TOKEN_FILE: .* does not hold one token"):
        check(Access(token_file=str(text)))
    check(Access(files(ca, good)))


def test_a_key_with_a_password_is_refused_and_not_asked_for(ca: Authority) -> None:
    identity = ca.sign("locked", password=b"hush")
    with pytest.raises(SettingsError, match="without a password"):
        read_identity(str(identity.cert), str(identity.key))


@pytest.mark.parametrize("days", [1, 400, 20_000])
def test_the_end_of_a_certificate_is_read_as_it_stands_there(ca: Authority, days: int) -> None:
    end = valid_until(ca.sign("dated", days=days).cert.read_bytes())
    assert end is not None
    assert abs(end - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=5)  # noqa: TID251  (as above)
    assert read_authorities(str(ca.path)) == ca.path.read_bytes()


@pytest.mark.parametrize("chain", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", b"\x30"])
def test_what_is_no_certificate_has_no_end(chain: bytes) -> None:
    assert valid_until(chain) is None
