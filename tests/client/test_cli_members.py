"""The commands that act on one worker or on a dead coordinator, and what they send."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mainspring.errors import PreconditionError
from mainspring.v1 import admin_pb2
from mainspring_client.cli.program import app
from tests.client.conftest import Served

ID = "5c1f0a9e8d7b6c5a4f3e2d1c0b9a8f7e"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def asked(served: Served, *words: str, **script: Any) -> tuple[Result, dict[str, list[Any]]]:
    with served(**script) as (scripted, address):
        return CliRunner().invoke(app, [*words, "--address", address]), scripted.requests


def test_a_worker_is_drained_and_undrained(served: Served) -> None:
    answer = [admin_pb2.DrainWorkerResponse(incarnation=ID, assigned=2, running=7)]
    words = ("workers", "drain", "w1", "--incarnation", ID, "--reason", "a new kernel")
    got, requests = asked(served, *words, DrainWorker=answer)
    assert got.exit_code == 0, got.output
    assert got.stdout.startswith(
        "w1 takes no more work and finishes what it runs (7); once it has nothing it is DRAINED"
    )
    (request,) = requests["DrainWorker"]
    assert (request.name, request.incarnation, request.reason) == ("w1", ID, "a new kernel")
    got, _ = asked(served, "workers", "drain", "w1", "--json", DrainWorker=answer)
    assert json.loads(got.stdout) == {"name": "w1", "incarnation": ID, "assigned": 2, "running": 7, "already": False}
    idle = [admin_pb2.DrainWorkerResponse(incarnation=ID)]
    got, _ = asked(served, "workers", "drain", "w1", DrainWorker=idle)
    assert got.stdout.startswith("w1 takes no more work and runs nothing;")
    back = [admin_pb2.UndrainWorkerResponse(incarnation=ID)]
    got, requests = asked(served, "workers", "undrain", "w1", "--reason", "it is there", UndrainWorker=back)
    assert got.stdout.strip() == "w1 takes work again"
    assert requests["UndrainWorker"][0].reason == "it is there"
    got, _ = asked(served, "workers", "undrain", "w1", "--json", UndrainWorker=back)
    assert json.loads(got.stdout) == {"name": "w1", "incarnation": ID, "already": False}


def test_what_is_so_already_is_said_and_no_failure(served: Served) -> None:
    drained = [admin_pb2.DrainWorkerResponse(incarnation=ID, running=2, already=True)]
    got, _ = asked(served, "workers", "drain", "w1", DrainWorker=drained)
    assert got.exit_code == 0
    assert got.stdout.startswith("w1 is drained already and finishes what it runs (2);")
    back = [admin_pb2.UndrainWorkerResponse(incarnation=ID, already=True)]
    got, _ = asked(served, "workers", "undrain", "w1", UndrainWorker=back)
    assert (got.exit_code, got.stdout.strip()) == (0, "w1 was not drained")


def test_a_worker_is_evicted_for_a_reason_only(served: Served) -> None:
    got, requests = asked(served, "workers", "evict", "w1")
    assert got.exit_code == 2
    assert "--reason" in got.output
    assert requests == {}
    answer = [admin_pb2.EvictWorkerResponse(incarnation=ID, known=True)]
    got, requests = asked(served, "workers", "evict", "w1", "--reason", "it burned", EvictWorker=answer)
    assert got.exit_code == 0, got.output
    assert got.stdout.strip() == f"w1 ({ID}) is treated as gone; its work goes elsewhere"
    assert (requests["EvictWorker"][0].name, requests["EvictWorker"][0].reason) == ("w1", "it burned")
    strange = [admin_pb2.EvictWorkerResponse(incarnation=ID, unasked=["engine-2"])]
    got, _ = asked(served, "workers", "evict", "w1", "--reason", "it burned", EvictWorker=strange)
    assert "no coordinator knows it at the moment" in got.output
    assert "engine-2" in got.output
    assert "attached as" not in got.output
    another = [admin_pb2.EvictWorkerResponse(incarnation=ID, others=["f" * 32])]
    got, _ = asked(served, "workers", "evict", "w1", "--reason", "it burned", EvictWorker=another)
    assert f"it would be refused if it came; attached as w1 is: {'f' * 32}" in got.output
    got, _ = asked(served, "workers", "evict", "w1", "--reason", "it burned", "--json", EvictWorker=strange)
    assert json.loads(got.stdout)["unasked"] == ["engine-2"]


def test_workers_are_listed_as_before_and_drained_ones_are_told_apart(served: Served) -> None:
    listed = [
        admin_pb2.ListWorkersResponse(
            workers=[
                admin_pb2.Worker(name="w1", status=admin_pb2.WORKER_STATUS_DRAINING, stays=True),
                admin_pb2.Worker(name="w2", status=admin_pb2.WORKER_STATUS_DRAINING),
                admin_pb2.Worker(
                    name="w3", status=admin_pb2.WORKER_STATUS_DRAINING, stays=True, assigned=1, busy=5, slots=8
                ),
            ]
        )
    ]
    got, _ = asked(served, "workers", ListWorkers=listed)
    assert got.exit_code == 0, got.output
    rows = {line.split()[0]: line.split()[1] for line in got.stdout.splitlines()[1:] if line.startswith("w")}
    assert rows["w1"] == "DRAINED"
    assert rows["w2"] == rows["w3"] == "DRAINING", "it runs something still"
    assert "5/8" in got.stdout
    got, _ = asked(served, "workers", "--json", ListWorkers=listed)
    assert [worker["stays"] for worker in json.loads(got.stdout)] == [True, False, True]


def test_the_shards_of_a_dead_coordinator_are_released(served: Served) -> None:
    answer = [admin_pb2.ReleaseInstanceResponse(shards=6)]
    words = ("coordinators", "release", ID, "--name", "engine-2", "--reason", "its host burned")
    got, requests = asked(served, *words, ReleaseInstance=answer)
    assert got.exit_code == 0, got.output
    assert got.stdout.strip() == "6 shards of engine-2 are free; see: mainspring shards"
    (request,) = requests["ReleaseInstance"]
    assert (request.incarnation, request.name, request.reason, request.force) == (
        ID,
        "engine-2",
        "its host burned",
        False,
    )
    live = [admin_pb2.ReleaseInstanceResponse(shards=6, was_live=True)]
    got, requests = asked(served, *words, "--force", ReleaseInstance=live)
    assert "it lived, and was ended" in got.stdout
    assert requests["ReleaseInstance"][0].force
    got, _ = asked(served, *words, "--json", ReleaseInstance=live)
    assert json.loads(got.stdout) == {"name": "engine-2", "incarnation": ID, "shards": 6, "was_live": True}


@pytest.mark.parametrize("missing", ["--name", "--reason"])
def test_a_release_names_the_coordinator_and_the_reason(served: Served, missing: str) -> None:
    words = {"--name": "engine-2", "--reason": "its host burned"}
    given = [word for pair in words.items() if pair[0] != missing for word in pair]
    got, requests = asked(served, "coordinators", "release", ID, *given)
    assert got.exit_code == 2
    assert missing in got.output
    assert requests == {}


def test_what_cannot_be_is_said(served: Served) -> None:
    words = ("coordinators", "release", ID, "--name", "engine-2", "--reason", "why")
    got, _ = asked(served, *words, ReleaseInstance=[PreconditionError("coordinator 'engine-2' lives")])
    assert got.exit_code == 2
    assert "lives" in got.output
