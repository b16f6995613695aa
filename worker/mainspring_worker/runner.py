"""Runs attempts: coroutines on the loop, plain functions in threads, `process=True` functions in processes of their own.

One task an attempt, whatever its kind; its end is told once, always.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson

from mainspring.errors import Failure
from mainspring.failures import start_to_close_timeout, unknown_executor
from mainspring_worker.context import AttemptCancelled, Context
from mainspring_worker.executors import Executor, Kind
from mainspring_worker.machine import Cause, Key
from mainspring_worker.outcome import Ended, raised, returned
from mainspring_worker.processes import ProcessPool


@dataclass(frozen=True, slots=True)
class Order:
    """What an assignment asks to be run."""

    key: Key
    executor: str
    input: bytes
    start_to_close_ms: int
    context: Context


@dataclass(slots=True, eq=False)
class _Running:
    order: Order
    task: "asyncio.Task[None]"
    started: float
    timed_out: bool = False


class Runner:
    """Runs orders; `ended` is called on the event loop with the key, the outcome and how long the code ran in microseconds."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        slots: int,
        ended: Callable[[Order, Ended, int], None],
        processes: ProcessPool,
    ) -> None:
        self._executors = executors
        self._ended = ended
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="executor")
        self._processes = processes
        self._running: dict[Key, _Running] = {}
        self._loop = asyncio.get_running_loop()

    def start(self, order: Order) -> None:
        """Begin an attempt."""
        running = _Running(order, self._loop.create_task(self._run(order)), self._loop.time())
        self._running[order.key] = running
        if order.start_to_close_ms:
            self._loop.call_later(order.start_to_close_ms / 1_000, self._out_of_time, running)

    def stop(self, key: Key, cause: Cause) -> None:
        """Tell an attempt to stop; it holds its place until its code has really ended."""
        running = self._running.get(key)
        if running is not None:
            self._cancel(running, cause.name)

    def close(self) -> None:
        """Let go of threads; those that run are left to the process's end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _out_of_time(self, running: _Running) -> None:
        if self._running.get(running.order.key) is running:
            running.timed_out = True
            self._cancel(running, Cause.TIMED_OUT.name)

    def _cancel(self, running: _Running, cause: str) -> None:
        running.order.context.cancel(cause)
        found = self._executors.get(running.order.executor)
        if found is not None and found.kind is not Kind.THREAD:
            # A thread cannot be interrupted: it sees the flag. A task and a process can.
            running.task.cancel()

    async def _run(self, order: Order) -> None:
        ended = Ended()
        try:
            ended = await self._outcome(order)
        except (asyncio.CancelledError, AttemptCancelled) as error:
            # Only who was told to stop has been cancelled; code that raises this of its own accord has failed.
            ended = Ended(cancelled=True) if order.context.cancelled else raised(error)
        except Exception as error:  # user code may raise anything; it becomes the attempt's failure
            ended = raised(error)
        finally:
            running = self._running.pop(order.key)
            if running.timed_out and ended.output == b"":
                message = f"it ran longer than {order.start_to_close_ms} ms"
                ended = Ended(failure=Failure(start_to_close_timeout, message))
            self._ended(order, ended, int((self._loop.time() - running.started) * 1e6))

    async def _outcome(self, order: Order) -> Ended:
        found = self._executors.get(order.executor)
        if found is None:
            return Ended(failure=Failure(unknown_executor, f"this worker does not run executor {order.executor!r}"))
        if found.kind is Kind.PROCESS:
            return await self._processes.run(found, order.input, order.context)
        arguments = (orjson.loads(order.input), order.context)[: found.parameters]
        if found.kind is Kind.ASYNC:
            return returned(await found.function(*arguments))
        return returned(await self._loop.run_in_executor(self._threads, found.function, *arguments))
