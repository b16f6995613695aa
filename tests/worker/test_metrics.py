"""What a worker's metrics say of its attempts."""

from prometheus_client.parser import text_string_to_metric_families

from mainspring_worker.attempts import Outcome
from mainspring_worker.executors import Executor, describe
from mainspring_worker.metrics import WorkerMetrics


def executors(count: int) -> list[Executor]:
    return [describe(lambda value: value, f"work-{number}") for number in range(count)]


def samples(metrics: WorkerMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_attempts_are_measured_by_kind_of_node_and_counted_by_how_they_ended() -> None:
    metrics = WorkerMetrics("w1")
    (work,) = executors(1)
    metrics.attempt_ended(work, False, Outcome.SUCCEEDED, 0.3)
    metrics.attempt_ended(work, False, Outcome.FAILED, 40)
    metrics.attempt_ended(work, True, Outcome.CANCELLED, 3)
    found = samples(metrics)
    assert found["node_execution_duration_seconds_count", "w1", "work-0", "task"] == 2
    assert found["node_execution_duration_seconds_bucket", "w1", "work-0", "0.5", "task"] == 1
    assert found["node_execution_duration_seconds_bucket", "w1", "work-0", "60.0", "task"] == 2
    assert found["node_execution_duration_seconds_sum", "w1", "work-0", "map"] == 3
    outcomes = {key[2]: value for key, value in found.items() if key[0] == "mainspring_worker_attempts_total"}
    assert outcomes == {"succeeded": 1, "failed": 1, "cancelled": 1}


def test_the_executors_after_the_first_hundred_are_other_together() -> None:
    metrics = WorkerMetrics("w1")
    for work in executors(150):
        metrics.attempt_ended(work, False, Outcome.SUCCEEDED, 0.01)
    ran = {key[1]: value for key, value in samples(metrics).items() if key[0] == "mainspring_worker_attempts_total"}
    assert len(ran) == 101
    assert ran["other"] == 50
