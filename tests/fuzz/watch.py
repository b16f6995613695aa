"""What is looked at while the fuzz runs: whether the coordinators live, what they take, what they log, and what the database holds."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import select

from mainspring_coordinator.store import tables
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.url import parse_url

ours: Final = "honest-"
"""How the ids of the workflows begin that an ordinary client runs meanwhile."""
_every_s: Final = 0.5
_health_s_max: Final = 5.0
_moving: Final[Mapping[str, frozenset[str]]] = {
    "shards": frozenset({"batch_seq", "last_batch_id"}),
    "coordinators": frozenset({"renew_seq", "attached_workers", "attempts_ended", "attempts_failed"}),
    # The ordinary client's plans come to shards that had none of its workflows before.
    "plan_chunks": frozenset({"shard_id"}),
}
"""Columns that change in any cluster that runs."""
Row = tuple[Any, ...]


def content(url: str) -> dict[str, set[Row]]:
    """Return all rows of a cluster's database, without those of the ordinary client's workflows and without what always moves."""
    engine = open_engine(parse_url(url))
    found: dict[str, set[Row]] = {}
    try:
        with engine.connect() as connection:
            for name, table in tables.metadata.tables.items():
                columns = [column for column in table.columns if column.name not in _moving.get(name, ())]
                query = select(*columns)
                if "workflow_id" in table.columns:
                    query = query.where(~table.columns["workflow_id"].startswith(ours))
                found[name] = {tuple(row) for row in connection.execute(query)}
    finally:
        engine.dispose()
    return found


def changed(before: Mapping[str, set[Row]], after: Mapping[str, set[Row]]) -> Sequence[str]:
    """Return a line for each row that came, went or became another."""
    return [
        f"{table}: {word} {str(row)[:300]}"
        for table in before
        for word, rows in (("gone", before[table] - after[table]), ("new", after[table] - before[table]))
        for row in rows
    ]


@dataclass(slots=True)
class Sample:
    """What a process took at a moment."""

    rss: int
    """Bytes."""
    threads: int
    files: int


@dataclass(slots=True)
class Vitals:
    """What was seen of one coordinator."""

    name: str
    pid: int
    probes: str
    """"host:port" where `/health` answers plain calls."""
    samples: list[Sample] = field(default_factory=list[Sample])
    slowest_health_s: float = 0.0
    faults: list[str] = field(default_factory=list[str])
    peak_bytes: int = 0
    """The most memory that it ever had, as the kernel counted it."""

    def sample(self) -> Sample:
        """Look at what it takes now."""
        process = psutil.Process(self.pid)
        with process.oneshot():
            taken = Sample(process.memory_info().rss, process.num_threads(), process.num_fds())
        self.samples.append(taken)
        self.peak_bytes = _peak_bytes(self.pid)
        return taken

    def ask_health(self) -> None:
        """Ask whether its control loop goes on; anything but a yes is a fault."""
        began = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://{self.probes}/health", timeout=_health_s_max) as answer:
                if json.load(answer)["status"] != "healthy":
                    self.faults.append(f"{self.name}: /health says that it is not healthy")
        except (OSError, ValueError) as error:  # an answer of 503 is one of them
            self.faults.append(f"{self.name}: /health did not answer: {error}")
        self.slowest_health_s = max(self.slowest_health_s, time.monotonic() - began)


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1_024


async def look(watched: Sequence[Vitals], over: asyncio.Event) -> None:
    """Look at all of them again and again until it is over."""
    while not over.is_set():
        for one in watched:
            try:
                one.sample()
            except psutil.NoSuchProcess:
                one.faults.append(f"{one.name} is dead")
                return
            await asyncio.to_thread(one.ask_health)
        try:
            await asyncio.wait_for(over.wait(), _every_s)
        except TimeoutError:
            continue


def complaints(log: Path) -> Sequence[str]:
    """Return what a process logged of exceptions and errors, a line for each kind, with how often it came."""
    counted: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            said: dict[str, Any] = entry
            if "exception" not in said and said.get("level") not in ("error", "critical"):
                continue
            trace = str(said.get("exception", "")).strip().splitlines()
            what = f"{said.get('event')}: {trace[-1] if trace else said}"
        else:
            what = f"no line of ours: {line}"
        kind = f"{log.stem}: {what[:200]}"
        counted[kind] = counted.get(kind, 0) + 1
    return [f"{kind} ({count} times)" for kind, count in counted.items()]
