"""The commands, against a scripted cluster: what they print, for whom, and their exit codes."""

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest

from mainspring.errors import AlreadyExistsError, BusyError, DefinitionError, MainspringError, NotFoundError, Problem
from mainspring.v1 import admin_pb2, client_pb2, workflow_pb2
from tests.client.answers import CANCELLED, FAILED, RUNNING, SUCCEEDED, node, result, seen, submitted, workflow
from tests.client.commands import FAILURE, asked, run
from tests.client.conftest import Served
from tests.client.program import Program

NODE_FAILED = workflow_pb2.NODE_STATUS_FAILED
NODE_SUCCEEDED = workflow_pb2.NODE_STATUS_SUCCEEDED


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("MAINSPRING_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)


def file_of(tmp_path: Path, text: str = "name: one\nnodes:\n  - {id: a, executor: noop}\n") -> str:
    (tmp_path / "workflow.yaml").write_text(text)
    return str(tmp_path / "workflow.yaml")


def test_the_command_says_which_version_it_is() -> None:
    got = run("--version")
    assert (got.exit_code, got.stdout) == (0, f"mainspring {version('mainspring')}\n")


# Submitting


def test_submit_sends_the_file_and_its_input_and_says_what_to_type_next(served: Served, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"year": 2024}')
    with served(Submit=[submitted]) as (scripted, address):
        got = run("submit", file_of(tmp_path), "--input", "@input.json", "--id", "w", "--address", address)
    assert (got.exit_code, got.stdout) == (0, "w started\n")
    assert "mainspring watch w" in got.stderr
    (request,) = scripted.requests["Submit"]
    assert json.loads(request.definition.data)["nodes"][0]["executor"] == "noop"
    assert json.loads(request.input.data) == {"year": 2024}


def test_submit_names_the_file_with_each_problem_whoever_finds_it(served: Served, tmp_path: Path) -> None:
    file = file_of(tmp_path, "name: one\nnodes:\n  - {id: a}\n")
    got = run("submit", file)
    assert got.exit_code == 2
    assert got.stderr.startswith(f"Error: {file}: node 'a'")
    found = DefinitionError([Problem("TOO_WIDE", "too wide", "a"), Problem("CYCLE", "in a ring", "b")])
    got = asked(served, "submit", file_of(tmp_path), Submit=[found])
    assert got.exit_code == 2
    assert got.stderr.splitlines() == [f"Error: {file}: node 'a': too wide", f"{file}: node 'b': in a ring"]


def test_submit_puts_its_priority_and_fairness_key_in_place_of_the_definitions(served: Served, tmp_path: Path) -> None:
    file = file_of(tmp_path, "name: one\npriority: 3\nfairness_key: k\nnodes:\n  - {id: a, executor: noop}\n")
    with served(Submit=[submitted, submitted]) as (scripted, address):
        run("submit", file, "--id", "w", "--address", address)
        run("submit", file, "--id", "w", "--priority", "0", "--fairness-key", "acme", "--address", address)
    sent = [json.loads(request.definition.data) for request in scripted.requests["Submit"]]
    assert [(one["priority"], one["fairness_key"]) for one in sent] == [(3, "k"), (0, "acme")]
    assert run("submit", file, "--priority", "10").exit_code == 2


def test_submit_for_a_program_prints_one_document(served: Served, tmp_path: Path) -> None:
    got = asked(served, "--json", "submit", file_of(tmp_path), "--id", "w", Submit=[submitted])
    assert json.loads(got.stdout) == {"workflow_id": "w", "created": True}
    assert got.stderr == ""


def test_submit_and_watch_prints_changes_and_the_output(served: Served, tmp_path: Path) -> None:
    stream = [
        seen(1, node("a", workflow_pb2.NODE_STATUS_WAITING), snapshot=True),
        seen(2, node("a")),
        seen(3, node("a", NODE_SUCCEEDED), status=SUCCEEDED),
    ]
    script = {"Submit": [submitted], "Watch": [stream], "GetResult": [result(output=b'{"n":1}')]}
    got = asked(served, "submit", file_of(tmp_path), "--id", "w", "--watch", **script)
    assert got.exit_code == 0
    assert got.stdout.splitlines() == [
        "w started",
        "w  RUNNING",
        "a  RUNNING  worker-1",
        "a  SUCCEEDED  worker-1  1.0 s",
        "w  SUCCEEDED after 2.5 s",
        "{",
        '  "n": 1',
        "}",
    ]


def test_a_failed_submit_and_watch_ends_with_the_node_its_error_and_the_command_to_look_closer(
    served: Served, tmp_path: Path
) -> None:
    stream = [
        seen(1, node("fetch"), snapshot=True),
        seen(2, node("fetch", NODE_FAILED, failure=FAILURE), status=FAILED),
    ]
    script = {"Submit": [submitted], "Watch": [stream], "GetResult": [result(FAILED, failure=FAILURE)]}
    got = asked(served, "submit", file_of(tmp_path), "--id", "w", "--watch", **script)
    assert got.exit_code == 1
    assert got.stderr.splitlines() == [
        "Error: workflow 'w' failed at node 'fetch': ValueError: no such year",
        "look closer with: mainspring get w fetch",
    ]


def test_a_failure_of_a_map_leads_to_the_instance_that_failed(served: Served) -> None:
    other = workflow_pb2.Failure(type="KeyError", message="another")
    failed = [
        node("before", NODE_FAILED, instance=0, failure=FAILURE),
        node("fetch", NODE_FAILED, instance=0, failure=other),
        node("fetch", NODE_FAILED, instance=7, failure=FAILURE),
    ]
    page = client_pb2.ListNodesResponse(nodes=failed)
    with served(GetResult=[result(FAILED, failure=FAILURE)], ListNodes=[page]) as (scripted, address):
        got = run("result", "w", "--address", address)
    assert got.exit_code == 1
    assert got.stderr.splitlines() == [
        "Error: workflow 'w' failed at node 'fetch[7]': ValueError: no such year",
        "look closer with: mainspring get w 'fetch[7]'",
    ]
    assert list(scripted.requests["ListNodes"][0].statuses) == [NODE_FAILED]


def test_a_failure_is_told_even_if_the_cluster_tells_no_more_of_it(served: Served) -> None:
    got = asked(served, "result", "w", GetResult=[result(FAILED, failure=FAILURE)], ListNodes=[NotFoundError("gone")])
    assert got.exit_code == 1
    assert "failed at node 'fetch': ValueError" in got.stderr


def test_watch_for_a_program_prints_a_document_a_line_and_the_result_last(served: Served) -> None:
    stream = [seen(1, node(), snapshot=True), seen(2, status=CANCELLED)]
    got = asked(served, "watch", "w", "--json", Watch=[stream], GetResult=[result(CANCELLED)])
    lines = [json.loads(line) for line in got.stdout.splitlines()]
    assert [line.get("snapshot") for line in lines] == [True, False, None]
    assert lines[-1]["status"] == "CANCELLED"
    assert got.exit_code == 1
    assert json.loads(got.stderr)["error"]["type"] == "WorkflowCancelledError"


def test_a_large_graph_in_a_pipe_gets_counts_and_failures_only(served: Served) -> None:
    waiting = [node("m", workflow_pb2.NODE_STATUS_WAITING, instance=n) for n in range(300)]
    running = [node("m", instance=n) for n in range(300)]
    stream = [
        seen(1, *waiting, snapshot=True),
        seen(2, *running),
        seen(3, node("m", NODE_FAILED, instance=7, failure=FAILURE), status=SUCCEEDED),
    ]
    got = asked(served, "watch", "w", Watch=[stream], GetResult=[result(output=b"1")])
    lines = got.stdout.splitlines()
    assert "m[7]  FAILED  worker-1  1.0 s  ValueError: no such year" in lines
    assert not any("RUNNING  worker" in line for line in lines)


# Reading


def test_history_is_a_line_an_event(served: Served) -> None:
    events = [
        client_pb2.HistoryEvent(at_us=1_000_000, type=client_pb2.HISTORY_EVENT_TYPE_WORKFLOW_SUBMITTED, instance=-1),
        client_pb2.HistoryEvent(
            at_us=2_000_000,
            type=client_pb2.HISTORY_EVENT_TYPE_ATTEMPT_FAILED,
            node_id="m",
            instance=2,
            attempt=1,
            worker="worker-1",
            failure=FAILURE,
        ),
    ]
    got = asked(served, "history", "w", GetHistory=[client_pb2.GetHistoryResponse(events=events)])
    assert got.stdout.splitlines() == [
        "1970-01-01 00:00:01  WORKFLOW_SUBMITTED",
        "1970-01-01 00:00:02  ATTEMPT_FAILED      m[2]  attempt 1  worker-1  ValueError: no such year",
    ]


def test_list_is_a_table_whose_cells_cannot_move_the_cursor(served: Served) -> None:
    evil = workflow(workflow_id="w2", status=FAILED)
    evil.name = "a\x1b[2Jb"
    got = asked(served, "list", "--state", "failed", List=[client_pb2.ListResponse(workflows=[workflow(), evil])])
    header, first, second = got.stdout.splitlines()
    assert header.split() == ["WORKFLOW", "NAME", "STATE", "SUBMITTED", "TIME", "ERROR"]
    assert first.split()[:3] == ["w", "one", "RUNNING"]
    assert "\x1b" not in second
    assert "ValueError: no such year" in second


def test_workers_coordinators_and_shards_are_tables(served: Served) -> None:
    script = {
        "ListWorkers": [
            admin_pb2.ListWorkersResponse(
                workers=[
                    admin_pb2.Worker(
                        name="worker-1",
                        slots=50,
                        assigned=3,
                        status=admin_pb2.WORKER_STATUS_ACTIVE,
                        executors=["x", "y"],
                    )
                ]
            )
        ],
        "ListCoordinators": [
            admin_pb2.ListCoordinatorsResponse(
                coordinators=[
                    admin_pb2.Coordinator(name="c1", live=True, shards=16),
                    admin_pb2.Coordinator(name="c2", live=True),
                    admin_pb2.Coordinator(name="c3", live=True, stepped_down_until_us=1_700_000_000_000_000),
                ]
            )
        ],
        "ListShards": [
            admin_pb2.ListShardsResponse(shards=[admin_pb2.Shard(shard=3, epoch=7, holder="ab", holder_name="c1")])
        ],
    }
    assert "worker-1  ACTIVE        3/50" in asked(served, "workers", **script).stdout
    told = asked(served, "coordinators", **script).stdout
    assert "c1           live" in told
    assert "c2           stands by" in told
    assert "c3           stepped down until 2023-11-14 22:13:20" in told
    assert "3      c1     7" in asked(served, "shards", **script).stdout
    assert json.loads(asked(served, "shards", "--json", **script).stdout)[0]["epoch"] == 7


def test_result_waits_prints_the_output_and_tells_how_it_ended(served: Served) -> None:
    assert asked(served, "result", "w", GetResult=[result(output=b"[1]")]).stdout == "[\n  1\n]\n"
    assert asked(served, "result", "w", GetResult=[result(FAILED, failure=FAILURE)]).exit_code == 1
    going_on = asked(served, "result", "w", "--no-wait", GetResult=[result(RUNNING)])
    assert (going_on.exit_code, going_on.stdout) == (4, "w is RUNNING\n")
    late = asked(served, "result", "w", "--timeout", "0.2", GetResult=[result(RUNNING)])
    assert late.exit_code == 4
    assert "goes on" in late.stderr


def test_a_list_that_is_empty_names_what_it_was_asked_for(served: Served) -> None:
    got = asked(served, "list", "--name", "zip", "--state", "failed", List=[client_pb2.ListResponse()])
    assert got.stderr == "there is no workflow of the name 'zip' that is FAILED; see all with: mainspring list\n"
    got = asked(served, "list", List=[client_pb2.ListResponse()])
    assert got.stderr == "there is no workflow; submit one with: mainspring submit FILE\n"


def test_cancel_tells_the_state_and_sends_the_reason(served: Served) -> None:
    with served(Cancel=[client_pb2.CancelResponse(status=workflow_pb2.WORKFLOW_STATUS_CANCELLING)]) as (
        scripted,
        address,
    ):
        got = run("cancel", "w", "--reason", "wrong year", "--address", address)
    assert got.stdout == "w is CANCELLING\n"
    assert scripted.requests["Cancel"][0].reason == "wrong year"
    ended = asked(served, "cancel", "w", Cancel=[client_pb2.CancelResponse(status=SUCCEEDED)])
    assert (ended.exit_code, ended.stdout) == (0, "w had ended before: it is SUCCEEDED\n")
    assert ended.stderr == "look at it with: mainspring get w\n"


# Trouble


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("no workflow 'w'; see: mainspring list"), 3),
        (AlreadyExistsError("'w' is taken"), 2),
        (MainspringError("incident 7"), 5),
    ],
)
def test_errors_have_exit_codes(served: Served, error: MainspringError, code: int) -> None:
    got = asked(served, "get", "w", Get=[error])
    assert got.exit_code == code
    assert str(error) in got.stderr
    assert got.stdout == ""


def test_a_cluster_that_is_not_there_is_exit_code_4_and_says_what_to_do() -> None:
    got = run("list", "--address", "127.0.0.1:1")
    assert got.exit_code == 4
    assert "127.0.0.1:1" in got.stderr
    assert "mainspring dev" in got.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "nothing.yaml"], "nothing.yaml: No such file or directory"),
        (["submit", "workflow.txt"], "a definition's file ends in .yaml, .yml or .json"),
        (["submit", "workflow.yaml", "--input", "{x}"], "--input: not JSON"),
        (["get", "w", "fetch[3]", "--instance", "4"], "fetch[3]: names instance 3, --instance 4"),
        (["submit", "workflow.yaml", "--id", "a b"], "workflow_id 'a b' is no id"),
        (["list", "--address", "a/b"], "'a/b' is not an address"),
        (["list", "--limit", "0"], "--limit"),
        (["frobnicate"], "No such command"),
    ],
)
def test_bad_input_is_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    file_of(tmp_path)
    got = run(*arguments)
    assert got.exit_code == 2
    assert message in got.stderr
    assert got.stdout == ""


# Without a cluster


def test_validate_accepts_a_definition_from_a_file_or_standard_input(tmp_path: Path) -> None:
    assert "one is valid: 1 node, executors noop" in run("validate", file_of(tmp_path)).stdout
    got = run("--json", "validate", "-", text='{"name": "one", "nodes": [{"id": "a", "executor": "noop"}]}')
    assert json.loads(got.stdout) == {"valid": True, "name": "one", "nodes": 1, "executors": ["noop"]}


def test_validate_prints_every_problem(tmp_path: Path) -> None:
    file = file_of(
        tmp_path,
        "name: one\nnodes:\n  - {id: a, executor: e, depends_on: [zz]}\n  - {id: b, executor: e, depends_on: [yy]}\n",
    )
    got = run("validate", file)
    assert got.exit_code == 2
    assert [line.removeprefix(f"{file}: ")[:8] for line in got.stdout.splitlines()] == ["node 'a'", "node 'b'"]
    problems = json.loads(run("validate", "--json", file).stdout)["problems"]
    assert [problem["node_id"] for problem in problems] == ["a", "b"]
    file_of(
        tmp_path,
        "name: one\nnodes:\n  - {id: a, executor: e, depends_on: [b]}\n  - {id: b, executor: e, depends_on: [a]}\n",
    )
    assert "a -> b -> a" in run("validate", file).stdout


def test_init_writes_a_project_whose_workflow_is_valid_and_refuses_a_folder_in_use(tmp_path: Path) -> None:
    got = run("init", "project")
    assert got.exit_code == 0
    assert "mainspring dev --import tasks" in got.stdout
    assert "submit workflow.yaml --watch" in got.stdout
    assert "pip install pytest" in got.stdout
    assert run("validate", "project/workflow.yaml").exit_code == 0
    again = run("init", "project")
    assert again.exit_code == 2
    assert "is not an empty folder" in again.stderr


# As processes

COMMAND = [sys.executable, "-m", "mainspring_client"]


def test_help_shows_every_command_with_an_example_and_the_exit_codes() -> None:
    top = run("--help").stdout
    assert "Exit codes:" in top
    commands = "submit get history result list watch cancel workers coordinators shards dev init validate".split()  # noqa: SIM905  (read as typed)
    for command in commands:
        assert f"  {command} " in top
        assert "Example" in run(command, "--help").stdout


def test_completion_names_the_commands() -> None:
    environment = os.environ | {
        "_MAINSPRING_COMPLETE": "complete_bash",
        "COMP_WORDS": "mainspring co",
        "COMP_CWORD": "1",
    }
    code = "from mainspring_client.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["coordinators", "config", "coordinator"]


def test_a_terminal_gets_a_live_table_and_no_control_characters_of_others(served: Served) -> None:
    nodes = [node("a\x1b]0;evil\x07"), node("b", NODE_FAILED, failure=FAILURE)]
    script = {
        "Watch": [[seen(1, *nodes, snapshot=True), seen(2, status=SUCCEEDED)]],
        "GetResult": [result(output=b'"done"')],
    }
    with served(**script) as (_, address):
        main, side = pty.openpty()
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
        process = subprocess.Popen(
            [*COMMAND, "--address", address, "watch", "w"], stdout=side, stderr=side, env=environment
        )
        os.close(side)
        shown = b""
        while select.select([main], [], [], 60)[0]:
            try:
                chunk = os.read(main, 65_536)
            except OSError:  # the other side is closed: EIO is how a terminal says so
                break
            shown += chunk
        os.close(main)
        assert process.wait(60) == 0
    text = shown.decode()
    assert "evil" in text
    assert "\x1b]0;" not in text
    for part in ("NODE", "ValueError: no such year", "SUCCEEDED", '"done"', "\x1b["):
        assert part in text


def test_a_program_reads_json_and_nothing_else_from_standard_output(served: Served) -> None:
    with served(List=[BusyError("full", retry_after_ms=1), client_pb2.ListResponse(workflows=[workflow()])]) as (
        _,
        address,
    ):
        environment = os.environ | {"MAINSPRING_ADDRESS": address}
        done = subprocess.run(
            [*COMMAND, "list", "--json"], env=environment, capture_output=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
    (listed,) = json.loads(done.stdout)
    assert (listed["workflow_id"], listed["status"], listed["failure"]) == ("w", "RUNNING", None)
    assert not {"nodes_total", "node_counts"} & set(listed), "a list does not know them"


def test_a_stranger_at_the_address_is_unavailable_or_unknown(served: Served) -> None:
    got = asked(served, "history", "w", GetHistory=[grpc.StatusCode.UNIMPLEMENTED])
    assert got.exit_code == 5
    assert "check that a coordinator of this version is there" in got.stderr


def test_a_watch_that_saw_nothing_says_nothing_of_what_goes_on(served: Served) -> None:
    got = asked(served, "watch", "nobody", Watch=[NotFoundError("there is no workflow 'nobody'")])
    assert got.exit_code == 3
    assert got.stderr == "Error: there is no workflow 'nobody'\n"


def test_an_interrupted_watch_says_that_the_workflow_goes_on(served: Served) -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    with served(Watch=[[seen(1, node(), snapshot=True), never]]) as (_, address):
        command = [*COMMAND, "watch", "w", "--address", address]
        with Program(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "a  RUNNING  worker-1\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert said == "what you no longer see goes on; follow it with: mainspring watch w\n"
    assert process.returncode == 130
