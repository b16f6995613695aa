"""The worker's side of Mainspring: executors, and the process that runs them.

    from mainspring_worker import Context, executor

    @executor
    async def greet(name: str, context: Context) -> str:
        return f"Hello, {name}!"

`mainspring worker --import mymodule` serves them; `Worker` does the same from within a program.
"""

from mainspring_worker.config import WorkerConfig
from mainspring_worker.context import AttemptCancelled, Context, NonRetryable
from mainspring_worker.executors import executor
from mainspring_worker.worker import EvictedError, RefusedError, Worker

__all__ = [
    "AttemptCancelled",
    "Context",
    "EvictedError",
    "NonRetryable",
    "RefusedError",
    "Worker",
    "WorkerConfig",
    "executor",
]
