"""The executors of the cluster tests. Each writes what it does into a journal of its worker, so that a checker can read afterwards
what really ran, whatever the coordinators believe.
"""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from mainspring_worker import Context, executor

_poll_s = 0.01


def _write(act: str, context: Context) -> None:
    """Append one line by one write, which the kernel does not mix with another's."""
    line = {
        "act": act,
        "at_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "pid": os.getpid(),
        "workflow": context.workflow_id,
        "node": context.node_id,
        "instance": context.instance,
        "attempt": context.attempt,
    }
    path = Path(os.environ["EFFECTS"]) / f"{os.environ['ENGINE_INSTANCE_ID']}-{os.getpid()}.jsonl"
    journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(journal, json.dumps(line).encode() + b"\n")
    finally:
        os.close(journal)


@executor
async def step(value: Any, context: Context) -> Any:
    """Count one on, in a moment."""
    _write("start", context)
    await asyncio.sleep(_poll_s)
    _write("end", context)
    return value + 1


@executor
async def gated(value: Any, context: Context) -> Any:
    """Wait until the gate named in the input is open; say which process did it."""
    _write("start", context)
    gate = Path(os.environ["EFFECTS"]) / f"{value['gate']}.gate"
    try:
        while not gate.exists():  # noqa: ASYNC110  (another process opens it)
            await asyncio.sleep(_poll_s)
    except asyncio.CancelledError:
        _write("stopped", context)
        raise
    _write("end", context)
    return {"pid": os.getpid()}


@executor
async def noop(value: Any) -> Any:
    """Return the input."""
    return value


@executor
async def stumble(value: Any, context: Context) -> Any:
    """Fail at the first attempt; say at which one it went well."""
    _write("start", context)
    if context.attempt == 1:
        raise RuntimeError("stumbled")
    _write("end", context)
    return context.attempt


@executor
async def deadly(value: Any, context: Context) -> Any:
    """Kill the worker that runs it."""
    _write("start", context)
    os.kill(os.getpid(), signal.SIGKILL)
    return value
