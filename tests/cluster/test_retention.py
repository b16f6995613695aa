"""What is old goes from a real database though its owner is killed in the middle of it; what is young or runs is not touched."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from sqlalchemy import text

from mainspring.errors import NotFoundError
from mainspring.ids import shard_of
from mainspring_coordinator.engine.rows import PlanSaved, Row, WorkflowUpdated
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import ClusterRow
from mainspring_coordinator.store.schema import upgrade
from mainspring_coordinator.store.url import parse_url
from tests.cluster.flows import chain
from tests.cluster.running import RealCluster, eventually, until
from tests.engine.rig import define
from tests.store.members import join, me, succeeded, workflow

SHARDS = 2
OLD, NODES = 400, 900
PLAN = define([{"id": f"n{number}", "executor": "step"} for number in range(NODES)])
HOUR_US = 3_600_000_000
DAYS = 2 / 86_400
"""Two seconds, so that a pass follows another within a moment; what is to stay ended an hour later than the clock says."""


def fill(url: str) -> None:
    """Let a cluster have been here before, whose workflows ended an hour ago, one of them a large one, but for a young one."""
    with contextlib.closing(open_store(url)) as store:
        store.create_cluster(ClusterRow("mainspring", SHARDS))
        one = join(store, me, *range(SHARDS))
        now_us = one.lock.poll().now_us

        def ran(name: str, nodes: int, at_us: int) -> Sequence[Row]:
            shard = shard_of(name, SHARDS)
            ended = WorkflowUpdated(shard, name, 9, WorkflowStatus.SUCCEEDED, output=b"1", ended_at_us=at_us)
            rows = [replace(succeeded(name, node), shard=shard) for node in range(nodes)]
            plan = PlanSaved(shard, name, PLAN.hash, PLAN.definition)
            return [plan, replace(workflow(name, shard), plan_hash=PLAN.hash), *rows, ended]

        one.commit(*(row for number in range(OLD) for row in ran(f"old-{number}", 2, now_us - HOUR_US)))
        one.commit(*ran("large", NODES, now_us - HOUR_US), *ran("young", 2, now_us + HOUR_US))
        one.journal.release(one.epochs)


def counted(url: str) -> tuple[int, int]:
    """Return how many workflows and nodes the database has."""
    engine = open_engine(parse_url(url))
    with engine.connect() as connection:
        query = text("SELECT (SELECT COUNT(*) FROM workflows),(SELECT COUNT(*) FROM nodes)")
        workflows, nodes = connection.execute(query).one()
    engine.dispose()
    return int(workflows), int(nodes)


def test_a_backlog_goes_though_its_owner_is_killed_and_nothing_else_does(mariadb_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        await asyncio.to_thread(upgrade, mariadb_url)
        await asyncio.to_thread(fill, mariadb_url)
        settings = {"DISTRIBUTED_MODE": "true", "RETENTION_DAYS": f"{DAYS:.9f}"}
        async with RealCluster(mariadb_url, tmp_path, **settings) as cluster:
            c1 = await cluster.coordinator("c1")
            client = cluster.client("c1")
            await client.submit(chain(2), 3, workflow_id="runs")

            def in_the_middle() -> bool | None:
                return 0 < counted(mariadb_url)[0] - 3 < OLD or None

            await asyncio.to_thread(lambda: asyncio.run(until(in_the_middle)))
            await c1.killed()
            workflows, nodes = counted(mariadb_url)
            assert workflows > 3
            assert nodes > 2

            c2 = await cluster.coordinator("c2")
            client = cluster.client("c2")
            await eventually(lambda: asyncio.to_thread(lambda: counted(mariadb_url) == (2, 2)))
            await c2.said('"retention_deleted"', '"workflows"')
            assert (await client.get("young")).status.name == "SUCCEEDED"
            for gone in ("large", "old-0", f"old-{OLD - 1}"):
                with pytest.raises(NotFoundError):
                    await client.get(gone)
            metrics = (await asyncio.to_thread(urlopen, f"http://{cluster.http('c2')}/metrics")).read().decode()
            assert 'mainspring_retention_deleted_total{kind="workflows"}' in metrics
            assert "mainspring_oldest_ended_workflow_seconds 0.0" in metrics, "it ended in the future"
            await cluster.worker("w1")
            assert await client.handle("runs").result(timeout=30) == 5

    asyncio.run(play())


AN_HOUR_AHEAD = """
import runpy, sys
from mainspring_coordinator.store import mysql_connection
mysql_connection.now_us_sql = f"({mysql_connection.now_us_sql}+3600000000)"
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a coordinator to which the database's clock shows an hour too much."""


def test_a_database_whose_clock_is_ahead_when_a_coordinator_begins_loses_nothing(
    mariadb_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        # A minute, so that a pass comes each 6 s.
        async with RealCluster(mariadb_url, tmp_path, RETENTION_DAYS=f"{60 / 86_400:.9f}") as cluster:
            c1 = await cluster.coordinator("c1", RETENTION_DAYS="0")
            await cluster.worker("w1")
            client = cluster.client()
            ended = await client.submit(chain(2), 3, workflow_id="ended")
            assert await ended.result(timeout=30) == 5
            await c1.killed()
            again = await cluster.spawn_coordinator("c1", through=AN_HOUR_AHEAD)
            said = await again.said('"retention_held"', within_s=20)
            assert 3_500 < json.loads(said)["database_ahead_s"] < 3_700
            assert (await client.get("ended")).status.name == "SUCCEEDED"

    asyncio.run(play())
