"""A cluster of real processes: coordinators and workers on free ports, a folder of their own, ended by their ids."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from mainspring_client import Client
from mainspring_client.child import Child
from mainspring_client.dev import is_ready
from mainspring_coordinator.store.schema import upgrade
from tests.cluster.effects import Effects
from tests.servers.ports import free_port

_root: Final = Path(__file__).parents[2]
_poll_s: Final = 0.02
_wait_s_max: Final = 60.0
_stop_s_max: Final = 20.0
quick: Final = {"HEARTBEAT_INTERVAL": "500", "FAILURE_DETECTION_TIMEOUT": "1500"}
"""Heartbeats of half a second, so that what waits for one is not waited for long; the other times are the defaults."""
T = TypeVar("T")


class Process(Child):
    """A process of ours, and all that it printed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.lines: list[str] = []
        super().__init__(name, folder / f"{name}.log", lambda _, line: self.lines.append(line))

    async def said(self, *fragments: str, within_s: float = _wait_s_max) -> str:
        """Return the first line that holds all fragments, once it was printed."""

        def found() -> str | None:
            return next((line for line in self.lines if all(fragment in line for fragment in fragments)), None)

        try:
            return await until(found, within_s)
        except TimeoutError:
            raise self.failure(f"{self.name} did not say {fragments} within {within_s:g} s") from None

    def pause(self) -> None:
        """Let it stand still; it, and only it."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def killed(self) -> None:
        """Kill it and return when it is gone."""
        self.kill()
        await self.exited


class RealCluster:
    """Processes on one database; all that still run are ended with the context."""

    def __init__(self, database_url: str, folder: Path, **settings: str) -> None:
        """`settings` are for every process."""
        self.url = database_url
        self.effects = Effects(folder / "effects")
        self.processes: list[Process] = []
        self._folder = folder
        self._settings = {**quick, **settings}
        self._ports: dict[str, tuple[int, int]] = {}
        self._clients = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(upgrade, self.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._clients.aclose()
        started = [process for process in self.processes if process.started]
        for process in started:
            if not process.exited.done():
                process.resume()
        # Workers first, while there is someone to say goodbye to.
        for those in (
            [process for process in started if not self.is_coordinator(process)],
            [process for process in started if self.is_coordinator(process)],
        ):
            await asyncio.gather(*(process.end(_stop_s_max) for process in those))

    def is_coordinator(self, process: Process) -> bool:
        """Tell coordinators from workers."""
        return process.name in self._ports

    def address(self, name: str) -> str:
        """Where a coordinator serves, now or when it is started again."""
        return f"127.0.0.1:{self._port(name)[0]}"

    def http(self, name: str) -> str:
        """Where its probes and metrics are."""
        return f"127.0.0.1:{self._port(name)[1]}"

    @property
    def addresses(self) -> str:
        """All coordinators' addresses."""
        return ",".join(self.address(name) for name in self._ports)

    def client(self, *names: str, timeout: float = 30.0) -> Client:
        """Return a client of these coordinators, closed with the cluster."""
        client = Client(",".join(map(self.address, names)) or self.addresses, timeout=timeout)
        self._clients.push_async_exit(client)
        return client

    async def coordinator(self, name: str = "c1", **settings: str) -> Process:
        """Start a coordinator, for the first time or again at the same address, and return when it listens."""
        process = await self.spawn_coordinator(name, **settings)
        await process.heard("listening", _wait_s_max)
        return process

    async def spawn_coordinator(self, name: str = "c1", *, through: str = "", **settings: str) -> Process:
        """Start a coordinator's process; `through`: a script that runs the module that is its first argument."""
        grpc_port, http_port = self._port(name)
        own = {"DATABASE_URL": self.url, "GRPC_PORT": str(grpc_port), "HTTP_PORT": str(http_port)}
        return await self._spawn(name, [*_run(through), "mainspring_coordinator"], {**own, **settings})

    async def worker(self, name: str = "w1", *, slots: int = 16, through: str = "", **settings: str) -> Process:
        """Start a worker and return when a coordinator has taken it in; `through` as above."""
        process = await self.spawn_worker(name, slots=slots, through=through, **settings)
        await process.heard("attached", _wait_s_max)
        return process

    async def spawn_worker(self, name: str = "w1", *, slots: int = 16, through: str = "", **settings: str) -> Process:
        """Start a worker's process; `through` as above."""
        own = {
            "MAINSPRING_ADDRESS": self.addresses,
            "MAX_CONCURRENT_NODES": str(slots),
            "MAX_CONCURRENT_WORKFLOWS": str(slots),
        }
        arguments = [*_run(through), "mainspring_worker", "--import", "tests.cluster.tasks"]
        return await self._spawn(name, arguments, {**own, **settings})

    async def ready(self, name: str = "c1") -> None:
        """Return when a coordinator says that it is ready."""
        await eventually(lambda: asyncio.to_thread(is_ready, self.http(name)))

    async def owned(self, client: Client, **shares: int) -> None:
        """Return when the coordinators of these names own so many shards each."""

        async def fits() -> bool:
            live = [row for row in await client.coordinators() if row.live]
            return {row.name: row.shards for row in live} == shares

        await eventually(fits)

    def _port(self, name: str) -> tuple[int, int]:
        if name not in self._ports:
            self._ports[name] = (free_port(), free_port())
        return self._ports[name]

    async def _spawn(self, name: str, arguments: Sequence[str], settings: Mapping[str, str]) -> Process:
        process = Process(name, self._folder)
        self.processes.append(process)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
        environment = {
            **inherited,
            "EFFECTS": str(self.effects.folder),
            "ENGINE_INSTANCE_ID": name,
            **self._settings,
            **settings,
        }
        await process.start(arguments, environment, _root)
        return process


def _run(through: str) -> Sequence[str]:
    return ("-c", through) if through else ("-m",)


async def until(found: Callable[[], T | None], within_s: float = _wait_s_max) -> T:
    """Look again and again, because no signal comes from another process; return what was found."""
    async with asyncio.timeout(within_s):
        while (value := found()) is None:  # noqa: ASYNC110  (as above)
            await asyncio.sleep(_poll_s)
    return value


async def so(holds: Callable[[], bool], within_s: float = _wait_s_max) -> None:
    """Return once this is so."""
    await until(lambda: holds() or None, within_s)


async def eventually(holds: Callable[[], Any], within_s: float = _wait_s_max) -> None:
    """Ask a coroutine function again and again until it says yes, because no signal comes from another process."""
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110  (as above)
            await asyncio.sleep(_poll_s)
