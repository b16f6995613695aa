"""What a graph of 100,000 nodes costs until it is accepted, and for how long it keeps the coordinator from anything else.

    python -m bench.large [NODES]

A coordinator runs in this process, on a MariaDB of its own; a task on its event loop notes by how much it is woken too late. The client
is another process. Each try submits another graph; every node depends on three of those before it and has an input of its own.
"""

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import orjson
from rich.console import Console

from mainspring.settings import CoordinatorSettings
from mainspring_client import Client
from mainspring_coordinator.app import Coordinator
from mainspring_coordinator.store.schema import upgrade
from tests.servers.mariadb import MariadbServer

_tries: Final = 5
_beat_s: Final = 0.001
_reach: Final = 1_000
"""How far back a node's parents lie at most."""


def definition(nodes: int, number: int) -> bytes:
    """Return the JSON of a graph; `number` makes it another one."""
    draw = random.Random(number)  # noqa: S311  (the same graphs each time)
    found: list[dict[str, object]] = [{"id": "root", "executor": "nobody", "input": number}]
    for at in range(nodes - 1):
        parents = [f"n{draw.randrange(max(0, at - _reach), at)}" for _ in range(3)] if at > 50 else ["root"]
        found.append(
            {"id": f"n{at}", "executor": "nobody", "depends_on": parents, "input": {"at": at, "root": "${root.x}"}}
        )
    return orjson.dumps({"name": "large", "nodes": found})


async def submit(address: str, graph: object) -> None:
    """Submit a definition, and print how long it took until the cluster had accepted it."""
    async with Client(address) as client:
        await client.cluster()
        started = time.perf_counter()
        await client.submit(graph)
        sys.stdout.write(f"{time.perf_counter() - started}\n")


class Beat:
    """By how much the event loop wakes somebody too late."""

    def __init__(self) -> None:
        self.late_s: list[float] = []

    async def run(self) -> None:
        """Go on until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await asyncio.sleep(_beat_s)
            self.late_s.append(clock() - began - _beat_s)


async def measure(nodes: int, console: Console) -> None:
    """Measure and print."""
    with MariadbServer() as server, tempfile.TemporaryDirectory() as folder:
        url = server.url(server.new_database("large"))
        upgrade(url)
        settings = CoordinatorSettings.of(DATABASE_URL=url, GRPC_PORT=0, HTTP_PORT=0, LOG_LEVEL="warning")
        coordinator = Coordinator(settings)
        await coordinator.start()
        seconds: list[float] = []
        held: list[float] = []
        for number in range(_tries):
            path = Path(folder, f"{number}.json")
            size = await asyncio.to_thread(path.write_bytes, definition(nodes, number))
            beat = Beat()
            beating = asyncio.create_task(beat.run())
            command = [sys.executable, "-m", "bench.large", "--submit", coordinator.grpc_address, str(path)]
            child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            out, _ = await child.communicate()
            beating.cancel()
            seconds.append(float(out))
            held.append(max(beat.late_s) * 1_000)
            told = f"accepted in {seconds[-1]:.2f} s, the loop was held for {held[-1]:.1f} ms at most"
            console.print(f"{size / 1e6:.1f} MB: {told}")
        await coordinator.stop()
    console.print(
        f"{nodes:,} nodes: accepted in {median(seconds):.2f} s, held for {median(held):.1f} ms (medians of {_tries})"
    )


def main() -> int:
    """Measure, or be the client."""
    if sys.argv[1:2] == ["--submit"]:
        asyncio.run(submit(sys.argv[2], orjson.loads(Path(sys.argv[3]).read_bytes())))
        return 0
    asyncio.run(measure(int(sys.argv[1]) if sys.argv[1:] else 100_000, Console()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
