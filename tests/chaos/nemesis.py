"""Does to the cluster what the schedule says, and writes down what it really did, and when."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import pymysql

from tests.chaos.faults import Fault, Kind, on_networks
from tests.chaos.members import Cluster, now_ns
from tests.cluster.journal import append

_gently: Final = frozenset({Kind.STOP_COORDINATOR, Kind.STOP_WORKER})
_kills: Final = frozenset({Kind.KILL_COORDINATOR, Kind.KILL_WORKER, Kind.KILL_CLIENT})
_pauses: Final = frozenset({Kind.PAUSE_COORDINATOR, Kind.HANG_COORDINATOR, Kind.PAUSE_WORKER, Kind.HANG_WORKER})
_stop_s_max: Final = 15.0


class Nemesis:
    """One run's faults."""

    def __init__(self, cluster: Cluster, held: Callable[[str], Mapping[int, int]]) -> None:
        """`held` gives the shards of a coordinator by name, with their epochs, as they were seen last."""
        self._cluster = cluster
        self._held = held
        self._path = cluster.folder / "faults.jsonl"
        self._database = asyncio.Lock()
        self.injected = 0
        self.under_way: dict[str, Fault] = {}

    async def run(self, faults: Sequence[Fault], seconds: float) -> None:
        """Inflict all of them at their times; return when `seconds` have passed, all are over and everybody may run again."""
        began = asyncio.get_running_loop().time()
        tasks = set[asyncio.Task[None]]()
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at_s - asyncio.get_running_loop().time()))
            tasks.add(asyncio.create_task(self._inflict(fault)))
            for done in [task for task in tasks if task.done()]:
                done.result()
        await asyncio.sleep(max(0.0, began + seconds - asyncio.get_running_loop().time()))
        await asyncio.gather(*tasks)

    async def _inflict(self, fault: Fault) -> None:
        self.under_way[fault.name] = fault
        held = {str(shard): epoch for shard, epoch in self._held(fault.target).items()}
        line = {"name": fault.name, "kind": fault.kind, "target": fault.target, "seconds": fault.seconds}
        network = {"way": fault.way, "drop": fault.drop, "delay_ms": fault.delay_ms, "bytes_a_s": fault.bytes_a_s}
        more = {**network, "period_s": fault.period_s} if fault.kind in on_networks else {}
        began_ns = now_ns()
        try:
            done = await self._act(fault)
        finally:
            self.under_way.pop(fault.name)
        if done:
            self.injected += 1
        append(self._path, {**line, **more, "began_ns": began_ns, "ended_ns": now_ns(), "held": held, "injected": done})

    async def _act(self, fault: Fault) -> bool:
        """Begin, last and end; tell whether it really was done."""
        if fault.kind in on_networks:
            await self._act_on_network(fault)
            return True
        if fault.kind is Kind.KILL_DATABASE:
            server = self._cluster.server
            await asyncio.to_thread(server.halt)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(server.start)
            return True
        if fault.kind is Kind.PAUSE_DATABASE:
            self._cluster.server.pause()
            await asyncio.sleep(fault.seconds)
            self._cluster.server.resume()
            return True
        if fault.kind in (Kind.END_LOCK, Kind.END_WRITER):
            return await asyncio.to_thread(self._end_connection, fault)
        return await self._act_on_process(fault)

    async def _act_on_network(self, fault: Fault) -> None:
        network, loop = self._cluster.network, asyncio.get_running_loop()
        until_s = loop.time() + fault.seconds
        while (left_s := until_s - loop.time()) > 0:
            await network.trouble(
                fault.name,
                fault.pairs,
                drop=fault.drop,
                delay_ms=fault.delay_ms,
                jitter_ms=fault.jitter_ms,
                bytes_a_s=fault.bytes_a_s,
            )
            await asyncio.sleep(min(left_s, fault.period_s or left_s))
            await network.heal(fault.name)
            await asyncio.sleep(fault.period_s)

    async def _act_on_process(self, fault: Fault) -> bool:
        member = self._cluster.members[fault.target]
        if not member.running:
            return False
        process = member.process
        assert process is not None
        if fault.kind in _pauses:
            process.pause()
            await asyncio.sleep(fault.seconds)
            member.signal(signal.SIGCONT)
            return True
        assert fault.kind in _kills | _gently, fault
        member.allowed.clear()
        if fault.kind in _kills:
            process.kill()
        else:
            process.ask_to_end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_stop_s_max):
                await process.exited
        if not process.exited.done():
            # A coordinator may be unable to end in order while it is cut off; a supervisor would kill it then, too.
            self._cluster.note({"act": "did not end in time", "member": fault.target})
            process.kill()
        await asyncio.sleep(fault.seconds)
        member.allowed.set()
        return True

    def _end_connection(self, fault: Fault) -> bool:
        column = "lock_connection" if fault.kind is Kind.END_LOCK else "writer_connection"
        of = f"SELECT {column} FROM {self._cluster.schema}.coordinators WHERE incarnation = %s"
        try:
            with contextlib.closing(self._cluster.server.administrator()) as connection, connection.cursor() as cursor:
                cursor.execute(of, (self._cluster.members[fault.target].incarnation,))
                row = cursor.fetchone()
                if not row:
                    return False
                cursor.execute(f"KILL {int(row[0])}")
        except (pymysql.Error, ConnectionRefusedError) as error:
            # The database is away, or the connection was gone already.
            sys.stderr.write(f"{fault.name}: {fault.kind} of {fault.target} not done: {error}\n")
            return False
        return True
