"""The embedded cluster: one coordinator on SQLite and a few workers, as processes on this machine.

    async with DevCluster(imports=["tasks"], workers=2) as cluster:
        async with Client(cluster.address) as client:
            ...

It is made of the same programs as a large cluster; only the database is a file.
"""

import asyncio
import errno
import http.client
import os
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from mainspring.errors import BadRequestError, SettingsError, UnavailableError
from mainspring.limits import (
    dev_ready_poll_ms,
    dev_restarts_max,
    dev_restarts_window_ms,
    dev_start_ms_max,
    dev_stop_ms_max,
    dev_workers_max,
    slots_max,
)
from mainspring_client.child import Child

host: Final = "127.0.0.1"
_coordinator_stop_s: Final = 10.0
_ready_timeout_s: Final = 2.0
_upgrade_and_run: Final = (
    "import sys; from mainspring_coordinator.__main__ import main; sys.exit(main(['db', 'upgrade']) or main([]))"
)
"""One process for both, because most of what a start costs is importing the same packages."""
_own_settings: Final = (
    "DATABASE_URL",
    "DISTRIBUTED_MODE",
    "ENGINE_INSTANCE_ID",
    "GRPC_HOST",
    "GRPC_PORT",
    "HTTP_HOST",
    "HTTP_PORT",
    "HTTP_PROBE_PORT",
    "MAINSPRING_ADDRESS",
    "MAX_CONCURRENT_NODES",
    "SUPPORTED_EXECUTORS",
)
"""What an embedded cluster decides by itself, whatever the environment says; the rest is taken over."""


class DevCluster:
    """A cluster for as long as the context lasts."""

    def __init__(
        self,
        *,
        imports: Sequence[str] = (),
        workers: int = 2,
        slots: int | None = None,
        data: Path | str | None = None,
        database_url: str | None = None,
        grpc_port: int = 0,
        http_port: int = 0,
        directory: Path | str | None = None,
        environment: Mapping[str, str] | None = None,
        echo: Callable[[str, str], None] | None = None,
    ) -> None:
        """Describe it.

        imports: the modules that register executors; without any there are no workers. slots: of each worker. data: the folder
        of the database and the logs; None: one that goes with the cluster. database_url: another database than the file in
        `data`. Ports: 0 is a free one. directory: where the workers find the modules; None: the current one. environment: settings
        for all processes. echo: gets (process, line) of all that they print.
        """
        if not 0 <= workers <= dev_workers_max:
            raise BadRequestError(f"workers: {workers} is not within 0 to {dev_workers_max}", field="workers")
        if slots is not None and not 0 < slots <= slots_max:
            raise BadRequestError(f"slots: {slots} is not within 1 to {slots_max}", field="slots")
        self._imports = tuple(imports)
        self._workers_wanted = workers if imports else 0
        self._slots = slots
        self._own_data = data is None
        self._data = Path(tempfile.mkdtemp(prefix="mainspring-")) if data is None else Path(data).absolute()
        self._database_url = database_url or f"sqlite:///{self._data / 'mainspring.db'}"
        self._grpc_port = grpc_port
        self._http_port = http_port
        self._directory = Path(directory) if directory is not None else Path.cwd()
        self._environment = dict(environment or {})
        self._echo = echo
        self.coordinator = Child("coordinator", self._data / "coordinator.log", echo)
        """The coordinator's process."""
        self.workers: list[Child] = []
        """The workers' processes."""
        self.address = ""
        """Where clients and workers find it: "host:port"."""
        self.http_address = ""
        """Where its HTTP server is: "host:port"."""
        self.probes_address = ""
        """Where its probes answer without TLS: the same, unless TLS_CERT is set."""

    @property
    def data(self) -> Path:
        """The folder of the database and the logs."""
        return self._data

    @property
    def imports(self) -> Sequence[str]:
        """The modules that the workers run."""
        return self._imports

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all processes and wait until they serve; when that fails, nothing is left running."""
        try:
            await self._start()
        except BaseException:
            await self._clear()
            raise

    async def stop(self) -> None:
        """Let the workers finish what they run, then end all; what takes too long is killed."""
        try:
            workers = [worker for worker in self._started() if worker is not self.coordinator]
            await asyncio.gather(*(worker.end(dev_stop_ms_max / 1000) for worker in workers))
            if self.coordinator.started:
                await self.coordinator.end(_coordinator_stop_s)
        finally:
            await self._clear()

    def kill(self) -> None:
        """End all processes at once; `stop` then has nothing to wait for."""
        for child in self._started():
            child.kill()

    async def _clear(self) -> None:
        self.kill()
        await asyncio.gather(*(child.exited for child in self._started()))
        if self._own_data:
            shutil.rmtree(self._data, ignore_errors=True)

    def _started(self) -> list[Child]:
        return [child for child in (*self.workers, self.coordinator) if child.started]

    async def add_worker(self) -> Child:
        """Start one more worker and wait until it is attached."""
        name = f"worker-{len(self.workers) + 1}"
        worker = Child(name, self._data / f"{name}.log", self._echo)
        self.workers.append(worker)
        await self._start_worker(worker)
        await worker.heard("attached", dev_start_ms_max / 1000)
        return worker

    async def start_again(self, dead: Child) -> Child:
        """Start a process that `ended` has returned once more, in its place: same name, ports and log; do not wait until it serves.

        Nothing is started again by itself: what a test's cluster loses stays lost, until the test says otherwise.
        """
        child = Child(dead.name, dead.log_path, self._echo)
        if dead is self.coordinator:
            self.coordinator = child
            ports = (self.address, self.http_address, self.probes_address)
            await self._start_coordinator(*map(_port_of, ports))
        else:
            self.workers[self.workers.index(dead)] = child
            await self._start_worker(child)
        return child

    async def _start_worker(self, worker: Child) -> None:
        arguments = ["-m", "mainspring_worker", "--address", self.address, "--name", worker.name]
        for module in self._imports:
            arguments += ["--import", module]
        if self._slots is not None:
            arguments += ["--slots", str(self._slots)]
        await worker.start(arguments, self._settings(worker.name, HTTP_PORT="0"), self._directory)

    async def _start_coordinator(self, grpc_port: int, http_port: int, probe_port: int) -> None:
        ports = {"GRPC_PORT": grpc_port, "HTTP_PORT": http_port, "HTTP_PROBE_PORT": probe_port}
        settings = self._settings("coordinator", **{name: str(port) for name, port in ports.items()})
        await self.coordinator.start(["-c", _upgrade_and_run], settings, self._directory)

    async def ended(self) -> Child:
        """Wait until a process ends that was not asked to; return it."""
        children = {child.exited: child for child in (self.coordinator, *self.workers)}
        done, _ = await asyncio.wait(children, return_when=asyncio.FIRST_COMPLETED)
        return children[done.pop()]

    async def _start(self) -> None:
        require_free(self._grpc_port, "GRPC_PORT")
        require_free(self._http_port, "HTTP_PORT")
        probe_port = (self._http_port + 1) % 65_536 if self._http_port else 0
        self._data.mkdir(parents=True, exist_ok=True)
        await self._start_coordinator(self._grpc_port, self._http_port, probe_port)
        said = await self.coordinator.heard("listening", dev_start_ms_max / 1000)
        self.address, self.http_address, self.probes_address = said["grpc"], said["http"], said["probes"]
        await self._ready()
        adding = [asyncio.create_task(self.add_worker()) for _ in range(self._workers_wanted)]
        try:
            await asyncio.gather(*adding)
        finally:  # of one that cannot start, the others do not start later, when nobody ends them
            for one in adding:
                one.cancel()
            await asyncio.gather(*adding, return_exceptions=True)

    async def _ready(self) -> None:
        polls = dev_start_ms_max // dev_ready_poll_ms
        for _ in range(polls):
            if await asyncio.to_thread(is_ready, self.probes_address):
                return
            if self.coordinator.exited.done():
                break
            await asyncio.sleep(dev_ready_poll_ms / 1000)
        raise self.coordinator.failure(f"the coordinator is not ready at http://{self.probes_address}/ready")

    def _settings(self, name: str, **more: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if key not in _own_settings}
        own = {"DATABASE_URL": self._database_url, "ENGINE_INSTANCE_ID": name}
        return inherited | own | more | self._environment


class Restarts:
    """How often each part was started again lately: one that dies at every start must not do so for ever."""

    def __init__(self) -> None:
        self._at: dict[str, deque[float]] = {}

    def allow(self, name: str, now_s: float) -> bool:
        """Tell whether the part may be started again, and count it if so."""
        at = self._at.setdefault(name, deque(maxlen=dev_restarts_max))
        if len(at) == dev_restarts_max and now_s - at[0] < dev_restarts_window_ms / 1000:
            return False
        at.append(now_s)
        return True


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def is_ready(address: str) -> bool:
    """Tell whether /ready at "host:port" answers 200."""
    connection = http.client.HTTPConnection(address, timeout=_ready_timeout_s)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False  # it does not listen yet, or no more: its process tells which
    finally:
        connection.close()


def require_free(port: int, setting: str) -> None:
    """Raise `SettingsError` that names the port and the setting when something listens there already."""
    if port == 0:
        return
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise UnavailableError(f"port {port} on {host}: {error.strerror}") from error
        taken = (
            "is taken, perhaps by a cluster that runs already" if error.errno == errno.EADDRINUSE else "is not allowed"
        )
        option = f"--{setting.lower().replace('_', '-')}"
        raise SettingsError(f"port {port} on {host} {taken}; choose another with {setting} or {option}") from error
