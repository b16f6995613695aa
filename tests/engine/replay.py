"""What the database would give back: stored rows folded into the events of a recovery."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mainspring_coordinator.engine.events import LoadedNode, WorkflowLoaded
from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import (
    MapExpanded,
    NodeAssigned,
    NodeChanged,
    ProgressSaved,
    RetryDue,
    Row,
    WorkflowInserted,
    WorkflowPaused,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, workflow_terminal

Outputs = dict[tuple[int, int], bytes]


def fold(
    rows: Sequence[Row], plans: Mapping[bytes, Plan]
) -> tuple[list[WorkflowLoaded], dict[str, Outputs], dict[str, WorkflowUpdated]]:
    """Return the unfinished workflows, all outputs by workflow and (node, instance), and the last update of each workflow."""
    workflows: dict[str, WorkflowLoaded] = {}
    nodes: dict[str, dict[tuple[int, int], LoadedNode]] = {}
    outputs: dict[str, Outputs] = {}
    updates: dict[str, WorkflowUpdated] = {}
    for row in rows:
        name = row.workflow_id
        match row:
            case WorkflowInserted():
                assert name not in workflows
                workflows[name] = WorkflowLoaded(
                    row.shard,
                    name,
                    plans[row.plan_hash],
                    row.input,
                    row.digest,
                    WorkflowStatus.RUNNING,
                    1,
                    row.submitted_at_us,
                    row.deadline_at_us,
                    0,
                    row.strategy,
                    "",
                    None,
                    (),
                )
                nodes[name] = {}
            case WorkflowUpdated():
                updates[name] = row
                workflows[name] = replace(
                    workflows[name],
                    status=row.status,
                    version=row.version,
                    closing_until_us=row.closing_until_us,
                    cancel_reason=row.cancel_reason,
                    failure=row.failure,
                )
            case NodeAssigned():
                nodes[name][row.node, row.instance] = LoadedNode(
                    row.node,
                    row.instance,
                    NodeStatus.RUNNING,
                    row.attempt,
                    row.assignment,
                    row.worker,
                    row.incarnation,
                    row.started_at_us,
                    0,
                    0,
                    row.redeliveries,
                    None,
                )
            case NodeChanged():
                blank = LoadedNode(row.node, row.instance, row.status, row.attempt, 0, "", "", 0, 0, 0, 0, None)
                before = nodes[name].get((row.node, row.instance), blank)
                nodes[name][row.node, row.instance] = replace(
                    before,
                    status=row.status,
                    attempt=row.attempt,
                    retry_at_us=row.retry_at_us,
                    redeliveries=row.redeliveries,
                )
                if row.output is not None:
                    outputs.setdefault(name, {})[row.node, row.instance] = row.output
            case MapExpanded():
                nodes[name][row.node, -1] = LoadedNode(
                    row.node, -1, NodeStatus.RUNNING, 0, 0, "", "", row.started_at_us, 0, row.width, 0, None
                )
            case RetryDue():
                at = row.node, row.instance
                nodes[name][at] = replace(nodes[name][at], retry_at_us=row.retry_at_us)
            case ProgressSaved():
                at = row.node, row.instance
                nodes[name][at] = replace(nodes[name][at], progress=row.progress)
            case WorkflowPaused():
                pause = Pause(row.since_us, row.who, row.reason) if row.since_us else None
                workflows[name] = replace(workflows[name], pause=pause)
            case _:
                pass
    open_ones = [
        replace(workflow, nodes=[nodes[name][key] for key in sorted(nodes[name])])
        for name, workflow in workflows.items()
        if workflow.status not in workflow_terminal
    ]
    return open_ones, outputs, updates
