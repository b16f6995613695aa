"""The way out of a worker: take no more, finish what runs, see the results acknowledged, say goodbye and what is left.

Drains do not add up: whoever asks for one while another is under way can only bring its end nearer.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from mainspring.limits import goodbye_wait_ms_max
from mainspring.v1 import worker_pb2 as wire
from mainspring_worker.attempts import Key
from mainspring_worker.execution import Execution
from mainspring_worker.links import Links
from mainspring_worker.machine import Machine

_log: Final = structlog.get_logger(__name__)


class Drain:
    """Of one worker; `ended` is called when all is done."""

    def __init__(self, machine: Machine, execution: Execution, links: Links, ended: Callable[[], None]) -> None:
        self._machine = machine
        self._execution = execution
        self._links = links
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Sequence[Key]] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._over = False
        self._changed = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether the worker is on its way out."""
        return self._task is not None

    @property
    def left_ms(self) -> int:
        """How much time it has left."""
        return max(0, int((self._limit.when() - self._loop.time()) * 1_000)) if self._limit is not None else 0

    def begin(self, within_ms: int) -> "asyncio.Task[Sequence[Key]]":
        """Begin, or go on, to be over in this time; the task returns the attempts that are left behind."""
        at = self._loop.time() + within_ms / 1_000
        if self._limit is None or at < self._limit.when():
            if self._limit is not None:
                self._limit.cancel()
            self._limit = self._loop.call_at(at, self._time_is_over)
            _log.info("draining", running=self._machine.running, queued=self._machine.queued, within_ms=within_ms)
        if self._task is None:
            self._machine.drain()
            self._task = self._loop.create_task(self._run())
        return self._task

    def changed(self) -> None:
        """An attempt has ended, or a result was acknowledged."""
        self._changed.set()

    async def close(self) -> None:
        """Let go of everything, when the worker ends for another reason."""
        if self._limit is not None:
            self._limit.cancel()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _time_is_over(self) -> None:
        self._over = True
        self._changed.set()

    async def _run(self) -> Sequence[Key]:
        while not (self._machine.idle or self._over):
            self._changed.clear()
            await self._changed.wait()
        left = self._machine.left_behind()
        for key in left:
            self._tell(key)
        # Before the coordinators hear of it and give it to others; what listens to its cancellation does not run twice at once.
        await self._execution.close()
        abandoned = [wire.AbandonedAttempt(shard=shard, id=number) for shard, number in left]
        goodbye = wire.Goodbye(reason=wire.GOODBYE_REASON_SHUTDOWN, message="the worker stops", abandoned=abandoned)
        await self._links.leave(goodbye, 2 * goodbye_wait_ms_max / 1_000)
        _log.info("stopped", left=len(left))
        self._ended()
        return left

    def _tell(self, key: Key) -> None:
        order = self._execution.orders.get(key)
        if order is None:
            _log.warning("result_left", shard=key[0], id=key[1])
            return
        context = order.context
        _log.warning("attempt_left", workflow=context.workflow_id, node=context.node_id, instance=context.instance)
