"""What the one-shot service of the Compose file makes: certificates that both sides take, tokens, each for its holder alone."""

import asyncio
import hashlib
import os
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography import x509

script = Path(__file__).parents[2] / "deploy/credentials/make.py"
holders = ("coordinator", "worker", "nginx", "client")


def make(folder: Path, **environment: str) -> str:
    """Run it, and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


async def shaken_hands(folder: Path, host: str) -> str:
    """Serve with the certificate of nginx, connect as a client that trusts the authority and shows its own; return who was served."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / "nginx/tls.crt", folder / "nginx/tls.key")
    server_side.load_verify_locations(folder / "nginx/ca.crt")
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.create_default_context(cafile=str(folder / "client/ca.crt"))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    client_side.load_cert_chain(folder / "client/tls.crt", folder / "client/tls.key")

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (((_, name),),) = writer.get_extra_info("peercert")["subject"]
        writer.write(name.encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side, server_hostname=host)
        answer = await reader.read()
        writer.close()
        return answer.decode()


def test_both_sides_take_each_others_certificates(tmp_path: Path) -> None:
    make(tmp_path, PUBLIC_HOSTS="flows.example.org, 192.0.2.7")
    for host in ("localhost", "flows.example.org", "192.0.2.7"):
        assert asyncio.run(shaken_hands(tmp_path, host)) == "client"
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(shaken_hands(tmp_path, "elsewhere.example.org"))


def test_the_coordinators_are_named_as_in_the_compose_file(tmp_path: Path) -> None:
    make(tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "coordinator/tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = names.get_values_for_type(x509.DNSName)
    assert hosts == ["workflow-engine-1", "workflow-engine-2", "workflow-engine-3", "localhost"]


def test_coordinators_know_tokens_by_their_hashes_alone(tmp_path: Path) -> None:
    printed = make(tmp_path)
    book = (tmp_path / "coordinator/tokens").read_text()
    entries = tomllib.loads(book)
    tokens = {
        role: (tmp_path / file).read_text().strip()
        for role, file in {
            "coordinator": "coordinator/token",
            "worker": "worker/token",
            "client": "client/token",
            "admin": "client/admin-token",
            "read-only": "client/read-only-token",
        }.items()
    }
    assert entries == {
        role: {"role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()} for role, token in tokens.items()
    }
    assert len(set(tokens.values())) == len(tokens)
    assert all(len(token) >= 43 for token in tokens.values()), "32 random bytes"
    assert [token for token in tokens.values() if token in book or token in printed] == []


def test_keys_and_tokens_are_for_their_owner_alone_and_the_authoritys_key_is_with_nobody_else(tmp_path: Path) -> None:
    make(tmp_path)
    secret = [path for path in tmp_path.rglob("*") if path.suffix == ".key" or "token" in path.name]
    assert len(secret) == 5 + 6
    assert [path for path in secret if path.stat().st_mode & 0o077] == []
    authority = (tmp_path / "authority/ca.key").read_bytes()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == authority] == [
        tmp_path / "authority/ca.key"
    ]
    assert all((tmp_path / holder / "ca.crt").is_file() for holder in holders)


def test_another_run_keeps_what_is_good(tmp_path: Path) -> None:
    assert make(tmp_path)
    before = contents(tmp_path)
    assert make(tmp_path) == ""
    assert contents(tmp_path) == before


def test_another_run_mends_what_is_not(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    # A run that was ended between key and certificate, a token that was taken away, another name.
    (tmp_path / "worker/tls.key").write_bytes(before["client/tls.key"])
    (tmp_path / "client/token").unlink()
    printed = make(tmp_path, PUBLIC_HOSTS="flows.example.org")
    assert [line.split(":")[0] for line in printed.splitlines()] == ["worker", "nginx"]
    changed = {name for name, content in contents(tmp_path).items() if content != before[name]}
    pairs = {f"{holder}/tls.{kind}" for holder in ("worker", "nginx") for kind in ("crt", "key")}
    assert changed == pairs | {"client/token", "coordinator/tokens"}


def test_with_another_authority_all_certificates_are_made_anew(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "authority/ca.key").unlink()
    make(tmp_path)
    after = contents(tmp_path)
    assert [holder for holder in holders if after[f"{holder}/ca.crt"] == before[f"{holder}/ca.crt"]] == []
    assert asyncio.run(shaken_hands(tmp_path, "localhost")) == "client"


def test_a_certificate_that_ends_soon_is_made_anew(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    soon = script.read_text().replace("certificate_days: Final = 397", "certificate_days: Final = 59")
    short = tmp_path / "short.py"
    short.write_text(soon)
    (tmp_path / "nginx/tls.crt").unlink()
    subprocess.run([sys.executable, str(short), str(tmp_path)], check=True, capture_output=True, timeout=60)
    brief = contents(tmp_path)
    assert [line.split(":")[0] for line in make(tmp_path).splitlines()] == ["nginx"]
    assert len({before["nginx/tls.crt"], brief["nginx/tls.crt"], contents(tmp_path)["nginx/tls.crt"]}) == 3
