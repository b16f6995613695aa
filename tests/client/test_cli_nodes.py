"""The commands by which operators act on nodes and run workflows again: what they send, and what they say."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mainspring.errors import PreconditionError, UnavailableError
from mainspring.v1 import admin_pb2, client_pb2
from mainspring_client import Client, RerunInfo
from mainspring_client.cli.program import app
from tests.client.answers import node, workflow
from tests.client.conftest import Served

DONE = {
    "RetryNode": [admin_pb2.RetryNodeResponse(changed=True)],
    "SkipNode": [admin_pb2.SkipNodeResponse(changed=True)],
    "CompleteNode": [admin_pb2.CompleteNodeResponse(changed=True)],
    "GetNode": [client_pb2.GetNodeResponse(node=node("a", attempt=3))],
}
MADE = admin_pb2.RerunWorkflowResponse(workflow_id="w+01", created=True, nodes_kept=1_200, nodes_anew=3)


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)


def asked(served: Served, *words: str, **script: Any) -> tuple[Result, dict[str, list[Any]]]:
    with served(**{**DONE, **script}) as (scripted, address):
        return CliRunner().invoke(app, [*words, "--address", address]), scripted.requests


def test_a_node_is_tried_again_as_of_the_attempt_that_it_has_had(served: Served) -> None:
    got, requests = asked(served, "node", "retry", "w", "a", "--reason", "it hangs")
    assert (got.exit_code, got.stdout) == (0, "a is tried now\n"), got.output
    (request,) = requests["RetryNode"]
    assert (request.workflow_id, request.node_id, request.instance, request.attempt, request.reason) == (
        "w", "a", -1, 3, "it hangs"
    )  # fmt: skip


def test_an_instance_is_skipped(served: Served) -> None:
    got, requests = asked(served, "node", "skip", "w", "each[7]")
    assert got.stdout == "each[7] is skipped\n"
    assert (requests["SkipNode"][0].node_id, requests["SkipNode"][0].instance) == ("each", 7)
    got, _ = asked(served, "node", "skip", "w", "each[7]", "--json")
    assert json.loads(got.stdout) == {"workflow_id": "w", "node_id": "each", "instance": 7, "changed": True}


def test_a_node_is_completed_with_the_output_that_is_typed_or_in_a_file(served: Served, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"n": 2}')
    for typed, sent in (('{"n": 1}', {"n": 1}), ("@out.json", {"n": 2})):
        got, requests = asked(served, "node", "complete", "w", "a", "--output", typed)
        assert got.stdout == "a is completed\n"
        assert json.loads(requests["CompleteNode"][0].output.data) == sent
    got, requests = asked(served, "node", "complete", "w", "a", "--output", "{")
    assert got.exit_code == 2
    assert "--output: not JSON" in got.output
    assert requests == {}


@pytest.mark.parametrize(
    ("words", "answer", "said"),
    [
        (("retry",), {"RetryNode": [admin_pb2.RetryNodeResponse()]}, "waits for a worker already"),
        (("skip",), {"SkipNode": [admin_pb2.SkipNodeResponse()]}, "was skipped already"),
        (("complete",), {"CompleteNode": [admin_pb2.CompleteNodeResponse()]}, "was completed so already"),
    ],
)
def test_what_was_so_already_is_said(served: Served, words: tuple[str], answer: dict[str, Any], said: str) -> None:
    got, _ = asked(served, "node", *words, "w", "a", **answer)
    assert got.exit_code == 0
    assert said in got.stdout


def test_what_cannot_be_done_is_said_with_the_next_step(served: Served) -> None:
    error = PreconditionError("node 'a' is FAILED; mainspring rerun w --from a")
    got, _ = asked(served, "node", "skip", "w", "a", SkipNode=[error])
    assert got.exit_code == 2
    assert "mainspring rerun w --from a" in got.output


def test_a_workflow_is_run_again_from_what_failed_or_from_nodes_or_all_of_it(served: Served) -> None:
    got, requests = asked(served, "rerun", "w", "--from-failed", "--reason", "fixed", RerunWorkflow=[MADE])
    assert got.stdout == "w+01 started: 3 nodes are run again, 1,200 taken over\n"
    assert "mainspring watch w+01" in got.stderr
    (request,) = requests["RerunWorkflow"]
    assert (request.workflow_id, request.from_failed, list(request.node_ids), request.reason) == (
        "w",
        True,
        [],
        "fixed",
    )
    assert request.request_id
    _, requests = asked(served, "rerun", "w", "--from", "a", "--from", "b", RerunWorkflow=[MADE])
    assert (requests["RerunWorkflow"][0].from_failed, list(requests["RerunWorkflow"][0].node_ids)) == (
        False,
        ["a", "b"],
    )
    got, requests = asked(served, "rerun", "w", "--json", RerunWorkflow=[MADE])
    assert json.loads(got.stdout) == {"workflow_id": "w+01", "created": True, "nodes_kept": 1_200, "nodes_anew": 3}
    assert not requests["RerunWorkflow"][0].node_ids
    got, requests = asked(served, "rerun", "w", "--from-failed", "--from", "a")
    assert got.exit_code == 2
    assert requests == {}


def test_each_try_of_a_rerun_is_the_same_call_and_there_is_time_for_many(served: Served) -> None:
    async def play(address: str) -> RerunInfo:
        async with Client(address, timeout=5) as client:
            return await client.rerun("w", from_failed=True)

    with served(RerunWorkflow=[UnavailableError("gone"), MADE]) as (scripted, address):
        made = asyncio.run(play(address))
    assert made == RerunInfo("w+01", created=True, nodes_kept=1_200, nodes_anew=3)
    first, second = scripted.requests["RerunWorkflow"]
    assert first == second
    assert min(scripted.deadlines) > 5


def test_get_says_of_what_a_workflow_is_a_rerun(served: Served) -> None:
    again = workflow()
    again.rerun_of = "w"
    script = {"Get": [client_pb2.GetResponse(workflow=again)], "ListNodes": [client_pb2.ListNodesResponse()]}
    got, _ = asked(served, "get", "w+01", **script)
    assert ["rerun", "of", "w"] in [line.split() for line in got.stdout.splitlines()]
