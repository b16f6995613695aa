"""Spans of attempts: which trace they are of, what runs within them, and what they tell of the end."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span

from mainspring import limits
from mainspring.traces import root_span_id, trace_id
from mainspring_worker import Context
from mainspring_worker.executors import describe, registry
from mainspring_worker.outcome import Ended
from mainspring_worker.processes import ProcessPool
from mainspring_worker.runner import Order, Runner
from mainspring_worker.traces import TracedAttempts
from tests.worker import crashing_tasks

wait_s = 20.0


def current() -> str:
    return f"{get_current_span().get_span_context().span_id:016x}"


async def in_a_coroutine(_: object, context: Context) -> list[str]:
    await asyncio.sleep(0)
    return [current(), context.traceparent]


def in_a_thread(_: object, context: Context) -> list[str]:
    return [current(), context.traceparent]


async def fails(_: object) -> None:
    raise ValueError("card 4111 is refused")


async def run(executor: str, workflow_id: str, exporter: SpanExporter) -> Ended:
    """Run one attempt with traces, and close the runner, so that all has been sent."""
    functions: Sequence[Callable[..., Any]] = (in_a_coroutine, in_a_thread, fails)
    executors = {function.__name__: describe(function, function.__name__) for function in functions}
    executors["traced"] = registry["traced"]
    told: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
    pool = ProcessPool([crashing_tasks.__name__], 1)
    spans = TracedAttempts("w1", exporter)
    runner = Runner(executors, 1, lambda _order, ended, _run_us: told.set_result(ended), pool, time.perf_counter, spans)
    try:
        runner.start(Order((0, 1), executor, b"1", 0, Context(workflow_id, "orders", "pay", 3, 2)))
        return await asyncio.wait_for(told, wait_s)
    finally:
        await runner.close()


@pytest.mark.parametrize("executor", ["in_a_coroutine", "in_a_thread", "traced"])
def test_the_code_of_an_attempt_runs_within_a_span_of_its_workflows_trace(executor: str) -> None:
    exporter = InMemorySpanExporter()
    ended = asyncio.run(run(executor, "wf-1", exporter))
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert span.context.trace_id == trace_id("wf-1")
    assert span.parent.span_id == root_span_id("wf-1")
    here, traceparent = f"{span.context.span_id:016x}", f"00-{trace_id('wf-1'):032x}-{span.context.span_id:016x}-01"
    assert ended.output.decode() == f'["{here}","{traceparent}"]'


def test_a_span_names_the_attempt_and_how_it_ended_but_no_data() -> None:
    exporter = InMemorySpanExporter()
    asyncio.run(run("fails", "wf-1", exporter))
    (span,) = exporter.get_finished_spans()
    assert span.name == "fails"
    assert dict(span.attributes or {}) == {
        "mainspring.workflow.id": "wf-1",
        "mainspring.workflow.name": "orders",
        "mainspring.node.id": "pay",
        "mainspring.node.instance": 3,
        "mainspring.attempt": 2,
        "mainspring.attempt.cancelled": False,
        "error.type": "ValueError",
    }
    assert span.status.status_code is StatusCode.ERROR
    assert "4111" not in span.to_json()
    assert span.resource.attributes["service.name"] == "mainspring-worker"
    assert span.resource.attributes["service.instance.id"] == "w1"


def test_which_workflows_are_traced_follows_from_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    # The rule of OpenTelemetry's ratio: the lower half of the trace's id is below it.
    wanted = {f"wf-{n}": trace_id(f"wf-{n}") % 2**64 < 2**63 for n in range(8)}
    assert len(set(wanted.values())) == 2
    for workflow_id, sampled in wanted.items():
        exporter = InMemorySpanExporter()
        asyncio.run(run("in_a_coroutine", workflow_id, exporter))
        assert bool(exporter.get_finished_spans()) == sampled, workflow_id


def test_a_collector_that_does_not_answer_does_not_keep_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "traces_flush_ms_max", 100)

    answers, left = threading.Event(), threading.Event()

    class Silent(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            answers.wait(wait_s)
            left.set()
            return SpanExportResult.FAILURE

    asyncio.run(run("in_a_coroutine", "wf-1", Silent()))
    assert not left.is_set()
    answers.set()
