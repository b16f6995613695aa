"""What the documents name is there."""

import re
from pathlib import Path

root = Path(__file__).parents[2]
own_type = re.compile(r'"(mainspring\.[A-Z]\w+)"')


def test_the_page_of_failures_lists_the_types_that_the_code_uses() -> None:
    sources = [
        p for part in ("common", "coordinator", "worker") for p in (root / part).rglob("*.py") if "_pb2" not in p.name
    ]
    used = {name for path in sources for name in own_type.findall(path.read_text())}
    page = (root / "docs/failures.md").read_text()
    assert set(re.findall(r"^\| `(mainspring\.\w+)`", page, re.MULTILINE)) == used


def test_the_make_targets_that_documents_name_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (root / "Makefile").read_text(), re.MULTILINE))
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"demo", "test"} <= named
    assert named - targets == set()
