"""What an executor may know of the attempt that it runs, and say of it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import orjson

from mainspring.limits import progress_bytes_max

_making: Final = threading.Lock()
"""Held while a context's event is made, so that all who wait have the same."""


class NonRetryable(Exception):  # noqa: N818  (users raise it to say what should not follow)
    """Raise it from an executor: the node fails without another attempt."""


class AttemptCancelled(Exception):  # noqa: N818  (an event that the executor is told of)
    """Raised by `Context.raise_if_cancelled` when the attempt is to stop."""


@dataclass(slots=True, eq=False)
class Context:
    """One attempt. Its attributes are facts; `progress` and `cancelled` may be used from any thread."""

    workflow_id: str
    workflow_name: str
    node_id: str
    instance: int
    """The `map` instance, -1 for a node that is no `map`."""
    attempt: int
    """From 1."""
    previous_progress: object = None
    """The last details that an earlier attempt reported, None if there are none."""
    _report: Callable[[bytes], None] = field(default=lambda _details: None, repr=False)
    _cancelled: bool = False
    _cause: str = ""
    _told: threading.Event | None = field(default=None, repr=False)
    """Made for the first thread that waits: most attempts never need one."""
    traceparent: str = ""
    """The attempt's place in its workflow's trace, as the HTTP header of that name has it (W3C Trace Context); empty without traces."""

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts and redeliveries: hand it to systems that can tell a repeated request from a new one."""
        return f"{self.workflow_id}/{self.node_id}/{self.instance}"

    def progress(self, details: object) -> None:
        """Report details (JSON, at most 4 KiB) that people see and the next attempt can read; at most one a second is sent."""
        try:
            data = orjson.dumps(details)
        except TypeError as error:
            raise TypeError(f"progress details must be JSON: {error}") from error
        if len(data) > progress_bytes_max:
            raise ValueError(
                f"progress details of {len(data)} bytes are over the bound of {progress_bytes_max}; report less"
            )
        self._report(data)

    @property
    def cancelled(self) -> bool:
        """Whether the attempt is to stop: its workflow was cancelled or failed, its time is over, or another took its place."""
        return self._cancelled

    @property
    def cancel_cause(self) -> str:
        """Why it is to stop, empty while it is not."""
        return self._cause

    def raise_if_cancelled(self) -> None:
        """Raise `AttemptCancelled` if the attempt is to stop."""
        if self._cancelled:
            raise AttemptCancelled(self._cause)

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block a thread until the attempt is to stop, at most `timeout` seconds; tell whether it is."""
        with _making:
            told = self._told = self._told or threading.Event()
        # Who cancels sets the flag first and looks for the event then; so one of us sees the other.
        return self._cancelled or told.wait(timeout)

    def cancel(self, cause: str) -> None:
        """Tell the executor to stop; the worker calls it."""
        self._cause = cause
        self._cancelled = True
        if self._told is not None:
            self._told.set()
