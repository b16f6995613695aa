"""Processes for executors with `process=True`.

Each runs one attempt at a time, so that a crash fails that attempt and no other. They are started by exec, never forked: gRPC does not
survive a fork. Orders and answers are JSON lines over a socket pair; standard output stays the user's.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from mainspring.errors import Failure
from mainspring.failures import process_crashed
from mainspring.limits import MIB
from mainspring_worker.context import Context
from mainspring_worker.executors import Executor
from mainspring_worker.outcome import Ended

_line_bytes_max: Final = 16 * MIB
_stop_grace_s: Final = 5.0
"""How long a cancelled attempt may go on before its process is killed."""


@dataclass(slots=True, eq=False)
class _Child:
    process: "subprocess.Popen[bytes]"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, message: object) -> None:
        self.writer.write(orjson.dumps(message) + b"\n")

    def close(self) -> None:
        """End it; a process that is idle has nothing to lose."""
        self.writer.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class ProcessPool:
    """At most `size` processes, started when they are needed and kept."""

    def __init__(self, modules: Sequence[str], size: int) -> None:
        """`modules` are imported in each process, so that the executors are registered there too."""
        self._modules = list(modules)
        self._places = asyncio.Semaphore(size)
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()

    async def run(self, executor: Executor, data: bytes, context: Context) -> Ended:
        """Run an executor in a process; a cancelled call ends the process if the code does not end by itself."""
        async with self._places:
            child = self._take_idle() or await self._start()
            self._busy.add(child)
            whole = False
            try:
                ended = await self._attempt(child, executor, data, context)
            except asyncio.CancelledError:
                ended_cleanly = await asyncio.shield(asyncio.ensure_future(self._stop(child, context)))
                whole = ended_cleanly
                raise
            else:
                whole = child.process.poll() is None
                return ended
            finally:
                self._busy.discard(child)
                if whole:
                    self._idle.append(child)
                else:
                    child.close()

    def close(self) -> None:
        """End all processes."""
        for child in (*self._idle, *self._busy):
            child.close()
        self._idle.clear()
        self._busy.clear()

    def _take_idle(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.process.poll() is None:
                return child
            child.close()
        return None

    async def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            # Starting it takes a millisecond, and what it says comes by the socket, not by a pipe that a loop would have to watch.
            process = subprocess.Popen(  # noqa: S603, ASYNC220  (our own interpreter and module)
                [sys.executable, "-m", "mainspring_worker.child", str(theirs.fileno()), *self._modules],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            )
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=_line_bytes_max)
        except BaseException:
            # Cancelled in between, it would be left behind.
            ours.close()
            process.kill()
            process.wait()
            raise
        return _Child(process, reader, writer)

    async def _attempt(self, child: _Child, executor: Executor, data: bytes, context: Context) -> Ended:
        child.send(
            {
                "executor": executor.name,
                "input": data.decode(),
                "workflow_id": context.workflow_id,
                "workflow_name": context.workflow_name,
                "node_id": context.node_id,
                "instance": context.instance,
                "attempt": context.attempt,
                "previous_progress": context.previous_progress,
                "traceparent": context.traceparent,
            }
        )
        return await self._answer(child, context)

    async def _answer(self, child: _Child, context: Context) -> Ended:
        while True:
            line = await child.reader.readline()
            if not line.endswith(b"\n"):
                code = await asyncio.to_thread(child.process.wait)
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
                return Ended(failure=Failure(process_crashed, f"the process that ran it {how}"))
            message = orjson.loads(line)
            if "progress" in message:
                context.progress(message["progress"])
                continue
            failure = Failure(**message["failure"]) if message["failure"] is not None else None
            return Ended(message["output"].encode(), failure, message["cancelled"])

    async def _stop(self, child: _Child, context: Context) -> bool:
        """Tell the code to stop, then wait a while; tell whether the process is fit for another attempt."""
        try:
            child.send({"cancel": context.cancel_cause})
            async with asyncio.timeout(_stop_grace_s):
                await self._answer(child, context)
        except TimeoutError:
            return False
        return child.process.poll() is None
