"""What a coordinator knows at the moment that its metrics are asked for.

All of it is read in one go, on the event loop, which alone may look at the engine's state. Nothing here grows with what waits: only the
number of classes is looked at, and the head of what came first. The text is made of it in another thread, because that takes longer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mainspring.usage import Usage
from mainspring_coordinator.engine.placement import strategy_names
from mainspring_coordinator.engine.state import State
from mainspring_coordinator.store.errors import Trouble
from mainspring_coordinator.waits import Waits, wait_buckets_s


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers' streams."""

    attached: int = 0
    draining: int = 0
    """Of those attached."""
    absent: int = 0
    """Their stream dropped a moment ago."""
    slots: int = 0
    credit: int = 0
    """How much of these slots they give to this coordinator."""
    said_goodbye: int = 0
    """How many streams ended so, since the process began."""
    lost: int = 0
    """How many ended without a word."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at everything."""

    state: State
    strategy: str
    open_workflows: int
    events_queued: int
    fleet: Fleet
    shards_total: int
    shards_owned: int
    shards_serving: int
    shards_without_owner: int
    lease_held: bool
    database_silent_s: float | None
    """None: it has not answered yet."""
    database_errors: Mapping[Trouble, int]
    database_us: int
    """Database time; 0 before the first term."""
    now_us: int
    """The host's clock."""
    calendar_us: int
    """The host's date and time."""
    oldest_ended_us: int | None = None
    """When the workflow of our shards that ended first did so, in database time; 0: there is none; None: not known."""


class Readings(Collector):
    """Gives the registry what a `Reading` says."""

    def __init__(self, engine_id: str, usage: Usage, waits: Waits) -> None:
        self._engine_id = engine_id
        self._usage = usage
        self._waits = waits
        self.read: Callable[[], Reading] | None = None
        """None until there is something to be read."""
        self._taken: Sequence[Metric] = ()

    def describe(self) -> Iterable[Metric]:
        """Say nothing, so that nothing is read when this is registered."""
        return ()

    def take(self) -> None:
        """Read everything once; on the event loop. `collect` gives it, in whatever thread the text is made."""
        self._taken = list(self._look())

    def collect(self) -> Sequence[Metric]:
        """Return what was taken last."""
        return self._taken

    def _look(self) -> Iterator[Metric]:
        reading = self.read() if self.read is not None else None
        load = GaugeMetricFamily(
            "engine_load",
            "Load of this process: cpu and memory in percent, workflows as a count",
            labels=("engine_id", "metric_type"),
        )
        load.add_metric((self._engine_id, "cpu"), self._usage.cpu_percent())
        load.add_metric((self._engine_id, "memory"), self._usage.memory_percent())
        load.add_metric((self._engine_id, "workflows"), reading.open_workflows if reading is not None else 0)
        yield load
        if reading is not None:
            yield from _gauges(reading)
            yield from _counters(reading)
            yield from self._waiting(reading)

    def _waiting(self, reading: Reading) -> Iterator[Metric]:
        nodes = GaugeMetricFamily(
            "mainspring_ready_nodes",
            "Nodes that could run and wait for a worker; a map counts as one",
            labels=("executor",),
        )
        oldest = GaugeMetricFamily(
            "mainspring_oldest_wait_seconds",
            "How long the one of them that has waited longest has waited, at least",
            labels=("executor",),
        )
        for executor, waiting in self._waits.now(reading.state.ready, reading.database_us, reading.now_us).items():
            nodes.add_metric((executor,), waiting.nodes)
            oldest.add_metric((executor,), waiting.oldest_s)
        started = HistogramMetricFamily(
            "mainspring_schedule_to_start_seconds",
            "From when a node could run until it was given to a worker; instances of a map are left out",
            labels=("executor",),
        )
        for executor, line in self._waits.lines.items():
            so_far, buckets = 0, list[tuple[str, float]]()
            for bound, count in zip((*map(float, wait_buckets_s), float("inf")), line.counts, strict=True):
                so_far += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), so_far))
            started.add_metric((executor,), buckets=buckets, sum_value=line.seconds)
        yield from (nodes, oldest, started)


def _gauges(reading: Reading) -> Iterator[Metric]:
    fleet = reading.fleet
    for name, meaning, value in (
        ("queue_depth", "Events that wait for the control loop", reading.events_queued),
        ("shards", "Shards that the cluster has", reading.shards_total),
        ("shards_owned", "Shards that this coordinator owns", reading.shards_owned),
        ("shards_serving", "Those of them that are recovered and served", reading.shards_serving),
        (
            "shards_without_owner",
            "Shards without a live owner, as this coordinator saw it last",
            reading.shards_without_owner,
        ),
        ("lease_held", "1 while this coordinator may act, 0 while it has no term", float(reading.lease_held)),
        ("workers_attached", "Workers attached to this coordinator", fleet.attached),
        ("workers_draining", "Those of them that take no more work", fleet.draining),
        ("workers_absent", "Workers whose stream dropped within STREAM_GRACE", fleet.absent),
        ("slots", "Slots of the workers attached to this coordinator", fleet.slots),
        ("credit", "How many of these slots they give to this coordinator", fleet.credit),
        (
            "assignments",
            "Attempts that workers have of this coordinator",
            sum(len(shard.live) for shard in reading.state.shards.values()),
        ),
    ):
        yield GaugeMetricFamily(f"mainspring_{name}", meaning, value)
    if reading.database_silent_s is not None:
        yield GaugeMetricFamily(
            "mainspring_database_silent_seconds",
            "Since when the database has not answered the election",
            reading.database_silent_s,
        )
    if reading.database_us:
        yield GaugeMetricFamily(
            "mainspring_database_clock_ahead_seconds",
            "Database time, as this coordinator goes by it, less the time of its own host",
            (reading.database_us - reading.calendar_us) / 1e6,
        )
    if reading.oldest_ended_us is not None:
        age_us = max(0, reading.database_us - reading.oldest_ended_us) if reading.oldest_ended_us else 0
        yield GaugeMetricFamily(
            "mainspring_oldest_ended_workflow_seconds",
            "How long ago the workflow of this coordinator's shards that ended first of those kept did so",
            age_us / 1e6,
        )
    in_force = GaugeMetricFamily("mainspring_strategy", "1 for the strategy in force", labels=("strategy",))
    for strategy in sorted(strategy_names):
        in_force.add_metric((strategy,), float(strategy == reading.strategy))
    yield in_force
    ready = reading.state.ready
    paused = GaugeMetricFamily("mainspring_pauses", "Pauses of dispatch in force", labels=("kind",))
    paused.add_metric(("cluster",), float(ready.pauses.everything is not None))
    paused.add_metric(("executor",), len(ready.pauses.executors))
    paused.add_metric(("workflow",), len(ready.paused))
    yield paused


def _counters(reading: Reading) -> Iterator[Metric]:
    attempts = CounterMetricFamily(
        "mainspring_attempts_ended",
        "Attempts that ended in this coordinator's shards, since its term began",
        labels=("outcome",),
    )
    failed = reading.state.attempts_failed
    attempts.add_metric(("failed",), failed)
    attempts.add_metric(("succeeded",), reading.state.attempts_ended - failed)
    yield attempts
    cache = CounterMetricFamily(
        "mainspring_cache",
        "Questions of nodes to the result cache, since this coordinator's term began",
        labels=("result",),
    )
    for result, count in reading.state.cache_answers.items():
        cache.add_metric((result,), count)
    yield cache
    streams = CounterMetricFamily(
        "mainspring_streams_ended",
        "Workers' streams that ended: with a goodbye of the worker, or without a word",
        labels=("how",),
    )
    streams.add_metric(("goodbye",), reading.fleet.said_goodbye)
    streams.add_metric(("lost",), reading.fleet.lost)
    yield streams
    errors = CounterMetricFamily(
        "mainspring_database_errors", "Errors of the database, or of the way to it, by kind", labels=("kind",)
    )
    for trouble in Trouble:
        errors.add_metric((trouble.value,), reading.database_errors.get(trouble, 0))
    yield errors
