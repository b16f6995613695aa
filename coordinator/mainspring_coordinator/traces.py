"""The span of each workflow as a whole, written by whoever owns it when its end is committed. `mainspring.traces` has the ids."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, Status, StatusCode

from mainspring.traces import close_provider, open_provider, root_span_id, scope, trace_id, workflow_id_attribute
from mainspring_coordinator.engine.effects import Effect, Ended, StrategyFailed
from mainspring_coordinator.engine.ready import ReadyQueue
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.ports import Observer
from mainspring_coordinator.writer import Written

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_empty: Final = Context()


class _Ids(RandomIdGenerator):
    """Gives the next span the ids of a workflow."""

    workflow_id = ""

    def generate_trace_id(self) -> int:
        return trace_id(self.workflow_id)

    def generate_span_id(self) -> int:
        return root_span_id(self.workflow_id)


class TracedLoop:
    """Implements `ports.Observer`: hands everything on, and writes a span for each workflow that ended. For the event loop."""

    def __init__(self, observer: Observer, instance: str, exporter: "SpanExporter | None" = None) -> None:
        """`instance` is ENGINE_INSTANCE_ID; `exporter` is for tests. Raises as `open_provider`."""
        self._observer = observer
        self._ids = _Ids()
        self._provider = open_provider("mainspring-coordinator", instance, exporter=exporter, ids=self._ids)
        self._tracer = self._provider.get_tracer(scope)

    def committed(self, written: Written) -> None:
        """See `Observer`."""
        self._observer.committed(written)

    def ended(self, effect: Ended) -> None:
        """See `Observer`."""
        self._observer.ended(effect)
        self._ids.workflow_id = effect.workflow_id
        span = self._tracer.start_span(
            "workflow",
            _empty,
            SpanKind.SERVER,
            {
                workflow_id_attribute: effect.workflow_id,
                "mainspring.workflow.status": effect.status.name,
                "mainspring.workflow.strategy": effect.strategy,
                "mainspring.shard": effect.shard,
            },
            start_time=effect.submitted_at_us * 1_000,
        )
        if effect.status is WorkflowStatus.FAILED:
            span.set_status(Status(StatusCode.ERROR))
        span.end(effect.ended_at_us * 1_000)

    def cut(self, ready: ReadyQueue) -> None:
        """See `Observer`."""
        self._observer.cut(ready)

    def let_out(self, effects: Sequence[Effect], refused: int) -> None:
        """See `Observer`."""
        self._observer.let_out(effects, refused)

    def strategy_failed(self, effect: StrategyFailed) -> None:
        """See `Observer`."""
        self._observer.strategy_failed(effect)

    async def close(self) -> None:
        """Send what has not been sent; bounded."""
        await close_provider(self._provider)
