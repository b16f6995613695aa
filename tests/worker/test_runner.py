"""Attempts of all kinds, for real: on the loop, in threads, in processes; their end is told once, whatever they do."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Never

import pytest

from mainspring.failures import process_crashed, start_to_close_timeout, unknown_executor
from mainspring_worker import AttemptCancelled, Context
from mainspring_worker.attempts import Cause
from mainspring_worker.executors import describe, registry
from mainspring_worker.outcome import Ended
from mainspring_worker.processes import ProcessPool
from mainspring_worker.runner import Order, Runner
from tests.worker import crashing_tasks
from tests.worker.scripted import until

wait_s = 20.0
processes = ("pid", "leave", "exit_politely", "shoot", "cooperate", "ignore")


class Bench:
    """A runner whose ends can be waited for."""

    def __init__(self, functions: Iterable[Callable[..., Any]], slots: int = 4) -> None:
        executors = {function.__name__: describe(function, function.__name__) for function in functions}
        executors |= {name: registry[name] for name in processes}
        self.pool = ProcessPool([crashing_tasks.__name__], 2)
        self.runner = Runner(executors, slots, self._ended, self.pool, time.perf_counter)
        self.ends: list[tuple[int, Ended]] = []
        self.reports: list[bytes] = []
        self._changed = asyncio.Event()
        self._last = 0

    def start(self, executor: str, data: bytes = b"1", *, limit_ms: int = 0) -> Order:
        self._last += 1
        context = Context("wf", "name", f"n{self._last}", -1, 1, None, self.reports.append)
        order = Order((0, self._last), executor, data, limit_ms, context)
        self.runner.start(order)
        return order

    def stop(self, order: Order, cause: Cause = Cause.WORKFLOW_CANCELLED) -> None:
        self.runner.stop(order.key, cause)

    async def end(self, order: Order) -> Ended:
        async with asyncio.timeout(wait_s):
            while True:
                for number, ended in self.ends:
                    if number == order.key[1]:
                        return ended
                self._changed.clear()
                await self._changed.wait()

    async def reported(self) -> None:
        """Wait until user code has said something; it may be in a thread or in another process."""
        await until(lambda: self.reports)

    async def failure(self, executor: str, data: bytes = b"1") -> str:
        ended = await self.end(self.start(executor, data))
        assert ended.failure is not None, ended
        return ended.failure.type

    def _ended(self, order: Order, ended: Ended, run_us: int) -> None:
        assert run_us >= 0
        assert order.key[1] not in [number for number, _ in self.ends], "told twice"
        self.ends.append((order.key[1], ended))
        self._changed.set()


def run(scenario: Callable[[Bench], Any], *functions: Callable[..., Any]) -> None:
    async def main() -> None:
        bench = Bench(functions)
        try:
            await scenario(bench)
        finally:
            await bench.runner.close()

    asyncio.run(main())


async def double(number: int) -> int:
    return 2 * number


def double_in_a_thread(number: int) -> list[object]:
    return [2 * number, threading.current_thread() is threading.main_thread()]


def test_coroutines_run_on_the_loop_and_plain_functions_in_threads() -> None:
    async def scenario(bench: Bench) -> None:
        assert (await bench.end(bench.start("double", b"21"))).output == b"42"
        assert (await bench.end(bench.start("double_in_a_thread", b"21"))).output == b"[42,false]"

    run(scenario, double, double_in_a_thread)


async def exits() -> Never:
    sys.exit(3)


def exits_in_a_thread() -> Never:
    sys.exit(3)


async def interrupts() -> Never:
    raise KeyboardInterrupt


def runs_out() -> object:
    return next(iter([]))


async def cancels_itself() -> Never:
    raise asyncio.CancelledError


def gives_up() -> Never:
    raise AttemptCancelled


def test_whatever_user_code_raises_fails_its_attempt_and_nothing_else() -> None:
    async def scenario(bench: Bench) -> None:
        assert await bench.failure("exits") == "SystemExit"
        assert await bench.failure("exits_in_a_thread") == "SystemExit"
        assert await bench.failure("interrupts") == "KeyboardInterrupt"
        assert await bench.failure("runs_out") == "StopIteration"
        assert await bench.failure("cancels_itself") == "asyncio.exceptions.CancelledError"
        assert await bench.failure("gives_up") == "mainspring_worker.context.AttemptCancelled"
        assert await bench.failure("nobody_knows") == unknown_executor

    run(scenario, exits, exits_in_a_thread, interrupts, runs_out, cancels_itself, gives_up)


async def never() -> None:
    await asyncio.Event().wait()


def waits_for_the_flag(_: object, context: Context) -> str:
    context.progress("begun")
    context.wait_cancelled(wait_s)
    return context.cancel_cause


def test_a_coroutine_is_cancelled_and_a_thread_sees_the_flag() -> None:
    async def scenario(bench: Bench) -> None:
        task, thread = bench.start("never"), bench.start("waits_for_the_flag")
        await bench.reported()
        bench.stop(task)
        bench.stop(thread, Cause.WORKFLOW_FAILED)
        assert (await bench.end(task)).cancelled
        ended = await bench.end(thread)
        assert ended.output == b'"WORKFLOW_FAILED"', "it ended well all the same, and that counts"

    run(scenario, never, waits_for_the_flag)


def test_an_attempt_that_is_stopped_before_its_first_step_ends_too() -> None:
    async def scenario(bench: Bench) -> None:
        orders = [bench.start("never"), bench.start("cooperate")]
        for order in orders:
            bench.stop(order)
        for order in orders:
            assert (await bench.end(order)).cancelled

    run(scenario, never)


def test_an_attempt_that_takes_too_long_times_out_and_one_that_does_not_leaves_no_timer() -> None:
    async def scenario(bench: Bench) -> None:
        slow = await bench.end(bench.start("never", limit_ms=20))
        assert slow.failure is not None
        assert slow.failure.type == start_to_close_timeout
        assert "20 ms" in slow.failure.message
        thread = await bench.end(bench.start("waits_for_the_flag", limit_ms=1_000))
        assert thread.output == b'"TIMED_OUT"', "what it returned in the end is not thrown away"
        quick = bench.start("double", limit_ms=3_600_000)
        await bench.end(quick)
        armed: list[Any] = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009  (private, and the only witness)
        assert [timer for timer in armed if not timer.cancelled()] == []

    run(scenario, never, waits_for_the_flag, double)


def test_what_still_runs_at_the_end_is_stopped_and_told_to_nobody() -> None:
    seen: list[str] = []

    async def waits(context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(f"coroutine {context.cancel_cause}")

    def waits_in_a_thread(context: Context) -> None:
        context.progress("runs")
        context.wait_cancelled(wait_s)
        seen.append(f"thread {context.cancel_cause}")

    async def scenario(bench: Bench) -> None:
        bench.start("waits")
        bench.start("waits_in_a_thread")
        await bench.reported()
        bench.reports.clear()
        child = bench.start("cooperate")
        await bench.reported()
        await bench.runner.close()
        await until(lambda: len(seen) == 2)
        assert sorted(seen) == ["coroutine STOPPED", "thread STOPPED"]
        assert not bench.ends
        assert child.context.cancelled

    run(scenario, waits, waits_in_a_thread)


def test_a_crash_of_a_process_fails_its_attempt_and_the_next_one_gets_a_new_process() -> None:
    async def scenario(bench: Bench) -> None:
        first = int((await bench.end(bench.start("pid"))).output)
        assert int((await bench.end(bench.start("pid"))).output) == first, "processes are kept"
        assert first != os.getpid()
        for executor, how in (("leave", "status 7"), ("shoot", "SIGKILL")):
            ended = await bench.end(bench.start(executor, b"7"))
            assert ended.failure is not None
            assert ended.failure.type == process_crashed
            assert how in ended.failure.message
        assert await bench.failure("exit_politely", b"7") == "SystemExit"
        assert int((await bench.end(bench.start("pid"))).output) != first

    run(scenario)


def test_a_crash_leaves_an_attempt_in_another_process_alone() -> None:
    async def scenario(bench: Bench) -> None:
        other = bench.start("cooperate")
        await bench.reported()
        assert bench.reports == [b'{"at":"the start"}']
        assert await bench.failure("shoot") == process_crashed
        bench.stop(other)
        assert (await bench.end(other)).cancelled

    run(scenario)


def test_a_process_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainspring_worker.processes._stop_grace_s", 0.2)

    async def scenario(bench: Bench) -> None:
        stubborn = bench.start("ignore")
        await bench.end(bench.start("pid"))
        bench.stop(stubborn)
        assert (await bench.end(stubborn)).cancelled
        assert (await bench.end(bench.start("pid"))).output

    run(scenario)


def test_ends_of_many_threads_are_all_told() -> None:
    async def scenario(bench: Bench) -> None:
        orders = [bench.start("double_in_a_thread", str(number).encode()) for number in range(200)]
        ends = [(await bench.end(order)).output for order in orders]
        assert ends == [f"[{2 * number},false]".encode() for number in range(200)]

    run(scenario, double_in_a_thread)
