"""What every file of the project keeps to, so that no reviewer has to look for it."""

import re
import subprocess
from pathlib import Path

import pytest

root = Path(__file__).parents[2]
lines_max = 500
generated = re.compile(r"_pb2(_grpc)?\.pyi?$")
# Taken apart, so that this file passes its own test.
machine_paths = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", r"/ho" + r"me/\w+/", "/tmp/" + r"\w{4,}/"]))
unfinished = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]))


def tracked() -> list[Path]:
    """Return the files that git knows and that are still there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def texts() -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(root)), path.read_text(encoding="utf-8")) for path in tracked() if path.name != "LICENSE"
    ]


def test_no_python_file_is_longer_than_500_lines() -> None:
    lengths = {
        name: len(text.splitlines()) for name, text in texts() if name.endswith(".py") and not generated.search(name)
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > lines_max} == {}


@pytest.mark.parametrize(
    ("pattern", "what"), [(machine_paths, "a path of one machine"), (unfinished, "unfinished work")]
)
def test_no_file_holds(pattern: re.Pattern[str], what: str) -> None:
    found = [
        f"{name}:{i}: {line.strip()[:80]}"
        for name, text in texts()
        for i, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == [], what


def test_pinned_versions_are_plain_names_and_versions() -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][\w.+!]*", line)] == []


def test_the_scripts_of_ci_are_strict_and_can_be_run() -> None:
    scripts = sorted((root / ".ci").iterdir())
    assert (root / ".ci/run") in scripts
    for script in scripts:
        assert script.stat().st_mode & 0o111, f"{script.name}: not executable"
        assert "\nset -euo pipefail\n" in script.read_text(), f"{script.name}: not strict"


def test_the_changelog_names_the_version_that_is_built() -> None:
    version = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    headings = re.findall(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version[1]] or headings[:1] == [version[1]]


def test_each_decision_is_numbered_once_and_listed() -> None:
    folder = root / "docs/decisions"
    index = (folder / "README.md").read_text()
    decisions = sorted(path.name for path in folder.glob("[0-9]*.md"))
    numbers = [name[:4] for name in decisions]
    assert numbers == sorted(set(numbers))
    assert [name for name in decisions if name not in index] == []


def test_the_links_between_documents_lead_somewhere() -> None:
    pages = [(name, text) for name, text in texts() if name.endswith(".md")]
    links = [(name, target) for name, text in pages for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    assert links
    assert [(name, target) for name, target in links if not (root / name).parent.joinpath(target).exists()] == []
