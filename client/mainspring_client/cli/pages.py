"""What `get` shows: a workflow, the row of a node, a node with all that is known of it."""

import shlex
from collections.abc import Sequence
from typing import Final

from mainspring.durations import span
from mainspring_client.cli.output import Output, first_line, json_text, moment, since
from mainspring_client.cli.progress import attempts, duration, trouble
from mainspring_client.nouns import NodeDetail, NodeInfo, NodeStatus, Pause, WorkflowFilter, WorkflowInfo

failed_shown_max: Final = 10
"""Failed instances of a `map` node."""


def show_workflow(out: Output, workflow: WorkflowInfo) -> None:
    """Print what is known of a workflow as a whole."""
    failure = workflow.failure
    counts = ", ".join(f"{count:,} {status.lower()}" for status, count in workflow.node_counts.items() if count)
    instances = sum(workflow.node_counts.values()) - workflow.nodes_total
    nodes = f"{workflow.nodes_total:,}"
    if instances > 0:
        nodes += f" and {instances:,} instance{'' if instances == 1 else 's'} of maps"
    out.fields(
        [
            ("workflow", workflow.workflow_id),
            ("name", workflow.name),
            ("rerun of", workflow.rerun_of),
            ("state", workflow.status),
            ("submitted", moment(workflow.submitted_at_us)),
            ("ended", moment(workflow.ended_at_us)),
            ("time", since(workflow.submitted_at_us, workflow.ended_at_us)),
            ("nodes", f"{nodes}: {counts}" if counts else nodes),
            ("error", f"{failure.type}: {failure.message}" if failure is not None else ""),
            ("at node", failure.node_id if failure is not None else ""),
            ("paused", paused(workflow.pause)),
            ("cancelled for", workflow.cancel_reason),
            ("strategy", workflow.assignment_strategy),
        ]
    )


def filtered(only: WorkflowFilter) -> str:
    """Return what a list was asked for, as words behind "workflow"; nothing where it was asked for all."""
    words = [
        f" of the name {only.name!r}" if only.name else "",
        f" whose id begins with {only.id_prefix!r}" if only.id_prefix else "",
        f" that is {' or '.join(only.statuses)}" if only.statuses else "",
    ]
    return "".join(words)


def paused(pause: Pause | None) -> str:
    """Return since when, by whom and why something is paused; nothing if it is not."""
    if pause is None:
        return ""
    return f"since {moment(pause.since_us)} by {pause.who}{f': {pause.reason}' if pause.reason else ''}"


def node_row(node: NodeInfo) -> list[str]:
    """Return a node's row in the table of its workflow."""
    return [
        node.label,
        node.status,
        attempts(node),
        node.worker,
        moment(node.started_at_us),
        duration(node),
        trouble(node),
    ]


def show_node(out: Output, workflow_id: str, detail: NodeDetail, failed: Sequence[NodeInfo] = ()) -> None:
    """Print all that is known of one node; of a `map` node, the first of its `failed` instances too."""
    node = detail.node
    failure = node.failure
    out.fields(
        [
            ("workflow", workflow_id),
            ("node", node.label),
            ("executor", node.executor),
            ("state", node.status),
            ("waits for", node.waiting_reason),
            ("depends on", ", ".join(node.depends_on)),
            ("instances", f"{node.instances_ended} of {node.width} ended" if node.width else ""),
            ("attempt", "" if node.width else attempts(node)),
            ("worker", node.worker),
            ("started", moment(node.started_at_us)),
            ("time", duration(node)),
            ("ran", span(node.run_us) if node.run_us else ""),
            ("next attempt", moment(node.retry_at_us)),
            ("input", json_text(detail.input) if node.attempt or node.cached else ""),
            ("output", json_text(detail.output) if node.status is NodeStatus.SUCCEEDED else ""),
            ("progress", json_text(detail.progress) if detail.progress is not None else ""),
            ("error", f"{failure.type}: {failure.message}" if failure is not None else ""),
            ("stack", failure.stack.rstrip() if failure is not None else ""),
        ]
    )
    if detail.attempts:
        out.line("")
        rows = [
            [
                str(one.attempt),
                one.worker,
                moment(one.started_at_us),
                since(one.started_at_us, one.ended_at_us),
                f"{one.failure.type}: {first_line(one.failure.message)}" if one.failure is not None else "",
            ]
            for one in detail.attempts
        ]
        out.table(["attempt", "worker", "started", "time", "error"], rows)
    if failed:
        _show_failed(out, workflow_id, failed)


def _show_failed(out: Output, workflow_id: str, failed: Sequence[NodeInfo]) -> None:
    out.line("")
    rows = [
        [one.label, str(one.attempt or ""), one.worker, moment(one.started_at_us), duration(one), trouble(one)]
        for one in failed[:failed_shown_max]
    ]
    out.table(["failed", "attempts", "worker", "started", "time", "error"], rows)
    out.hint(f"look at one with: mainspring get {workflow_id} {shlex.quote(failed[0].label)}")
    if len(failed) > failed_shown_max:
        out.hint(
            f"these are the first {failed_shown_max}; see all with: mainspring get {workflow_id} --state FAILED --all"
        )
