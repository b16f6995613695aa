"""The log of real processes: its level changes by a signal, and what an attempt logs names the attempt."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.cluster.flows import chain
from tests.cluster.running import RealCluster

marker = "payload-which-no-line-may-hold"


def test_the_level_changes_by_signals_and_lines_name_their_attempt(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            coordinator = await cluster.coordinator("c1")
            worker = await cluster.worker("w1")
            client = cluster.client()
            for process in (coordinator, worker):
                os.kill(process.pid, signal.SIGUSR1)
                await process.said("log_level_changed", "debug")
            handle = await client.submit(chain(1, "noop"), marker, workflow_id="wf-1")
            assert await handle.result(30) == marker
            ended = json.loads(await worker.said("attempt_ended"))
            began = json.loads(await worker.said("attempt_began"))
            facts: dict[str, Any] = {
                "workflow": "wf-1", "node": "n0", "instance": -1, "attempt": 1, "worker": "w1", "executor": "noop"
            }  # fmt: skip
            for line in (began, ended):
                assert {name: line[name] for name in facts} == facts
                assert line["shard"] in range(16)
                assert line["epoch"] >= 1
            assert ended["outcome"] == "SUCCEEDED"
            for process in (coordinator, worker):
                os.kill(process.pid, signal.SIGUSR2)
                await process.said("log_level_changed", '"info"')
            begun = sum("attempt_began" in line for line in worker.lines)
            await (await client.submit(chain(1, "noop"), marker)).result(30)
            assert sum("attempt_began" in line for line in worker.lines) == begun
            assert not [line for line in (*coordinator.lines, *worker.lines) if marker in line]

    asyncio.run(play())
