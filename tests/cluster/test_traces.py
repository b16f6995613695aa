"""A cluster with traces: what a collector receives of a workflow is one trace, with a span for each attempt below that of the whole."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mainspring import Workflow
from mainspring.traces import root_span_id, trace_id
from tests.cluster.running import RealCluster, so


class Collector:
    """Keeps the spans that it is sent, with the service that each came from."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            (service,) = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            self.spans += [(service, span) for within in resource.scope_spans for span in within.spans]

    def of(self, workflow_id: str) -> list[tuple[str, Span]]:
        return [one for one in list(self.spans) if one[1].trace_id == trace_id(workflow_id).to_bytes(16)]


@contextmanager
def collecting() -> Iterator[tuple[Collector, int]]:
    """Serve a collector; yield it and its port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name that it has there)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector, server.server_address[1]
        server.shutdown()


def stumbling_chain() -> Workflow:
    """Two nodes, the second of which fails at its first attempt."""
    flow = Workflow("stumbling-chain")
    first = flow.node("first", "step", input=flow.input)
    flow.output(flow.node("second", "stumble", input=first))
    return flow


def test_a_workflow_is_one_trace_with_a_span_an_attempt(file_url: str, tmp_path: Path) -> None:
    async def play(collector: Collector, port: int) -> None:
        settings = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        async with RealCluster(file_url, tmp_path, **settings) as cluster:
            await cluster.coordinator()
            await cluster.worker("w1")
            client = cluster.client()
            handles = [await client.submit(stumbling_chain(), 1, workflow_id=name) for name in ("wf-a", "wf-b")]
            for handle in handles:
                await handle.result(30)
            await so(lambda: all(len(collector.of(handle.workflow_id)) >= 4 for handle in handles))
        for handle in handles:
            spans = collector.of(handle.workflow_id)
            (whole,) = [span for service, span in spans if service == "mainspring-coordinator"]
            attempts = [span for service, span in spans if service == "mainspring-worker"]
            assert whole.span_id == root_span_id(handle.workflow_id).to_bytes(8)
            assert whole.parent_span_id == b""
            assert {span.parent_span_id for span in attempts} == {whole.span_id}
            assert sorted(span.name for span in attempts) == ["step", "stumble", "stumble"]
            assert len({span.span_id for span in attempts}) == 3
            failed = [span for span in attempts if span.status.code == span.status.STATUS_CODE_ERROR]
            assert [span.name for span in failed] == ["stumble"]
            assert whole.start_time_unix_nano < min(span.start_time_unix_nano for span in attempts)
            assert whole.end_time_unix_nano > max(span.end_time_unix_nano for span in attempts)

    with collecting() as (collector, port):
        asyncio.run(play(collector, port))
