"""What a coordinator measures, for Prometheus.

The first three are the deployment guide's, name by name; ours begin with `mainspring_`. Labels are bounded: a value that is not
among those known becomes "other". The registry is our own, so that several coordinators fit into one process of a test.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from mainspring.callers import Refusal
from mainspring.clock import BootClock, Clock
from mainspring.usage import Usage
from mainspring_coordinator.engine.effects import Effect, Ended, StrategyFailed
from mainspring_coordinator.engine.placement import strategy_names
from mainspring_coordinator.engine.ready import ReadyQueue
from mainspring_coordinator.engine.status import FailoverKind, WorkflowStatus
from mainspring_coordinator.engine.strategy import dynamic
from mainspring_coordinator.readings import Reading, Readings
from mainspring_coordinator.sweeps import all_sweeps
from mainspring_coordinator.waits import Waits
from mainspring_coordinator.writer import Written

lock_buckets_s: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10)
_COMMIT_BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_LAG_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_FAILOVER_BUCKETS_S: Final = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300)
_ROWS_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_STATUSES: Final = {
    WorkflowStatus.SUCCEEDED: "succeeded",
    WorkflowStatus.FAILED: "failed",
    WorkflowStatus.CANCELLED: "cancelled",
}
_STRATEGIES: Final = frozenset((*strategy_names, dynamic))


class Metrics:
    """Implements `election.Measures`, `ports.Observer` and the `Counts` of `record`, `retention`, `dynamic` and `redis_cache`.

    What it is told may come from any thread.
    """

    def __init__(self, engine_id: str, usage: Usage, *, clock: Clock | None = None) -> None:
        """`engine_id` is ENGINE_INSTANCE_ID."""
        self._engine_id = engine_id
        self._clock = clock or BootClock()
        self._waits = Waits()
        self.registry = registry = CollectorRegistry()
        self._executions = Counter(
            "workflow_executions_total",
            "Workflows that ended, by the coordinator that owned them",
            ("engine_id", "status", "assignment_strategy"),
            registry=registry,
        )
        self._lock_acquisition = Histogram(
            "lock_acquisition_duration_seconds",
            "From deciding to take a free shard to its epoch committed",
            ("lock_type",),
            buckets=lock_buckets_s,
            registry=registry,
        ).labels("shard")
        self._readings = Readings(engine_id, usage, self._waits)
        registry.register(self._readings)
        ProcessCollector(registry=registry)
        self._commit = Histogram(
            "mainspring_commit_duration_seconds",
            "A batch at the journal, from its first statement to its commit",
            buckets=_COMMIT_BUCKETS_S,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "mainspring_batch_rows", "Rows a committed batch", buckets=_ROWS_BUCKETS, registry=registry
        )
        self._refused = Counter(
            "mainspring_refused_results_total", "Results of attempts that no longer counted", registry=registry
        )
        self._lag = Histogram(
            "mainspring_loop_lag_seconds",
            "By how much the event loop ticked too late",
            buckets=_LAG_BUCKETS_S,
            registry=registry,
        )
        self._failovers = Counter(
            "mainspring_failovers_total",
            "Failovers, counted by the coordinator that announced them",
            ("kind",),
            registry=registry,
        )
        self._failover_duration = Histogram(
            "mainspring_failover_duration_seconds",
            "From the detection of a death until the work went on",
            ("kind",),
            buckets=_FAILOVER_BUCKETS_S,
            registry=registry,
        )
        self._alerts = Counter(
            "mainspring_failover_alerts_total",
            "Alerts at FAILOVER_WEBHOOK_URL: delivered, refused (and to be tried again), given up",
            ("outcome",),
            registry=registry,
        )
        self._strategy_failures = Counter(
            "mainspring_strategy_failures_total",
            "Nodes for which a placement strategy raised, so that workers took turns instead",
            ("strategy",),
            registry=registry,
        )
        self._strategy_changes = Counter(
            "mainspring_strategy_changes_total",
            "Changes of the whole cluster's strategy, by the coordinator that stored them",
            ("strategy", "by"),
            registry=registry,
        )
        self._retention = Counter(
            "mainspring_retention_deleted_total",
            "What was deleted because it was older than RETENTION_DAYS, or, of definitions, because no workflow uses them",
            ("kind",),
            registry=registry,
        )
        self._terms = Counter("mainspring_terms_total", "Terms that this process began", registry=registry)
        self._terms_lost = Counter("mainspring_terms_lost_total", "Terms that it had to give up", registry=registry)
        self._shards_lost = Counter(
            "mainspring_shards_lost_total",
            "Shards that it stopped to serve: given up, lost, or with its term",
            registry=registry,
        )
        self._rows_refused = Counter(
            "mainspring_rows_refused_total", "Workflows whose rows the database refused", registry=registry
        )
        self._refused_calls = Counter(
            "mainspring_refused_calls_total", "Calls that the gate did not let in", ("reason",), registry=registry
        )
        self._cache_writes = Counter(
            "mainspring_cache_writes_total", "Outputs on their way to Redis", ("outcome",), registry=registry
        )
        self._redis_aside = Gauge(
            "mainspring_redis_left_aside", "1 while nothing is said to Redis, because it failed", registry=registry
        )
        self._begin_at_zero()
        self._jumps = Counter(
            "mainspring_database_time_jumps_total", "Jumps of database time over 2 s", registry=registry
        )

    def _begin_at_zero(self) -> None:
        """Export what may count for the first time: to Prometheus, a series that begins with 1 has not grown."""
        for strategy in strategy_names:
            for status in _STATUSES.values():
                self._executions.labels(self._engine_id, status, strategy)
        for kind in FailoverKind:
            self._failovers.labels(kind.name.lower())
            self._failover_duration.labels(kind.name.lower())
        for outcome in ("delivered", "refused", "given_up"):
            self._alerts.labels(outcome)
        for sweep in all_sweeps:
            self._retention.labels(sweep.kind)
        for reason in Refusal:
            self._refused_calls.labels(reason)
        for outcome in ("stored", "dropped", "failed"):
            self._cache_writes.labels(outcome)

    def watch(self, read: Callable[[], Reading]) -> None:
        """Read this whenever the metrics are asked for."""
        self._readings.read = read

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        self._readings.take()
        return generate_latest(self.registry)

    async def scraped(self) -> bytes:
        """Return the same; only what must be is read on the event loop, which is not held for the rest."""
        self._readings.take()
        return await asyncio.to_thread(generate_latest, self.registry)

    # election.Measures
    def shard_taken(self, seconds: float) -> None:
        """A free shard was taken, so long after it was decided."""
        self._lock_acquisition.observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        """The event loop ticked so much too late."""
        self._lag.observe(seconds)

    def clock_jumped(self, seconds: float) -> None:
        """Database time jumped."""
        del seconds  # the log line tells it
        self._jumps.inc()

    # loop.Observer
    def committed(self, written: Written) -> None:
        """A batch was committed."""
        self._commit.observe(written.seconds)
        self._batch_rows.observe(written.rows)
        if written.poisoned:
            self._rows_refused.inc(len(written.poisoned))

    def ended(self, effect: Ended) -> None:
        """A workflow's end was committed."""
        strategy = effect.strategy if effect.strategy in _STRATEGIES else "other"
        self._executions.labels(self._engine_id, _STATUSES.get(effect.status, "other"), strategy).inc()

    def cut(self, ready: ReadyQueue) -> None:
        """A batch was closed."""
        self._waits.cut(ready, self._clock.now_us())

    def let_out(self, effects: Sequence[Effect], refused: int) -> None:
        """It is committed, and has left."""
        self._waits.let_out(effects, self._clock.now_us())
        if refused:
            self._refused.inc(refused)

    # told by the app
    def term_began(self) -> None:
        """A term began."""
        self._terms.inc()

    def term_lost(self) -> None:
        """A term ended before it was to."""
        self._terms_lost.inc()

    def shard_lost(self, shard: int) -> None:
        """A shard is served no more."""
        del shard
        self._shards_lost.inc()

    def strategy_failed(self, effect: StrategyFailed) -> None:
        """A strategy raised, and workers took turns in its stead for one node."""
        self._strategy_failures.labels(effect.strategy if effect.strategy in _STRATEGIES else "other").inc()

    # told by the gate
    def call_refused(self, reason: Refusal) -> None:
        """A call was not let in."""
        self._refused_calls.labels(reason).inc()

    # dynamic.Counts
    def strategy_changed(self, strategy: str, by: str) -> None:
        """The cluster has another strategy; `own`: each coordinator has its own again."""
        self._strategy_changes.labels(strategy if strategy in _STRATEGIES or strategy == "own" else "other", by).inc()

    # retention.Counts
    def deleted(self, kind: str, count: int) -> None:
        """So many things of a kind were deleted for their age."""
        self._retention.labels(kind).inc(count)

    # redis_cache.Counts
    def cache_written(self, outcome: str, count: int) -> None:
        """Outputs were stored; or dropped, because too many waited; or failed."""
        self._cache_writes.labels(outcome).inc(count)

    def redis_aside(self, *, aside: bool) -> None:
        """Redis is left aside, or not any more."""
        self._redis_aside.set(aside)

    # record.Counts
    def failover(self, kind: str, seconds: float) -> None:
        """A failover was announced; `seconds` from its detection until the work went on."""
        self._failovers.labels(kind).inc()
        self._failover_duration.labels(kind).observe(seconds)

    def alert(self, outcome: str) -> None:
        """An alert was delivered, refused, or given up."""
        self._alerts.labels(outcome).inc()
