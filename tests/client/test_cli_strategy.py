"""What the command shows of the cluster's strategy, and how it is set."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mainspring.errors import BadRequestError
from mainspring.v1 import admin_pb2
from mainspring_client import SyncClient
from mainspring_client.cli.program import app
from tests.client.conftest import Served

AT_US = 1_700_000_000_000_000
FOUND = admin_pb2.GetStrategyResponse(
    wanted="dynamic",
    chosen="locality",
    changed_at_us=AT_US,
    coordinators=[
        admin_pb2.CoordinatorStrategy(name="engine-1", incarnation="a" * 32, own="capability", in_force="locality")
    ],
)
CHANGE = admin_pb2.StrategyChange(
    changed_at_us=AT_US, before="", after="locality", by="dynamic", reason="the mean round trip is 250 ms"
)
CHANGES = admin_pb2.ListStrategyChangesResponse(changes=[CHANGE])


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)


def asked(served: Served, *arguments: str, **script: Any) -> tuple[Result, dict[str, list[Any]]]:
    with served(**script) as (scripted, address):
        return CliRunner().invoke(app, ["strategy", *arguments, "--address", address]), scripted.requests


def test_it_is_shown_with_each_coordinators_and_the_last_changes(served: Served) -> None:
    got, _ = asked(served, GetStrategy=[FOUND], ListStrategyChanges=[CHANGES])
    assert got.exit_code == 0, got.output
    assert got.stdout.splitlines() == [
        "cluster        dynamic",
        "dynamic chose  locality",
        "changed        2023-11-14 22:13:20",
        "COORDINATOR  ITS OWN     IN FORCE",
        "engine-1     capability  locality",
        "CHANGED              FROM  TO        BY       REASON",
        "2023-11-14 22:13:20  own   locality  dynamic  the mean round trip is 250 ms",
    ]


def test_programs_read_it_as_one_document(served: Served) -> None:
    got, _ = asked(served, "--json", GetStrategy=[FOUND], ListStrategyChanges=[CHANGES])
    document = json.loads(got.stdout)
    assert (document["wanted"], document["coordinators"][0]["in_force"]) == ("dynamic", "locality")
    got, _ = asked(served, "--history", "7", "--json", ListStrategyChanges=[CHANGES])
    assert json.loads(got.stdout)[0]["reason"] == "the mean round trip is 250 ms"


@pytest.mark.parametrize(
    ("name", "sent", "said"),
    [("locality", "locality", "the cluster places by locality"), ("own", "", "each coordinator places by its own")],
)
def test_it_is_set_with_a_reason(served: Served, name: str, sent: str, said: str) -> None:
    answer = admin_pb2.SetStrategyResponse(changed=True)
    got, requests = asked(served, name, "--reason", "slow", SetStrategy=[answer])
    assert got.exit_code == 0, got.output
    assert got.stdout.startswith(said)
    (request,) = requests["SetStrategy"]
    assert (request.strategy, request.reason) == (sent, "slow")


def test_what_was_set_already_is_said_to_be(served: Served) -> None:
    got, _ = asked(served, "locality", SetStrategy=[admin_pb2.SetStrategyResponse(changed=False)])
    assert got.stdout == "the cluster places by locality; it did already\n"


@pytest.mark.parametrize(
    "arguments",
    [("locality", "--history", "3"), ("--reason", "why"), ("--history", "0"), ("",)],
    ids=lambda given: given[0] or "nothing",
)
def test_what_does_not_go_together_is_refused(served: Served, arguments: tuple[str, ...]) -> None:
    got, requests = asked(served, *arguments)
    assert got.exit_code == 2
    assert not requests


def test_a_strategy_that_does_not_exist_is_bad_input(served: Served) -> None:
    error = BadRequestError("strategy: there is no 'best'", field="strategy")
    got, _ = asked(served, "best", SetStrategy=[error])
    assert (got.exit_code, "there is no 'best'" in got.stderr) == (2, True)


def test_the_synchronous_client_reads_and_sets_it_too(served: Served) -> None:
    script: dict[str, Any] = {
        "GetStrategy": [FOUND],
        "SetStrategy": [admin_pb2.SetStrategyResponse(changed=True)],
        "ListStrategyChanges": [admin_pb2.ListStrategyChangesResponse(changes=[CHANGE], next_page_token="t"), CHANGES],
    }
    with served(**script) as (_, address), SyncClient(address) as client:
        assert client.strategy().chosen == "locality"
        assert client.set_strategy("affinity", "why") is True
        assert [change.after for change in client.strategy_changes()] == ["locality", "locality"]
        assert len(list(client.strategy_changes(limit=1))) == 1
