"""How long a death stops work: `python -m bench.failover [REPETITIONS]`, at the default settings, on real processes.

Each repetition holds workflows in the middle, lets a process die or stand still, and reads from the executors' journals when the next
node of a workflow that it concerned began. A worker's figures count from the end of STREAM_GRACE.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.cases import percentile
from mainspring import Workflow
from mainspring.settings import CoordinatorSettings
from mainspring_client import Client
from tests.cluster.effects import Effect
from tests.cluster.flows import gate, gate_and_step
from tests.cluster.running import Process, RealCluster, eventually, so
from tests.servers.mariadb import MariadbServer

repetitions_default: Final = 5
_held: Final = 32
_defaults: Final = CoordinatorSettings.of()
_hung_s: Final = _defaults.hung_after_ms / 1_000
_grace_s: Final = _defaults.stream_grace_ms / 1_000


class Failovers:
    """Two coordinators, a worker that stays, and what dies beside them."""

    def __init__(self, cluster: RealCluster, client: Client) -> None:
        self.cluster = cluster
        self.client = client
        self.victim: Process
        self._count = 0

    async def begin(self) -> None:
        """Start all that lives."""
        self.victim = await self.cluster.coordinator("victim")
        await self.cluster.coordinator("heir")
        await self.cluster.worker("stays", slots=2 * _held)
        await self._shared()

    async def coordinator_killed(self) -> Sequence[float]:
        """Kill a coordinator; return the seconds to the first, and to the last, of the assignments that follow."""
        late_s = await self._without_victim(self.victim.kill)
        await self.victim.exited
        self.victim = await self.cluster.coordinator("victim")
        await self._shared()
        return late_s

    async def coordinator_paused(self) -> Sequence[float]:
        """Stop a coordinator without ending it; otherwise the same."""
        late_s = await self._without_victim(self.victim.pause)
        self.victim.resume()
        await self._shared()
        return late_s

    async def worker_killed(self) -> Sequence[float]:
        """Kill a worker; return the seconds, from the end of its grace on, to the first and last start elsewhere."""
        tag = self._tag()
        frail = await self.cluster.worker(f"frail-{tag}", slots=2 * _held)
        await self._attached(2)
        names = [await self._submit(gate(), tag, number) for number in range(_held)]
        await so(lambda: len(self._starts(names)) == _held)
        hit = {one.workflow for one in self._starts(names) if one.pid == frail.pid}
        killed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        frail.kill()
        await frail.exited
        await so(lambda: len(self._starts(names)) == _held + len(hit))
        again = [one.at_ns for one in self._starts(names) if one.pid != frail.pid and one.workflow in hit]
        await self._finish(tag, names)
        return [(at_ns - killed_ns) / 1e9 - _grace_s for at_ns in (min(again), max(again))]

    async def _without_victim(self, strike: Callable[[], None]) -> Sequence[float]:
        tag = self._tag()
        names = [await self._submit(gate_and_step(), tag, number) for number in range(_held)]
        await so(lambda: len(self._starts(names)) == _held)
        shards = {row.shard for row in await self.client.shards() if row.holder_name == "victim"}
        hit = {name for name in names if (await self.client.get(name)).shard in shards}
        struck_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        strike()
        self.cluster.effects.open_gate(tag)
        await so(lambda: len(self._starts(names)) == 2 * _held)
        late = [one.at_ns for one in self._starts(names) if one.node == "next" and one.workflow in hit]
        await self._finish(tag, names)
        return [(at_ns - struck_ns) / 1e9 for at_ns in (min(late), max(late))]

    def _starts(self, names: Sequence[str]) -> Sequence[Effect]:
        wanted = set(names)
        return [effect for effect in self.cluster.effects.read("start") if effect.workflow in wanted]

    async def _submit(self, flow: Workflow, tag: str, number: int) -> str:
        return (await self.client.submit(flow, tag, workflow_id=f"{tag}-{number}")).workflow_id

    async def _finish(self, tag: str, names: Sequence[str]) -> None:
        self.cluster.effects.open_gate(tag)
        async for _ in self.client.wait_many(names):
            pass

    async def _shared(self) -> None:
        await self.cluster.owned(self.client, victim=8, heir=8)
        await self._attached(1)

    async def _attached(self, workers: int) -> None:
        async def fits() -> bool:
            return [row.workers for row in await self.client.coordinators() if row.live] == [workers, workers]

        await eventually(fits)

    def _tag(self) -> str:
        self._count += 1
        return f"round-{self._count}"


async def measure(repetitions: int, console: Console) -> dict[str, list[Sequence[float]]]:
    """Run all cases, one after the other."""
    found: dict[str, list[Sequence[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="mainspring-failover-") as folder, MariadbServer() as server:
        url = server.url(server.new_database("failover"))
        # What the tests shorten is set back to the defaults.
        defaults = {
            "HEARTBEAT_INTERVAL": str(_defaults.heartbeat_interval_ms),
            "FAILURE_DETECTION_TIMEOUT": str(_defaults.failure_detection_timeout_ms),
        }
        async with RealCluster(url, Path(folder), DISTRIBUTED_MODE="true", **defaults) as cluster:
            failovers = Failovers(cluster, cluster.client("heir"))
            await failovers.begin()
            cases: dict[str, Callable[[], Awaitable[Sequence[float]]]] = {
                "coordinator killed (goal 1 s)": failovers.coordinator_killed,
                f"coordinator paused (goal T + 1 s = {_hung_s + 1:.1f} s)": failovers.coordinator_paused,
                "worker killed, after STREAM_GRACE (goal 0.5 s)": failovers.worker_killed,
            }
            for name, case in cases.items():
                found[name] = []
                for number in range(repetitions):
                    with console.status(f"{name}: {number + 1} of {repetitions}"):
                        found[name].append(await case())
                console.print(f"{name}: " + ", ".join(f"{first:.2f} to {last:.2f} s" for first, last in found[name]))
    return found


def main() -> int:
    """Measure and print."""
    if len(sys.argv) > 2 or not all(word.isdecimal() and int(word) for word in sys.argv[1:]):
        sys.stderr.write("usage: python -m bench.failover [REPETITIONS]\n")
        return 2
    if reason := MariadbServer.missing():
        sys.stderr.write(f"{reason}\n")
        return 2
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else repetitions_default
    found = asyncio.run(measure(repetitions, Console(stderr=True)))
    table = Table("what died", "assignment", "p50", "p99", "max", title=f"Failovers, {repetitions} of each, in seconds")
    for name, rounds in found.items():
        for which, late_s in zip(("first", "last"), zip(*rounds, strict=True), strict=True):
            figures = [percentile(late_s, 0.5), percentile(late_s, 0.99), max(late_s)]
            table.add_row(name, which, *(f"{figure:.2f}" for figure in figures))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
