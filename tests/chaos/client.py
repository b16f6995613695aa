"""One client of the load, as a process: submits, submits again, cancels, reads and waits, and logs each call before and after.

python -m tests.chaos.client      (its settings come from the environment; SIGTERM ends it in order)
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from mainspring.errors import AlreadyExistsError, BusyError, DeadlineError, MainspringError, UnavailableError
from mainspring_client import Client, Handle, WorkflowStatus
from tests.chaos.flows import Ask, definition, draw
from tests.cluster.journal import append

_call_timeout_s: Final = 10.0
_lives_max: Final = 60
_follow_s_max: Final = 60.0
_end_s_max: Final = 3.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the process is told."""

    name: str
    """Unique among all clients that ever were."""
    log: Path
    seed: int
    rate: float
    """Workflows a second."""

    @classmethod
    def load(cls) -> "Settings":
        """Read them."""
        read = os.environ
        return cls(
            read["ENGINE_INSTANCE_ID"], Path(read["CHAOS_LOG"]), int(read["CHAOS_SEED"]), float(read["CHAOS_RATE"])
        )


class Load:
    """Lives of workflows, as many at once as there is room for."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._chance = random.Random(settings.seed)
        self._calls = 0
        self._count = 0

    async def run(self, over: asyncio.Event) -> None:
        """Begin lives at the rate until told to end; then give those under way a moment."""
        lives: set[asyncio.Task[None]] = set()
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._chance.expovariate(self._settings.rate)):
                    await over.wait()
            for life in [life for life in lives if life.done()]:
                lives.remove(life)
                life.result()  # raises what should not have been
            if len(lives) < _lives_max and not over.is_set():
                lives.add(asyncio.create_task(self._live()))
        if lives:
            _, late = await asyncio.wait(lives, timeout=_end_s_max)
            for life in late:
                life.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _live(self) -> None:
        self._count += 1
        name = f"{self._settings.name}-{self._count}"
        chance = random.Random(f"{self._settings.seed}/{self._count}")
        ask = draw(chance)
        for _ in range(5):
            if await self._submit("submit", ask, name) is not None:
                break
        else:
            return  # not known to be there
        if chance.random() < 0.1:
            await self._submit("submit", ask, name)
        if chance.random() < 0.05:
            other = Ask(ask.kind, {"another": "input"}, ask.status, ask.value)
            await self._submit("clash", other, name)
        following = asyncio.create_task(self._follow(name))
        if chance.random() < 0.12:
            await asyncio.sleep(chance.expovariate(1.0))
            await self._call("cancel", name, self._client.cancel(name, "chaos"), lambda status: {"status": status})
        await following

    async def _submit(self, op: str, ask: Ask, name: str) -> Handle | None:
        expected = {"kind": ask.kind, "status": ask.status, "value": ask.value}
        submitting = self._client.submit(definition(ask.kind), ask.input, workflow_id=name)
        return await self._call(op, name, submitting, lambda handle: {"created": handle.created}, expected)

    async def _follow(self, name: str) -> None:
        """Read the state now and then, and how it ended."""
        until = time.monotonic() + _follow_s_max
        while time.monotonic() < until:
            info = await self._call(
                "get", name, self._client.get(name), lambda info: {"status": info.status, "version": info.version}
            )
            if info is not None and info.status.terminal:
                break
            await self._call("wait", name, self._wait(name), _told)

    async def _wait(self, name: str) -> Any:
        try:
            return await self._client.wait(name, timeout=1.5)
        except DeadlineError:
            return await self._client.peek(name)

    async def _call(
        self,
        op: str,
        workflow: str,
        call: Awaitable[T],
        answer: Any,
        facts: Mapping[str, object] | None = None,
    ) -> T | None:
        """Make a call and log it; return what it gave, None when it was refused or its outcome is not known."""
        self._calls += 1
        number = self._calls
        self._log(
            {"act": "invoke", "call": number, "op": op, "workflow": workflow, **({"expect": facts} if facts else {})}
        )
        try:
            gave = await call
        except (UnavailableError, DeadlineError) as error:
            self._log({"act": "unknown", "call": number, "error": type(error).__name__})
        except AlreadyExistsError as error:
            self._log({"act": "refused", "call": number, "error": type(error).__name__})
        except BusyError as error:
            self._log({"act": "refused", "call": number, "error": type(error).__name__})
            await asyncio.sleep(error.retry_after_ms / 1000)
        except MainspringError as error:
            self._log({"act": "refused", "call": number, "error": type(error).__name__, "message": str(error)[:500]})
        else:
            self._log({"act": "ok", "call": number, "answer": answer(gave)})
            return gave
        return None

    def _log(self, line: dict[str, object]) -> None:
        append(self._settings.log, {"at_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME), **line})


def _told(result: Any) -> dict[str, object]:
    output = result.output if result.status is WorkflowStatus.SUCCEEDED else None
    return {"status": result.status, "output": output}


async def main() -> None:
    """Load until SIGTERM."""
    settings = Settings.load()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with Client(timeout=_call_timeout_s) as client:
        await Load(settings, client).run(over)


if __name__ == "__main__":
    asyncio.run(main())
