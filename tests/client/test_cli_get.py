"""What `get` shows of a workflow, a node, a `map` and its instances."""

import json
from pathlib import Path

import pytest

from mainspring.v1 import client_pb2, workflow_pb2
from tests.client.answers import node, workflow
from tests.client.commands import FAILURE, asked, run
from tests.client.conftest import Served

GET = client_pb2.GetResponse(workflow=workflow())
NODE_FAILED = workflow_pb2.NODE_STATUS_FAILED
NODE_SUCCEEDED = workflow_pb2.NODE_STATUS_SUCCEEDED


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("MAINSPRING_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)


def test_get_shows_each_node_with_attempt_worker_time_error_and_reason(served: Served) -> None:
    nodes = [
        node("fetch", NODE_SUCCEEDED),
        node(
            "delete",
            workflow_pb2.NODE_STATUS_BACKOFF,
            attempt=2,
            failure=workflow_pb2.Failure(type="IOError", message="503\nmore"),
        ),
        node(
            "mail",
            workflow_pb2.NODE_STATUS_READY,
            attempt=0,
            worker="",
            started_at_us=0,
            waiting_reason="no worker runs executor X",
        ),
    ]
    nodes.append(node("sum", NODE_SUCCEEDED, attempt=0, worker="", started_at_us=0, cached=True))
    got = asked(served, "get", "w", Get=[GET], ListNodes=[client_pb2.ListNodesResponse(nodes=nodes)])
    lines = [" ".join(line.split()) for line in got.stdout.splitlines()]
    assert "sum SUCCEEDED cached" in lines
    assert "fetch SUCCEEDED 1 worker-1 1970-01-01 00:00:01 1.0 s" in lines
    assert "delete BACKOFF 2 worker-1 1970-01-01 00:00:01 IOError: 503" in lines
    assert "mail READY no worker runs executor X" in lines
    assert "strategy load-balanced" in lines
    assert got.exit_code == 0


@pytest.mark.parametrize("named", [["fetch", "--instance", "3"], ["fetch[3]"]])
def test_get_of_a_node_shows_input_output_stack_progress_and_attempts(served: Served, named: list[str]) -> None:
    detail = client_pb2.GetNodeResponse(
        node=node("fetch", NODE_FAILED, instance=3, attempt=2, failure=FAILURE),
        input=workflow_pb2.Payload(data=b'{"year":2024}'),
        progress=workflow_pb2.Payload(data=b'"halfway"'),
        attempts=[client_pb2.Attempt(attempt=1, worker="worker-9", started_at_us=1, ended_at_us=2, failure=FAILURE)],
    )
    with served(GetNode=[detail]) as (scripted, address):
        got = run("get", "w", *named, "--address", address)
    for part in ("fetch[3]", '"year": 2024', '"halfway"', 'File "tasks.py", line 3', "worker-9"):
        assert part in got.stdout
    assert (scripted.requests["GetNode"][0].node_id, scripted.requests["GetNode"][0].instance) == ("fetch", 3)


def test_get_of_a_node_that_did_not_run_shows_what_it_would_have_got(served: Served) -> None:
    detail = client_pb2.GetNodeResponse(
        node=node("fetch", NODE_SUCCEEDED, attempt=0, worker="", started_at_us=0, cached=True),
        input=workflow_pb2.Payload(data=b'{"year":2024}'),
        output=workflow_pb2.Payload(data=b"7"),
    )
    got = asked(served, "get", "w", "fetch", GetNode=[detail])
    lines = [" ".join(line.split()) for line in got.stdout.splitlines()]
    assert {"attempt cached", "output 7"} <= {*lines}
    assert '"year": 2024' in got.stdout


def test_get_of_a_map_lists_its_first_failed_instances_and_says_how_to_look_at_one(served: Served) -> None:
    detail = client_pb2.GetNodeResponse(
        node=node("fetch", workflow_pb2.NODE_STATUS_CANCELLED, attempt=0, width=30, instances_ended=12)
    )
    failed = [node("fetch", NODE_FAILED, instance=number, failure=FAILURE) for number in range(1, 13)]
    script = {"GetNode": [detail], "ListNodes": [client_pb2.ListNodesResponse(nodes=failed)]}
    got = asked(served, "get", "w", "fetch", **script)
    lines = [" ".join(line.split()) for line in got.stdout.splitlines()]
    assert "instances 12 of 30 ended" in lines
    assert "fetch[1] 1 worker-1 1970-01-01 00:00:01 1.0 s ValueError: no such year" in lines
    assert len([line for line in lines if "ValueError" in line]) == 10
    assert got.stderr.splitlines() == [
        "look at one with: mainspring get w 'fetch[1]'",
        "these are the first 10; see all with: mainspring get w --state FAILED --all",
    ]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (2, "2: 2 succeeded"),
        (3, "2 and 1 instance of maps: 3 succeeded"),
        (6, "2 and 4 instances of maps: 6 succeeded"),
    ],
)
def test_get_counts_the_instances_of_maps_apart_from_the_nodes(served: Served, count: int, told: str) -> None:
    whole = workflow()
    whole.node_counts[0].CopyFrom(client_pb2.NodeCount(status=NODE_SUCCEEDED, count=count))
    nodes = client_pb2.ListNodesResponse(nodes=[])
    got = asked(served, "get", "w", Get=[client_pb2.GetResponse(workflow=whole)], ListNodes=[nodes])
    assert f"nodes      {told}\n" in got.stdout


def test_get_for_a_program_holds_the_workflow_and_all_nodes(served: Served) -> None:
    got = asked(served, "get", "w", "--json", Get=[GET], ListNodes=[client_pb2.ListNodesResponse(nodes=[node()])])
    document = json.loads(got.stdout)
    assert document["workflow"]["node_counts"] == {"RUNNING": 2}
    assert document["nodes"][0]["status"] == "RUNNING"
