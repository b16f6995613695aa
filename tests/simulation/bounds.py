"""Bounds as small as a simulated cluster is, so that they are met: full queues and batches, pages, epochs without ids."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest.mock import patch

from mainspring import limits
from mainspring_worker import machine

_coordinators: Final = {
    "events_queue_max": 40,
    "batch_rows_max": 12,
    "results_an_event_max": 2,
    "deferred_events_a_shard_max": 1,
    "recent_results_a_shard_max": 12,
    "recovery_page_workflows": 2,
    "assignment_number_max": 60,
    "items_a_message_max": 3,
}
_workers: Final = {"items_a_message_max": 3, "remembered_cancels_max": 8}


@contextmanager
def small_bounds() -> Iterator[None]:
    """Let these bounds hold meanwhile."""
    with ExitStack() as stack:
        for name, bound in _coordinators.items():
            stack.enter_context(patch.object(limits, name, bound))
        for name, bound in _workers.items():
            stack.enter_context(patch.object(machine, name, bound))
        yield
