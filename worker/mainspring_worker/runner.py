"""Runs attempts: coroutines on the loop, plain functions in threads, `process=True` functions in processes of their own.

The end of an attempt is told once, always: whatever its code raises (an exit of the interpreter included), and whether or not it had
begun when it was told to stop. User code can fail its attempt; it cannot end the worker.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from mainspring.errors import Failure
from mainspring.failures import start_to_close_timeout, unknown_executor
from mainspring.limits import stop_wait_ms_max
from mainspring.logs import current_task
from mainspring_worker.attempts import Cause, Key
from mainspring_worker.context import AttemptCancelled, Context
from mainspring_worker.executors import Executor, Kind
from mainspring_worker.outcome import Ended, raised, returned
from mainspring_worker.processes import ProcessPool
from mainspring_worker.spans import AttemptSpan, Spans, no_spans
from mainspring_worker.threads import ThreadPool


@dataclass(frozen=True, slots=True)
class Order:
    """What an assignment asks to be run."""

    key: Key
    executor: str
    input: bytes
    start_to_close_ms: int
    context: Context
    epoch: int = 0
    worker: str = ""

    def log_facts(self) -> Mapping[str, object]:
        """Return what each log line of the attempt names; see `mainspring.logs`."""
        context = self.context
        return {
            "workflow": context.workflow_id,
            "node": context.node_id,
            "instance": context.instance,
            "attempt": context.attempt,
            "executor": self.executor,
            "shard": self.key[0],
            "epoch": self.epoch,
            "worker": self.worker,
        }


@dataclass(slots=True, eq=False)
class _Running:
    order: Order
    started: float
    span: AttemptSpan
    task: "asyncio.Task[None] | None" = None
    """None for a thread, which nothing can interrupt: it sees the flag of its context."""
    begun: bool = False
    """A task that is cancelled before its first step never runs at all, and could not tell its end."""
    timed_out: bool = False
    deadline: asyncio.TimerHandle | None = None


class Runner:
    """Runs orders; `ended` is called on the event loop with the order, the outcome and how long the code ran in microseconds."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        slots: int,
        ended: Callable[[Order, Ended, int], None],
        processes: ProcessPool,
        elapsed_s: Callable[[], float],
        spans: Spans = no_spans,
    ) -> None:
        """`elapsed_s` is a clock that measures how long code runs, to the microsecond; the event loop's own moves by milliseconds."""
        self._executors = executors
        self._ended = ended
        self._threads = ThreadPool(slots)
        self._processes = processes
        self._elapsed_s = elapsed_s
        self._spans = spans
        self._running: dict[Key, _Running] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def start(self, order: Order) -> None:
        """Begin an attempt."""
        running = _Running(order, self._elapsed_s(), self._spans.begin(order.executor, order.context))
        self._running[order.key] = running
        if order.start_to_close_ms:
            running.deadline = self._loop.call_later(order.start_to_close_ms / 1_000, self._out_of_time, running)
        found = self._executors.get(order.executor)
        if found is None:
            failure = Failure(unknown_executor, f"this worker does not run executor {order.executor!r}")
            self._loop.call_soon(self._end, running, Ended(failure=failure))
        elif found.kind is Kind.THREAD:
            self._threads.run(partial(_call_within, running.span, found, order), partial(self._end, running))
        elif found.kind is Kind.PROCESS:
            work = partial(self._processes.run, found, order.input, order.context)
            running.task = self._loop.create_task(self._run(running, work))
        else:
            running.task = self._loop.create_task(self._run(running, partial(_await, found, order)))

    def stop(self, key: Key, cause: Cause) -> None:
        """Tell an attempt to stop; it holds its place until its code has really ended."""
        running = self._running.get(key)
        if running is not None:
            self._cancel(running, cause.name)

    async def close(self) -> None:
        """End what still runs, and tell nobody; threads, which nothing can interrupt, see the flag of their context."""
        self._closed = True
        self._processes.close()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for running in list(self._running.values()):
            if running.deadline is not None:
                running.deadline.cancel()
            self._cancel(running, Cause.STOPPED.name)
        if tasks:
            # Bounded: code that does not let itself be cancelled must not keep the worker.
            await asyncio.wait(tasks, timeout=stop_wait_ms_max / 1_000)
        self._threads.close()
        await self._spans.close()

    def _out_of_time(self, running: _Running) -> None:
        running.timed_out = True
        self._cancel(running, Cause.TIMED_OUT.name)

    def _cancel(self, running: _Running, cause: str) -> None:
        running.order.context.cancel(cause)
        if running.task is not None and running.begun:
            running.task.cancel()

    async def _run(self, running: _Running, work: Callable[[], Coroutine[Any, Any, Ended]]) -> None:
        running.begun = True
        context = running.order.context
        current_task.set(running.order)  # of this asyncio task alone
        if context.cancelled:
            self._end(running, Ended(cancelled=True))
            return
        ended: Ended | None = None
        try:
            with running.span.current():
                ended = await work()
        except (asyncio.CancelledError, AttemptCancelled) as error:
            # Only who was told to stop has been cancelled; code that raises this of its own accord has failed.
            ended = Ended(cancelled=True) if context.cancelled else raised(error)
        except GeneratorExit:
            raise  # the event loop is being torn down
        except BaseException as error:
            ended = raised(error)
        finally:
            if ended is not None:
                self._end(running, ended)

    def _end(self, running: _Running, ended: Ended) -> None:
        if self._closed:
            return
        order = running.order
        del self._running[order.key]
        if running.deadline is not None:
            running.deadline.cancel()
        if running.timed_out and not ended.output:
            message = f"it ran longer than {order.start_to_close_ms} ms"
            ended = Ended(failure=Failure(start_to_close_timeout, message))
        running.span.end(ended)
        self._ended(order, ended, max(1, round((self._elapsed_s() - running.started) * 1e6)))


async def _await(found: Executor, order: Order) -> Ended:
    return returned(await found.function(*found.arguments(orjson.loads(order.input), order.context)))


def _call_within(span: AttemptSpan, found: Executor, order: Order) -> Ended:
    token = current_task.set(order)
    try:
        with span.current():
            return call(found, order.input, order.context)
    finally:
        current_task.reset(token)


def call(found: Executor, data: bytes, context: Context) -> Ended:
    """Run a plain function; whatever it raises becomes its outcome."""
    if context.cancelled:
        return Ended(cancelled=True)
    try:
        return returned(found.function(*found.arguments(orjson.loads(data), context)))
    except AttemptCancelled as error:
        return Ended(cancelled=True) if context.cancelled else raised(error)
    except BaseException as error:
        return raised(error)
