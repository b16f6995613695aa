"""The members of the cluster as real processes. Each has an attendant that starts it again whenever it has ended, as a supervisor of
services would, unless the nemesis holds it down.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from mainspring_coordinator.store.schema import upgrade
from tests.chaos.faults import Cast
from tests.chaos.network import Network
from tests.cluster.journal import append
from tests.cluster.running import Process
from tests.servers.mariadb import MariadbServer
from tests.servers.mysql import MysqlServer
from tests.servers.process import PrivateServer

_root: Final = Path(__file__).parents[2]
_enter: Final = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
"""A program that becomes the command of its arguments."""
_again_s: Final = 0.5
_ready_s_max: Final = 60.0
_stop_s_max: Final = 20.0
servers: Final[Mapping[str, type[PrivateServer]]] = {"mariadb": MariadbServer, "mysql": MysqlServer}
timings: Final = {
    "HEARTBEAT_INTERVAL": "500",
    "FAILURE_DETECTION_TIMEOUT": "1500",
    "STREAM_GRACE": "500",
    "LEASE_TIMEOUT": "3000",
    "LOCK_TIMEOUT": "10000",
    "KEEPALIVE_TIME": "1000",
    "KEEPALIVE_TIMEOUT": "1000",
    "KEEPALIVE_PING_TIMEOUT": "1500",
    "LOAD_REPORT_INTERVAL": "500",
}
"""Tighter than the defaults, so that much happens in little time."""
slots: Final = 16
_drain_s: Final = 3


def now_ns() -> int:
    """Return the time that all journals have."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Member:
    """One process, again and again."""

    def __init__(self, name: str, cluster: "Cluster") -> None:
        self.name = name
        self.process: Process | None = None
        self.starts = 0
        self.incarnation = ""
        """Of a coordinator: the one that it said last to have begun."""
        self.allowed = asyncio.Event()
        """Cleared by who wants it to stay down."""
        self.allowed.set()
        self._cluster = cluster

    async def attend(self) -> None:
        """Start it whenever it has ended and may run; until cancelled."""
        while True:
            await self.allowed.wait()
            self.starts += 1
            process = Watched(self, self._cluster.folder)
            arguments, settings = self._cluster.start_of(self)
            await process.start(arguments, settings, _root)
            self.process = process
            code = await process.exited
            if self.allowed.is_set():
                self._cluster.note({"act": "ended by itself", "member": self.name, "code": code})
                await asyncio.sleep(_again_s)

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and not self.process.exited.done()

    def signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Watched(Process):
    """A process whose incarnation is heard."""

    def __init__(self, member: Member, folder: Path) -> None:
        self._member = member
        super().__init__(member.name, folder)

    def _show(self, line: bytes) -> None:
        super()._show(line)
        self.lines.clear()  # they are in the log, and there are many
        if b'"term_began"' in line:
            with contextlib.suppress(ValueError):
                self._member.incarnation = json.loads(line)["incarnation"]


class Cluster:
    """All members, from the first start to the last stop."""

    def __init__(self, folder: Path, network: Network, cast: Cast, *, database: str, seed: int, rate: float) -> None:
        self.folder = folder
        self.effects = folder / "effects"
        self.calls = folder / "calls"
        self.network = network
        self.cast = cast
        self.server = servers[database](network.host(cast.database), network.prefix(cast.database))
        self.members = {name: Member(name, self) for name in cast.all if name != cast.database}
        self._seed = seed
        self._rate = rate
        self._attendants: dict[str, asyncio.Task[None]] = {}
        self._url = ""
        self.schema = ""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start(self) -> None:
        self.effects.mkdir()
        self.calls.mkdir()
        await asyncio.to_thread(self.server.start)
        self.schema = self.server.new_database("chaos")
        self._url = self.server.url(self.schema)
        by_socket = f"mysql://root@localhost/{self.schema}?unix_socket={self.server.socket_path}&ssl=false"
        await asyncio.to_thread(upgrade, by_socket)
        self._attend(*self.cast.coordinators)
        for name in self.cast.coordinators:
            await self._heard(name, "listening")
        self._attend(*self.cast.workers)
        for name in self.cast.workers:
            await self._heard(name, "attached")

    def load(self) -> None:
        """Start the clients."""
        self._attend(*self.cast.clients)

    async def unload(self) -> None:
        """End the clients in order."""
        await self._end(self.cast.clients)

    async def __aexit__(self, *_: object) -> None:
        await self._end(self.cast.clients)
        await self._end(self.cast.workers)
        await self._end(self.cast.coordinators)
        self.server.halt()

    async def tell_where_they_are(self) -> None:
        """Let the coordinators write their stacks into their logs; it ends them."""
        processes = [self.members[name].process for name in self.cast.coordinators if self.members[name].running]
        for name in self.cast.coordinators:
            self.members[name].allowed.clear()
            self.members[name].signal(signal.SIGABRT)
        await asyncio.wait([process.exited for process in processes if process is not None], timeout=_stop_s_max)

    def note(self, line: Mapping[str, object]) -> None:
        """Write down what happened to a member."""
        append(self.folder / "members.jsonl", {"at_ns": now_ns(), **line})

    def start_of(self, member: Member) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the arguments of Python and the environment to start a member with."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
        host, port = self.network.host(member.name), self.network.port(member.name)
        addresses = ",".join(f"{self.network.host(one)}:{self.network.port(one)}" for one in self.cast.coordinators)
        settings = {**inherited, **timings, "ENGINE_INSTANCE_ID": member.name, "MAINSPRING_ADDRESS": addresses}
        if member.name in self.cast.coordinators:
            arguments = ["-m", "mainspring_coordinator"]
            settings |= {
                "DATABASE_URL": self._url,
                "PYTHONFAULTHANDLER": "1",
                "DISTRIBUTED_MODE": "true",
                "GRPC_HOST": host,
                # Its network is a namespace of its own, which nobody else can enter.
                "INSECURE": "true",
                "GRPC_PORT": str(port),
                "HTTP_PORT": "0",
            }
        elif member.name in self.cast.workers:
            arguments = ["-m", "mainspring_worker", "--import", "tests.chaos.tasks", "--drain", str(_drain_s)]
            settings |= {
                "EFFECTS": str(self.effects),
                "MAX_CONCURRENT_NODES": str(slots),
                "MAX_CONCURRENT_WORKFLOWS": str(slots),
            }
        else:
            arguments = ["-m", "tests.chaos.client"]
            name = f"{member.name}-{member.starts}"
            settings |= {
                "ENGINE_INSTANCE_ID": name,
                "CHAOS_LOG": str(self.calls / f"{name}.jsonl"),
                "CHAOS_SEED": str(self._seed * 1_000 + member.starts * 10 + self.cast.clients.index(member.name)),
                "CHAOS_RATE": str(self._rate / len(self.cast.clients)),
            }
        prefix = self.network.prefix(member.name)
        return (["-c", _enter, *prefix, sys.executable, *arguments] if prefix else arguments), settings

    def _attend(self, *names: str) -> None:
        for name in names:
            self._attendants[name] = asyncio.create_task(self.members[name].attend())

    async def _heard(self, name: str, event: str) -> None:
        async with asyncio.timeout(_ready_s_max):
            while self.members[name].process is None:  # noqa: ASYNC110  (its start is under way)
                await asyncio.sleep(0.01)
        process = self.members[name].process
        assert process is not None
        await process.heard(event, _ready_s_max)

    async def _end(self, names: Sequence[str]) -> None:
        attendants = [self._attendants.pop(name) for name in names if name in self._attendants]
        for attendant in attendants:
            attendant.cancel()
        await asyncio.gather(*attendants, return_exceptions=True)
        ends = []
        for name in names:
            process = self.members[name].process
            if process is not None and process.started and not process.exited.done():
                process.resume()
                ends.append(process.end(_stop_s_max))
        await asyncio.gather(*ends)
