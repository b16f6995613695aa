"""The commands by which operators act, and what they send: who, on what, why."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mainspring.errors import PreconditionError
from mainspring.v1 import admin_pb2
from mainspring_client.cli.program import app
from tests.client.conftest import Served

AT_US = 1_700_000_000_000_000
ENTRY = admin_pb2.AuditEntry(
    entry_id="a" * 32,
    began_at_us=AT_US,
    ended_at_us=AT_US + 5,
    act="StepDown",
    subject="engine-2",
    reason="a new kernel",
    who="alice@ops1 from 10.0.0.7:5123",
    coordinator="engine-1",
    outcome="done",
)


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)


def asked(served: Served, *words: str, **script: Any) -> tuple[Result, dict[str, list[Any]]]:
    with served(**script) as (scripted, address):
        return CliRunner().invoke(app, [*words, "--address", address]), scripted.requests


def page(*ids: str, token: str = "", ended: tuple[str, ...] = ()) -> admin_pb2.CancelWorkflowsResponse:
    return admin_pb2.CancelWorkflowsResponse(workflow_ids=ids, ended=ended, next_page_token=token)


def test_many_workflows_are_cancelled_page_by_page(served: Served) -> None:
    pages = [page("a", "b", token="t"), page("c", ended=("d",))]
    got, requests = asked(served, "cancel", "--prefix", "import-", "--reason", "bad source", CancelWorkflows=pages)
    assert got.exit_code == 0, got.output
    assert "3 workflows were asked to stop; 1 had ended by itself" in got.stdout
    first, second = requests["CancelWorkflows"]
    assert (first.id_prefix, first.reason, first.all, first.dry_run, first.page_token) == (
        "import-", "bad source", False, False, ""
    )  # fmt: skip
    assert second.page_token == "t"


def test_one_workflow_is_told_of_as_one(served: Served) -> None:
    got, _ = asked(served, "cancel", "--name", "x", CancelWorkflows=[page("a", ended=("b",))])
    assert got.stdout == "1 workflow was asked to stop; 1 had ended by itself\n"


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_choice_that_fits_none_is_named(served: Served, words: list[str]) -> None:
    got, _ = asked(served, "cancel", "--name", "x", "--prefix", "zzz", *words, CancelWorkflows=[page()])
    assert got.exit_code == 0
    assert got.stdout == "no workflow of the name 'x' whose id begins with 'zzz' goes on; see: mainspring list\n"


def test_a_dry_run_lists_those_that_would_be(served: Served) -> None:
    got, requests = asked(served, "cancel", "--all", "--dry-run", CancelWorkflows=[page("a", "b")])
    assert got.stdout.splitlines() == ["a", "b"]
    assert requests["CancelWorkflows"][0].dry_run
    got, _ = asked(served, "cancel", "--all", "--dry-run", "--json", CancelWorkflows=[page("a")])
    assert [json.loads(line) for line in got.stdout.splitlines()] == [{"workflow_id": "a", "asked": False}]


@pytest.mark.parametrize(
    "words",
    [
        ["cancel"],
        ["cancel", "--all", "--name", "x"],
        ["cancel", "--all", "--prefix", "x"],
        ["cancel", "wf-1", "--all"],
        ["cancel", "wf-1", "--name", "x"],
        ["cancel", "wf-1", "--dry-run"],
    ],
)
def test_one_workflow_or_several_must_be_meant(served: Served, words: list[str]) -> None:
    got, requests = asked(served, *words)
    assert got.exit_code == 2
    assert "--all" in got.output
    assert requests == {}


def test_a_coordinator_steps_down_and_comes_back(served: Served) -> None:
    answer = [admin_pb2.StepDownResponse(coordinator="engine-2", shards=6)]
    got, requests = asked(served, "step-down", "engine-2", "--reason", "a new kernel", StepDown=answer)
    assert got.exit_code == 0, got.output
    assert got.stdout.strip() == "engine-2 gives up 6 shards, and takes none for 600 s; see: mainspring shards"
    (request,) = requests["StepDown"]
    assert (request.coordinator, request.seconds, request.reason) == ("engine-2", 600, "a new kernel")
    got, requests = asked(served, "step-down", "engine-2", "--back", StepDown=answer)
    assert got.stdout.strip() == "engine-2 gets its share back"
    assert requests["StepDown"][0].seconds == 0


def test_a_step_down_that_is_under_way_and_a_return_of_one_that_was_never_down_are_told_apart(served: Served) -> None:
    answer = [admin_pb2.StepDownResponse(coordinator="engine-2", already=True)]
    got, _ = asked(served, "step-down", "engine-2", "--seconds", "60", StepDown=answer)
    assert got.exit_code == 0, got.output
    assert got.stdout.strip() == "engine-2 has stepped down already; it takes no shards for 60 s from now on"
    got, _ = asked(served, "step-down", "engine-2", "--back", StepDown=answer)
    assert (got.exit_code, got.stdout.strip()) == (0, "engine-2 had not stepped down")
    got, _ = asked(served, "step-down", "engine-2", "--json", StepDown=answer)
    assert json.loads(got.stdout) == {"coordinator": "engine-2", "shards": 0, "seconds": 600, "already": True}
    got, requests = asked(served, "step-down", "engine-2", "--seconds", "60", "--back", StepDown=answer)
    assert got.exit_code == 2
    assert "--back" in got.output
    assert requests == {}


def test_what_cannot_be_is_said(served: Served) -> None:
    got, _ = asked(
        served, "step-down", "engine-2", StepDown=[PreconditionError("no other live coordinator has workers")]
    )
    assert got.exit_code == 2
    assert "no other live coordinator has workers" in got.output


def test_the_audit_log_is_shown(served: Served) -> None:
    listed = [admin_pb2.ListAuditResponse(entries=[ENTRY])]
    got, _ = asked(served, "audit", ListAudit=listed)
    assert got.exit_code == 0, got.output
    for shown in ("2023-11-14 22:13:20", "StepDown", "engine-2", "alice@ops1", "a new kernel", "done"):
        assert shown in got.stdout
    got, _ = asked(served, "audit", "--json", ListAudit=listed)
    (document,) = json.loads(got.stdout)
    assert (document["act"], document["who"]) == ("StepDown", "alice@ops1 from 10.0.0.7:5123")
