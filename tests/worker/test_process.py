"""The worker as a process: what it prints, how it ends, what it refuses to start with; and what it serves over HTTP."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest

from mainspring.v1 import worker_pb2 as wire
from tests.servers.ports import free_port
from tests.worker.scripted import Coordinator, Session, coordinators, until

root = Path(__file__).parents[2]
module = "tests.worker.crashing_tasks"
wait_s = 30.0


@asynccontextmanager
async def worker(*arguments: str, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a worker process; whatever is left of it at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mainspring_worker",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=root,
        env={**os.environ, **settings},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def attached(*arguments: str, **settings: str) -> "AsyncIterator[tuple[asyncio.subprocess.Process, Session]]":
    async with coordinators() as [coordinator]:
        words = ("--import", module, "--address", coordinator.address, "--name", "w1", *arguments)
        async with worker(*words, **settings) as process:
            yield process, await first_session(coordinator)


async def first_session(coordinator: Coordinator) -> Session:
    async with asyncio.timeout(wait_s):
        return await coordinator.attached.get()


async def exit_code(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(wait_s):
        return await process.wait()


async def begun(path: Path) -> None:
    await until(path.exists)


def test_it_says_when_it_is_attached_and_ends_well_when_it_has_nothing_to_do() -> None:
    async def scene() -> None:
        async with attached("--label", "zone=a", "--slots", "7") as (process, session):
            assert (session.hello.name, session.hello.slots, dict(session.hello.labels)) == ("w1", 7, {"zone": "a"})
            assert process.stdout is not None
            said = orjson.loads(await process.stdout.readline())
            assert (said["event"], said["worker"]) == ("attached", "w1")
            process.terminate()
            await session.message(lambda m: m.HasField("goodbye"))
            assert await exit_code(process) == 0

    asyncio.run(scene())


def test_the_environment_says_what_flags_do_not() -> None:
    async def scene() -> None:
        settings = {
            "MAX_CONCURRENT_NODES": "3",
            "MAX_CONCURRENT_WORKFLOWS": "2",
            "SUPPORTED_EXECUTORS": "echo",
            "HOSTNAME": "somewhere",
            "HEARTBEAT_INTERVAL": "200",
            "FAILURE_DETECTION_TIMEOUT": "60000",
        }
        async with attached(**settings) as (_, session):
            hello = session.hello
            assert (hello.slots, hello.workflows_max, list(hello.executors), hello.host) == (
                3,
                2,
                ["echo"],
                "somewhere",
            )
            await session.message(lambda m: m.HasField("heartbeat"))

    asyncio.run(scene())


def test_a_drain_whose_time_is_over_names_what_it_leaves_and_ends_although_a_thread_still_runs(tmp_path: Path) -> None:
    async def scene() -> None:
        sign = tmp_path / "begun"
        async with attached("--drain", "1") as (process, session):
            session.assign(1, executor="forever", data=orjson.dumps(str(sign)))
            await begun(sign)
            process.terminate()
            last = await session.message(lambda m: m.HasField("goodbye"))
            assert [(item.shard, item.id) for item in last.goodbye.abandoned] == [(0, 1)]
            async with asyncio.timeout(wait_s):
                _, logged = await process.communicate()
            assert process.returncode == 0
            (left,) = [line for line in map(orjson.loads, logged.splitlines()) if line["event"] == "attempt_left"]
            assert (left["workflow"], left["node"]) == ("wf", "node-1")

    asyncio.run(scene())


def test_a_first_signal_while_a_coordinator_has_it_drain_only_brings_the_end_nearer(tmp_path: Path) -> None:
    async def scene() -> None:
        sign = tmp_path / "begun"
        async with attached("--drain", "1") as (process, session):
            session.assign(1, executor="forever", data=orjson.dumps(str(sign)))
            await begun(sign)
            session.say(drain=wire.Drain(deadline_ms=600_000))
            told = await session.message(lambda m: m.HasField("draining"))
            assert told.draining.deadline_ms > 500_000
            signalled_at = time.monotonic()
            process.terminate()
            last = await session.message(lambda m: m.HasField("goodbye"))
            assert time.monotonic() - signalled_at > 0.9, "it has its second"
            assert len(last.goodbye.abandoned) == 1
            assert await exit_code(process) == 0

    asyncio.run(scene())


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        sign = tmp_path / "begun"
        async with attached() as (process, session):
            session.assign(1, executor="forever", data=orjson.dumps(str(sign)))
            await begun(sign)
            process.send_signal(signal.SIGINT)
            await session.message(lambda m: m.HasField("draining"))
            process.terminate()
            async with asyncio.timeout(10):  # the drain alone would take 30 s
                await process.wait()

    asyncio.run(scene())


def test_processes_of_executors_do_not_outlive_a_worker_that_is_killed() -> None:
    async def scene() -> None:
        async with attached() as (process, session):
            session.assign(1, executor="pid")
            pid = int((await session.result(1)).output.data)
            os.kill(pid, 0)
            process.kill()
            await process.wait()
            await until(lambda: not alive(pid))

    asyncio.run(scene())


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("source", "arguments", "settings", "words"),
    [
        ("import no_such_module", (), {}, ("--import bad_tasks", "no_such_module")),
        ("def (", (), {}, ("--import bad_tasks", "SyntaxError")),
        ("raise SystemExit(1)", (), {}, ("--import bad_tasks", "SystemExit")),
        ("", (), {}, ("no executor is registered",)),
        (
            "import tests.worker.crashing_tasks",
            (),
            {"SUPPORTED_EXECUTORS": "echo,nope"},
            ("SUPPORTED_EXECUTORS", "'nope'"),
        ),
        ("import tests.worker.crashing_tasks", ("--label", "zone"), {}, ("--label 'zone'", "name=value")),
        ("", ("--slots", "0"), {}, ("MAX_CONCURRENT_NODES",)),
        ("", ("--address", "nowhere:x"), {}, ("MAINSPRING_ADDRESS", "nowhere:x")),
        (
            "from mainspring_worker import executor\n@executor('a')\ndef one(): ...\n@executor('a')\ndef two(): ...",
            (),
            {},
            ("'a'", "bad_tasks.one", "bad_tasks.two"),
        ),
    ],
)
def test_what_it_cannot_start_with_is_named_and_ends_it_with_2(
    source: str, arguments: tuple[str, ...], settings: Mapping[str, str], words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "bad_tasks.py").write_text(source)

    async def scene() -> None:
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        async with worker("--import", "bad_tasks", *arguments, PYTHONPATH=path, **settings) as process:
            async with asyncio.timeout(wait_s):
                _, said = await process.communicate()
            assert process.returncode == 2, said
            for word in words:
                assert word in said.decode()
            assert "Traceback" not in said.decode()

    asyncio.run(scene())


def test_a_refused_worker_ends_with_2_and_the_reason() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator]:
            reason = wire.GOODBYE_REASON_INCOMPATIBLE
            coordinator.refusals = [wire.Goodbye(reason=reason, message="run the same release")] * 5
            async with worker("--import", module, "--address", coordinator.address) as process:
                async with asyncio.timeout(wait_s):
                    _, said = await process.communicate()
                assert process.returncode == 2
                assert "run the same release" in said.decode()

    asyncio.run(scene())


def test_probes_and_metrics_are_served_on_the_port_that_was_set() -> None:
    async def scene() -> None:
        port = free_port()
        async with attached("--http-port", str(port)) as (process, session), httpx.AsyncClient() as client:
            base = f"http://127.0.0.1:{port}"
            session.say(heartbeat=wire.CoordinatorHeartbeat(ping=1, database="up", lock="held"))
            session.assign(1, executor="echo")
            await session.result(1)
            session.ack(1)
            assert session.hello.http_port == port
            health = (await client.get(f"{base}/health")).json()
            assert (health["status"], health["instanceId"]) == ("healthy", "w1")
            assert (health["database"], health["distributedLock"]) == ("up", "held")
            assert set(health["load"]) == {"activeWorkflows", "cpuUsage", "memoryUsage"}
            assert health["memory"]["rss"] > 0
            ready = await client.get(f"{base}/ready")
            checks = [{"name": "scheduler", "status": "fulfilled"}]
            assert (ready.status_code, ready.json()) == (200, {"status": "ready", "checks": checks})
            metrics = (await client.get(f"{base}/metrics")).text
            labels = 'engine_id="w1",executor="echo",node_type="task"'
            assert f"node_execution_duration_seconds_count{{{labels}}} 1.0" in metrics
            for bound in ("0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "120.0", "300.0"):
                assert f'le="{bound}"' in metrics
            assert 'mainspring_worker_attempts_total{executor="echo",outcome="succeeded"} 1.0' in metrics
            for gauge, value in {
                "slots": 50,
                "running": 0,
                "queued": 0,
                "credit": 50,
                "streams": 1,
                "draining": 0,
            }.items():
                assert f"\nmainspring_worker_{gauge} {value:.1f}\n" in metrics
            for kind in ("cpu", "memory", "workflows"):
                assert f'engine_load{{engine_id="w1",metric_type="{kind}"}}' in metrics
            process.terminate()
            assert await exit_code(process) == 0

    asyncio.run(scene())


def test_it_is_not_ready_while_no_coordinator_is_in_reach() -> None:
    async def scene() -> None:
        port, nobody = free_port(), free_port()
        words = ("--import", module, "--address", f"127.0.0.1:{nobody}", "--http-port", str(port))
        async with worker(*words) as process, httpx.AsyncClient() as client:
            await until(lambda: listens(port))
            answer = await client.get(f"http://127.0.0.1:{port}/ready")
            assert answer.status_code == 503
            assert answer.json()["checks"][0]["status"] == "rejected"
            assert process.returncode is None, "it goes on trying"

    asyncio.run(scene())


def test_a_taken_port_is_named_with_the_setting_to_change() -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with worker("--import", module, "--http-port", str(port)) as process:
                async with asyncio.timeout(wait_s):
                    _, said = await process.communicate()
                assert process.returncode == 2
                assert str(port) in said.decode()
                assert "HTTP_PORT" in said.decode()

    asyncio.run(scene())


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
