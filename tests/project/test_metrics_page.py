"""The page of metrics lists what is exported, and nothing else."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client.registry import Collector

from mainspring.usage import Usage
from mainspring_coordinator.metrics import Metrics
from mainspring_worker.metrics import WorkerMetrics
from tests.ownership.test_metrics import reading

root = Path(__file__).parents[2]
row = re.compile(r"^\| `((?:mainspring_)?[a-z_]+)` \| (counter|gauge|histogram) \| (.*) \|$", re.MULTILINE)


one_worker: Any = SimpleNamespace(
    config=SimpleNamespace(slots=1),
    load=SimpleNamespace(cpu=0.0, memory=0.0),
    **dict.fromkeys(("active_workflows", "running", "queued", "unacknowledged", "credit", "attached", "draining"), 0),
)
"""What is read of a worker."""


def exported() -> dict[str, tuple[str, tuple[str, ...]]]:
    """By name: the type, and the labels of one that has none yet too."""
    coordinator, worker = Metrics("engine-1", Usage()), WorkerMetrics("worker-1")
    coordinator.watch(reading)
    coordinator.text()  # which reads it
    worker.watch(one_worker)
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for registry in (coordinator.registry, worker.registry):
        for family in registry.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = (family.type, labels_of(family, registry._names_to_collectors.get(family.name)))
    return found


def labels_of(family: object, collector: Collector | None) -> tuple[str, ...]:
    declared = getattr(family, "_labelnames", ()) or getattr(collector, "_labelnames", ())
    return tuple(declared)


def page() -> dict[str, tuple[str, str]]:
    text = (root / "docs/metrics.md").read_text()
    return {name: (kind, rest) for name, kind, rest in row.findall(text)}


def test_the_page_lists_every_metric_that_is_exported_with_its_type() -> None:
    own = {name: kind for name, (kind, _) in exported().items() if not name.startswith("process_")}
    assert {name: kind for name, (kind, _) in page().items()} == own


def test_the_page_names_the_labels_of_each() -> None:
    listed = page()
    missing = {
        name: labels
        for name, (_, labels) in exported().items()
        if not name.startswith("process_") and any(f"`{label}`" not in listed[name][1] for label in labels)
    }
    assert missing == {}
    assert exported()["mainspring_ready_nodes"][1] == ("executor",)
    assert exported()["workflow_executions_total"][1] == ("engine_id", "status", "assignment_strategy")


def test_the_page_names_what_the_client_library_adds() -> None:
    text = (root / "docs/metrics.md").read_text()
    assert [name for name in exported() if name.startswith("process_") and f"`{name}`" not in text] == []
