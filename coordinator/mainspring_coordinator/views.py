"""What clients are shown of workflows and nodes: our nouns and rows, as messages.

A read sees a workflow twice: in the owner's memory (`View`, the states as of a commit) and in the database (rows, at least as new).
What has a terminal row is told from the row, what has not is told from the view; a node that has neither, because its workflow ended
first, was skipped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from mainspring.failures import failure_from_json
from mainspring.limits import message_split_bytes, page_size_max, reason_bytes_max
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring.wire import clip, to_failure, to_payload
from mainspring_coordinator.engine.effects import View
from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, node_terminal, workflow_terminal
from mainspring_coordinator.store.protocol import Reader, StoredAttempt, StoredNode, StoredWorkflow

_in_rows_only: Final = frozenset({NodeStatus.SUCCEEDED, NodeStatus.FAILED, NodeStatus.CANCELLED})
"""States that a node without a row cannot be in."""
first_key: Final = (-1, 0)
"""The key before that of the first node."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One workflow as a read sees it."""

    stored: StoredWorkflow
    view: View | None
    """None once it has ended."""
    plan: Plan

    @property
    def key(self) -> tuple[str, int, int]:
        """Return what names this state of it: an id may have been used before, by a workflow that was deleted."""
        return self.stored.workflow_id, self.stored.submitted_at_us, self.stored.version

    @property
    def status(self) -> WorkflowStatus:
        """Return its state."""
        return self.stored.status if self.view is None else self.view.status

    @property
    def version(self) -> int:
        """Return its version."""
        return self.stored.version if self.view is None else self.view.version

    def node_status(self, node: int, instance: int, row: StoredNode | None) -> NodeStatus:
        """Return the state of a node or an instance whose row, if it has one, is `row`."""
        if row is not None and row.status in node_terminal:
            return row.status
        if self.view is None:
            return NodeStatus.SKIPPED
        if instance < 0:
            return NodeStatus(self.view.statuses[node])
        expanded = self.view.maps.get(node)
        if expanded is None:
            return row.status if row is not None else NodeStatus.WAITING
        return NodeStatus(expanded.statuses[instance])


def is_cached(plan: Plan, row: StoredNode) -> bool:
    """Tell whether a node took the output of another one: it has succeeded without an attempt, and is not a `map` as a whole."""
    whole_map = row.instance < 0 and plan.nodes[row.node].map is not None
    by_operator = row.failure is not None
    return row.status is NodeStatus.SUCCEEDED and not row.attempt and not whole_map and not by_operator


def workflow_status(status: WorkflowStatus) -> "workflow_pb2.WorkflowStatus.ValueType":
    """Return a workflow's state as the wire has it; the numbers are the same."""
    return cast("workflow_pb2.WorkflowStatus.ValueType", status.value)


def node_status(status: NodeStatus) -> "workflow_pb2.NodeStatus.ValueType":
    """Return a node's state as the wire has it; the numbers are the same."""
    return cast("workflow_pb2.NodeStatus.ValueType", status.value)


def has_ended(status: WorkflowStatus) -> bool:
    """Tell whether a state is terminal."""
    return status in workflow_terminal


def failure_message(data: bytes | None) -> workflow_pb2.Failure | None:
    """Return a stored failure as a message."""
    return None if data is None else to_failure(failure_from_json(data))


def pause_message(pause: Pause | None) -> workflow_pb2.Pause | None:
    """Return a pause as a message."""
    if pause is None:
        return None
    return workflow_pb2.Pause(since_us=pause.since_us, who=pause.who, reason=pause.reason)


def workflow_message(sight: Sight, counts: Mapping[NodeStatus, int]) -> client_pb2.Workflow:
    """Return a workflow with its node counts."""
    message = listed_workflow(sight.stored)
    message.status = workflow_status(sight.status)
    message.version = sight.version
    message.nodes_total = len(sight.plan.nodes)
    if sight.view is not None:
        message.ClearField("pause")
        message.MergeFrom(client_pb2.Workflow(pause=pause_message(sight.view.pause)))
    message.node_counts.extend(
        client_pb2.NodeCount(status=node_status(status), count=count) for status, count in sorted(counts.items())
    )
    return message


def listed_workflow(stored: StoredWorkflow) -> client_pb2.Workflow:
    """Return a workflow as its row has it."""
    return client_pb2.Workflow(
        workflow_id=stored.workflow_id,
        name=stored.name,
        status=workflow_status(stored.status),
        version=stored.version,
        submitted_at_us=stored.submitted_at_us,
        ended_at_us=stored.ended_at_us,
        failure=failure_message(stored.failure),
        shard=stored.shard,
        definition_hash=stored.plan_hash.hex(),
        cancel_reason=stored.cancel_reason,
        assignment_strategy=stored.strategy,
        pause=pause_message(stored.pause),
        rerun_of=stored.rerun_of,
    )


def result_message(
    workflow_id: str,
    status: WorkflowStatus,
    output: bytes | None,
    failure: bytes | None,
    submitted_at_us: int,
    ended_at_us: int,
) -> client_pb2.WorkflowResult:
    """Return how a workflow ended."""
    return client_pb2.WorkflowResult(
        workflow_id=workflow_id,
        status=workflow_status(status),
        output=to_payload(output) if output is not None else None,
        failure=failure_message(failure),
        submitted_at_us=submitted_at_us,
        ended_at_us=ended_at_us,
    )


def stored_result(stored: StoredWorkflow) -> client_pb2.WorkflowResult:
    """Return how a workflow ended, from its row."""
    return result_message(
        stored.workflow_id, stored.status, stored.output, stored.failure, stored.submitted_at_us, stored.ended_at_us
    )


def attempt_message(stored: StoredAttempt) -> client_pb2.Attempt:
    """Return an ended attempt."""
    return client_pb2.Attempt(
        attempt=stored.attempt,
        worker=stored.worker,
        started_at_us=stored.started_at_us,
        ended_at_us=stored.ended_at_us,
        run_us=stored.run_us,
        failure=failure_message(stored.failure),
    )


def node_message(reader: Reader, sight: Sight, node: int, instance: int, row: StoredNode | None) -> client_pb2.Node:
    """Return a node or an instance. Runs in a thread of the reads."""
    view, definition = sight.view, sight.plan.nodes[node]
    status = sight.node_status(node, instance, row)
    message = client_pb2.Node(
        node_id=definition.id,
        instance=instance,
        executor=definition.executor,
        status=node_status(status),
        depends_on=[sight.plan.graph.ids[parent] for parent in sight.plan.graph.parents_of(node)],
    )
    if row is not None:
        message.attempt = row.attempt
        message.cached = is_cached(sight.plan, row)
        # Else these are of an attempt that failed before, or of a worker that has it no more.
        if not message.cached and status is not NodeStatus.READY:
            message.worker = row.worker
            message.started_at_us = row.started_at_us
        message.width = row.width
        # A row that was read after the view may be ahead of it: the end of an attempt that is shown as running comes with that version.
        if view is None or row.version <= view.version or status in node_terminal:
            message.run_us = row.run_us
            # That of what ended well says that an operator completed it, which history tells.
            if row.failure is not None and status is not NodeStatus.SUCCEEDED:
                message.failure.CopyFrom(to_failure(failure_from_json(row.failure)))
        if status in node_terminal:
            message.ended_at_us = row.ended_at_us
    expanded = view.maps.get(node) if view is not None and instance < 0 else None
    if expanded is not None:
        message.width = expanded.width
        message.instances_ended = expanded.ended
    elif row is not None and row.width and status in node_terminal:
        whole = status is NodeStatus.SUCCEEDED
        message.instances_ended = row.width if whole else reader.instances_ended(row.workflow_id, node)
    if view is not None and status not in node_terminal:
        active = view.active.get((node, instance))
        if active is not None:
            message.attempt = active.attempt
            message.retry_at_us = active.retry_at_us
        if instance < 0 and (status is NodeStatus.READY or expanded is not None):
            message.waiting_reason = clip(view.reasons.get(node, ""), reason_bytes_max)
        elif status is NodeStatus.WAITING:
            message.waiting_reason = clip(_what_it_waits_for(sight, node), reason_bytes_max)
    return message


def _what_it_waits_for(sight: Sight, node: int) -> str:
    assert sight.view is not None
    statuses = sight.view.statuses
    waits = [
        parent for parent in sight.plan.graph.parents_of(node) if NodeStatus(statuses[parent]) not in node_terminal
    ]
    if not waits:
        return ""
    named = ", ".join(sight.plan.graph.ids[parent] for parent in waits[:10])
    return f"waits for {named}{f' and {len(waits) - 10} more' if len(waits) > 10 else ''}"


def node_page(
    reader: Reader, sight: Sight, after: tuple[int, int], limit: int, statuses: Sequence[NodeStatus] = ()
) -> tuple[list[client_pb2.Node], tuple[int, int] | None]:
    """Return nodes in the order of the definition, instances behind their node, beyond the key `after`; and the last key, None at the end.

    Instances that have not begun are left out. A page ends early when it is as large as a message should be. Runs in a thread of the
    reads.
    """
    wanted = frozenset(statuses)
    rows_tell_all = bool(wanted) and wanted <= _in_rows_only
    found: list[client_pb2.Node] = []
    size = 0
    while True:
        rows = reader.node_page(sight.stored.workflow_id, after, page_size_max, statuses if rows_tell_all else ())
        known = {(row.node, row.instance): row for row in rows}
        # A page that is not full says that no node behind its last row has one; a full one says nothing of them.
        at_end = len(rows) < page_size_max
        for key in known if rows_tell_all else _keys(known, after[0] + 1, len(sight.plan.nodes) if at_end else 0):
            row = known.get(key)
            if not wanted or sight.node_status(*key, row) in wanted:
                found.append(node_message(reader, sight, *key, row))
                size += found[-1].ByteSize()
                if len(found) == limit or size >= message_split_bytes:
                    return found, key
        if at_end:
            return found, None
        after = (rows[-1].node, rows[-1].instance)


def _keys(known: Mapping[tuple[int, int], StoredNode], node: int, nodes_end: int) -> Iterator[tuple[int, int]]:
    """Go through what is in `known` (sorted) and, between and up to `nodes_end`, the nodes from `node` on that are not."""
    for key in known:
        while node < key[0] or (node == key[0] and key[1] >= 0):
            yield node, -1
            node += 1
        yield key
        if key[1] < 0:
            node = key[0] + 1
    for rest in range(node, nodes_end):
        yield rest, -1


def node_counts(reader: Reader, sight: Sight) -> dict[NodeStatus, int]:
    """Count the nodes and instances of a workflow that has ended, by state. Runs in a thread of the reads."""
    counts: dict[NodeStatus, int] = {}
    rows_seen = width = 0
    after = first_key
    while True:
        rows = reader.node_page(sight.stored.workflow_id, after, page_size_max)
        for row in rows:
            status = sight.node_status(row.node, row.instance, row)
            counts[status] = counts.get(status, 0) + 1
            width += row.width
        rows_seen += len(rows)
        if len(rows) < page_size_max:
            break
        after = (rows[-1].node, rows[-1].instance)
    skipped = len(sight.plan.nodes) + width - rows_seen
    if skipped:
        counts[NodeStatus.SKIPPED] = counts.get(NodeStatus.SKIPPED, 0) + skipped
    return counts
