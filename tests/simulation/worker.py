"""A worker process: the real worker, whose executors do what the seed says."""

import asyncio
from typing import Any

from mainspring_worker.attempts import Phase
from mainspring_worker.config import WorkerConfig
from mainspring_worker.context import Context
from mainspring_worker.executors import Executor, describe
from mainspring_worker.pulse import stall_limit_us
from mainspring_worker.surroundings import Surroundings
from mainspring_worker.worker import EvictedError, Worker
from tests.simulation.process import Process
from tests.simulation.wire import Wires
from tests.simulation.witness import Witness


class Idle:
    """A host that does nothing else."""

    def cpu_percent(self) -> float:
        """See `Measured`."""
        return 10.0

    def memory_percent(self) -> float:
        """See `Measured`."""
        return 10.0

    def memory_bytes(self) -> dict[str, int]:
        """See `Measured`."""
        return {}


class SimWorker:
    """One start of one worker."""

    def __init__(self, process: Process, wires: Wires, witness: Witness, config: WorkerConfig) -> None:
        self.process = process
        self.name = process.name
        self.config = config
        self.running = 0
        self.stopped = False
        self.worker: Worker
        self._world = process.world
        self._wires = wires
        self._witness = witness
        process.run_soon(self._start)

    def _start(self) -> None:
        chance = self._world.chance
        surroundings = Surroundings(
            dial=lambda address, _keepalive: self._wires.dial(self.process, address),  # type: ignore[arg-type,return-value]
            usage=Idle(),
            chance=chance,
            clock=self.process,
            elapsed_s=self.process.time,
            name_incarnation=lambda: f"{chance.getrandbits(128):032x}",
        )
        self.worker = Worker(self.config, self._executors(), surroundings=surroundings)
        self.process.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.worker.run()
        except asyncio.CancelledError:
            raise
        except EvictedError:
            self._world.tell(self.name, "is evicted")
        except Exception as error:
            self.process.faults.append(f"{self.name}: {error!r}")
        self.stopped = True

    @property
    def stall_us(self) -> int:
        """For how long it must stand still to be sure to notice."""
        config = self.config
        limit_us = stall_limit_us(config.heartbeat_interval_ms, config.failure_detection_timeout_ms, config.keepalive)
        # Its clock may be slow by a hundredth.
        return limit_us * 102 // 100

    @property
    def begun(self) -> list[tuple[int, int]]:
        """The attempts that it has begun."""
        if not hasattr(self, "worker"):
            return []
        return [key for key, attempt in self.worker._machine.attempts.items() if attempt.phase is not Phase.QUEUED]

    def drain(self, within_ms: int) -> None:
        """Leave in order; a step of its process."""
        if hasattr(self, "worker"):
            self.process.create_task(self._drain(within_ms))

    async def _drain(self, within_ms: int) -> None:
        await self.worker.drain(within_ms)

    def _executors(self) -> dict[str, Executor]:
        async def work(data: Any, context: Context) -> object:
            return await self._work(data, context)

        return {"work": describe(work, "work")}

    async def _work(self, data: Any, context: Context) -> object:
        """Do what the input says: take `ms`, fail the first `fails` attempts, give `wide` elements."""
        orders = self.worker._execution.orders
        shard, number = next(key for key, order in orders.items() if order.context is context)
        sent: Any = self.worker._machine.attempts[shard, number].work.details
        self.running += 1
        where = f"{context.workflow_id}/{context.node_id}/{context.instance}#{context.attempt}"
        self._world.tell(self.name, f"starts {where} ({shard}, {number:#x})")
        run = self._witness.started(
            self.process, self.worker.incarnation, shard, number, sent.epoch, self.running, self.config.slots
        )
        try:
            await asyncio.sleep(data["ms"] / 1_000)
        finally:
            self.running -= 1
            self._world.tell(self.name, f"ends {where}")
        if context.attempt <= data.get("fails", 0):
            raise ValueError("as the input says")
        return {"run": run, "items": list(range(data.get("wide", 0))), "at": context.instance}
