"""The script of CI, with a `make` that only pretends: what it runs, how it ends, what its exit code says."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

root = Path(__file__).parents[2]
passed = "===== 12 passed, 1 skipped in 3.21s ====="
failed = "===== 1 failed, 11 passed in 75.40s (0:01:15) ====="

make = """\
#!/bin/sh
echo "$1" >> ran
[ "$1" = test ] && echo "$CLOSING"
for bad in $BAD; do [ "$1" = "$bad" ] && exit 2; done
exit 0
"""


@dataclass(frozen=True)
class Ended:
    """How a run of CI ended."""

    code: int
    lines: list[str]
    ran: list[str]


def run_ci(folder: Path, *, closing: str, bad: str) -> Ended:
    (folder / ".ci").mkdir()
    shutil.copy(root / ".ci/run", folder / ".ci/run")
    (folder / "bin").mkdir()
    (folder / "bin/make").write_text(make)
    (folder / "bin/make").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CLOSING": closing, "BAD": bad}
    done = subprocess.run(
        [folder / ".ci/run"], cwd="/", env=environment, check=False, capture_output=True, text=True, timeout=30
    )
    return Ended(done.returncode, done.stdout.splitlines(), (folder / "ran").read_text().split())


def test_ci_ends_with_the_closing_line_of_the_tests(tmp_path: Path) -> None:
    ended = run_ci(tmp_path, closing=passed, bad="")
    assert (ended.code, ended.lines[-1]) == (0, passed)
    assert ended.ran == ["test", "lint", "types", "imports", "verify", "wheel", "chaos"]


@pytest.mark.parametrize("bad", ["lint", "types", "imports", "verify", "wheel", "chaos"])
def test_a_check_that_fails_fails_ci_and_is_named_and_the_rest_still_runs(tmp_path: Path, bad: str) -> None:
    ended = run_ci(tmp_path, closing=passed, bad=bad)
    assert ended.code != 0
    assert ended.lines[-2:] == [f"failed: {bad}", passed]
    assert len(ended.ran) == 7


def test_tests_that_fail_fail_ci_with_their_own_closing_line(tmp_path: Path) -> None:
    ended = run_ci(tmp_path, closing=failed, bad="test lint")
    assert ended.code != 0
    assert ended.lines[-2:] == ["failed: test lint", failed]


def test_tests_that_never_ran_to_their_end_are_said_so(tmp_path: Path) -> None:
    ended = run_ci(tmp_path, closing="Interrupted", bad="test")
    assert ended.code != 0
    assert ended.lines[-1] == "the tests did not run to their end"
