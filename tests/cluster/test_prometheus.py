"""A real Prometheus, with the shipped configuration, rules and dashboard, scrapes a real coordinator and a real worker."""

import asyncio
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.flows import chain, gate
from tests.cluster.running import RealCluster, eventually
from tests.deploy.test_dashboard import expressions
from tests.servers.ports import free_port
from tests.servers.prometheus import Prometheus, required


async def seen(holds: Callable[[], Any]) -> None:
    """Return once Prometheus says so; it does not listen at first, and scrapes each second."""

    def look() -> Any:
        try:
            return holds()
        except urllib.error.URLError:
            return False

    await eventually(lambda: asyncio.to_thread(look))


def test_prometheus_sees_what_runs_what_waits_and_who_is_down(file_url: str, tmp_path: Path) -> None:
    required("prometheus")

    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            await cluster.coordinator()
            port = free_port()
            worker = await cluster.worker(slots=1, HTTP_PORT=str(port))
            coordinator_at, worker_at = cluster.http("c1"), f"127.0.0.1:{port}"
            client = cluster.client()
            with Prometheus(tmp_path, {"coordinator": [coordinator_at], "worker": [worker_at]}) as prometheus:
                query = prometheus.query
                await seen(lambda: query('up{job="workflow-engine"} == 1').keys() == {coordinator_at, worker_at})
                assert await (await client.submit(chain(3), 0)).result(30) == 3
                await seen(lambda: query('workflow_executions_total{status="succeeded"} == 1'))
                ran = 'node_execution_duration_seconds_count{engine_id="w1",node_type="task",executor="step"} == 3'
                await seen(lambda: query(ran))
                started = 'mainspring_schedule_to_start_seconds_count{executor="step"} == 3'
                await seen(lambda: query(started).keys() == {coordinator_at})
                assert query("mainspring_slots") == query("mainspring_credit") == {coordinator_at: 1}
                assert query("mainspring_shards_without_owner") == {coordinator_at: 0}
                assert query('lock_acquisition_duration_seconds_count{lock_type="shard"}') == {coordinator_at: 16}
                # One runs, and two wait for its slot.
                handles = [await client.submit(gate(), "open") for _ in range(3)]
                await seen(lambda: query('mainspring_ready_nodes{executor="gated"} == 2'))
                await seen(lambda: query('mainspring_oldest_wait_seconds{executor="gated"} > 1'))
                cluster.effects.open_gate("open")
                for handle in handles:
                    await handle.result(30)
                await seen(lambda: query('mainspring_ready_nodes{executor="gated"} == 0'))
                for expression in expressions():
                    query(expression)  # fails unless it can be evaluated
                await worker.killed()
                await seen(lambda: prometheus.rules()["WorkflowEngineDown"]["state"] == "pending")
                assert {
                    name: rule["lastError"] for name, rule in prometheus.rules().items() if "lastError" in rule
                } == {}
                assert {rule["health"] for rule in prometheus.rules().values()} == {"ok"}

    asyncio.run(play())
