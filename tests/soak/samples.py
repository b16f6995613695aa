"""What the processes of a cluster take, looked at each second."""

import asyncio
import contextlib
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
from pymysql.connections import Connection

from mainspring.limits import MIB
from tests.servers.process import PrivateServer

_every_s: Final = 1.0


@dataclass(slots=True)
class Watched:
    """One process, and what was seen of it: a value of each measure for each moment.

    `memory` is resident, in MiB, `files` are open ones; of coordinators also `connections` to the database, and the `queue` of events that
    wait for the loop.
    """

    name: str
    pid: int
    http: str = ""
    """Where its metrics are; empty: a worker."""
    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


class Sampler:
    """Looks at all of them."""

    def __init__(self, server: PrivateServer, watched: Sequence[Watched]) -> None:
        self.watched = watched
        self.times: list[float] = []
        """Seconds since the first look."""
        self._server = server

    async def run(self, over: asyncio.Event) -> None:
        """Look each second until it is over."""
        with contextlib.closing(await asyncio.to_thread(self._server.administrator)) as database:
            began = time.monotonic()
            while not over.is_set():
                at = time.monotonic() - began
                await asyncio.to_thread(self._look, database)
                self.times.append(at)
                left_s = began + _every_s * len(self.times) - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), max(0.0, left_s))

    def _look(self, database: "Connection[Any]") -> None:
        ports = _ports_of_clients(database)
        for one in self.watched:
            process = psutil.Process(one.pid)
            seen: dict[str, float] = {
                "memory": process.memory_info().rss / MIB,
                "threads": process.num_threads(),
                "files": process.num_fds(),
            }
            if one.http:
                own = {link.laddr.port for link in process.net_connections("tcp") if link.laddr}
                seen["connections"] = sum(count for port, count in ports.items() if port in own)
                seen["queue"] = _queue_depth(one.http)
            for measure, value in seen.items():
                one.values.setdefault(measure, []).append(value)


def _ports_of_clients(database: "Connection[Any]") -> Mapping[int, int]:
    """Return the ports that the server's connections come from."""
    with database.cursor() as cursor:
        cursor.execute("SELECT HOST FROM information_schema.PROCESSLIST")
        hosts = [str(row[0]) for row in cursor.fetchall()]
    return Counter(int(host.rpartition(":")[2]) for host in hosts if ":" in host)


def _queue_depth(http: str) -> float:
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("mainspring_queue_depth "))
