"""What README.md shows works when pasted: its blocks are taken from the page and run."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from mainspring_client.cli.program import app
from mainspring_client.dev import DevCluster
from tests.servers.mariadb import MariadbServer

root = Path(__file__).parents[2]
readme = (root / "README.md").read_text()
mainspring = [sys.executable, "-m", "mainspring_client"]


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def block_with(language: str, text: str) -> str:
    (found,) = [block for block in blocks(language) if text in block]
    return found


def commands() -> list[list[str]]:
    """Return each `mainspring ...` that the documents show, as words."""
    pages = [root / "README.md", root / "examples/README.md", *(root / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    fenced = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    inline = re.findall(r"`(mainspring [^`]+)`", text)
    parts = [part for line in [*fenced, *inline] for part in line.split("#")[0].split("&&")]
    return [words for part in parts if (words := shlex.split(part)) and words[0] == "mainspring"]


@cache
def help_of(*path: str) -> str:
    """Return what a command's `--help` shows; in this process, unless another program shows it."""
    if path[:1] not in (("coordinator",), ("worker",), ("db",), ("simulate",)):
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert shown.exit_code == 0, shown.output
        return shown.output
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run([*mainspring, *path, "--help"], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_workflow_has_at_most_20_lines() -> None:
    assert len([line for line in block_with("python", "async def main").splitlines() if line.strip()]) <= 20


def test_the_first_workflow_runs_when_pasted(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(block_with("python", "async def main"))
    shown = re.search(r"^python hello\.py +# (.+)$", readme, re.MULTILINE)
    assert shown is not None
    assert "mainspring dev --import hello\n" in blocks("sh")

    async def paste() -> str:
        async with DevCluster(imports=["hello"], data=tmp_path / "data", directory=tmp_path) as cluster:
            environment = os.environ | {"MAINSPRING_ADDRESS": cluster.address}
            run = await asyncio.create_subprocess_exec(
                sys.executable, "hello.py", cwd=tmp_path, env=environment, stdout=subprocess.PIPE
            )
            printed, _ = await asyncio.wait_for(run.communicate(), 60)
            assert run.returncode == 0
            listed = await asyncio.create_subprocess_exec(
                *mainspring, "list", cwd=tmp_path, env=environment, stdout=subprocess.PIPE
            )
            listing, _ = await asyncio.wait_for(listed.communicate(), 60)
            assert listed.returncode == 0
            assert "hello" in listing.decode()
            return printed.decode().strip()

    assert asyncio.run(paste()) == shown[1]


def test_the_lines_for_ones_own_mysql_are_enough(tmp_path: Path) -> None:
    statements = [line for line in block_with("sql", "CREATE DATABASE").splitlines() if line]
    lines = block_with("sh", "export DATABASE_URL").splitlines()
    url = lines[0].removeprefix("export DATABASE_URL=")
    assert lines[1:] == ["mainspring db upgrade && mainspring db check", "mainspring coordinator"]
    # A server of its own: that of the other tests has a user of the same name.
    with MariadbServer() as server:
        server.execute(f"DROP USER '{urlsplit(url).username}'@'127.0.0.1'", *statements)
        environment = os.environ | {"DATABASE_URL": url.replace(":3306/", f":{server.port}/")}
        for command in ("upgrade", "check"):
            done = subprocess.run(
                [*mainspring, "db", command], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, f"mainspring db {command}:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_that_a_document_shows_exists_with_its_options(words: list[str]) -> None:
    path = (
        [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
        if words[1:2] in (["db"], ["token"])
        else words[1:2]
    )
    path = [word for word in path if not word.startswith("-")]  # an option of the command itself
    shown = help_of(*path)
    missing = [word for word in words if word.startswith("--") and word.split("=")[0] not in shown]
    assert missing == []
