"""nginx with the shipped configuration, from the system or from the folder of the user's cache that `.ci/nginx` has made."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import pytest

from tests.servers.ports import free_port

shipped: Final = Path(__file__).parents[2] / "deploy/nginx.conf"
_stop_s_max: Final = 20
_expected: Final = 'the "listen ... http2" directive is deprecated'
"""Later versions say so; earlier ones do not know the other way."""
_temporary: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def required() -> str:
    """Return the path of nginx; skip the test where there is none, or fail it where there must be one, as in CI."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", str(cache / "mainspring/nginx/usr/sbin")])
    found = shutil.which("nginx", path=path)
    if found is not None:
        return found
    reason = "no nginx here; put it on PATH, or run .ci/nginx on Debian or Ubuntu"
    if os.environ.get("MAINSPRING_TEST_NGINX") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


class Nginx:
    """A private server: the shipped file, in which only addresses, ports and paths are others, and what `exchanged` names."""

    def __init__(
        self,
        folder: Path,
        *,
        credentials: Path,
        grpc: Sequence[str],
        http: Sequence[str],
        exchanged: Mapping[str, str] | None = None,
    ) -> None:
        """`credentials` has tls.crt and tls.key; `grpc` and `http` are the coordinators' addresses, one for each in the file."""
        self.http_port = free_port()
        self.tls_port = free_port()
        self._folder = folder / "nginx"
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        text = shipped.read_text()
        for port, addresses in (("7320", grpc), ("3000", http)):
            for number, address in enumerate(addresses, 1):
                text = _put(text, f"server workflow-engine-{number}:{port} ", f"server {address} ")
        text = _put(text, "listen 80;", f"listen 127.0.0.1:{self.http_port};")
        text = _put(text, "listen 443 ", f"listen 127.0.0.1:{self.tls_port} ")
        text = text.replace("/credentials/", f"{credentials}/")
        text = _put(text, "pid /run/nginx.pid;", f"pid {self._folder}/nginx.pid;")
        text = text.replace("/var/log/nginx/", f"{self._folder}/")
        folders = "".join(f"    {name}_temp_path {self._folder}/{name};\n" for name in _temporary)
        text = _put(text, "\nhttp {\n", f"\nhttp {{\n{folders}")
        for old, new in (exchanged or {}).items():
            assert old in text
            text = text.replace(old, new)
        self._config = self._folder / "nginx.conf"
        self._config.write_text(text)

    def __enter__(self) -> Self:
        # The master opens its listeners before it says so; until then connections are refused.
        checked = subprocess.run([*self._command(), "-t"], check=False, capture_output=True, text=True, timeout=30)
        assert checked.returncode == 0, checked.stderr
        warnings = [line for line in checked.stderr.splitlines() if "[warn]" in line and _expected not in line]
        assert warnings == []
        self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_stop_s_max)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_stop_s_max)

    def log(self, name: str) -> str:
        """What it wrote to `access` or `error`."""
        return (self._folder / f"{name}.log").read_text()

    def _command(self) -> list[str]:
        main = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        return [
            required(),
            "-p",
            str(self._folder),
            "-e",
            str(self._folder / "error.log"),
            "-c",
            str(self._config),
            "-g",
            main,
        ]


def directives(name: str) -> list[str]:
    """Return the values of a directive in the shipped file, in order."""
    text = re.sub(r"^\s*#.*$", "", shipped.read_text(), flags=re.MULTILINE)
    statements = [" ".join(statement.split()) for statement in re.split(r"[;{}]", text)]
    return [statement.removeprefix(f"{name} ") for statement in statements if statement.startswith(f"{name} ")]


def _put(text: str, old: str, new: str) -> str:
    """Exchange what stands once in the file."""
    assert text.count(old) == 1, old
    return text.replace(old, new)
