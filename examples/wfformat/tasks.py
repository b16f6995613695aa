"""The one executor of the traces: `mainspring worker --import examples.wfformat.tasks`."""

import asyncio
from typing import TypedDict

from mainspring_worker import executor


class Nap(TypedDict):
    """What `sleep` gets."""

    seconds: float


@executor("sleep")
async def sleep(nap: Nap) -> None:
    """Take as long as the recorded task did, divided by the speed-up."""
    await asyncio.sleep(nap["seconds"])
