"""What happened to a workflow, told from what is stored anyway: its row, its nodes' rows and its earlier attempts.

Sorted by time. At the same time ends stand before the starts that they allow, the submit stands first and the workflow's end last.
Nothing is written for the history alone, so it has what the rows have: of a node its latest attempt and those that were followed by
another; of an attempt that was given out again because a worker was lost, its last start and how many died before.
"""

from collections import OrderedDict
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from mainspring.failures import failure_from_json
from mainspring.limits import (
    cancel_grace_ms,
    histories_cached_events_max,
    history_events_max,
    message_split_bytes,
    page_size_max,
    reason_bytes_max,
)
from mainspring.v1 import client_pb2
from mainspring.wire import clip
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, workflow_terminal
from mainspring_coordinator.store.protocol import Reader, StoredNode
from mainspring_coordinator.views import Sight, failure_message, first_key, is_cached

_SUBMITTED: Final = client_pb2.HISTORY_EVENT_TYPE_WORKFLOW_SUBMITTED
_ENDED: Final = client_pb2.HISTORY_EVENT_TYPE_WORKFLOW_ENDED
_CANCEL: Final = client_pb2.HISTORY_EVENT_TYPE_CANCEL_REQUESTED
_STARTED: Final = client_pb2.HISTORY_EVENT_TYPE_ATTEMPT_STARTED
_ATTEMPT_FAILED: Final = client_pb2.HISTORY_EVENT_TYPE_ATTEMPT_FAILED
_EXPANDED: Final = client_pb2.HISTORY_EVENT_TYPE_NODE_EXPANDED
_node_ends: Final = {
    NodeStatus.SUCCEEDED: client_pb2.HISTORY_EVENT_TYPE_NODE_SUCCEEDED,
    NodeStatus.FAILED: client_pb2.HISTORY_EVENT_TYPE_NODE_FAILED,
    NodeStatus.CANCELLED: client_pb2.HISTORY_EVENT_TYPE_NODE_CANCELLED,
    NodeStatus.SKIPPED: client_pb2.HISTORY_EVENT_TYPE_NODE_SKIPPED,
}
_cached: Final = "cached"
# At the same time, in this order.
_submit, _cancel, _attempt_end, _instance_end, _node_end, _expansion, _start, _own_end, _workflow_end = range(9)


@dataclass(frozen=True, slots=True)
class _Line:
    """One event, small, because a workflow may have a million of them."""

    at_us: int
    rank: int
    node: int
    instance: int
    attempt: int
    type: client_pb2.HistoryEventType.ValueType
    worker: str = ""
    failure: bytes = b""
    note: str = ""


_order: Final = attrgetter("at_us", "rank", "node", "instance", "attempt", "type")


class Histories:
    """Tells histories, and remembers the last ones told, because they are read by page."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, int, int], list[_Line]] = OrderedDict()
        self._events = 0

    def known(self, sight: Sight) -> list[_Line] | None:
        """Return the history as of the version that was read, if it was told a moment ago."""
        return self._told.get(sight.key)

    def keep(self, sight: Sight, lines: list[_Line]) -> None:
        """Remember a history."""
        if sight.key not in self._told:
            self._told[sight.key] = lines
            self._events += len(lines)
        while self._events > histories_cached_events_max and self._told:
            _, oldest = self._told.popitem(last=False)
            self._events -= len(oldest)


def tell(reader: Reader, sight: Sight) -> list[_Line]:
    """Return the whole history, at most 1,000,000 events. Runs in a thread of the reads."""
    lines = _of_workflow(sight)
    ended_attempts: set[tuple[int, int, int]] = set()
    for stored in reader.attempts(sight.stored.workflow_id):
        key = (stored.node, stored.instance, stored.attempt)
        ended_attempts.add(key)
        lines.append(_Line(stored.started_at_us, _start, *key, _STARTED, stored.worker))
        rank = _attempt_end if stored.ended_at_us > stored.started_at_us else _own_end
        lines.append(_Line(stored.ended_at_us, rank, *key, _ATTEMPT_FAILED, stored.worker, stored.failure))
    after = first_key
    while len(lines) < history_events_max:
        rows = reader.node_page(sight.stored.workflow_id, after, page_size_max)
        for row in rows:
            lines += _of_node(sight, row, (row.node, row.instance, row.attempt) in ended_attempts)
        if len(rows) < page_size_max:
            break
        after = (rows[-1].node, rows[-1].instance)
    lines.sort(key=_order)
    return lines[:history_events_max]


def page(lines: list[_Line], sight: Sight, start: int, limit: int) -> list[client_pb2.HistoryEvent]:
    """Return a part of a history as messages; fewer than `limit` when they are as large as a message should be."""
    ids = sight.plan.graph.ids
    events: list[client_pb2.HistoryEvent] = []
    size = 0
    for line in lines[start : start + limit]:
        events.append(
            client_pb2.HistoryEvent(
                at_us=line.at_us,
                type=line.type,
                node_id=ids[line.node] if line.node >= 0 else "",
                instance=line.instance,
                attempt=line.attempt,
                worker=line.worker,
                failure=failure_message(line.failure or None),
                note=clip(line.note, reason_bytes_max),
            )
        )
        size += events[-1].ByteSize()
        if size >= message_split_bytes:
            break
    return events


def _of_workflow(sight: Sight) -> list[_Line]:
    stored = sight.stored
    lines = [_Line(stored.submitted_at_us, _submit, -1, -1, 0, _SUBMITTED)]
    if stored.status in (WorkflowStatus.CANCELLING, WorkflowStatus.CANCELLED):
        # The grace began with the cancel; a workflow in which nothing ran was cancelled and ended at once.
        asked_us = stored.closing_until_us - cancel_grace_ms * 1_000 if stored.closing_until_us else stored.ended_at_us
        lines.append(_Line(asked_us, _cancel, -1, -1, 0, _CANCEL, note=stored.cancel_reason))
    if stored.status in workflow_terminal:
        lines.append(
            _Line(stored.ended_at_us, _workflow_end, -1, -1, 0, _ENDED, "", stored.failure or b"", stored.status.name)
        )
    return lines


def _delivery(row: StoredNode) -> str:
    """Say what the row tells of deliveries of its attempt that came to nothing; each one overwrites where and when the last one began."""
    if row.status is NodeStatus.READY:
        return "that worker has it no more; it waits for another"
    if not row.redeliveries:
        return ""
    return f"{row.redeliveries} worker{'s' * (row.redeliveries > 1)} died under it before"


def _of_node(sight: Sight, row: StoredNode, ended: bool) -> list[_Line]:
    """`ended`: the row's attempt has a row of its own, because another follows or was to follow."""
    lines: list[_Line] = []
    key = (row.node, row.instance, row.attempt)
    if sight.stored.rerun_of and 0 < row.ended_at_us <= sight.stored.submitted_at_us:
        # It ended in the workflow that this one runs again; here it stood as it was from the first.
        taken = f"taken over from {sight.stored.rerun_of}, where it ran on {row.worker or 'no worker'}"
        failure = row.failure if row.status is NodeStatus.FAILED else None
        at = (sight.stored.submitted_at_us, _attempt_end)
        return [_Line(*at, *key, _node_ends[row.status], "", failure or b"", taken)]
    is_map = row.instance < 0 and sight.plan.nodes[row.node].map is not None
    if is_map and row.width:
        lines.append(_Line(row.started_at_us, _expansion, *key, _EXPANDED, note=f"{row.width} instances"))
    if not is_map and row.attempt and row.started_at_us and not ended:
        lines.append(_Line(row.started_at_us, _start, *key, _STARTED, row.worker, note=_delivery(row)))
    end = _node_ends.get(row.status)
    if end is None or (row.status is NodeStatus.SKIPPED and row.failure is None):
        return lines  # what is skipped because the workflow ends is no event of its own
    rank = _own_end if row.ended_at_us <= row.started_at_us else _node_end if row.instance < 0 else _instance_end
    failure = row.failure or b""
    if row.status is NodeStatus.FAILED and row.attempt and not is_map and not ended:
        first = rank if rank == _own_end else _attempt_end
        lines.append(_Line(row.ended_at_us, first, *key, _ATTEMPT_FAILED, row.worker, failure))
    by_operator = row.status in (NodeStatus.SUCCEEDED, NodeStatus.SKIPPED) and row.failure is not None
    cached = not by_operator and is_cached(sight.plan, row)
    worker = "" if is_map or by_operator or cached else row.worker
    note = failure_from_json(failure).message if by_operator else _cached if cached else ""
    lines.append(_Line(row.ended_at_us, rank, *key, end, worker, b"" if by_operator else failure, note))
    return lines
