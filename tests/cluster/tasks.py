"""The executors of the cluster tests."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from mainspring_worker import Context, executor
from tests.cluster.journal import write

_poll_s = 0.01


@executor
async def step(value: Any, context: Context) -> Any:
    """Count one on, in a moment."""
    write("start", context)
    await asyncio.sleep(_poll_s)
    write("end", context)
    return value + 1


@executor
async def gated(value: Any, context: Context) -> Any:
    """Wait until the gate named in the input is open; say which process did it."""
    write("start", context)
    gate = Path(os.environ["EFFECTS"]) / f"{value['gate']}.gate"
    try:
        while not gate.exists():  # noqa: ASYNC110  (another process opens it)
            await asyncio.sleep(_poll_s)
    except asyncio.CancelledError:
        write("stopped", context)
        raise
    write("end", context)
    return {"pid": os.getpid()}


@executor
async def noop(value: Any) -> Any:
    """Return the input."""
    return value


@executor
async def stumble(value: Any, context: Context) -> Any:
    """Fail at the first attempt; say at which one it went well."""
    write("start", context)
    if context.attempt == 1:
        raise RuntimeError("stumbled")
    write("end", context)
    return context.attempt


@executor
async def deadly(value: Any, context: Context) -> Any:
    """Kill the worker that runs it."""
    write("start", context)
    os.kill(os.getpid(), signal.SIGKILL)
    return value
