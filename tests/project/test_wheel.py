"""What users install holds what it needs and nothing else."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

root = Path(__file__).parents[2]
packages = ("mainspring", "mainspring_client", "mainspring_coordinator", "mainspring_worker")


def metadata_of(wheel: ZipFile) -> str:
    """Return the path of the wheel's metadata."""
    return next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    """The wheel under test in CI, else one built now."""
    built = os.environ.get("MAINSPRING_TEST_WHEEL")
    if built is None:
        out = tmp_path_factory.mktemp("wheel")
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (path,) = out.glob("*.whl")
    else:
        path = root / built
    with ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_the_four_packages_and_no_other(wheel: ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == set(packages)


def test_each_package_says_that_it_is_typed(wheel: ZipFile) -> None:
    assert [p for p in packages if f"{p}/py.typed" not in wheel.namelist()] == []


def test_the_migrations_are_in_the_wheel(wheel: ZipFile) -> None:
    folder = "mainspring_coordinator/store/migrations/"
    committed = {
        path.relative_to(root / "coordinator").as_posix() for path in (root / "coordinator" / folder).rglob("*.py")
    }
    assert any("/versions/r0001" in name for name in committed)
    assert committed - set(wheel.namelist()) == set()
    assert folder + "env.py" in committed


def test_the_wheel_brings_the_command_the_licence_and_light_hosts(wheel: ZipFile) -> None:
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert "mainspring = mainspring_client.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    metadata = message_from_bytes(wheel.read(metadata_of(wheel)))
    assert metadata["License-Expression"] == "Apache-2.0"
    always = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    heavy = [line for line in always if line.lower().startswith(("sqlalchemy", "psutil", "pymysql", "uvicorn"))]
    assert heavy == [], "a client installs neither SQLAlchemy nor psutil"


def test_no_page_installs_the_project_by_its_name_which_no_index_has(wheel: ZipFile) -> None:
    assert wheel.filename is not None
    name = Path(wheel.filename).name
    extras = set(message_from_bytes(wheel.read(metadata_of(wheel))).get_all("Provides-Extra", []))
    pages = [
        root / "README.md",
        root / "CONTRIBUTING.md",
        *(root / "docs").rglob("*.md"),
        *(root / "deploy").rglob("*.*"),
    ]
    code = [path for top in ("client", "common", "coordinator", "worker") for path in (root / top).rglob("*.py")]
    text = "\n".join(path.read_text() for path in [*pages, *code])
    shown = re.findall(r"pip install '?(mainspring[^'\s]*)", text)
    assert shown != []
    for what in shown:
        if "{" in what:  # put together when it is printed: the tests of those messages look at it
            continue
        file, _, rest = what.partition("[")
        assert file == name
        assert set(rest.removesuffix("]").split(",")) <= extras


def test_what_the_tests_import_is_the_wheel_when_ci_says_so() -> None:
    if "MAINSPRING_TEST_WHEEL" not in os.environ:
        pytest.skip("`make wheel` sets MAINSPRING_TEST_WHEEL and runs this in an environment that holds the wheel")
    import mainspring  # noqa: PLC0415  (where it comes from is the question)

    assert mainspring.__file__ is not None
    assert "site-packages" in Path(mainspring.__file__).parts
