"""The script that gets Prometheus for the tests, on a system that only pretends."""

import os
import subprocess
from pathlib import Path

root = Path(__file__).parents[2]

programs = {
    "apt-get": """\
#!/bin/sh
echo "$@" >> "$RAN"
case "$1" in download) [ -z "$FAIL" ] || { echo "E: no such package"; exit 1; }; touch prometheus_1_amd64.deb;; esac
""",
    "dpkg-deb": """\
#!/bin/sh
for last; do :; done
mkdir -p "$last/usr/bin"
cp /bin/true "$last/usr/bin/prometheus"
cp /bin/true "$last/usr/bin/promtool"
""",
    "sudo": "#!/bin/sh\nexit 1\n",
    "id": "#!/bin/sh\necho 1000\n",
}


class Pretended:
    """A system without Prometheus, whose package can be fetched unless FAIL is set."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.log = folder / "ran"
        self.made = folder / "cache/mainspring/prometheus/usr/bin/promtool"
        (folder / "bin").mkdir()
        for name, text in programs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for name in ("bash", "mkdir", "rm", "mv", "flock", "touch", "cp", "dirname", "tail"):
            (folder / "bin" / name).symlink_to(Path("/usr/bin" if Path(f"/usr/bin/{name}").exists() else "/bin") / name)
        self.environment = {
            "PATH": str(folder / "bin"),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "RAN": str(self.log),
            "FAIL": "",
            **environment,
        }

    def run(self) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["/bin/bash", root / ".ci/prometheus"],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stderr.splitlines()

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def test_it_is_taken_out_of_its_package_once_and_nothing_is_installed(tmp_path: Path) -> None:
    system = Pretended(tmp_path)
    code, (line,) = system.run()
    assert code == 0
    assert line.startswith("mainspring: fetching Prometheus into ")
    assert os.access(system.made, os.X_OK)
    assert system.run() == (0, [])
    assert system.ran == ["download -q prometheus"]


def test_where_it_cannot_be_had_one_line_says_so_and_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    system = Pretended(tmp_path, FAIL="yes")
    code, (_, line) = system.run()
    assert code == 0
    assert (
        line
        == "mainspring: the tests with Prometheus are skipped: its package could not be fetched: E: no such package"
    )
    assert not system.made.exists()


def test_where_it_must_be_there_that_is_an_error(tmp_path: Path) -> None:
    assert Pretended(tmp_path, FAIL="yes", MAINSPRING_TEST_PROMETHEUS="required").run()[0] == 1
