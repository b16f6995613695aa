"""Has the runner do what the machine decides, and tells the machine how it went."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import orjson
import structlog

from mainspring.errors import SettingsError
from mainspring.logs import is_debugging
from mainspring.v1 import worker_pb2 as wire
from mainspring_worker.attempts import Instruction, Key, Outcome, Start, Work
from mainspring_worker.config import WorkerConfig
from mainspring_worker.context import Context
from mainspring_worker.executors import Executor, Kind
from mainspring_worker.machine import Machine
from mainspring_worker.outcome import Ended
from mainspring_worker.processes import ProcessPool
from mainspring_worker.progress import ProgressBook
from mainspring_worker.reports import Report
from mainspring_worker.runner import Order, Runner
from mainspring_worker.spans import Spans

_log: Final = structlog.get_logger(__name__)
EndedListener: TypeAlias = Callable[[Executor, bool, Outcome, float], None]
"""Gets the executor, whether it was a `map` instance, how it ended, and the seconds that it ran."""


class Execution:
    """The attempts of one worker, as code that runs."""

    def __init__(
        self,
        config: WorkerConfig,
        executors: Mapping[str, Executor],
        machine: Machine,
        progress: ProgressBook,
        *,
        on_ended: EndedListener,
        going_on: Callable[[], None],
        changed: Callable[[], None],
        elapsed_s: Callable[[], float],
        spans: Spans,
    ) -> None:
        """`going_on` is called when an attempt has ended, before the machine knows it and has another one begin; `changed` after that.

        `elapsed_s` measures how long code runs.
        """
        self.orders: dict[Key, Order] = {}
        """What runs."""
        self._executors = executors
        self._worker = config.name
        self._machine = machine
        self._progress = progress
        self._on_ended = on_ended
        self._going_on = going_on
        self._changed = changed
        modules = config.modules or modules_of_processes(executors.values())
        processes = ProcessPool(modules, config.processes or config.slots)
        self._runner = Runner(executors, config.slots, self._attempt_ended, processes, elapsed_s, spans)

    def obey(self, instructions: Iterable[Instruction]) -> None:
        """Start and stop what the machine says."""
        for instruction in instructions:
            if isinstance(instruction, Start):
                self._start(instruction.work)
            else:
                self._runner.stop(instruction.key, instruction.cause)

    async def close(self) -> None:
        """End what still runs; nothing of it is told any more."""
        await self._runner.close()

    def _start(self, work: Work) -> None:
        item = work.details
        assert isinstance(item, wire.Assignment)
        key = work.key
        context = Context(
            item.workflow_id,
            item.workflow_name,
            item.node_id,
            item.instance,
            item.attempt,
            orjson.loads(item.progress.data) if item.progress.data else None,
            lambda details: self._progress.report(key, details),
        )
        order = Order(key, item.executor, item.input.data, item.start_to_close_ms, context, work.epoch, self._worker)
        self.orders[key] = order
        if is_debugging():
            _log.debug("attempt_began", **order.log_facts())
        self._runner.start(order)

    def _attempt_ended(self, order: Order, ended: Ended, run_us: int) -> None:
        # The process may have stood still until now, or this code itself may have held the loop.
        self._going_on()
        del self.orders[order.key]
        self._progress.ended(order.key, failed=ended.failure is not None)
        report = Report(ended, run_us)
        if is_debugging():
            failed = {"error_type": ended.failure.type} if ended.failure is not None else {}
            _log.debug(
                "attempt_ended",
                outcome=report.outcome.name,
                run_ms=run_us / 1_000,
                **failed,
                **order.log_facts(),
            )
        found = self._executors.get(order.executor)
        if found is not None:
            self._on_ended(found, order.context.instance >= 0, report.outcome, run_us / 1e6)
        self.obey(self._machine.finished(order.key, report.outcome, report, ended.size))
        self._changed()


def modules_of_processes(executors: Iterable[Executor]) -> list[str]:
    """Return the modules that define the executors with `process=True`; `SettingsError` when a process cannot import one."""
    modules: set[str] = set()
    for found in executors:
        if found.kind is not Kind.PROCESS:
            continue
        module = found.function.__module__
        if module == "__main__":
            raise SettingsError(
                f"executor {found.name!r} has process=True and is defined in the script that was started, which its processes "
                "cannot import; move it to a module of its own"
            )
        modules.add(module)
    return sorted(modules)
