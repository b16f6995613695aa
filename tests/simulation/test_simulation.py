"""Runs of the simulation in the suite: a few hundred seeds, the same ones each time, and that a seed replays."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.__main__ import run_seeds
from tests.simulation.mutations import Mutation, mutations
from tests.simulation.run import run
from tests.simulation.silence import silent

_runs: Final = 200
_a_test: Final = 20
_events: Final = 150
_tried: Final = 60
"""Seeds, before a mutation counts as not seen."""
_replayed: Final = "from tests.simulation.run import run; print(run(7, 400).fingerprint)"


@pytest.mark.parametrize("first", range(1, _runs, _a_test))
def test_no_law_is_broken_in_a_few_hundred_clusters(first: int) -> None:
    outcomes = run_seeds(list(range(first, first + _a_test)), _events)
    broken = [f"EVENTS={_events} SEED={outcome.seed}: {outcome.broken[0]}" for outcome in outcomes if outcome.broken]
    assert not broken, f"make simulate RUNS=1 {broken[0]}"
    assert all(outcome.takeovers and outcome.faults >= 3 for outcome in outcomes)


@pytest.mark.parametrize("mutation", mutations.values(), ids=lambda mutation: mutation.name)
def test_a_missing_safety_net_is_seen(mutation: Mutation) -> None:
    with silent(), mutation.at_work():
        outcomes = (run(seed, 2_000) for seed in (mutation.seed, *range(1, _tried)))
        broken = next((outcome.broken for outcome in outcomes if outcome.broken), None)
    assert broken, f"no seed sees that {mutation.missing}"
    assert mutation.breaks in broken[0]


def test_the_page_names_the_seed_that_sees_each_mutation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    for one in mutations.values():
        row = f"| `{one.name}` | {one.missing} | {one.breaks.removeprefix('law ')} | {one.seed} |"
        assert row in page, row


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    with silent():
        here = run(7, 400).fingerprint
    there = subprocess.run(
        [sys.executable, "-c", _replayed],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split()[-1] == here
