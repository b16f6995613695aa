"""What a cluster that has nothing to do asks of its database: what its coordinators do to stay owners, and nothing for its workers."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from mainspring_worker import Worker, WorkerConfig
from mainspring_worker.executors import describe
from tests.cluster.flows import chain
from tests.cluster.running import RealCluster, eventually
from tests.servers.process import PrivateServer

WORKERS = 100
WINDOW_S = 3.0
QUERIES_A_SECOND_MAX = 30.0
"""Of one coordinator: five looks at its peers and a renewal of its lease a second, each a few statements."""
CONNECTIONS_MAX = 4
"""Of one coordinator: the lock's, the journal's, and at most two for what is read."""


async def noop(value: Any) -> Any:
    return value


described = describe(noop, "noop")


def read(server: PrivateServer, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(server.administrator()) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


async def queries_a_second(server: PrivateServer) -> float:
    """What the server is asked, our own two looks left out."""

    def asked() -> int:
        return int(read(server, "SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])

    before = asked()
    await asyncio.sleep(WINDOW_S)  # a rate needs a time
    return (asked() - before - 2) / WINDOW_S


def connections(server: PrivateServer) -> Counter[str]:
    """How many connections each user has that came by TCP, as all but the administrator's do."""
    by_tcp = "SELECT USER, COUNT(*) FROM information_schema.PROCESSLIST WHERE HOST LIKE '127.0.0.1:%' GROUP BY USER"
    rows = read(server, by_tcp)
    return Counter({str(user): int(count) for user, count in rows})


def test_a_hundred_idle_workers_cost_the_database_nothing_and_a_coordinator_few_connections(
    chosen_server: PrivateServer, tmp_path: Path
) -> None:
    database = chosen_server.new_database()

    async def play() -> None:
        async with RealCluster(chosen_server.url(database), tmp_path) as cluster:
            await cluster.coordinator()
            client = cluster.client()
            alone = await queries_a_second(chosen_server)
            workers = [
                Worker(WorkerConfig(f"w{n}", [cluster.address("c1")]), {"noop": described}) for n in range(WORKERS)
            ]
            tasks = [asyncio.create_task(worker.run()) for worker in workers]

            async def attached() -> bool:
                return len(await client.workers()) == WORKERS

            await eventually(attached)
            # All that a coordinator opens only when it must is open by now.
            assert await (await client.submit(chain(1, "noop"), 7)).result(30) == 7
            idle = await queries_a_second(chosen_server)
            held = connections(chosen_server)
            print(f"{alone:.1f} queries a second without workers, {idle:.1f} with {WORKERS}; connections {dict(held)}")
            await asyncio.gather(*(worker.drain(0) for worker in workers))
            await asyncio.gather(*tasks)
            assert idle <= alone * 1.2 + 1
            assert idle <= QUERIES_A_SECOND_MAX
            assert 2 <= held.total() <= CONNECTIONS_MAX, held

    asyncio.run(play())
