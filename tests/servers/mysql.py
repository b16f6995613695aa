"""A private MySQL server, 8 or later, with caching_sha2_password and TLS.

From the system, if `mysqld` there is MySQL. Otherwise, as root, from the folder of the user's cache that `.ci/mysql` has made, run by
chroot.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from tests.servers.mariadb import program
from tests.servers.process import PrivateServer, ServerError

_scratch: Final = "srv"


class MysqlServer(PrivateServer):
    """A real MySQL."""

    kind = "mysql"

    def __init__(self, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        super().__init__(host, prefix)
        self._root = _chroot()
        if self._root is not None:
            # The server sees its folder under the same name, inside its root.
            shutil.rmtree(self.folder)
            inside = self._root / _scratch
            inside.mkdir(exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="m", dir=inside))

    @classmethod
    def missing(cls) -> str:
        """Return why there is none, empty when one can be had."""
        if _system_server() is not None:
            return ""
        if os.geteuid() == 0 and _chroot_folder().joinpath("usr/sbin/mysqld").exists():
            return ""
        return (
            "no MySQL server here (mysqld is missing or is MariaDB); install MySQL 8 or later, or run .ci/mysql as root"
        )

    def install(self) -> None:
        """See `PrivateServer`."""
        done = subprocess.run(
            [*self._command(), "--initialize-insecure"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=180,
        )
        if done.returncode != 0:
            raise ServerError(f"mysqld --initialize-insecure failed:\n{done.stderr.decode(errors='replace')[-3000:]}")

    def command(self) -> Sequence[str]:
        """See `PrivateServer`."""
        return [
            *self._command(),
            f"--socket={self._inside(self.socket_path)}",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            "--mysqlx=OFF",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=128M",
            "--max-connections=200",
        ]

    @property
    def ca_path(self) -> Path:
        """The authority of the certificate that the server made for itself."""
        return self.folder / "data" / "ca.pem"

    def _inside(self, path: Path) -> Path:
        return Path("/") / path.relative_to(self._root) if self._root is not None else path

    def _command(self) -> Sequence[str]:
        if self._root is not None:
            program_path: Sequence[str] = ["chroot", str(self._root), "/usr/sbin/mysqld"]
        else:
            program_path = [_system_server() or ""]
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        return [
            *program_path,
            "--no-defaults",
            f"--datadir={self._inside(self.folder / 'data')}",
            "--secure-file-priv=",
            *as_root,
        ]


@cache
def _system_server() -> str | None:
    server = program("mysqld")
    if server is None:
        return None
    version = subprocess.run([server, "--version"], check=False, capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"Ver (\d+)\.", version)
    return server if found and "MariaDB" not in version and int(found[1]) >= 8 else None


def _chroot_folder() -> Path:
    cache_home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache_home) / "mainspring" / "mysql-sid"


def _chroot() -> Path | None:
    """Return the root folder of Debian sid with MySQL; None when the system has its own server."""
    if _system_server() is not None:
        return None
    if reason := MysqlServer.missing():
        raise ServerError(reason)
    return _chroot_folder()
