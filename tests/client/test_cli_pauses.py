"""What the commands pause, resume and pauses ask for, and what they say of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mainspring.v1 import admin_pb2, client_pb2, workflow_pb2
from mainspring_client.cli.program import app
from tests.client.answers import workflow
from tests.client.conftest import Served

PAUSE = workflow_pb2.Pause(since_us=1_700_000_000_000_000, who="ann (admin)", reason="the bank is down")
SAID = "since 2023-11-14 22:13:20 by ann (admin): the bank is down"


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)


def asked(served: Served, *arguments: str, **script: Any) -> tuple[Result, dict[str, list[Any]]]:
    with served(**script) as (scripted, address):
        return CliRunner().invoke(app, [*arguments, "--address", address]), scripted.requests


@pytest.mark.parametrize(
    ("options", "what", "named"),
    [
        (["--all"], {"all": True}, "the whole cluster"),
        (["--executor", "charge"], {"executor": "charge"}, "executor charge"),
        (["--workflow", "wf"], {"workflow_id": "wf"}, "workflow wf"),
    ],
)
def test_what_is_named_is_paused_and_goes_on(
    served: Served, options: list[str], what: dict[str, Any], named: str
) -> None:
    paused = admin_pb2.PauseDispatchResponse(changed=True, pause=PAUSE, workers=2)
    got, requests = asked(served, "pause", *options, "--reason", "why", PauseDispatch=[paused])
    assert (got.exit_code, got.output) == (0, f"{named} is paused\n")
    assert requests["PauseDispatch"] == [admin_pb2.PauseDispatchRequest(reason="why", **what)]
    resumed = admin_pb2.ResumeDispatchResponse(changed=True, pause=PAUSE)
    got, requests = asked(served, "resume", *options, ResumeDispatch=[resumed])
    assert got.output == f"{named} goes on; it was paused {SAID}\n"
    assert requests["ResumeDispatch"] == [admin_pb2.ResumeDispatchRequest(**what)]


def test_what_was_so_already_is_said_to_be(served: Served) -> None:
    got, _ = asked(served, "pause", "--all", PauseDispatch=[admin_pb2.PauseDispatchResponse(pause=PAUSE)])
    assert got.stdout == f"the whole cluster is paused already, {SAID}\n"
    got, _ = asked(served, "resume", "--all", ResumeDispatch=[admin_pb2.ResumeDispatchResponse()])
    assert got.stdout == "the whole cluster was not paused\n"
    assert got.stderr == "see what is paused with: mainspring pauses\n"


def test_that_nobody_runs_the_executor_and_who_did_not_confirm_is_told(served: Served) -> None:
    answer = admin_pb2.PauseDispatchResponse(changed=True, pause=PAUSE, unseen_by=["c2", "c3"])
    got, _ = asked(served, "pause", "--executor", "charge", PauseDispatch=[answer])
    assert got.exit_code == 0
    assert "no worker runs charge at the moment; it is paused should one come" in got.output
    assert "it takes a fraction of a second more at c2, c3" in got.output


@pytest.mark.parametrize("options", [[], ["--all", "--executor", "x"], ["--executor", "x", "--workflow", "y"]])
@pytest.mark.parametrize("command", ["pause", "resume"])
def test_one_thing_and_only_one_is_named(command: str, options: list[str]) -> None:
    got = CliRunner().invoke(app, [command, *options])
    assert got.exit_code == 2
    assert "name one of --all, --executor NAME and --workflow ID" in got.output


def test_pauses_are_listed_to_the_last_page(served: Served) -> None:
    pages = [
        admin_pb2.ListPausesResponse(
            pauses=[
                admin_pb2.PausedDispatch(all=True, pause=PAUSE),
                admin_pb2.PausedDispatch(executor="charge", pause=PAUSE),
            ],
            next_page_token="more",
        ),
        admin_pb2.ListPausesResponse(pauses=[admin_pb2.PausedDispatch(workflow_id="wf", pause=PAUSE)]),
    ]
    got, requests = asked(served, "pauses", ListPauses=pages)
    assert [line.split("  ")[0] for line in got.stdout.splitlines()] == [
        "WHAT",
        "the whole cluster",
        "executor charge",
        "workflow wf",
    ]
    assert "2023-11-14 22:13:20  ann (admin)  the bank is down" in got.stdout
    assert [request.page_token for request in requests["ListPauses"]] == ["", "more"]
    got, _ = asked(served, "pauses", "--json", ListPauses=pages)
    assert [one["workflow_id"] for one in json.loads(got.stdout)] == ["", "", "wf"]
    got, _ = asked(served, "pauses", ListPauses=[admin_pb2.ListPausesResponse()])
    assert got.stdout == "nothing is paused\n"


def test_a_workflow_that_is_paused_is_shown_as_such(served: Served) -> None:
    found = workflow()
    found.pause.CopyFrom(PAUSE)
    got, _ = asked(
        served, "get", "w", Get=[client_pb2.GetResponse(workflow=found)], ListNodes=[client_pb2.ListNodesResponse()]
    )
    assert f"paused     {SAID}" in got.output, got.output
    told = client_pb2.ExplainResponse(status=workflow_pb2.WORKFLOW_STATUS_RUNNING, pause=PAUSE)
    got, _ = asked(served, "explain", "w", Explain=[told])
    assert f"paused    {SAID}" in got.output
