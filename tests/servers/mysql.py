"""A private MySQL server, 8 or later, with caching_sha2_password and TLS.

From the system, if `mysqld` there is MySQL. Otherwise, as root on a system with debootstrap, from Debian sid in a folder of the user's
cache, run by chroot; that takes half a minute the first time.
"""

import fcntl
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

_bootstrap_s_max: Final = 600
_scratch: Final = "srv"


class MysqlServer(PrivateServer):
    """A real MySQL."""

    kind = "mysql"

    def __init__(self) -> None:
        super().__init__()
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
        if os.geteuid() == 0 and (_chroot_folder().joinpath("usr/sbin/mysqld").exists() or program("debootstrap")):
            return ""
        return "no MySQL server here (mysqld is missing or is MariaDB); install MySQL 8+, or run as root with debootstrap installed"

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
            "--bind-address=127.0.0.1",
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


@cache
def _chroot() -> Path | None:
    """Return the root folder of Debian sid with MySQL, made if need be; None when the system has its own server."""
    if _system_server() is not None:
        return None
    folder = _chroot_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("wb") as lock:
        # Of the processes that run tests one makes it, and the others wait; the lock goes with whoever holds it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make_chroot(folder)
    return folder


def _make_chroot(folder: Path) -> None:
    if not (folder / "usr/sbin/mysqld").exists():
        if reason := MysqlServer.missing():
            raise ServerError(reason)
        # Made beside and renamed, so that a bootstrap that was interrupted is never taken for a whole one.
        with tempfile.TemporaryDirectory(prefix="mysql-sid-", dir=folder.parent, ignore_cleanup_errors=True) as beside:
            command = ["debootstrap", "--variant=minbase", "--include=mysql-server-core", "sid", f"{beside}/root"]
            done = subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=_bootstrap_s_max
            )
            if done.returncode != 0:
                raise ServerError(f"debootstrap failed:\n{done.stdout.decode(errors='replace')[-2000:]}")
            Path(f"{beside}/root").rename(folder)
