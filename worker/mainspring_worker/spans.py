"""What the code of an attempt runs within: nothing, or a span of its workflow's trace.

The executor finds the span as OpenTelemetry's current one, whatever it runs in (a coroutine, a thread, a process), so that what it does
with instrumented libraries becomes part of the trace; `Context.traceparent` is the same for whoever has no OpenTelemetry.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from mainspring_worker.context import Context
from mainspring_worker.outcome import Ended


class AttemptSpan(Protocol):
    """One attempt."""

    def current(self) -> AbstractContextManager[object]:
        """Return what its code runs within."""
        ...

    def end(self, ended: Ended) -> None:
        """Take how it ended."""
        ...


class Spans(Protocol):
    """Makes them."""

    def begin(self, executor: str, context: Context) -> AttemptSpan:
        """Begin one; sets `Context.traceparent`."""
        ...

    async def close(self) -> None:
        """Send what has not been sent; bounded."""
        ...


class _NoSpan:
    def __init__(self) -> None:
        self._within = nullcontext()

    def current(self) -> AbstractContextManager[object]:
        return self._within

    def end(self, ended: Ended) -> None:
        del ended


class NoSpans:
    """Nobody wants traces."""

    def begin(self, executor: str, context: Context) -> AttemptSpan:
        """See `Spans`."""
        del executor, context
        return _no_span

    async def close(self) -> None:
        """See `Spans`."""


_no_span: Final = _NoSpan()
no_spans: Final = NoSpans()
