"""The calendar clean-up from end to end, as a user runs it: on SQLite, and unchanged on MariaDB."""

import os
import subprocess
import sys
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from examples.calendar_cleanup import calendars
from examples.calendar_cleanup.demo import Outcome, find_problems, report_to
from mainspring_client import NodeDetail

root = Path(__file__).parents[2]


def of_session(session: int) -> list[str]:
    """Return what still runs of a session of processes."""
    found: list[str] = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            if os.getsid(process.pid) == session:
                found.append(f"{process.pid} {process.info['cmdline']}")
        except ProcessLookupError:
            continue  # it ended while we looked
    return found


def run_demo(*arguments: str) -> str:
    """Run the demo in a session of its own, and return what it printed; nothing of it may be left running."""
    command = [sys.executable, "-m", "examples.calendar_cleanup.demo", *arguments]
    environment = os.environ | {"COLUMNS": "160"}
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        printed, _ = process.communicate(timeout=90)
    assert process.returncode == 0, printed
    assert of_session(process.pid) == []
    return printed


def check_printed(printed: str) -> None:
    lines = printed.splitlines()
    assert lines[-1] == "Every calendar, delete and mail is as it must be."
    assert f"Already gone, so done: {calendars.already_gone}" in lines
    assert sum("503 Service Unavailable" in line and "HTTPStatusError" in line for line in lines) == 2
    assert f"Mail received by {report_to}: {len(calendars.replaced)} old calendars cleaned up" in lines
    left = next(line for line in lines if line.startswith("Calendars left on the server: "))
    assert left.partition(": ")[2].split(", ") == calendars.left_at_the_end()


def test_the_demo_cleans_up_and_leaves_nothing_running() -> None:
    check_printed(run_demo())


def test_the_same_example_runs_unchanged_on_mariadb(mariadb_url: str) -> None:
    check_printed(run_demo("--database-url", mariadb_url))


@pytest.fixture
def as_expected() -> Outcome:
    """What a good run leaves behind."""
    old = [mapping.old_id for mapping in calendars.replaced]
    mail = EmailMessage()
    mail["To"], mail["Subject"] = report_to, f"{len(old)} old calendars cleaned up"
    mail.set_content("\n".join(old))
    gone = calendars.already_gone
    return Outcome(
        output={"deleted": [name for name in old if name != gone], "already_gone": [gone]},
        nodes=[],
        stumbled=cast("NodeDetail", SimpleNamespace(node=SimpleNamespace(attempt=3), attempts=())),
        deletes={name: [200] for name in old} | {gone: [404], calendars.stumbling: [503, 503, 200]},
        left=calendars.left_at_the_end(),
        mails=[mail],
    )


def test_a_good_run_has_no_problems(as_expected: Outcome) -> None:
    assert find_problems(as_expected) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"left": []}, "calendars left"),
        ({"mails": []}, "mails"),
        ({"deletes": {}}, "answers to the deletes"),
        ({"output": {"deleted": [], "already_gone": []}}, "calendars reported as deleted"),
    ],
)
def test_what_is_not_as_it_must_be_is_named(as_expected: Outcome, change: dict[str, Any], what: str) -> None:
    assert any(problem.startswith(what) for problem in find_problems(replace(as_expected, **change)))
