"""A cluster with TLS, certificates, tokens and JWTs, and an ordinary client that runs workflows on it whatever else happens."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self

import grpc
import grpc.aio

from mainspring.access import Access, TlsFiles
from mainspring.callers import Role
from mainspring.dial import channel_options
from mainspring.errors import MainspringError
from mainspring.tls import channel_credentials, read_pem
from mainspring_client import Client
from tests.cluster.flows import chain, fan
from tests.cluster.running import RealCluster, eventually
from tests.fuzz.callers import Secrets
from tests.fuzz.drawing import Known
from tests.fuzz.garbage import Port
from tests.fuzz.tally import Tally
from tests.fuzz.watch import Vitals, ours

_pause_s: Final = 0.05
_result_s_max: Final = 60.0


class Honest:
    """One who submits workflows and gets results, and notices when one is not as it should be."""

    def __init__(self, client: Client, tally: Tally) -> None:
        self.client = client
        self.done = 0
        self._tally = tally

    async def once(self) -> None:
        """Run a chain and a map."""
        number = self.done
        try:
            counted = await self.client.submit(chain(3), number, workflow_id=f"{ours}{number}-chain")
            spread = await self.client.submit(fan("step"), [number, number + 1], workflow_id=f"{ours}{number}-fan")
            got = await counted.result(_result_s_max), await spread.result(_result_s_max)
            if got != (number + 3, [number + 1, number + 2]):
                self._tally.find(f"an ordinary workflow gave a wrong result: {got}")
        except MainspringError as error:
            self._tally.find(f"an ordinary call failed: {type(error).__name__}: {str(error)[:200]}")
        self.done += 1

    async def run(self, over: asyncio.Event) -> None:
        """Go on until it is over."""
        while not over.is_set():
            await self.once()
            await asyncio.sleep(_pause_s)


class Stage:
    """The cluster, and channels to it."""

    def __init__(self, url: str, folder: Path, coordinators: int, workers: int) -> None:
        """`folder` is for logs and secrets."""
        (folder / "secrets").mkdir()
        self.secrets = Secrets(folder / "secrets")
        self.url = url
        self.folder = folder
        self.known = Known()
        self.watched: list[Vitals] = []
        self.ports: list[Port] = []
        self.channels: dict[str, list[grpc.aio.Channel]] = {}
        """By certificate, one to each coordinator."""
        self._names = [f"c{number}" for number in range(1, coordinators + 1)]
        self._workers = [f"w{number}" for number in range(1, workers + 1)]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = {"MAX_CALL_RATE": "1000000", **({"DISTRIBUTED_MODE": "true"} if len(self._names) > 1 else {})}
        cluster = await self._stack.enter_async_context(RealCluster(self.url, self.folder, **settings))
        started = [await cluster.spawn_coordinator(name, **self.secrets.coordinator()) for name in self._names]
        for process in started:
            said = await process.heard("listening", 60)
            self.watched.append(Vitals(process.name, process.pid, str(said["probes"])))
        for name in self._workers:
            await cluster.worker(name, slots=8, **self.secrets.worker())
        self.addresses = [cluster.address(name) for name in self._names]
        for certificate in self.secrets.certificates:
            self.channels[certificate] = [await self._channel(certificate, address) for address in self.addresses]
        self.admin = await self._client(Role.ADMIN)
        shares = [len(self._workers)] * len(self._names)

        async def attached() -> bool:
            rows = [row for row in await self.admin.coordinators() if row.live]
            fair = [row.shards * len(rows) for row in rows] == [16] * len(rows)
            return fair and [row.workers for row in rows] == shares

        await eventually(attached)
        self._list_ports(cluster)
        await self.refresh()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def honest(self, tally: Tally) -> Honest:
        """Return an ordinary client."""
        return Honest(await self._client(Role.CLIENT), tally)

    async def refresh(self) -> None:
        """Learn what there is, for messages that name it."""
        known = self.known
        for shard in await self.admin.shards():
            known.put("shard", shard.shard)
            known.put("epoch", shard.epoch)
            known.put("id", *(shard.epoch << 32 | number for number in range(1, 4)))
        for row in await self.admin.coordinators():
            known.put("coordinator", row.name, row.incarnation)
            known.put("incarnation", row.incarnation)
        async for workflow in self.admin.list(limit=20):
            known.put("workflow_id", workflow.workflow_id)
            known.put("workflow_ids", workflow.workflow_id)
        known.put("worker_name", *self._workers)
        known.put("node_id", "n0", "n1", "each", "all", "a")
        known.put("executor", "fuzzed")
        known.put("executors", "fuzzed")
        known.put("instance", -1, 0, 1)
        known.put("strategy", "round-robin", "dynamic", "affinity", "")
        known.put("subject", 1, 2)
        known.put("page_size", 0, 1, 1_000)
        known.put("wait_ms", 0, 1)
        known.put("protocol", 1)
        known.put("definition_index", 0)
        known.put("key", "fuzz-key")

    def _list_ports(self, cluster: RealCluster) -> None:
        by = {name: self._context(name) for name in ("client", "unknown")}
        for name, vitals in zip(self._names, self.watched, strict=True):
            grpc_port, http_port = (int(at.rpartition(":")[2]) for at in (cluster.address(name), cluster.http(name)))
            self.ports += [Port("gRPC port", grpc_port, by["client"]), Port("gRPC port", grpc_port, by["unknown"])]
            self.ports += [Port("HTTP port", http_port, by["client"])]
            self.ports += [Port("probe port", int(vitals.probes.rpartition(":")[2]), None)]

    def _context(self, certificate: str) -> ssl.SSLContext:
        mine = self.secrets.certificates[certificate]
        context = ssl.create_default_context(cafile=str(self.secrets.ca.path))
        context.check_hostname = False
        context.load_cert_chain(mine.cert, mine.key)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    async def _channel(self, certificate: str, address: str) -> grpc.aio.Channel:
        mine = self.secrets.certificates[certificate]
        pem = read_pem(TlsFiles(str(self.secrets.ca.path), str(mine.cert), str(mine.key)))
        # The bound of what we send would keep the messages back that are to be refused.
        options = [(name, -1 if name == "grpc.max_send_message_length" else value) for name, value in channel_options()]
        channel = grpc.aio.secure_channel(address, channel_credentials(pem), options=options)
        return await self._stack.enter_async_context(channel)

    async def _client(self, role: Role) -> Client:
        access: Access = self.secrets.access(role)
        return await self._stack.enter_async_context(Client(",".join(self.addresses), access=access))
