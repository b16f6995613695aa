"""docs/security.md: its commands make a secure cluster, and its table is the one that the gate asks."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mainspring.callers import Role
from mainspring.tokens import read_tokens
from mainspring_client.child import Child
from mainspring_coordinator.auth.methods import open_methods, roles_by_method
from mainspring_coordinator.store.schema import upgrade
from tests.servers.ports import free_port

page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
TASKS = "from mainspring_worker import executor\n\n\n@executor\nasync def echo(value):\n    return value\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_table_of_roles_is_the_one_that_the_gate_asks() -> None:
    table = page.partition("\n## Roles\n")[2].partition("\n\nOver HTTP")[0]
    shown: dict[str, set[str] | None] = {}
    for methods, told in re.findall(r"^\| (`\w+`: .*?) \| (.*?) \|$", table, re.MULTILINE):
        service, *names = re.findall(r"`(\w+)`", methods)
        shown |= {
            f"{service}/{name}": None if told == "anybody" else set(re.findall(r"`([\w-]+)`", told)) for name in names
        }
    asked: dict[str, set[str] | None] = {
        method: {str(role) for role in roles} for method, roles in roles_by_method.items()
    }
    asked |= dict.fromkeys(open_methods)
    assert shown == {method.rpartition(".")[2]: roles for method, roles in asked.items()}


def test_the_file_that_is_shown_can_be_read(tmp_path: Path) -> None:
    (shown,) = blocks("toml")
    (tmp_path / "tokens.toml").write_text(shown)
    book = read_tokens(str(tmp_path / "tokens.toml"))
    assert len(book.by_hash) == 2
    assert book.by_certificate["workers.internal"].caller.role is Role.WORKER


def test_the_commands_make_a_cluster_that_is_secure(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("the page's commands need openssl")
    *preparing, starting = blocks("sh")
    inherited = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in preparing:
        subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=inherited, check=True, capture_output=True)
    (tmp_path / "tasks.py").write_text(TASKS)
    assert (tmp_path / "admin.token").stat().st_mode & 0o077 == 0
    url = f"sqlite:///{tmp_path / 'mainspring.db'}"
    upgrade(url)
    grpc_port = free_port()
    settings = {
        **inherited,
        "DATABASE_URL": url,
        "GRPC_PORT": str(grpc_port),
        "HTTP_PORT": "0",
        "HTTP_PROBE_PORT": "0",
        "MAINSPRING_ADDRESS": f"127.0.0.1:{grpc_port}",
    }
    export, coordinator, worker, workers = starting.splitlines()

    async def play() -> None:
        parts = [Child(name, tmp_path / f"{name}.log") for name in ("coordinator", "worker")]
        try:
            for part, line, serves in zip(parts, (coordinator, worker), ("listening", "attached"), strict=True):
                await start(part, f"{export}; exec env {line}", settings, tmp_path)
                await part.heard(serves, 60)
            listed = await asyncio.create_subprocess_exec(
                *("bash", "-euc", f"{export}; {workers}"), cwd=tmp_path, env=settings, stdout=subprocess.PIPE
            )
            printed, _ = await listed.communicate()
            assert listed.returncode == 0
            assert b"echo" in printed
            without = await asyncio.create_subprocess_exec(
                *("bash", "-euc", f"{export}; mainspring workers"), cwd=tmp_path, env=settings, stderr=subprocess.PIPE
            )
            _, said = await without.communicate()
            assert without.returncode == 2
            assert b"the call has no token; set MAINSPRING_TOKEN" in said
        finally:
            for part in reversed(parts):
                if part.started:
                    await part.end(20)

    asyncio.run(play())


async def start(part: Child, line: str, settings: Mapping[str, str], folder: Path) -> None:
    """Run a line of the page in a shell that becomes the part."""
    become = f"import os; os.execvp('bash', ['bash', '-euc', {line!r}])"
    await part.start(["-c", become], settings, folder)
