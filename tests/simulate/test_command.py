"""`mainspring simulate`, as it is typed."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from mainspring.errors import SettingsError
from mainspring_coordinator.simulate.command import main

root = Path(__file__).parents[2]
trace = str(root / "examples/wfformat/traces/small.json")
definition = """
name: cleanup
nodes:
  - {id: fetch, executor: fetch}
  - {id: drop, executor: drop, map: {over: "${fetch}"}}
"""


@pytest.fixture
def made(tmp_path: Path) -> str:
    path = tmp_path / "cleanup.yaml"
    path.write_text(definition)
    return str(path)


def test_the_command_compares_the_strategies_on_virtual_time() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mainspring_client", "--json", "simulate", trace, "--workers", "2", "--slots", "2"],
        check=True,
        capture_output=True,
        cwd=root,
    )
    document = orjson.loads(done.stdout)
    assert (document["workers"], document["slots"], document["problems"]) == (2, 4, [])
    assert [one["strategy"] for one in document["strategies"]] == [
        "round-robin",
        "load-balanced",
        "capability",
        "locality",
        "affinity",
    ]
    for one in document["strategies"]:
        assert 21.5 <= one["makespan_s"] < 22
        assert one["bound_s"] == 21.5


def test_a_person_gets_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([trace, "--workers", "2", "--slots", "2", "--strategy", "capability", "--copies", "3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 workflows, 42 nodes on 2 workers with 4 slots\n")
    assert "capability" in said
    assert "affinity" not in said


@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_picture_is_drawn_for_each_strategy(tmp_path: Path, suffix: str, begins: bytes) -> None:
    path = tmp_path / f"ran.{suffix}"
    assert main([trace, "--picture", str(path), "--strategy", "locality"]) == 0
    assert path.read_bytes().startswith(begins)
    assert main([trace, "--picture", str(path), "--strategy", "locality", "--strategy", "affinity"]) == 0
    for strategy in ("locality", "affinity"):
        assert (tmp_path / f"ran-{strategy}.{suffix}").read_bytes().startswith(begins)


def test_a_definition_runs_with_the_times_that_are_said(made: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [made, "--seconds", "2", "--seconds", "drop=0.5", "--width", "drop=8", "--slots", "4", "--workers", "1"]
    assert main([*words, "--hop", "0", "--strategy", "round-robin", "--json"]) == 0
    (one,) = orjson.loads(capsys.readouterr().out)["strategies"]
    assert (one["makespan_s"], one["nodes"]) == (3.0, 9)


def test_a_fleet_that_cannot_run_a_node_is_told_so(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("workers: [{name: w, slots: 2, executors: [fetch]}]")
    assert main([made, "--seconds", "1", "--fleet", str(fleet), "--strategy", "affinity"]) == 1
    assert (
        "affinity: cleanup never ends: node 'drop' waits for a worker with executor 'drop', and this fleet has none"
        in " ".join(capsys.readouterr().err.split())
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: FILE"),
        ([trace, "--strategy", "best"], "invalid choice: 'best'"),
        ([trace, "--workers", "0"], "--workers 0: it is 1 to 10000"),
        ([trace, "--slots", "10001"], "--slots 10001: it is 1 to 10000"),
        ([trace, "--copies", "0"], "--copies 0: it is 1 to 100000"),
        ([trace, "--every", "-1"], "--every -1.0: it is at least 0"),
        ([trace, "--bandwidth", "nan"], "--bandwidth nan: it is at least 0"),
        ([trace, "--picture", "a.pdf"], "a picture ends in .png or .svg"),
        ([trace, "--fleet", "nowhere.yaml"], "--fleet nowhere.yaml: "),
        (["nowhere.json"], "nowhere.json: "),
        (["MADE"], "it says nothing of times; add --history FILE, or --seconds S"),
        (["MADE", "--seconds", "fast"], "--seconds fast: seconds are a number of at least 0"),
        (["MADE", "--seconds", "other=1"], "no node has executor 'other'; there are drop, fetch"),
        (["MADE", "--seconds", "1", "--width", "fetch=3"], "no map node is named 'fetch'; there are: drop"),
        (["MADE", "--seconds", "1", "--width", "drop=few"], "a width is a whole number"),
        (["MADE", "--seconds", "1", "--width", "drop=100001"], "a whole number up to 100000"),
        (["MADE", trace, "--history", trace], "--history is of one workflow"),
    ],
)
def test_bad_input_is_named_with_the_next_step(words: list[str], said: str, made: str) -> None:
    with pytest.raises(SettingsError) as caught:
        main([made if word == "MADE" else word for word in words])
    assert said in str(caught.value)
