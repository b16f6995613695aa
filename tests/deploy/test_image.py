"""The image: slim, in stages, not run by root, made of files that exist; and its steps, done here, give a command that starts."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mainspring.dial import default_grpc_port, default_http_port

root = Path(__file__).parents[2]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile: name and arguments."""
    text = re.sub(r"\\\n", " ", (root / "deploy/Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[tuple[str, str]]] = []
    for word, _, rest in (line.partition(" ") for line in lines):
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def copied(stage: list[tuple[str, str]]) -> list[list[str]]:
    """What a stage takes from the project: sources, then where they go."""
    return [rest.split() for word, rest in stage if word == "COPY" and not rest.startswith("--from")]


def test_the_image_is_slim_and_carries_no_tools_of_its_making() -> None:
    build, final = stages()
    assert [rest.split()[0] for word, rest in [build[0], final[0]]] == ["python:3.12-slim", "python:3.12-slim"]
    assert ("COPY", "--from=build /opt/mainspring /opt/mainspring") in final
    assert [rest for word, rest in final if word == "RUN" and ("pip" in rest or "apt" in rest)] == []


def test_it_is_made_of_files_that_exist_and_that_the_builder_gets() -> None:
    sources = [source for stage in stages() for words in copied(stage) for source in words[:-1]]
    assert sources
    assert [source for source in sources if not (root / source).exists()] == []
    sent = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [source for source in sources if source.split("/")[0] not in sent] == []


def test_it_has_what_each_setting_of_the_compose_file_needs() -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any("pip install" in rest and "'.[all]'" in rest for _, rest in stages()[0])
    assert {"coordinator", "worker", "jwt", "redis"} <= {*re.findall(r"\w+", extras["all"][0])}


def test_it_is_not_run_by_root_and_says_where_it_listens() -> None:
    final = stages()[-1]
    ((user,),) = ([rest for word, rest in final if word == "USER"],)
    made = next(rest for word, rest in final if word == "RUN" and "useradd" in rest)
    assert user.isdigit(), "Kubernetes' runAsNonRoot looks at the number"
    assert user != "0"
    assert f"--uid {user} " in made
    assert ("EXPOSE", f"{default_grpc_port} {default_http_port}") in final
    assert ("ENTRYPOINT", '["mainspring"]') in final
    assert ("CMD", '["coordinator"]') in final


def test_its_variables_are_settings() -> None:
    settings = set(re.findall(r"^\| `([A-Z_]+)` \|", (root / "docs/settings.md").read_text(), re.MULTILINE))
    named = {pair.split("=")[0] for word, rest in stages()[-1] if word == "ENV" for pair in rest.split()}
    assert named - {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"} == {"GRPC_HOST", "HTTP_HOST"}
    assert {"GRPC_HOST", "HTTP_HOST"} <= settings


def test_its_steps_give_a_command_that_starts_and_the_executors_that_it_offers(tmp_path: Path) -> None:
    """As the builder does them, with two differences that save a minute: uv installs, and the environment has no pip."""
    build, final = stages()
    source, prefix, app = tmp_path / "src", tmp_path / "opt", tmp_path / "app"
    source.mkdir()
    steps = 0
    for word, rest in build:
        if word == "COPY":
            *files, target = rest.split()
            for file in files:
                copy(file, source / target if target != "./" else source / Path(file).name)
        elif word == "RUN":
            steps += 1
            done = subprocess.run(
                here(shlex.split(rest), prefix), cwd=source, check=False, capture_output=True, text=True, timeout=170
            )
            assert done.returncode == 0, done.stderr
    assert steps == 2
    for *files, target in copied(final):
        for file in files:
            copy(file, app / target.removeprefix("/app/"))
    environment = {"PATH": f"{prefix}/bin:{os.environ['PATH']}", "HOME": str(tmp_path), "HTTP_PORT": "0"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(prefix / "bin/mainspring"), *words]
        return subprocess.run(
            command, cwd=app, env=environment, check=False, capture_output=True, text=True, timeout=60
        )

    version = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert version[1] in run("--version").stdout
    # A name that no module registers is refused with those that there are; so this tells them without a cluster.
    for module, executors in [
        (
            "examples.calendar_cleanup.tasks",
            {"fetchOldCalendarMappings", "deleteSingleCalendar", "sendEmailNotification"},
        ),
        ("examples.wfformat.tasks", {"sleep"}),
    ]:
        refused = run("worker", "--import", module, "--supported-executors", "nobody")
        assert refused.returncode == 2, refused.stderr
        assert [name for name in executors if name not in refused.stderr] == []


def copy(file: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if (root / file).is_dir():
        shutil.copytree(root / file, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(root / file, target)


def here(words: list[str], prefix: Path) -> list[str]:
    """A command of the builder, as it is done in this test."""
    words = [word.replace("/opt/mainspring", str(prefix)) for word in words]
    if words[:3] == ["python", "-m", "venv"]:
        return [sys.executable, "-m", "venv", "--without-pip", *words[3:]]
    if words[:2] == [f"{prefix}/bin/pip", "install"]:
        uv = shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv is None:
            pytest.skip("no uv in this environment; `make env` brings it")
        rest = [word for word in words[2:] if word != "--no-cache-dir"]
        return [uv, "pip", "install", "--quiet", "--python", f"{prefix}/bin/python", *rest]
    raise AssertionError(f"a step that this test does not know: {shlex.join(words)}")
