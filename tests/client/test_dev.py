"""The embedded cluster's own duties, with parts that are played: start, readiness, deaths, signals, what is left behind.

The parts are tiny programs in the folder that the cluster runs in, where `python -m` finds them first.
"""

import asyncio
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mainspring.errors import BadRequestError, MainspringError, SettingsError, UnavailableError
from mainspring.limits import dev_restarts_max
from mainspring_client.child import Child
from mainspring_client.cli.program import app
from mainspring_client.dev import DevCluster, Restarts, require_free
from mainspring_coordinator.__main__ import main as run_coordinator
from tests.client.program import Program

COORDINATOR = """
import http.server, json, os, signal, sys, threading
asked = 0
class Probes(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.send_response(200 if asked > 2 else 503)
        self.end_headers()
    def log_message(self, *args):
        pass
def main(arguments):
    if arguments == ["db", "upgrade"]:
        return int(os.environ.get("UPGRADE_EXIT", "0"))
    if os.environ.get("PLAY") == "refuse":
        print("the schema is newer than this build", file=sys.stderr)
        return 1
    server = http.server.HTTPServer(("127.0.0.1", int(os.environ["HTTP_PORT"])), Probes)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("not json", flush=True)
    at = "127.0.0.1:%d" % server.server_port
    print(json.dumps({"event": "listening", "grpc": "127.0.0.1:7", "http": at, "probes": at}), flush=True)
    server.serve_forever(poll_interval=0.05)
    print("stopped", os.environ["DATABASE_URL"], flush=True)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
WORKER = """
import json, os, signal, sys
print("worker", *sys.argv[1:], file=sys.stderr, flush=True)
play = os.environ.get("PLAY")
if play == "crash":
    print("ModuleNotFoundError: No module named 'tasks'", file=sys.stderr)
    sys.exit(2)
if play == "mask":
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    sys.exit()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
print(json.dumps({"event": "attached"}), flush=True)
while True:
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    if play != "stubborn":
        break
print("drained", flush=True)
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for name, text in (("mainspring_coordinator", COORDINATOR), ("mainspring_worker", WORKER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "__main__.py").write_text(text)
    return tmp_path


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_it_starts_serves_and_leaves_nothing_behind(parts: Path) -> None:
    async def play() -> None:
        async with DevCluster(imports=["tasks", "more"], workers=2, slots=7, directory=parts) as cluster:
            assert cluster.address == "127.0.0.1:7"
            pids = [cluster.coordinator.pid, *(worker.pid for worker in cluster.workers)]
            assert len(set(pids)) == 3
            assert all(map(alive, pids))
            log = (cluster.data / "worker-1.log").read_text()
            assert "worker --address 127.0.0.1:7 --name worker-1 --import tasks --import more --slots 7" in log
        assert not any(map(alive, pids))
        assert not cluster.data.exists()
        assert "drained" in cluster.workers[0].tail
        assert any(line.startswith("stopped sqlite:///") for line in cluster.coordinator.tail)

    asyncio.run(play())


def test_its_data_stay_where_they_were_wanted_and_its_parts_get_the_settings(parts: Path) -> None:
    async def play() -> None:
        url = "mysql://here/db"
        async with DevCluster(
            directory=parts, data=parts / "data", database_url=url, environment={"NODE_ENV": "test"}
        ) as cluster:
            assert cluster.workers == []
        assert f"stopped {url}" in (parts / "data" / "coordinator.log").read_text()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("environment", "kind", "message"),
    [
        ({"PLAY": "refuse"}, UnavailableError, "coordinator ended with exit code 1 before it was listening"),
        ({"PLAY": "crash"}, SettingsError, "worker-1 ended with exit code 2 before it was attached"),
        ({"UPGRADE_EXIT": "3"}, UnavailableError, "coordinator ended with exit code 3 before it was listening"),
    ],
)
def test_a_part_that_does_not_start_is_reported_with_its_last_lines(
    parts: Path, environment: dict[str, str], kind: type[MainspringError], message: str
) -> None:
    async def play() -> None:
        cluster = DevCluster(
            imports=["tasks"], workers=1, directory=parts, data=parts / "data", environment=environment
        )
        with pytest.raises(kind, match=message) as caught:
            await cluster.start()
        if environment.get("PLAY") == "crash":
            assert "No module named 'tasks'" in str(caught.value)
        started = [child for child in (cluster.coordinator, *cluster.workers) if child.started]
        assert not any(alive(child.pid) for child in started)

    asyncio.run(play())


def test_a_part_that_will_not_end_is_killed(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainspring_client.dev.dev_stop_ms_max", 200)

    async def play() -> None:
        async with DevCluster(
            imports=["tasks"], workers=1, directory=parts, environment={"PLAY": "stubborn"}
        ) as cluster:
            pid = cluster.workers[0].pid
        assert not alive(pid)
        assert cluster.workers[0].exited.result() == -signal.SIGKILL

    asyncio.run(play())


def test_the_death_of_a_part_is_noticed(parts: Path) -> None:
    async def play() -> None:
        async with DevCluster(imports=["tasks"], workers=2, directory=parts) as cluster:
            os.kill(cluster.workers[1].pid, signal.SIGKILL)
            child = await cluster.ended()
            assert child.name == "worker-2"
            assert "worker-2 --import tasks" in str(child.failure("worker-2 is gone"))

    asyncio.run(play())


def test_of_a_worker_that_cannot_be_started_no_other_is_left(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Child.start

    async def short_of_processes(child: Child, *how: Any) -> None:
        if child.name == "worker-1":
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        await start(child, *how)

    monkeypatch.setattr(Child, "start", short_of_processes)
    before = children_of(os.getpid())

    async def play() -> None:
        with pytest.raises(BlockingIOError):
            await DevCluster(imports=["tasks"], workers=3, directory=parts).start()
        assert children_of(os.getpid()) == before

    asyncio.run(play())


def test_a_part_is_ended_though_one_who_waited_for_its_end_gave_up(parts: Path) -> None:
    async def play() -> None:
        async def watch(part: Child) -> int:
            return await part.exited

        async with DevCluster(imports=["tasks"], workers=1, directory=parts) as cluster:
            (worker,) = cluster.workers
            watching = asyncio.create_task(watch(worker))
            await asyncio.sleep(0)
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
        assert not alive(worker.pid)
        assert worker.exited.result() == 0

    asyncio.run(play())


def test_a_taken_port_is_named_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            require_free(port, "GRPC_PORT")
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is taken, perhaps by a cluster that runs already; choose another with GRPC_PORT or --grpc-port"
    )
    require_free(port, "GRPC_PORT")


def test_too_many_workers_are_refused() -> None:
    with pytest.raises(BadRequestError, match="slots: 100000 is not within 1 to 10000"):
        DevCluster(slots=100_000)
    got = CliRunner().invoke(app, ["dev", "--slots", "100000"])
    assert got.exit_code == 2
    assert got.stderr.endswith("Invalid value for '--slots': '100000' should be less than or equal to 10000\n")
    with pytest.raises(BadRequestError, match="workers: 1000 is not within 0 to 64"):
        DevCluster(workers=1000)


# The command


def dev(parts: Path, *arguments: str, **environment: str) -> Program:
    command = [sys.executable, "-m", "mainspring_client", "dev", "--free-ports", *arguments]
    return Program(
        command, cwd=parts, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_runs_until_a_signal_and_lets_workers_finish(parts: Path, number: signal.Signals) -> None:
    with dev(parts, "--import", "tasks", "--json") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["grpc"], ready["workers"]) == ("127.0.0.1:7", ["worker-1", "worker-2"])
        children = children_of(process.pid)
        assert len(children) == 3
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
    assert not any(map(alive, children))
    assert (parts / ".mainspring" / "worker-2.log").read_text().endswith("drained\n")


def test_a_second_signal_stops_dev_at_once(parts: Path) -> None:
    with dev(parts, "--import", "tasks", PLAY="stubborn") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "cluster" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again" in process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert time.monotonic() - began < 20  # far from the 35 s that a drain may take
        assert process.returncode == 0


def test_dev_without_modules_tells_how_to_start_a_worker_and_shows_logs_when_asked(parts: Path) -> None:
    with dev(parts, "--verbose") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "  mainspring --address 127.0.0.1:7 worker --import tasks\n" in lines
    assert "coordinator | not json" in said


@pytest.mark.parametrize(("has_workflow", "file"), [(True, "workflow.yaml"), (False, "FILE")])
def test_dev_names_the_workflow_to_submit_only_if_it_is_there(parts: Path, has_workflow: bool, file: str) -> None:
    if has_workflow:
        (parts / "workflow.yaml").write_text("")
    with dev(parts, "--import", "tasks") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert f"  mainspring --address 127.0.0.1:7 submit {file} --watch\n" in lines


def test_dev_starts_a_part_again_that_dies_until_it_dies_too_often(parts: Path) -> None:
    with dev(parts, "--import", "tasks", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        last = children_of(process.pid)[-1]
        for _ in range(dev_restarts_max):
            others = set(children_of(process.pid)) - {last}
            os.kill(last, signal.SIGKILL)
            told = json.loads(process.stdout.readline())
            assert (told["event"], told["name"], told["exit_code"]) == ("restarted", "worker-2", -9)
            (last,) = set(children_of(process.pid)) - others
        children = children_of(process.pid)
        os.kill(last, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 4
    assert json.loads(said)["error"]["message"].startswith(
        "worker-2 was killed by SIGKILL, after 5 restarts within 60 s; its log is "
    )
    assert not any(map(alive, children))


def test_restarts_are_counted_for_each_part_within_a_window() -> None:
    restarts = Restarts()
    assert [restarts.allow("worker-1", second) for second in (0, 1, 2, 3, 4, 5)] == [True] * 5 + [False]
    assert restarts.allow("worker-2", 5)
    assert not restarts.allow("worker-1", 59.9)
    assert [restarts.allow("worker-1", second) for second in (60, 60.5, 61)] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "fate"),
    [("worker-1", "worker-1 was killed by SIGKILL"), ("coordinator", "coordinator was killed by SIGKILL")],
)
def test_a_part_is_started_again_in_its_place_when_that_is_wanted(parts: Path, name: str, fate: str) -> None:
    async def play() -> None:
        async with DevCluster(imports=["tasks"], workers=1, directory=parts) as cluster:
            (victim,) = [child for child in (cluster.coordinator, *cluster.workers) if child.name == name]
            os.kill(victim.pid, signal.SIGKILL)
            assert await cluster.ended() is victim
            assert victim.fate == fate
            again = await cluster.start_again(victim)
            assert again in (cluster.coordinator, *cluster.workers)
            assert len(cluster.workers) == 1
            if name == "coordinator":
                assert (await again.heard("listening", 60))["http"] == cluster.http_address
            else:
                await again.heard("attached", 60)
        assert not alive(again.pid)

    asyncio.run(play())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_killed_dev_leaves_no_process_behind(parts: Path) -> None:
    with dev(parts, "--import", "tasks", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        watched = [os.pidfd_open(child) for child in children_of(process.pid)]
        process.kill()
        process.communicate(timeout=60)
    assert len(watched) == 3
    for descriptor in watched:
        assert select.select([descriptor], [], [], 30)[0], "a part outlived its cluster"
        os.close(descriptor)


# The parts by themselves


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        (["worker", "--import", "tasks", "--slots", "5"], "worker --import tasks --slots 5"),
        (["--address", "there:1", "worker", "--help"], "worker --help"),
    ],
)
def test_a_part_is_run_with_its_own_arguments(parts: Path, arguments: list[str], got: str) -> None:
    command = [sys.executable, "-m", "mainspring_client", *arguments]
    environment = os.environ | {"PLAY": "crash"}
    done = subprocess.run(command, cwd=parts, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[0] == got
    assert done.returncode == 2


def test_a_part_is_started_with_interrupts_held_back_until_it_can_answer_them(parts: Path) -> None:
    command = [sys.executable, "-m", "mainspring_client", "worker"]
    environment = os.environ | {"PLAY": "mask"}
    done = subprocess.run(command, cwd=parts, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "SIGINT" in done.stdout


@pytest.mark.parametrize("words", [["mainspring_coordinator"], ["mainspring_worker", "--import", "tasks"]])
def test_an_interrupt_during_the_imports_of_a_part_is_one_line_and_130(words: list[str], tmp_path: Path) -> None:
    launcher = (
        "import os, signal, sys; from mainspring.interrupts import hold_interrupts; hold_interrupts(); "
        "os.kill(os.getpid(), signal.SIGINT); os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", launcher, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "mainspring: interrupted\n")
    assert list(tmp_path.iterdir()) == [], "it did nothing"


def test_an_interrupt_while_a_worker_imports_its_modules_is_one_line_and_130(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("import threading\nprint('imports', flush=True)\nthreading.Event().wait()\n")
    command = [sys.executable, "-m", "mainspring_client", "worker", "--import", "tasks"]
    with Program(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "imports\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "mainspring: interrupted\n")


def test_db_is_the_coordinators_business(parts: Path) -> None:
    command = [sys.executable, "-m", "mainspring_client", "db", "upgrade"]
    environment = os.environ | {"UPGRADE_EXIT": "7"}
    assert subprocess.run(command, cwd=parts, env=environment, timeout=60, check=False).returncode == 7


@pytest.mark.parametrize(
    ("words", "code"), [([], 2), (["--json"], 2), (["--help"], 0), (["upgrade", "--help"], 0), (["check", "-h"], 0)]
)
def test_db_has_a_help_of_its_own_that_names_its_acts(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_coordinator(["db", *words]) == code
    said = capsys.readouterr()
    shown, empty = (said.out, said.err) if code == 0 else (said.err, said.out)
    assert shown.startswith("Usage: mainspring db upgrade [--json] [--database-url URL]\n")
    for word in ("  upgrade  ", "  check  ", "DATABASE_URL", "Example: mainspring db upgrade"):
        assert word in shown
    assert "--heartbeat-interval" not in shown
    assert empty == ""


def test_an_act_that_db_has_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_coordinator(["db", "upgarde"]) == 2
    assert capsys.readouterr().err == "mainspring: db upgarde: there is no such act; there are upgrade and check\n"


@pytest.mark.parametrize("command", ["coordinator", "worker", "db", "dev"])
def test_a_light_install_says_what_to_install(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    got = CliRunner().invoke(app, [command])
    assert got.exit_code == 2
    part = "worker" if command == "worker" else "coordinator"
    assert got.stderr.endswith(
        f"pip install 'mainspring-{version('mainspring')}-py3-none-any.whl[{part}]' (docs/deploying.md)\n"
    )
    assert got.stderr.count("\n") == 1


def test_a_new_project_passes_its_own_test(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", str(tmp_path / "project")]).exit_code == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "project", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
