"""Traces for OpenTelemetry: one trace a workflow, one span an attempt; an option, `OTEL_TRACES_EXPORTER`.

The ids follow from the workflow's id. So all processes speak of the same trace without a word between them, whoever owns a shard by the
time that a workflow ends, and nothing about traces is ever stored. Where spans go, and which of them, is said by OpenTelemetry's own
variables: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and so on.

OpenTelemetry is loaded where it is wanted and nowhere else.
"""

import asyncio
import hashlib
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mainspring import limits
from mainspring.errors import SettingsError
from mainspring.extras import wheel_with

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator

scope: Final = "mainspring"
"""The name of the instrumentation."""
workflow_id_attribute: Final = "mainspring.workflow.id"


def trace_id(workflow_id: str) -> int:
    """Return the trace of a workflow: 128 bits, never 0. As people see it: `f"{trace_id(workflow_id):032x}"`."""
    return int.from_bytes(_digest(workflow_id)[:16]) or 1


def root_span_id(workflow_id: str) -> int:
    """Return the span of the workflow as a whole, the parent of its attempts: 64 bits, never 0."""
    return int.from_bytes(_digest(workflow_id)[16:24]) or 1


def _digest(workflow_id: str) -> bytes:
    return hashlib.sha256(workflow_id.encode()).digest()


def open_provider(
    service: str,
    instance: str,
    *,
    exporter: "SpanExporter | None" = None,
    ids: "IdGenerator | None" = None,
) -> "TracerProvider":
    """Return what makes spans, and sends them in batches from a thread of its own; bounded, the latest are dropped first.

    `service` and `instance` name the process unless `OTEL_RESOURCE_ATTRIBUTES` or `OTEL_SERVICE_NAME` do; `exporter` is for tests.
    Raises `SettingsError` when OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  (an extra)
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"OTEL_TRACES_EXPORTER = 'otlp' needs OpenTelemetry, which is not installed: {wheel_with('traces')}"
        ) from error
    provider = TracerProvider(resource=_resource(service, instance), id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    return provider


async def close_provider(provider: "TracerProvider") -> None:
    """Send what has not been sent; bounded, and whoever cannot be reached does not keep the process from its end."""
    loop = asyncio.get_running_loop()
    sent = loop.create_future()

    def send() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(sent.cancel)

    threading.Thread(target=send, name="traces", daemon=True).start()
    await asyncio.wait([sent], timeout=limits.traces_flush_ms_max / 1_000)


def _resource(service: str, instance: str) -> "Resource":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415  (an extra)

    usual = Resource({"service.name": service, "service.instance.id": instance})
    return usual.merge(OTELResourceDetector().detect())
