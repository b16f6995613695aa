"""Where the members are: each in a network namespace of its own where the machine allows it, else all on loopback."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

from tests.servers.ports import free_port

_answer_s_max: Final = 20.0
_root: Final = Path(__file__).parents[2]
_namespaces: Final = Path("/run/netns")

Pairs = Sequence[tuple[str, str]]


class Network(Protocol):
    """Places for members, and the ways between them."""

    breakable: bool
    """Whether ways can be cut, made lossy or slow."""

    def host(self, member: str) -> str:
        """Return its address."""
        ...

    def port(self, member: str) -> int:
        """Return the port that it may serve at."""
        ...

    def prefix(self, member: str) -> Sequence[str]:
        """Return the command that runs a command in its place."""
        ...

    async def trouble(self, name: str, pairs: Pairs, **how: float) -> None:
        """Trouble the ways from the first to the second of each pair until `heal`."""
        ...

    async def heal(self, name: str) -> None:
        """Take this trouble away."""
        ...

    async def __aenter__(self) -> Self:
        """Make it."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Remove it."""
        ...


class Loopback:
    """All members on one host."""

    breakable = False

    def __init__(self) -> None:
        self._ports: dict[str, int] = {}

    def host(self, member: str) -> str:
        return "127.0.0.1"

    def port(self, member: str) -> int:
        return self._ports.setdefault(member, free_port())

    def prefix(self, member: str) -> Sequence[str]:
        return ()

    async def trouble(self, name: str, pairs: Pairs, **how: float) -> None:
        raise AssertionError("loopback cannot be broken")

    async def heal(self, name: str) -> None:
        raise AssertionError("loopback cannot be broken")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class Namespaces:
    """A namespace a member, and a switch between them."""

    breakable = True

    def __init__(self, members: Sequence[str]) -> None:
        self._prefix = f"chaos-{os.getpid()}-"
        self._hosts: Mapping[str, str] = {member: f"10.77.0.{number}" for number, member in enumerate(members, 2)}
        self._switch: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    @staticmethod
    def missing() -> str:
        """Return why there can be none, empty if they can."""
        if os.geteuid() != 0:
            return "not root"
        if shutil.which("ip") is None:
            return "no `ip` here; install iproute2"
        if not Path("/dev/net/tun").exists():
            return "no /dev/net/tun here"
        name = f"chaos-{os.getpid()}-try"
        tried = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
        if tried.returncode:
            return f"`ip netns add` says: {tried.stderr.strip()}"
        subprocess.run(["ip", "netns", "delete", name], check=True)
        return ""

    def host(self, member: str) -> str:
        return self._hosts[member]

    def port(self, member: str) -> int:
        return 7320

    def prefix(self, member: str) -> Sequence[str]:
        return ("ip", "netns", "exec", self._name(member))

    async def trouble(self, name: str, pairs: Pairs, **how: float) -> None:
        await self._order({"add": name, "pairs": pairs, **how})

    async def heal(self, name: str) -> None:
        await self._order({"remove": name})

    async def __aenter__(self) -> Self:
        _sweep()
        for member in self._hosts:
            _ip("netns", "add", self._name(member))
        words = [f"{member}={self._name(member)}={host}" for member, host in self._hosts.items()]
        self._switch = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.switch",
            *words,
            cwd=_root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        await self._answer(b"ready\n")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._switch is not None:
            assert self._switch.stdin is not None
            self._switch.stdin.close()
            await self._switch.wait()
        for member in self._hosts:
            _ip("netns", "delete", self._name(member))

    def _name(self, member: str) -> str:
        return self._prefix + member

    async def _order(self, order: object) -> None:
        assert self._switch is not None
        assert self._switch.stdin is not None
        async with self._lock:
            self._switch.stdin.write(json.dumps(order).encode() + b"\n")
            await self._answer(b"done\n")

    async def _answer(self, wanted: bytes) -> None:
        assert self._switch is not None
        assert self._switch.stdout is not None
        async with asyncio.timeout(_answer_s_max):
            answer = await self._switch.stdout.readline()
        if answer != wanted:
            raise RuntimeError(f"the switch said {answer!r} instead of {wanted!r}")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


def _sweep() -> None:
    """Remove the namespaces of runs that were killed."""
    for path in _namespaces.glob("chaos-*"):
        process = path.name.split("-")[1]
        if not Path("/proc", process).exists():
            _ip("netns", "delete", path.name)
