"""The guide's metrics, name by name, and the readings behind them."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mainspring.usage import Usage
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Ended, StrategyFailed
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from mainspring_coordinator.engine.state import State
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.metrics import Metrics
from mainspring_coordinator.readings import Fleet, Reading
from mainspring_coordinator.store.errors import Trouble
from mainspring_coordinator.writer import Written

GUIDE = [
    ("workflow_executions", "counter", {"engine_id", "status", "assignment_strategy"}),
    ("lock_acquisition_duration_seconds", "histogram", {"lock_type"}),
    ("engine_load", "gauge", {"engine_id", "metric_type"}),
]


def reading() -> Reading:
    state = State(EngineConfig())
    state.attempts_ended, state.attempts_failed = 20, 3
    pause = Pause(5, "ann", "")
    state.ready.put_in_force(ClusterPauses(None, {"a": pause, "b": pause}, 5))
    state.ready.keep_apart((), (0, "wf"))
    return Reading(
        state=state,
        strategy="locality",
        open_workflows=7,
        events_queued=8,
        fleet=Fleet(attached=10, draining=2, absent=1, slots=500, credit=250, said_goodbye=4, lost=5),
        shards_total=16,
        shards_owned=9,
        shards_serving=6,
        shards_without_owner=3,
        lease_held=True,
        database_silent_s=0.25,
        database_errors={Trouble.RETRY: 2},
        database_us=2_000_000_000,
        now_us=1_000_000_000,
        calendar_us=1_993_000_000,
        oldest_ended_us=1_400_000_000,
    )


def filled() -> Metrics:
    metrics = Metrics("engine-1", Usage())
    metrics.watch(reading)
    for status, strategy in (
        (WorkflowStatus.SUCCEEDED, "load-balanced"),
        (WorkflowStatus.FAILED, "load-balanced"),
        (WorkflowStatus.CANCELLED, "made up"),
    ):
        metrics.ended(Ended(0, "wf", status, None, None, 0, 0, strategy))
    metrics.shard_taken(0.03)
    metrics.committed(Written(seconds=0.004, rows=17, poisoned={"wf": "too long"}))
    metrics.let_out([], 2)
    metrics.loop_lag(0.1)
    metrics.clock_jumped(5)
    metrics.failover("worker_lost", 2.5)
    metrics.alert("delivered")
    metrics.deleted("workflows", 5)
    metrics.strategy_changed("locality", "dynamic")
    metrics.strategy_changed("own", "operator")
    metrics.strategy_failed(StrategyFailed(0, "wf", "node", "locality", "ValueError"))
    metrics.term_began()
    metrics.term_lost()
    metrics.shard_lost(3)
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
    assert found["mainspring_workers_draining",] == 2
    assert found["mainspring_workers_absent",] == 1
    assert found["mainspring_slots",] == 500
    assert found["mainspring_credit",] == 250
    assert found["mainspring_assignments",] == 0
    assert found["mainspring_streams_ended_total", "goodbye"] == 4
    assert found["mainspring_streams_ended_total", "lost"] == 5
    assert found["mainspring_shards",] == 16
    assert found["mainspring_shards_serving",] == 6
    assert found["mainspring_shards_without_owner",] == 3
    assert found["mainspring_lease_held",] == 1
    assert found["mainspring_terms_total",] == found["mainspring_terms_lost_total",] == 1
    assert found["mainspring_shards_lost_total",] == 1
    assert found["mainspring_rows_refused_total",] == 1
    assert found["mainspring_database_silent_seconds",] == 0.25
    assert found["mainspring_database_errors_total", "retry"] == 2
    assert found["mainspring_database_errors_total", "disconnected"] == 0
    assert found["mainspring_attempts_ended_total", "failed"] == 3
    assert found["mainspring_attempts_ended_total", "succeeded"] == 17
    assert found["mainspring_strategy", "locality"] == 1
    assert found["mainspring_strategy", "affinity"] == 0
    assert [found["mainspring_pauses", kind] for kind in ("cluster", "executor", "workflow")] == [0, 2, 1]
    assert found["mainspring_failovers_total", "worker_lost"] == 1
    assert found["mainspring_failover_duration_seconds_sum", "worker_lost"] == pytest.approx(2.5)
    assert found["mainspring_failover_alerts_total", "delivered"] == 1
    assert found["mainspring_retention_deleted_total", "workflows"] == 5
    assert found["mainspring_retention_deleted_total", "audit_entries"] == 0
    assert found["mainspring_oldest_ended_workflow_seconds",] == 600
    assert found["mainspring_database_clock_ahead_seconds",] == 7
    assert 0 <= found["engine_load", "engine-1", "cpu"] <= 100
    assert 0 < found["engine_load", "engine-1", "memory"] <= 100
