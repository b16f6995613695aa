"""A process of an embedded cluster: started, listened to, ended, and never left behind.

What it prints goes to a log file; lines of its standard output that are JSON objects with an `event` are its words to us. It
lives in a session of its own, so that a Ctrl-C in the terminal reaches it only through us, and the kernel ends it when we die.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from mainspring.errors import SettingsError, UnavailableError
from mainspring.limits import dev_tail_lines_max

_bad_input: Final = 2
_chunk_bytes: Final = 65_536
_line_bytes_max: Final = 65_536
_leash: Final = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""A first program that asks the kernel (PR_SET_PDEATHSIG) to end the process with its parent, then becomes the second."""


class Child:
    """One process."""

    def __init__(self, name: str, log_path: Path, echo: Callable[[str, str], None] | None = None) -> None:
        """Name it, say where its log goes, and who else gets (name, line) of what it prints."""
        self.name = name
        self.log_path = log_path
        self.tail: deque[str] = deque(maxlen=dev_tail_lines_max)
        """Its last lines."""
        self._echo = echo
        self._process: asyncio.subprocess.Process | None = None
        self._events: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._exit: asyncio.Task[int] | None = None

    async def start(self, arguments: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        """Run `python <arguments>`."""
        leash = ["-I", "-S", "-c", _leash] if sys.platform == "linux" else []
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *leash,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
        )
        self._exit = asyncio.create_task(self._attend(self._process))

    @property
    def started(self) -> bool:
        """Whether there was a process at all."""
        return self._exit is not None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def exited(self) -> asyncio.Future[int]:
        """Ends with its exit code. One who waits for it may be cancelled: the process is attended for the others all the same."""
        assert self._exit is not None, "not started"
        return asyncio.shield(self._exit)

    @property
    def fate(self) -> str:
        """How it ended: its name with "ended with exit code 2" or "was killed by SIGKILL"."""
        code = self.exited.result()
        if code >= 0:
            return f"{self.name} ended with exit code {code}"
        try:
            return f"{self.name} was killed by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal has no name
            return f"{self.name} was killed by signal {-code}"

    async def heard(self, event: str, within_s: float) -> Mapping[str, Any]:
        """Wait until it says that it is `event`; an error with its last lines when it ends or stays silent.

        It is a `SettingsError` when the process ended because it cannot start with what it was given, else `UnavailableError`.
        """
        said = self._events.setdefault(event, asyncio.get_running_loop().create_future())
        either: set[asyncio.Future[Any]] = {said, self.exited}
        await asyncio.wait(either, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if said.done():
            return said.result()
        if self.exited.done():
            failure = self.failure(f"{self.fate} before it was {event}")
            # By this code our parts say that what they were given is at fault; trying again is no use.
            raise SettingsError(str(failure)) if self.exited.result() == _bad_input else failure
        raise self.failure(f"{self.name} was not {event} within {within_s:g} s")

    def failure(self, what: str) -> UnavailableError:
        """Return an error that says what happened, and the child's last lines."""
        lines = "".join(f"\n  {line}" for line in self.tail)
        return UnavailableError(f"{what}; its log is {self.log_path}{', which ends with:' if lines else ''}{lines}")

    def ask_to_end(self) -> None:
        """Send SIGTERM, if it still runs."""
        self._signal(signal.SIGTERM)

    async def end(self, within_s: float) -> bool:
        """Send SIGTERM and wait; kill it, and what it started, when it takes longer. Tell whether it ended by itself."""
        self.ask_to_end()
        done, _ = await asyncio.wait({self.exited}, timeout=within_s)
        if not done:
            self.kill()
            await self.exited
        return bool(done)

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _attend(self, process: asyncio.subprocess.Process) -> int:
        assert process.stdout is not None
        assert process.stderr is not None
        with self.log_path.open("ab") as log:
            await asyncio.gather(
                self._follow(process.stdout, log, self._listen), self._follow(process.stderr, log, lambda _: None)
            )
        return await process.wait()

    async def _follow(self, stream: asyncio.StreamReader, log: BinaryIO, listen: Callable[[bytes], None]) -> None:
        rest = b""
        while chunk := await stream.read(_chunk_bytes):
            log.write(chunk)
            log.flush()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._show(line)
                listen(line)
            rest = rest[-_line_bytes_max:]
        if rest:
            self._show(rest)

    def _show(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        self.tail.append(text)
        if self._echo is not None:
            self._echo(self.name, text)

    def _listen(self, line: bytes) -> None:
        if not line.startswith(b"{"):
            return
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError:
            return  # a print of the user's code; it is in the log
        event = said.get("event")
        if isinstance(event, str):
            future = self._events.setdefault(event, asyncio.get_running_loop().create_future())
            if not future.done():
                future.set_result(said)
