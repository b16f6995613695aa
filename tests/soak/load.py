"""A steady load: first as much as goes, to learn the peak; then a share of that, whatever the answers take."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mainspring import Workflow
from mainspring.errors import MainspringError
from mainspring_client import Client, Handle, Submission, WorkflowStatus

_at_once: Final = 8
_batch: Final = 50
_tick_s: Final = 0.1
_under_way_max: Final = 20_000
"""Beyond so many workflows without a result the cluster does not keep up, and nothing more is submitted."""


def diamond() -> Workflow:
    """One node, two beside each other, and one more; gives its input twice."""
    flow = Workflow("soak")
    first = flow.node("first", "noop", input=flow.input)
    left, right = flow.node("left", "noop", input=first), flow.node("right", "noop", input=first)
    flow.output(flow.node("last", "noop", input=[left, right]))
    return flow


_flow: Final = diamond()


@dataclass(slots=True)
class Load:
    """Submits workflows and checks what they give."""

    client: Client
    done: int = 0
    held_back: int = 0
    """How many were not submitted because too many were under way."""
    faults: list[str] = field(default_factory=list[str])
    under_way: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])

    async def peak(self, seconds: float) -> float:
        """Return how many workflows a second the cluster does when it is given as many as it takes."""
        began = time.monotonic()
        before = self.done

        async def keep_on() -> None:
            while time.monotonic() < began + seconds:
                await self._batch(_batch)

        await asyncio.gather(*(keep_on() for _ in range(_at_once)))
        return (self.done - before) / (time.monotonic() - began)

    async def steady(self, rate: float, seconds: float) -> None:
        """Submit so many a second for so long, and return when all have ended."""
        began, owed, last = time.monotonic(), 0.0, time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            owed += rate * (now - last)
            last = now
            count = int(owed)
            owed -= count
            if self.under_way > _under_way_max:
                self.held_back += count
            elif count:
                task = asyncio.create_task(self._batch(count))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(_tick_s)
        await asyncio.gather(*self._tasks)

    async def _batch(self, count: int) -> None:
        """Run so many workflows to their ends."""
        numbers = [next(self._numbers) for _ in range(count)]
        self.under_way += count
        try:
            outcomes: Sequence[object] = await self.client.submit_many(
                [Submission(_flow, number, f"soak-{number}") for number in numbers]
            )
            refused = [outcome for outcome in outcomes if not isinstance(outcome, Handle)]
            self.faults += [f"not accepted: {outcome}" for outcome in refused]
            expected = {f"soak-{number}": [number, number] for number in numbers}
            async for result in self.client.wait_many([one.workflow_id for one in outcomes if isinstance(one, Handle)]):
                if result.status is not WorkflowStatus.SUCCEEDED or result.output != expected[result.workflow_id]:
                    self.faults.append(f"{result.workflow_id} ended as {result.status.name} with {result.output}")
                self.done += 1
        except MainspringError as error:
            self.faults.append(f"a call failed: {type(error).__name__}: {error}")
        finally:
            self.under_way -= count
