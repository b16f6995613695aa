"""Executors for tests in processes of their own: they do what user code should not."""

import os
import signal
import sys
import time

from opentelemetry.trace import get_current_span

from mainspring_worker import Context, executor


@executor(process=True)
def pid(_: object) -> int:
    return os.getpid()


@executor(process=True)
def leave(status: int) -> None:
    os._exit(status)


@executor(process=True)
def exit_politely(status: int) -> None:
    sys.exit(status)


@executor(process=True)
def shoot(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@executor(process=True)
def cooperate(_: object, context: Context) -> str:
    context.progress({"at": "the start"})
    if context.wait_cancelled(10):
        context.raise_if_cancelled()
    return "was not told to stop"


@executor(process=True)
def ignore(_: object) -> None:
    time.sleep(60)


@executor
def forever(path: str) -> None:
    """Begin, say so, and never end."""
    with open(path, "w") as began:  # noqa: PTH123  (the shortest way to say that it runs)
        began.write("yes")
    time.sleep(3600)


@executor
async def echo(data: object) -> object:
    return data


@executor(process=True)
def traced(_: object, context: Context) -> list[str]:
    """Say by which span it runs, as OpenTelemetry and as the context tell it."""
    return [f"{get_current_span().get_span_context().span_id:016x}", context.traceparent]
