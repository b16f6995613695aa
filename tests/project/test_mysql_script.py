"""The script that gets a MySQL server for the tests, on a system that only pretends."""

import os
import subprocess
from pathlib import Path

root = Path(__file__).parents[2]

debootstrap = """\
#!/bin/sh
echo once >> "$RAN"
for last; do :; done
mkdir -p "$last/usr/sbin" "$last/var/cache/apt/archives"
[ -z "$FAIL" ] || { echo "I: half way"; echo "E: no such mirror"; exit 1; }
cp /bin/true "$last/usr/sbin/mysqld"
"""


class Pretended:
    """A system without MySQL, where debootstrap makes an empty folder."""

    def __init__(self, folder: Path, user: int) -> None:
        self.ran = folder / "ran"
        self.server = folder / "cache/mainspring/mysql-sid/usr/sbin/mysqld"
        programs = folder / "bin"
        programs.mkdir()
        for name, text in {
            "mysqld": "#!/bin/sh\necho mysqld Ver 10.11.19-MariaDB\n",
            "id": f"#!/bin/sh\necho {user}\n",
            "umount": "#!/bin/sh\nexit 1\n",
            "debootstrap": debootstrap,
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "RAN": str(self.ran),
            "FAIL": "",
        }

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [root / ".ci/mysql"], env=self.environment | environment, stderr=subprocess.PIPE, text=True
        )


def ended(process: "subprocess.Popen[str]") -> list[str]:
    """Return what it said."""
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    return said.splitlines()


def test_who_is_not_root_is_told_in_one_line(tmp_path: Path) -> None:
    system = Pretended(tmp_path, user=1000)
    (line,) = ended(system.start())
    assert line.startswith("mainspring: the tests on MySQL are skipped: no MySQL server here; ")
    assert not system.ran.exists()


def test_runs_at_the_same_time_make_one_server(tmp_path: Path) -> None:
    system = Pretended(tmp_path, user=0)
    for process in [system.start() for _ in range(3)]:
        ended(process)
    assert system.server.exists()
    assert system.ran.read_text() == "once\n"
    assert ended(system.start()) == []


def test_one_that_failed_is_said_so_and_made_anew(tmp_path: Path) -> None:
    system = Pretended(tmp_path, user=0)
    *_, line = ended(system.start(FAIL="1"))
    assert line == "mainspring: the tests on MySQL are skipped: debootstrap failed: E: no such mirror"
    assert not system.server.exists()
    ended(system.start())
    assert system.server.exists()
