"""A process that runs attempts one after the other on behalf of a worker; see `processes`."""

import importlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import orjson

from mainspring.errors import Failure
from mainspring.failures import failure_to_json, unknown_executor
from mainspring_worker.context import Context
from mainspring_worker.executors import registry
from mainspring_worker.outcome import Ended
from mainspring_worker.runner import call


class _Line:
    """The socket to the worker; lines may be written from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._file = socket.socket(fileno=descriptor).makefile("rwb")
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (orjson.loads(line) for line in iter(self._file.readline, b""))

    def write(self, message: object) -> None:
        """Send a message."""
        with self._lock:
            self._file.write(orjson.dumps(message) + b"\n")
            self._file.flush()


def _run(line: _Line, order: dict[str, Any], context: Context) -> None:
    name = order["executor"]
    if name in registry:
        with _within(context.traceparent):
            ended = call(registry[name], order["input"].encode(), context)
    else:
        message = f"no module of {sys.argv[2:]} registers {name!r} in a process; name the one that does by --import"
        ended = Ended(failure=Failure(unknown_executor, message))
    failure = orjson.loads(failure_to_json(ended.failure)) if ended.failure is not None else None
    line.write({"output": ended.output.decode(), "failure": failure, "cancelled": ended.cancelled})


def _within(traceparent: str) -> AbstractContextManager[object]:
    if not traceparent:
        return nullcontext()
    # Loaded here, because only who wants traces has OpenTelemetry.
    from mainspring_worker.traces import continued  # noqa: PLC0415

    return continued(traceparent)


def main() -> int:
    """Import what registers the executors, then run what is ordered until the worker hangs up."""
    # Ctrl-C in a terminal, and what a supervisor sends to all processes of a service, reach us too; the worker decides what follows.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    line = _Line(int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    context: Context | None = None
    for message in line:
        if "cancel" in message:
            if context is not None:
                context.cancel(message["cancel"])
            continue
        context = Context(
            message["workflow_id"],
            message["workflow_name"],
            message["node_id"],
            message["instance"],
            message["attempt"],
            message["previous_progress"],
            lambda details: line.write({"progress": orjson.loads(details)}),
            traceparent=message["traceparent"],
        )
        # A thread, so that a cancel can be read while the code runs.
        threading.Thread(target=_run, args=(line, message, context), daemon=True).start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
