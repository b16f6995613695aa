"""What a worker measures, for Prometheus.

The first two are the deployment guide's, name by name; ours begin with `mainspring_worker_`. Labels are bounded: the executors that are
met after the first hundred are "other" together.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mainspring.label_values import LabelValues
from mainspring_worker.attempts import Outcome
from mainspring_worker.executors import Executor
from mainspring_worker.worker import Worker

buckets_s: Final = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class WorkerMetrics(Collector):
    """Is told of each attempt; reads the worker when it is asked. All on the worker's event loop."""

    def __init__(self, engine_id: str) -> None:
        """`engine_id` is ENGINE_INSTANCE_ID."""
        self._engine_id = engine_id
        self._executors = LabelValues()
        self._worker: Worker | None = None
        self.registry = CollectorRegistry()
        self._durations = Histogram(
            "node_execution_duration_seconds",
            "How long attempts of nodes ran",
            ("engine_id", "node_type", "executor"),
            buckets=buckets_s,
            registry=self.registry,
        )
        self._attempts = Counter(
            "mainspring_worker_attempts_total",
            "Attempts that ran here to their end, by how they ended",
            ("executor", "outcome"),
            registry=self.registry,
        )
        self._by_kind: dict[tuple[str, bool, Outcome], tuple[Histogram, Counter]] = {}
        """The children, so that an attempt needs no search by labels."""
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def watch(self, worker: Worker) -> None:
        """Read this worker from now on."""
        self._worker = worker

    def attempt_ended(self, executor: Executor, is_map: bool, outcome: Outcome, seconds: float) -> None:
        """Measure an attempt."""
        key = (executor.name, is_map, outcome)
        found = self._by_kind.get(key)
        if found is None:
            name = self._executors.of(executor.name)
            found = self._by_kind[key] = (
                self._durations.labels(self._engine_id, "map" if is_map else "task", name),
                self._attempts.labels(name, outcome.name.lower()),
            )
        durations, attempts = found
        durations.observe(seconds)
        attempts.inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        """Say nothing, so that nothing is read when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the worker."""
        worker = self._worker
        if worker is None:
            return
        load = GaugeMetricFamily(
            "engine_load",
            "Load of this process: cpu and memory in percent, workflows as a count",
            labels=("engine_id", "metric_type"),
        )
        load.add_metric((self._engine_id, "cpu"), worker.load.cpu)
        load.add_metric((self._engine_id, "memory"), worker.load.memory)
        load.add_metric((self._engine_id, "workflows"), worker.active_workflows)
        yield load
        for name, meaning, value in (
            ("slots", "Places to run a node", worker.config.slots),
            ("running", "Attempts that run", worker.running),
            ("queued", "Attempts that wait for their start", worker.queued),
            ("unacknowledged", "Results that no coordinator has acknowledged yet", worker.unacknowledged),
            ("credit", "Slots that it gives to coordinators, all together", worker.credit),
            ("streams", "Coordinators that it is attached to", worker.attached),
            ("draining", "1 while it takes no more work", float(worker.draining)),
        ):
            yield GaugeMetricFamily(f"mainspring_worker_{name}", meaning, value)
