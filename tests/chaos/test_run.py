"""A short chaos from end to end, few members and no namespaces, so that it runs for everyone; `make chaos` runs the long ones."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.story import Settings, everybody, play

few = replace(everybody, coordinators=("c1", "c2"), workers=("w1", "w2"), clients=("u1",))
seed = 36


@pytest.mark.long
@pytest.mark.timeout(400)  # the bound for coming to rest is 90 s, and a loaded machine starts processes slowly
def test_a_short_chaos_is_told_and_breaks_no_law(tmp_path: Path) -> None:
    run = asyncio.run(play(Settings(seed, 10, 2, 4, "mariadb", loopback=True, folder=tmp_path, cast=few)))
    report = json.loads(run.to_json())
    assert report["violations"] == [], run.to_text()
    assert report["faults"] >= 2
    assert report["workflows_acknowledged"] > 0
    # Not compared: a `map` node succeeds without an execution of its own, and others have several.
    assert report["executions"] > 0
    assert report["nodes_succeeded"] > 0
    assert f"{report['faults']} faults" in run.to_text()
