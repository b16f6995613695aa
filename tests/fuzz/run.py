"""A whole fuzz: first only those that may not call, between two looks at the database; then those that may."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mainspring.limits import MIB
from tests.cluster.running import eventually
from tests.fuzz.shots import Shooter
from tests.fuzz.stage import Stage
from tests.fuzz.tally import Tally
from tests.fuzz.watch import Sample, Vitals, changed, complaints, content, look

_progress_s: Final = 2.0
_settle_s_max: Final = 15.0
_growth_of_strangers_max: Final = 48 * MIB
"""By so much a coordinator may grow while only strangers call, once a quarter of them has: they leave nothing behind."""
_growth_max: Final = 512 * MIB
"""By so much while those call that may, who leave workflows, audit entries and workers behind."""
_peak_max: Final = 200 * MIB
"""By so much at any moment while only strangers call: thirty messages of the largest kind, with their copies."""
_threads_max: Final = 12
"""Pools that fill as they are used."""
_files_left_max: Final = 24
"""Sockets of connections that are still being ended."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be done."""

    seed: int
    messages: int
    """At least so many, half of them by strangers."""
    jobs: int
    """How many are under way at once."""
    url: str
    """The database's."""
    folder: Path
    """Logs and secrets go here."""
    coordinators: int = 2
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it."""

    tally: Tally
    watched: Sequence[Vitals]
    seconds: float
    honest: int
    """How many times the ordinary client ran its two workflows."""

    @property
    def text(self) -> str:
        """All of it, for people."""
        vitals = [_told(one) for one in self.watched]
        rate = self.tally.total / self.seconds
        head = f"{self.tally.total} messages in {self.seconds:.0f} s ({rate:.0f}/s); {2 * self.honest} ordinary workflows meanwhile"
        return "\n".join([head, *vitals, "", self.tally.to_text()])

    def to_json(self) -> str:
        """All of it, for programs."""
        vitals = {
            one.name: {"peak_bytes": one.peak_bytes, "slowest_health_s": one.slowest_health_s} for one in self.watched
        }
        return json.dumps(
            {"seconds": self.seconds, "honest": self.honest, "vitals": vitals, **self.tally.to_json()}, indent=1
        )


async def play(settings: Settings, tell: Callable[[str], None] = lambda line: None) -> Run:
    """Run; the findings are in the tally."""
    tally, began = Tally(), time.monotonic()
    async with Stage(settings.url, settings.folder, settings.coordinators, settings.workers) as stage:
        honest = await stage.honest(tally)
        # Each of its definitions is known to each shard's owner before the first look.
        for _ in range(2):
            await honest.once()
        over = asyncio.Event()
        background = [asyncio.create_task(honest.run(over)), asyncio.create_task(look(stage.watched, over))]
        try:
            await _strangers(stage, tally, settings, tell)
            await _known(stage, tally, settings, tell)
            await _settled(stage, tally)
        finally:
            over.set()
            await asyncio.gather(*background)
        run = Run(tally, stage.watched, time.monotonic() - began, honest.done)
    for one in stage.watched:
        for fault in one.faults:
            tally.find(fault)
    for log in sorted(settings.folder.glob("*.log")):
        for complaint in complaints(log):
            tally.find(f"the log of {complaint}")
    return run


async def _strangers(stage: Stage, tally: Tally, settings: Settings, tell: Callable[[str], None]) -> None:
    before = await asyncio.to_thread(content, stage.url)
    shooter = Shooter.at(stage, tally, settings.seed, strangers=True)
    goal = settings.messages // 2
    await _shoot(shooter, goal // 4, settings.jobs, tell)
    warm = [(one.sample(), one.peak_bytes) for one in stage.watched]
    await _shoot(shooter, goal, settings.jobs, tell)
    tell(f"{shooter.tally.total} messages by strangers; the database is compared")
    after = await asyncio.to_thread(content, stage.url)
    for difference in changed(before, after):
        tally.find(f"changed by a stranger: {difference}")
    for one, (then, peak) in zip(stage.watched, warm, strict=True):
        _bounded(tally, one, then, _growth_of_strangers_max)
        if one.peak_bytes > peak + _peak_max:
            tally.find(f"{one.name}: its memory rose to {one.peak_bytes // MIB} MiB while only strangers called")


async def _known(stage: Stage, tally: Tally, settings: Settings, tell: Callable[[str], None]) -> None:
    warm = [one.sample() for one in stage.watched]
    await _shoot(Shooter.at(stage, tally, settings.seed, strangers=False), settings.messages, settings.jobs, tell)
    for one, then in zip(stage.watched, warm, strict=True):
        _bounded(tally, one, then, _growth_max)


async def _settled(stage: Stage, tally: Tally) -> None:
    """What was opened is closed again, once nobody calls any more."""
    first = [one.samples[0] for one in stage.watched]

    async def closed() -> bool:
        pairs = zip(stage.watched, first, strict=True)
        return all(one.sample().files <= then.files + _files_left_max for one, then in pairs)

    with suppress(TimeoutError):
        await eventually(closed, _settle_s_max)
    for one, then in zip(stage.watched, first, strict=True):
        now = one.sample()
        if now.files > then.files + _files_left_max:
            tally.find(f"{one.name}: {now.files} files are open, {then.files} were at the start")


def _bounded(tally: Tally, one: Vitals, then: Sample, growth_max: int) -> None:
    now = one.sample()
    if now.rss > then.rss + growth_max:
        tally.find(f"{one.name}: its memory grew from {then.rss // MIB} to {now.rss // MIB} MiB")
    if now.threads > then.threads + _threads_max:
        tally.find(f"{one.name}: {now.threads} threads, {then.threads} before")


async def _shoot(shooter: Shooter, goal: int, jobs: int, tell: Callable[[str], None]) -> None:
    """Shoot until so many messages were sent in all."""
    numbers = itertools.count(shooter.tally.total)
    due = time.monotonic() + _progress_s

    async def job() -> None:
        nonlocal due
        while shooter.tally.total < goal:
            await shooter.shoot(next(numbers))
            if time.monotonic() > due:
                due = time.monotonic() + _progress_s
                who = "strangers" if shooter.strangers else "those who may"
                tell(f"{shooter.tally.total} messages, {len(shooter.tally.findings)} kinds of findings; now {who}")
                await shooter.stage.refresh()

    await asyncio.gather(*(job() for _ in range(jobs)))


def _told(one: Vitals) -> str:
    rss = [sample.rss // MIB for sample in one.samples]
    threads, files = [sample.threads for sample in one.samples], [sample.files for sample in one.samples]
    return (
        f"{one.name}: memory {rss[0]} to {rss[-1]} MiB (peak {one.peak_bytes // MIB}), threads {threads[0]} to {threads[-1]}, "
        f"files {files[0]} to {files[-1]} (most {max(files)}), slowest /health {one.slowest_health_s * 1_000:.0f} ms"
    )


def to_stderr(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)
