"""A cluster with TLS, tokens and roles on every port: who may do what, and what the logs keep to themselves."""

import asyncio
import re
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from mainspring.access import Access, TlsFiles
from mainspring.callers import Role
from mainspring.errors import NotAllowedError, UnauthenticatedError, UnavailableError
from mainspring.tokens import line, new_token
from mainspring_client import Client
from mainspring_client.dev import DevCluster
from tests.cluster.flows import chain
from tests.cluster.running import RealCluster, eventually
from tests.servers.certificates import Authority

MARK = "payload-that-no-log-may-show"


@dataclass(frozen=True)
class Secured:
    """What a secure cluster needs, as files."""

    folder: Path
    ca: Authority
    tokens: dict[Role, str]

    @classmethod
    def make(cls, folder: Path) -> "Secured":
        folder.mkdir()
        tokens = {role: new_token() for role in Role}
        for role, token in tokens.items():
            (folder / f"{role}.token").write_text(token + "\n")
        lines = [line(f"a-{role}", role, token, None) for role, token in tokens.items()]
        (folder / "tokens.toml").write_text(
            "\n".join([*lines, 'fleet = { role = "worker", certificate = "w.internal" }'])
        )
        return cls(folder, Authority(folder), tokens)

    def coordinators(self) -> dict[str, str]:
        return {
            **self._identity("server"),
            **self.calling(Role.COORDINATOR),
            "AUTH_TOKENS": str(self.folder / "tokens.toml"),
            "DISTRIBUTED_MODE": "true",
            "HTTP_PROBE_PORT": "0",
            "TLS_CLIENT_CERTS": "required",
        }

    def calling(self, role: Role) -> dict[str, str]:
        return {"TLS_CA": str(self.ca.path), "MAINSPRING_TOKEN_FILE": str(self.folder / f"{role}.token")}

    def worker(self, *, by_certificate: bool) -> dict[str, str]:
        """A worker that is known by its certificate, or by its token."""
        names = ("w.internal",) if by_certificate else ("other.internal",)
        own = self._identity(f"worker-{names[0]}", *names)
        return {**own, "TLS_CA": str(self.ca.path)} if by_certificate else {**own, **self.calling(Role.WORKER)}

    def access(self, role: Role | None, ca: Authority | None = None) -> Access:
        mine = self.ca.sign("client", "client.internal")
        tls = TlsFiles(str((ca or self.ca).path), str(mine.cert), str(mine.key))
        return Access(tls, self.tokens[role] if role is not None else "")

    def _identity(self, name: str, *names: str) -> dict[str, str]:
        identity = self.ca.sign(name, *names)
        return {"TLS_CERT": str(identity.cert), "TLS_KEY": str(identity.key)}


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured.make(tmp_path / "secrets")


def test_a_secure_cluster_runs_workflows_refuses_strangers_and_logs_no_secret(
    chosen_url: str, tmp_path: Path, secured: Secured
) -> None:
    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, LOG_LEVEL="debug") as cluster:
            for name in ("c1", "c2"):
                await cluster.coordinator(name, **secured.coordinators())
            await cluster.worker("w1", slots=4, **secured.worker(by_certificate=True))
            await cluster.worker("w2", slots=4, **secured.worker(by_certificate=False))
            address = cluster.address("c1")
            async with Client(address, access=secured.access(Role.ADMIN)) as admin:
                await cluster.owned(admin, c1=8, c2=8)

                async def both_see_both() -> bool:
                    return [row.workers for row in await admin.coordinators()] == [2, 2]

                await eventually(both_see_both)
            await run_workflows(address, secured)
            await refuse_strangers(address, secured, tmp_path)
            refused = await asyncio.to_thread(refused_calls, cluster.http("c1"), secured)
            assert refused["unauthenticated"] >= 1
            assert refused["forbidden"] >= 1
            stranger = await cluster.spawn_worker(
                "w3", slots=4, **secured.worker(by_certificate=False) | {"MAINSPRING_TOKEN_FILE": ""}
            )
            told = await stranger.said("coordinator_unreachable")
            assert "UNAUTHENTICATED: the certificate's names ('other.internal'" in told
            assert "docs/security.md says how a worker gets a token" in told

    asyncio.run(play())
    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert {"c1.log", "c2.log", "w1.log", "w2.log", "w3.log"} <= logs.keys()
    for name, text in logs.items():
        assert MARK not in text, name
        assert [role for role, token in secured.tokens.items() if token in text] == [], name
        assert "call_refused" in text or name != "c1.log"


async def run_workflows(address: str, secured: Secured) -> None:
    """Those of both coordinators are submitted through one, which sends them on under its own credential."""
    echo = chain(1, "noop")
    async with Client(address, access=secured.access(Role.CLIENT)) as client:
        handles = [await client.submit(echo, {MARK: n}) for n in range(12)]
        assert [await handle.result() for handle in handles] == [{MARK: n} for n in range(12)]


async def refuse_strangers(address: str, secured: Secured, folder: Path) -> None:
    """Each hears what it lacks."""
    async with Client(address, access=secured.access(None)) as nobody:
        with pytest.raises(UnauthenticatedError, match="MAINSPRING_TOKEN"):
            await nobody.shards()
    async with Client(address, access=secured.access(Role.READ_ONLY)) as reader:
        assert len(await reader.shards()) == 16
        with pytest.raises(NotAllowedError, match=r"WorkflowsService\.Submit needs the role `client` or `admin`"):
            await reader.submit(chain(1, "noop"), 0)
    unknown = Authority(folder, "unknown")
    async with Client(address, access=secured.access(Role.ADMIN, unknown), connect_timeout=1) as mistrusting:
        with pytest.raises(UnavailableError, match="its certificate is not signed by whom TLS_CA names here"):
            await mistrusting.shards()
    async with Client(address, access=Access(), connect_timeout=1) as plain:
        with pytest.raises(UnavailableError, match="if TLS is spoken there, set TLS_CA here"):
            await plain.shards()


def refused_calls(http: str, secured: Secured) -> dict[str, float]:
    """What a coordinator has counted, by reason."""
    mine = secured.ca.sign("scraper", "scraper.internal")
    context = ssl.create_default_context(cafile=str(secured.ca.path))
    context.load_cert_chain(mine.cert, mine.key)
    asked = urllib.request.Request(
        f"https://{http}/metrics", headers={"authorization": f"Bearer {secured.tokens[Role.READ_ONLY]}"}
    )
    with urllib.request.urlopen(asked, timeout=10, context=context) as answer:
        text = answer.read().decode()
    counted = re.findall(r'^mainspring_refused_calls_total{reason="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {reason: float(count) for reason, count in counted}


def test_an_embedded_cluster_takes_the_same_settings(tmp_path: Path, secured: Secured) -> None:
    one_token = {
        **secured.coordinators(),
        **secured.calling(Role.ADMIN),
        "DISTRIBUTED_MODE": "",
        "EFFECTS": str(tmp_path),
    }
    del one_token["HTTP_PROBE_PORT"]

    async def play() -> None:
        async with DevCluster(imports=["tests.cluster.tasks"], workers=1, environment=one_token) as cluster:
            assert cluster.probes_address != cluster.http_address
            async with Client(cluster.address, access=secured.access(Role.CLIENT)) as client:
                assert await (await client.submit(chain(1, "noop"), 7)).result() == 7

    asyncio.run(play())


def test_a_coordinator_that_other_hosts_could_reach_does_not_start_without_being_told_so(
    file_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path, HTTP_PORT="0") as cluster:
            open_to_all = {"GRPC_HOST": "0.0.0.0", "ADVERTISE_HOST": "127.0.0.1"}
            refused = await cluster.spawn_coordinator("c1", **open_to_all)
            assert await refused.exited == 2
            assert "GRPC_HOST = 0.0.0.0 lets other hosts connect" in (tmp_path / "c1.log").read_text()
            await cluster.coordinator("c2", **open_to_all, INSECURE="true")

    asyncio.run(play())
