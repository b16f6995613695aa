"""A private MariaDB server that flushes at every commit."""

import atexit
import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.servers.process import PrivateServer, ServerError

_folders = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin")
_as_root = ("--user=root",)


def program(*names: str) -> str | None:
    """Return the path of the first of these programs that is there."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_folders])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


class MariadbServer(PrivateServer):
    """MariaDB from the system's packages."""

    kind = "mariadb"

    @classmethod
    def missing(cls) -> str:
        """Return what to install, empty when the programs are there."""
        found = program("mariadbd") and program("mariadb-install-db", "mysql_install_db")
        return "" if found else "no MariaDB server here; install mariadb-server-core and mariadb-client-core"

    def install(self) -> None:
        """See `PrivateServer`."""
        shutil.copytree(_installed(), self.folder / "data")

    def command(self) -> Sequence[str]:
        """See `PrivateServer`."""
        server = program("mariadbd")
        if server is None:
            raise ServerError(self.missing())
        return [
            server,
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder}",
            f"--socket={self.socket_path}",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=128M",
            "--innodb-log-file-size=64M",
            "--max-connections=200",
            *_user(),
        ]


@cache
def _installed() -> Path:
    """Return a new server's data folder, made once for all servers of this process, because that takes seconds."""
    installer = program("mariadb-install-db", "mysql_install_db")
    if installer is None:
        raise ServerError(MariadbServer.missing())
    folder = Path(tempfile.mkdtemp(prefix="mainspring-mariadb-new-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [
        installer,
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        f"--datadir={folder / 'data'}",
        f"--tmpdir={folder}",  # two that begin at once would delete each other's temporary tables in a shared one
        # The log files are made anew, in the size that is asked for, by each server that starts on a copy.
        "--innodb-log-file-size=4M",
        *_user(),
    ]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    if done.returncode != 0:
        raise ServerError(
            f"{installer} failed:\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
        )
    return folder / "data"


def _user() -> Sequence[str]:
    return _as_root if getpass.getuser() == "root" or os.geteuid() == 0 else ()
