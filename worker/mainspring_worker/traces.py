"""Spans of attempts, for OpenTelemetry. `mainspring.traces` has the ids, `spans` what the rest of the worker knows of it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mainspring.traces import close_provider, open_provider, root_span_id, scope, trace_id, workflow_id_attribute
from mainspring_worker.context import Context
from mainspring_worker.outcome import Ended
from mainspring_worker.spans import AttemptSpan

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_header = "traceparent"


class TracedSpan:
    """One attempt. See `AttemptSpan`."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def current(self) -> AbstractContextManager[object]:
        """See `AttemptSpan`."""
        return _within(set_span_in_context(self._span))

    def end(self, ended: Ended) -> None:
        """See `AttemptSpan`. What failed is told by its type: a message may quote the data."""
        if ended.failure is not None:
            self._span.set_attribute("error.type", ended.failure.type)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attribute("mainspring.attempt.cancelled", ended.cancelled)
        self._span.end()


class TracedAttempts:
    """Makes them, and sends them. See `Spans`."""

    def __init__(self, instance: str, exporter: "SpanExporter | None" = None) -> None:
        """`instance` is ENGINE_INSTANCE_ID; `exporter` is for tests. Raises as `open_provider`."""
        self._provider = open_provider("mainspring-worker", instance, exporter=exporter)
        self._tracer = self._provider.get_tracer(scope)

    def begin(self, executor: str, context: Context) -> AttemptSpan:
        """See `Spans`."""
        span = self._tracer.start_span(
            executor,
            self._workflow(context.workflow_id),
            SpanKind.CONSUMER,
            {
                workflow_id_attribute: context.workflow_id,
                "mainspring.workflow.name": context.workflow_name,
                "mainspring.node.id": context.node_id,
                "mainspring.node.instance": context.instance,
                "mainspring.attempt": context.attempt,
            },
        )
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
        context.traceparent = carrier.get(_header, "")
        return TracedSpan(span)

    def _workflow(self, workflow_id: str) -> otel_context.Context:
        """Return the span of the workflow as a whole; whoever owns it then will write it, if it is sampled, as we find by the same rule."""
        trace = trace_id(workflow_id)
        decision = self._provider.sampler.should_sample(None, trace, "workflow", SpanKind.SERVER).decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        parent = SpanContext(trace, root_span_id(workflow_id), is_remote=True, trace_flags=flags)
        return set_span_in_context(NonRecordingSpan(parent), otel_context.Context())

    async def close(self) -> None:
        """See `Spans`."""
        await close_provider(self._provider)


def continued(traceparent: str) -> AbstractContextManager[object]:
    """Return what code in another process runs within, so that the attempt's span is the current one there."""
    return _within(TraceContextTextMapPropagator().extract({_header: traceparent}))


@contextmanager
def _within(context: otel_context.Context) -> Iterator[None]:
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)
