"""A coordinator's election as a process of its own: `python -m tests.ownership.process URL NAME LEASE_TIMEOUT`."""

import asyncio
import sys

from mainspring.logs import configure_logs
from tests.ownership.recorder import Coordinator


async def main(url: str, name: str, lease: str) -> None:
    """Own all shards, say so, and go on until killed; say when a term is lost."""
    async with Coordinator(url, name, LEASE_TIMEOUT=int(lease)) as coordinator:
        await coordinator.until(lambda: len(coordinator.owned) == 16)
        print("owns all", flush=True)
        await coordinator.until(lambda: bool(coordinator.lost), seconds=120)
        print(f"lost {coordinator.lost[0]}", flush=True)


if __name__ == "__main__":
    configure_logs("error")
    asyncio.run(main(*sys.argv[1:]))
