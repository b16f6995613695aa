"""The executors of the chaos. Every execution names itself, gives that name with its output, and journals the names that it was given;
so a checker can tell, of two executions of a node, whose output was recorded, and that nobody ever saw the other's.
"""

import asyncio
import itertools
import os
from typing import Final, TypedDict

from mainspring_worker import Context, NonRetryable, executor
from tests.cluster.journal import write

_count: Final = itertools.count(1)


class Given(TypedDict, total=False):
    """What every executor gets."""

    values: list[int]
    """To be added up."""
    after: list[str]
    """The executions that these came from."""
    seconds: float
    """How long to take."""
    fails: int
    """How many attempts fail; -1: the first, and no other may follow."""


class Gives(TypedDict):
    """What every executor gives."""

    value: int
    run: str


async def _run(given: Given, context: Context) -> Gives:
    worker = os.environ["ENGINE_INSTANCE_ID"]
    run = f"{worker}-{os.getpid()}-{next(_count)}"
    write("start", context, worker=worker, run=run, seen=given.get("after", []))
    try:
        await asyncio.sleep(given.get("seconds", 0.0))
    except asyncio.CancelledError:
        write("stopped", context, worker=worker, run=run)
        raise
    fails = given.get("fails", 0)
    if fails < 0 or context.attempt <= fails:
        write("failed", context, worker=worker, run=run)
        raise NonRetryable("meant to") if fails < 0 else RuntimeError("stumbled")
    write("end", context, worker=worker, run=run)
    return {"value": sum(given.get("values", [])) + 1, "run": run}


@executor
async def add(given: Given, context: Context) -> Gives:
    """Add up and count one on."""
    return await _run(given, context)


@executor
async def nap(given: Given, context: Context) -> Gives:
    """Take as long as a task of a trace did, divided by the speed-up; its input names no executions."""
    return await _run(given, context)
