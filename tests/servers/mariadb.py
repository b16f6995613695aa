"""A private MariaDB server that flushes at every commit."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Sequence

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
        installer = program("mariadb-install-db", "mysql_install_db")
        if installer is None:
            raise ServerError(self.missing())
        command = [
            installer,
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder}",  # two that begin at once would delete each other's temporary tables in a shared one
            *self._user(),
        ]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        if done.returncode != 0:
            raise ServerError(
                f"{installer} failed:\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
            )

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
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=128M",
            "--innodb-log-file-size=64M",
            "--max-connections=200",
            *self._user(),
        ]

    def _user(self) -> Sequence[str]:
        return _as_root if getpass.getuser() == "root" or os.geteuid() == 0 else ()
