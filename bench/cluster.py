"""A cluster to measure: a private MariaDB that flushes at every commit, one coordinator, two workers of 64 slots, all processes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from mainspring_client.dev import DevCluster
from tests.servers.mariadb import MariadbServer
from tests.servers.process import ServerError

slots: Final = 64
workers: Final = 2
settings: Final[Mapping[str, str]] = {
    # The default of 10 workflows a worker is made for work that takes seconds; here it would measure only itself.
    "MAX_CONCURRENT_WORKFLOWS": "10000",
    "LOG_LEVEL": "warning",
}
_root: Final = Path(__file__).parent.parent


@asynccontextmanager
async def running_cluster(database_url: str = "") -> AsyncIterator[DevCluster]:
    """Start a cluster on free ports, with a database of its own unless a URL is given, and stop it at the end."""
    server = None
    if not database_url:
        if MariadbServer.missing():
            raise ServerError(MariadbServer.missing())
        server = MariadbServer()
        await asyncio.to_thread(server.start)
        database_url = server.url(server.new_database("bench"))
    try:
        async with DevCluster(
            imports=["bench.tasks"],
            workers=workers,
            slots=slots,
            database_url=database_url,
            directory=_root,
            environment=settings,
        ) as cluster:
            yield cluster
    finally:
        if server is not None:
            await asyncio.to_thread(server.stop)
