"""The client and the command against a real embedded cluster: one coordinator on SQLite and two workers, as processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring import Workflow
from mainspring.errors import AlreadyExistsError, DefinitionError, MainspringError, WorkflowFailedError
from mainspring.limits import definition_inline_bytes_max
from mainspring_client import Client, Handle, NodeStatus, Submission, SyncClient, WorkflowStatus
from mainspring_client.dev import DevCluster
from tests.client.program import Program

COMMAND = [sys.executable, "-m", "mainspring_client"]
TASKS = """
from mainspring_worker import NonRetryable, executor

@executor
async def echo(value):
    return value

@executor
def fail(value):
    raise NonRetryable(f"no {value}")

@executor
def big(value):
    return "x" * 1_000_000
"""


def run(*arguments: str, address: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"MAINSPRING_ADDRESS": address}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def started(directory: Path) -> Program:
    command = [*COMMAND, "dev", "--import", "tasks", "--free-ports", "--json"]
    return Program(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_new_project_runs_on_dev_and_what_it_did_is_there_after_a_restart(tmp_path: Path) -> None:
    assert run("init", "project", address="", directory=tmp_path).returncode == 0
    project = tmp_path / "project"
    with started(project) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["grpc"]
        good = run(
            "submit",
            "workflow.yaml",
            "--input",
            '{"name": "you"}',
            "--id",
            "good",
            "--watch",
            address=address,
            directory=project,
        )
        assert good.returncode == 0, good.stderr
        assert good.stdout.endswith('"Hallo, you!\\nHello, you!\\nHola, you!\\nBonjour, you!"\n')
        as_told = run("submit", "workflow.yaml", "--id", "early", "--watch", address=address, directory=project)
        assert as_told.stdout.endswith('Bonjour, world!"\n'), as_told.stderr
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    with started(project) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["grpc"]
        listed = run("list", "--prefix", "good", address=address, directory=project)
        assert listed.stdout.splitlines()[1].split()[:3] == [
            "good",
            "greetings",
            "SUCCEEDED",
        ]
        node = json.loads(
            run("get", "good", "greet", "--instance", "2", "--json", address=address, directory=project).stdout
        )
        assert (node["input"], node["output"]) == ({"name": "you", "language": "es"}, "Hola, you!")
        workers = json.loads(run("workers", "--json", address=address, directory=project).stdout)
        assert [worker["name"] for worker in workers] == ["worker-1", "worker-2"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_dev_goes_on_after_a_kill_of_its_worker_and_of_its_coordinator(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "workflow.yaml").write_text("name: one\nnodes:\n  - {id: a, executor: echo, input: '${input}'}\n")
    command = [*COMMAND, "dev", "--import", "tasks", "--workers", "1", "--free-ports", "--verbose"]
    with Program(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split()[1]
        coordinator, worker = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        for victim, pid, serves in (("worker-1", worker, "attached"), ("coordinator", coordinator, "listening")):
            os.kill(pid, signal.SIGKILL)
            log = tmp_path / ".mainspring" / f"{victim}.log"
            told = f"{victim} was killed by SIGKILL; started again, its log is {log}\n"
            assert told in iter(process.stderr.readline, "")
            assert any(f'{{"event":"{serves}"' in line for line in iter(process.stderr.readline, ""))
            done = run(
                *("submit", "workflow.yaml", "--input", '"bread"', "--watch"), address=address, directory=tmp_path
            )
            assert done.returncode == 0, done.stdout + done.stderr
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_a_failure_is_shown_with_the_command_to_look_closer_and_that_command_shows_the_stack(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "workflow.yaml").write_text("name: one\nnodes:\n  - {id: a, executor: fail, input: '${input}'}\n")

    async def play() -> None:
        async with DevCluster(imports=["tasks"], workers=1, directory=tmp_path) as cluster:
            failed = await asyncio.to_thread(
                run,
                "submit",
                "workflow.yaml",
                "--id",
                "w",
                "--input",
                '"bread"',
                "--watch",
                address=cluster.address,
                directory=tmp_path,
            )
            assert failed.returncode == 1
            error, closer = failed.stderr.splitlines()
            assert "failed at node 'a'" in error
            assert "no bread" in error
            assert closer == "look closer with: mainspring get w a"
            shown = await asyncio.to_thread(run, "get", "w", "a", address=cluster.address, directory=tmp_path)
            assert "raise NonRetryable" in shown.stdout
            missing = await asyncio.to_thread(run, "get", "w", "b", address=cluster.address, directory=tmp_path)
            assert missing.returncode == 3

    asyncio.run(play())


def one(executor: str, **more: object) -> dict[str, object]:
    return {"name": "one", "nodes": [{"id": "a", "executor": executor, **more}]}


def test_the_clients_do_their_work_on_a_real_cluster(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    builder = Workflow("pair")
    first = builder.node("first", "echo", input={"n": "${input.n}"})
    builder.node("second", "echo", input=first["n"])
    large = {
        "name": "large",
        "nodes": [{"id": f"n{n}", "executor": "echo", "input": "x" * 40_000} for n in range(100)],
        "output": "${n99}",
    }
    assert len(json.dumps(large)) > definition_inline_bytes_max

    async def many(client: Client) -> None:
        handles = await client.submit_many(Submission(builder, {"n": n}, f"many-{n}") for n in range(1_500))
        assert all(isinstance(handle, Handle) and handle.created for handle in handles)
        results = {
            found.workflow_id: found.output async for found in client.wait_many(f"many-{n}" for n in range(1_500))
        }
        assert results == {f"many-{n}": {"second": n} for n in range(1_500)}
        again = await client.submit_many(
            [Submission(builder, {"n": 0}, "many-0"), Submission(builder, {"n": 1}, "many-0")]
        )
        assert isinstance(again[0], Handle)
        assert again[0].created is False
        assert isinstance(again[1], AlreadyExistsError)

    async def single(client: Client) -> None:
        handle = await client.submit(large)
        updates = [update async for update in handle.watch()]
        assert updates[-1].workflow.status is WorkflowStatus.SUCCEEDED
        assert await handle.result() == "x" * 40_000
        assert [node.node_id async for node in handle.nodes()] == [f"n{n}" for n in range(100)]
        assert {event.type async for event in handle.history()} >= {
            "WORKFLOW_SUBMITTED",
            "NODE_SUCCEEDED",
            "WORKFLOW_ENDED",
        }
        with pytest.raises(WorkflowFailedError, match="no bread"):
            await (await client.submit(one("fail", input="bread"))).result()
        with pytest.raises(DefinitionError, match="there is no node 'b'"):
            await client.submit(one("echo", depends_on=["b"]))
        waiting = await client.submit(one("nobody"))
        assert await waiting.cancel("enough") in (WorkflowStatus.CANCELLING, WorkflowStatus.CANCELLED)
        assert (await waiting.wait(10)).status is WorkflowStatus.CANCELLED
        assert (await waiting.get()).cancel_reason == "enough"
        assert [node.status async for node in waiting.nodes([NodeStatus.SKIPPED, NodeStatus.CANCELLED])] != []

    def plain(address: str) -> None:
        with SyncClient(address) as client:
            assert client.submit(one("echo", input=7)).result(timeout=20) == {"a": 7}
            assert not isinstance(client.submit_many([Submission(one("echo"))])[0], MainspringError)

    async def play() -> None:
        async with DevCluster(imports=["tasks"], directory=tmp_path) as cluster:
            async with Client(cluster.address) as client:
                await many(client)
                await single(client)
            await asyncio.to_thread(plain, cluster.address)

    asyncio.run(play())


def test_an_output_larger_than_a_message_arrives(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    wide = {
        "name": "wide",
        "nodes": [{"id": "a", "executor": "big", "map": {"over": "${input}", "max_parallel": 1}}],
        "output": "${a}",
    }

    async def play() -> None:
        async with (
            DevCluster(imports=["tasks"], workers=1, directory=tmp_path) as cluster,
            Client(cluster.address) as client,
        ):
            handle = await client.submit(wide, list(range(10)))
            assert await handle.result(timeout=30) == ["x" * 1_000_000] * 10
            assert [found.output async for found in client.wait_many([handle])] == [["x" * 1_000_000] * 10]
            assert (await handle.node("a", 3)).output == "x" * 1_000_000

    asyncio.run(play())
