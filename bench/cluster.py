"""A cluster to measure: a private MariaDB that flushes at every commit, one coordinator, two workers of 64 slots, all processes."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.servers.mariadb import MariadbServer

settings: Final[Mapping[str, str]] = {
    "GRPC_PORT": "0",
    "HTTP_PORT": "0",
    "MAX_CONCURRENT_NODES": "64",
    # The default of 10 workflows a worker is made for work that takes seconds; here it would measure only itself.
    "MAX_CONCURRENT_WORKFLOWS": "10000",
    "LOG_LEVEL": "warning",
}
workers: Final = 2
_root: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class BenchCluster:
    """Where it is."""

    address: str
    database: str
    """Kind and version."""


@asynccontextmanager
async def running_cluster(database_url: str = "") -> AsyncIterator[BenchCluster]:
    """Start a cluster on free ports, with a database of its own unless a URL is given, and stop it at the end."""
    with TemporaryDirectory(prefix="mainspring-bench-") as folder:
        server = None
        if not database_url:
            server = MariadbServer()
            server.start()
            database_url = server.url(server.new_database("bench"))
        processes: list[subprocess.Popen[str]] = []
        try:
            environment = {**os.environ, **settings, "DATABASE_URL": database_url, "PYTHONPATH": str(_root)}
            upgrade = [sys.executable, "-m", "mainspring_coordinator", "db", "upgrade"]
            await asyncio.to_thread(subprocess.run, upgrade, env=environment, check=True, capture_output=True)
            coordinator, said = await _start(["mainspring_coordinator"], environment, Path(folder) / "coordinator.log")
            processes.append(coordinator)
            address = str(said["grpc"])
            for number in range(workers):
                arguments = ["mainspring_worker", "--import", "bench.tasks", "--name", f"bench-{number}", "--address", address]
                worker, _ = await _start(arguments, environment, Path(folder) / f"worker-{number}.log")
                processes.append(worker)
            yield BenchCluster(address, database_url.partition(":")[0])
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in reversed(processes):
                await asyncio.to_thread(process.wait, 40)
            if server is not None:
                server.stop()


async def _start(
    arguments: list[str], environment: Mapping[str, str], log: Path
) -> "tuple[subprocess.Popen[str], dict[str, object]]":
    """Start a part of the cluster and return what its first line says."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=dict(environment), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
    if not line:
        await asyncio.to_thread(process.wait)
        raise RuntimeError(f"{arguments[0]} ended at its start:\n{log.read_text()}")
    return process, json.loads(line)
