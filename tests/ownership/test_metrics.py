"""The guide's metrics, name by name, and the readings behind them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mainspring.usage import Usage
from mainspring_coordinator.engine.effects import Ended
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.metrics import Metrics
from mainspring_coordinator.writer import Written

GUIDE = [
    ("workflow_executions", "counter", {"engine_id", "status", "assignment_strategy"}),
    ("lock_acquisition_duration_seconds", "histogram", {"lock_type"}),
    ("engine_load", "gauge", {"engine_id", "metric_type"}),
]


def filled() -> Metrics:
    metrics = Metrics("engine-1", Usage())
    metrics.watch(
        active_workflows=lambda: 7,
        queue_depth=lambda: 8,
        shards_owned=lambda: 9,
        workers_attached=lambda: 10,
        strategy=lambda: "locality",
    )
    for status, strategy in (
        (WorkflowStatus.SUCCEEDED, "load-balanced"),
        (WorkflowStatus.FAILED, "load-balanced"),
        (WorkflowStatus.CANCELLED, "made up"),
    ):
        metrics.ended(Ended(0, "wf", status, None, None, 0, 0, strategy))
    metrics.shard_taken(0.03)
    metrics.committed(Written(seconds=0.004, rows=17))
    metrics.refused(2)
    metrics.loop_lag(0.1)
    metrics.clock_jumped(5)
    metrics.failover("worker_lost", 2.5)
    metrics.alert("delivered")
    metrics.strategy_changed("locality", "dynamic")
    metrics.strategy_changed("own", "operator")
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(("name", "kind", "labels"), GUIDE, ids=[row[0] for row in GUIDE])
def test_the_guides_metrics_have_its_names_types_and_labels(name: str, kind: str, labels: set[str]) -> None:
    families = {family.name: family for family in text_string_to_metric_families(filled().text().decode())}
    assert families[name].type == kind
    assert {label for sample in families[name].samples for label in sample.labels} - {"le"} == labels


def test_the_buckets_of_lock_acquisition_are_the_guides_and_ours_above_a_second() -> None:
    bounds = [key[1] for key in samples(filled()) if key[0] == "lock_acquisition_duration_seconds_bucket"]
    assert bounds == ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "+Inf"]


def test_each_end_counts_once_by_status_and_strategy() -> None:
    found = samples(filled())
    assert found["workflow_executions_total", "load-balanced", "engine-1", "succeeded"] == 1
    assert found["workflow_executions_total", "load-balanced", "engine-1", "failed"] == 1
    assert found["workflow_executions_total", "other", "engine-1", "cancelled"] == 1


def test_what_the_coordinator_tells_is_exported() -> None:
    found = samples(filled())
    assert found["engine_load", "engine-1", "workflows"] == 7
    assert found["mainspring_queue_depth",] == 8
    assert found["mainspring_shards_owned",] == 9
    assert found["mainspring_workers_attached",] == 10
    assert found["mainspring_refused_results_total",] == 2
    assert found["mainspring_batch_rows_sum",] == 17
    assert found["mainspring_commit_duration_seconds_sum",] == pytest.approx(0.004)
    assert found["mainspring_database_time_jumps_total",] == 1
    assert found["mainspring_failovers_total", "worker_lost"] == 1
    assert found["mainspring_failover_duration_seconds_sum", "worker_lost"] == pytest.approx(2.5)
    assert found["mainspring_failover_alerts_total", "delivered"] == 1
    assert 0 <= found["engine_load", "engine-1", "cpu"] <= 100
    assert 0 < found["engine_load", "engine-1", "memory"] <= 100
