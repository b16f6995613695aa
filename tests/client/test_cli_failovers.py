"""What the command shows of the record of failovers, to people and to programs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mainspring.errors import NotFoundError
from mainspring.v1 import admin_pb2
from mainspring_client.cli.program import app
from tests.client.conftest import Served

EVENT = "5c" * 16


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)


def failover(event_id: str = EVENT, **fields: object) -> admin_pb2.Failover:
    known: dict[str, object] = {
        "kind": admin_pb2.FAILOVER_KIND_COORDINATOR_KILLED,
        "failed_engine_id": "engine-1",
        "failed_incarnation": "a" * 32,
        "takeover_engine_id": "engine-2",
        "takeover_incarnation": "b" * 32,
        "affected_workflows": ["w1", "w2"],
        "affected_nodes": ["w1/fetch"],
        "affected_workflows_count": 2,
        "affected_nodes_count": 1,
        "detected_at_us": 1_700_000_000_000_000,
        "recovered_at_us": 1_700_000_000_420_000,
    }
    return admin_pb2.Failover(event_id=event_id, **{**known, **fields})  # type: ignore[arg-type]  # names are the message's


def page(*events: admin_pb2.Failover, token: str = "") -> admin_pb2.ListFailoversResponse:
    return admin_pb2.ListFailoversResponse(failovers=events, next_page_token=token)


def asked(served: Served, *arguments: str, **script: object) -> tuple[Result, dict[str, list[object]]]:
    with served(**script) as (scripted, address):
        return CliRunner().invoke(app, [*arguments, "--address", address]), scripted.requests


def test_failovers_are_a_table_for_people(served: Served) -> None:
    got, _ = asked(served, "failovers", ListFailovers=[page(failover(), failover("6d" * 16, takeover_engine_id=""))])
    assert got.exit_code == 0, got.output
    head, first, second = got.stdout.splitlines()
    assert head.split() == ["DETECTED", "KIND", "FAILED", "TAKEN", "OVER", "BY", "WORKFLOWS", "NODES", "TOOK", "EVENT"]
    assert first.split() == [
        "2023-11-14",
        "22:13:20",
        "coordinator_killed",
        "engine-1",
        "engine-2",
        "2",
        "1",
        "420",
        "ms",
        EVENT,
    ]
    assert "nobody" in second
    assert "mainspring failovers EVENT" in got.stderr


def test_failovers_for_a_program_have_the_names_of_the_alert(served: Served) -> None:
    got, _ = asked(served, "failovers", "--json", ListFailovers=[page(failover(alerted_at_us=1_700_000_001_000_000))])
    (event,) = json.loads(got.stdout)
    assert event == {
        "eventId": EVENT,
        "kind": "coordinator_killed",
        "failedEngineId": "engine-1",
        "failedIncarnation": "a" * 32,
        "takeoverEngineId": "engine-2",
        "takeoverIncarnation": "b" * 32,
        "affectedWorkflows": ["w1", "w2"],
        "affectedWorkflowsCount": 2,
        "affectedNodes": ["w1/fetch"],
        "affectedNodesCount": 1,
        "detectedAt": "2023-11-14T22:13:20.000Z",
        "recoveredAt": "2023-11-14T22:13:20.420Z",
        "alertedAt": "2023-11-14T22:13:21.000Z",
    }
    assert got.stderr == ""


def test_no_more_failovers_are_read_than_were_asked_for(served: Served) -> None:
    pages = [page(failover("1" * 32), failover("2" * 32), token="more"), page(failover("3" * 32), token="still more")]
    got, requests = asked(served, "failovers", "--limit", "3", "--json", ListFailovers=pages)
    assert [event["eventId"][0] for event in json.loads(got.stdout)] == ["1", "2", "3"]
    wanted = [(request.page_size, request.page_token) for request in requests["ListFailovers"]]  # type: ignore[attr-defined]
    assert wanted == [(3, ""), (1, "more")]


def test_one_failover_is_shown_with_all_that_it_affected(served: Served) -> None:
    rest = [
        admin_pb2.ListAffectedResponse(ids=["w1", "w2"], next_page_token="more"),
        admin_pb2.ListAffectedResponse(ids=["w3"]),
    ]
    script = {"ListFailovers": [page(failover(affected_workflows_count=3))], "ListAffected": rest}
    got, requests = asked(served, "failovers", EVENT, **script)
    lines = [line.split() for line in got.stdout.splitlines()]
    assert ["failed", "engine-1", f"({'a' * 32})"] in lines
    assert lines[-6:] == [["workflows", "3"], ["w1"], ["w2"], ["w3"], ["nodes", "1"], ["w1/fetch"]]
    assert len(requests["ListAffected"]) == 2, "the nodes were all inline"


def test_a_failover_that_is_not_there_is_not_found(served: Served) -> None:
    got, _ = asked(served, "failovers", EVENT, ListFailovers=[NotFoundError("there is no failover")])
    assert got.exit_code == 3


def test_the_help_has_examples() -> None:
    got = CliRunner().invoke(app, ["failovers", "--help"])
    assert "mainspring failovers --limit 200 --json" in got.stdout
