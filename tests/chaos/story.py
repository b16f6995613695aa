"""One run from beginning to end: start everybody, load, trouble, heal, wait until all has ended, judge."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos import laws_of_calls, laws_of_runs
from tests.chaos.books import Violation
from tests.chaos.evidence import Evidence, kinds_of, read_calls, read_ended, read_faults, read_rows
from tests.chaos.faults import Cast, schedule
from tests.chaos.members import Cluster, slots, timings
from tests.chaos.nemesis import Nemesis
from tests.chaos.network import Loopback, Namespaces, Network
from tests.chaos.recovery import recoveries
from tests.chaos.report import Run
from tests.chaos.sampler import Sampler
from tests.cluster.effects import read_effects
from tests.servers.process import PrivateServer

everybody: Final = Cast(
    coordinators=("c1", "c2", "c3"),
    workers=("w1", "w2", "w3", "w4"),
    clients=("u1", "u2"),
    database="db",
    lease_s=int(timings["LEASE_TIMEOUT"]) / 1000,
    grace_s=int(timings["STREAM_GRACE"]) / 1000,
)
_warm_s: Final = 3.0
_calm_s: Final = 2.0
_progress_s: Final = 10.0
_end_s_max: Final = 90.0
"""After the last fault everything must have ended within this: T, the recovery grace, reconnects and what then still runs, twice."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is."""

    seed: int
    seconds: float
    every_s: float
    rate: float
    database: str
    loopback: bool
    folder: Path
    cast: Cast = everybody


async def play(settings: Settings) -> Run:
    """Run and judge."""
    cast = settings.cast
    reason = "--loopback" if settings.loopback else Namespaces.missing()
    network: Network = Loopback() if reason else Namespaces(cast.all)
    place = f"no network namespaces ({reason}): no cuts, loss or latency" if reason else "a network namespace each"
    print(
        f"{len(cast.all)} members, {place}; {' '.join(f'{name}={value}' for name, value in timings.items())}",
        flush=True,
    )
    faults = schedule(settings.seed, settings.seconds, settings.every_s, cast, breakable=network.breakable)
    print(f"{len(faults)} faults are to come", flush=True)
    cluster = Cluster(
        settings.folder, network, cast, database=settings.database, seed=settings.seed, rate=settings.rate
    )
    try:
        async with network, cluster:
            sampler = Sampler(cluster.server, cluster.schema)
            sampler.start()
            try:
                healed_s, stuck = await _trouble(settings, cluster, sampler, faults)
            finally:
                await asyncio.to_thread(sampler.stop)
            evidence = await asyncio.to_thread(_gather, settings.folder, cluster, sampler)
            complaints = _complaints(settings.folder)
            if stuck:
                await cluster.tell_where_they_are()
    finally:
        cluster.server.stop()
    books = [*sampler.shards.violations, *sampler.rows.violations]
    return Run(
        seed=settings.seed,
        seconds=settings.seconds,
        database=settings.database,
        networks=network.breakable,
        timings=timings,
        folder=settings.folder,
        evidence=evidence,
        times=recoveries(evidence.faults, cast, sampler.shards, evidence.effects),
        healed_s=healed_s,
        samples=sampler.samples,
        violations=[*stuck, *books, *judge(evidence), *complaints],
    )


def judge(evidence: Evidence) -> Sequence[Violation]:
    """Hold the evidence against all laws."""
    return laws_of_runs.violations_of(evidence, (*laws_of_calls.laws, *laws_of_runs.laws))


async def _trouble(
    settings: Settings, cluster: Cluster, sampler: Sampler, faults: Sequence[Any]
) -> tuple[float, Sequence[Violation]]:
    """Load the cluster through all faults, then wait until all has ended; return how long that took, and what did not."""
    cluster.load()
    await asyncio.sleep(_warm_s)

    def held(target: str) -> Mapping[int, int]:
        member = cluster.members.get(target)
        return sampler.held_by(member.incarnation) if member is not None and member.incarnation else {}

    nemesis = Nemesis(cluster, held)
    telling = asyncio.create_task(_tell(settings, cluster, nemesis, sampler))
    try:
        await nemesis.run(faults, settings.seconds)
    finally:
        telling.cancel()
    print(f"{nemesis.injected} faults were inflicted; the cluster heals", flush=True)
    healed = time.monotonic()
    await asyncio.sleep(_calm_s)
    await cluster.unload()
    unfinished = await _await_end(cluster)
    return time.monotonic() - healed, [Violation("the cluster did not come to rest", what) for what in unfinished]


async def _tell(settings: Settings, cluster: Cluster, nemesis: Nemesis, sampler: Sampler) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(_progress_s)
        trouble = ", ".join(f"{fault.kind} {fault.target}" for fault in nemesis.under_way.values())
        owners = Counter(row.holder[:6] or "nobody" for row in sampler.shards.last.values())
        print(
            f"{time.monotonic() - began:5.0f} of {settings.seconds:.0f} s: {nemesis.injected} faults, {sampler.rows.workflows} workflows, "
            f"shards {'/'.join(map(str, owners.values()))}; now: {trouble or 'calm'}",
            flush=True,
        )


async def _await_end(cluster: Cluster) -> Sequence[str]:
    """Return once no workflow is open and each shard has its owner; or what is not so after the bound."""
    deadline = time.monotonic() + _end_s_max
    while True:
        left = await asyncio.to_thread(_left, cluster)
        if not left:
            return ()
        if time.monotonic() > deadline:
            return [f"{what} after {_end_s_max:.0f} s without faults" for what in left]
        await asyncio.sleep(0.2)


def _left(cluster: Cluster) -> Sequence[str]:
    live = {member.incarnation for member in cluster.members.values() if member.name in cluster.cast.coordinators}
    with closing(_Reader(cluster.server, cluster.schema)) as read:
        rows = read("SELECT workflow_id, shard_id FROM workflows WHERE is_open = 1 ORDER BY workflow_id LIMIT 20")
        holders = read("SELECT shard_id, holder FROM shards")
    shares = Counter(dict.fromkeys(live, 0))
    shares.update(holder for _, holder in holders)
    left = [f"{name} of shard {shard} is open" for name, shard in rows]
    left += [f"shard {shard} is held by {holder or 'nobody'}" for shard, holder in holders if holder not in live]
    if max(shares.values()) - min(shares.values()) > 1:
        left.append(f"the shards are shared as {sorted(shares.values())}")
    return left


class _Reader:
    """Runs statements as the administrator, one connection."""

    def __init__(self, server: PrivateServer, schema: str) -> None:
        self._connection = server.administrator(schema)

    def __call__(self, statement: str) -> Sequence[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _gather(folder: Path, cluster: Cluster, sampler: Sampler) -> Evidence:
    calls = read_calls(cluster.calls)
    kinds = kinds_of(calls)
    with closing(_Reader(cluster.server, cluster.schema)) as read:
        workflows, nodes, attempts, shards = read_rows(read, kinds)
    return Evidence(
        calls=calls,
        effects=read_effects(cluster.effects),
        faults=read_faults(folder / "faults.jsonl"),
        workflows=workflows,
        nodes=nodes,
        attempts=attempts,
        shards=shards,
        live={name: cluster.members[name].incarnation for name in cluster.cast.coordinators},
        kinds=kinds,
        ended=read_ended(folder / "members.jsonl"),
        offset_us=sampler.offset_us,
        slots=slots,
    )


def _complaints(folder: Path) -> Sequence[Violation]:
    """Return the lines of errors in the members' logs, and the stack traces of Python, each kind once."""
    found = Counter[str]()
    for path in folder.glob("*.log"):
        with path.open(errors="replace") as log:
            for line in log:
                if line.startswith("Traceback"):
                    found[f"{path.stem}: {line.strip()}"] += 1
                elif '"level":"error"' in line or '"level": "error"' in line:
                    said = json.loads(line) if line.startswith("{") else {"event": line[:100]}
                    last = str(said.get("exception", said.get("error", ""))).strip().splitlines()
                    found[f"{path.stem}: {said['event']} {last[-1][:150] if last else ''}"] += 1
    return [Violation("a member reported an error", f"{count} x {what}") for what, count in found.most_common(30)]
