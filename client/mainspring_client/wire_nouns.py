"""From the wire's messages to the client's nouns. A state that this build does not know is an error, not a guess."""

from collections.abc import Mapping
from typing import Final

from mainspring.errors import Failure, MainspringError
from mainspring.failovers import Failover
from mainspring.v1 import admin_pb2, client_pb2, workflow_pb2
from mainspring.wire import from_failure
from mainspring_client.cluster_nouns import (
    AuditEntry,
    CoordinatorInfo,
    CoordinatorStrategy,
    PausedDispatch,
    PauseOutcome,
    ShardInfo,
    StrategyChange,
    StrategyInfo,
    WorkerInfo,
)
from mainspring_client.nouns import (
    AttemptInfo,
    Explanation,
    HistoryEvent,
    NodeDetail,
    NodeExplanation,
    NodeInfo,
    NodeStatus,
    Pause,
    Result,
    WorkersExplanation,
    WorkflowInfo,
    WorkflowStatus,
)
from mainspring_client.payload import decode_json

_workflow_statuses: Final[Mapping["workflow_pb2.WorkflowStatus.ValueType", WorkflowStatus]] = {
    workflow_pb2.WorkflowStatus.Value(f"WORKFLOW_STATUS_{status}"): status for status in WorkflowStatus
}
_node_statuses: Final[Mapping["workflow_pb2.NodeStatus.ValueType", NodeStatus]] = {
    workflow_pb2.NodeStatus.Value(f"NODE_STATUS_{status}"): status for status in NodeStatus
}
_workflow_numbers: Final = {status: number for number, status in _workflow_statuses.items()}
_node_numbers: Final = {status: number for number, status in _node_statuses.items()}


def workflow_status(number: "workflow_pb2.WorkflowStatus.ValueType") -> WorkflowStatus:
    """Name a workflow's state."""
    status = _workflow_statuses.get(number)
    if status is None:
        raise MainspringError(
            f"workflow state {number} is not known to this client; install the cluster's version of mainspring"
        )
    return status


def node_status(number: "workflow_pb2.NodeStatus.ValueType") -> NodeStatus:
    """Name a node's state."""
    status = _node_statuses.get(number)
    if status is None:
        raise MainspringError(
            f"node state {number} is not known to this client; install the cluster's version of mainspring"
        )
    return status


def workflow_status_number(status: WorkflowStatus) -> "workflow_pb2.WorkflowStatus.ValueType":
    """Return a workflow's state as the wire has it."""
    return _workflow_numbers[status]


def node_status_number(status: NodeStatus) -> "workflow_pb2.NodeStatus.ValueType":
    """Return a node's state as the wire has it."""
    return _node_numbers[status]


def workflow_info(message: client_pb2.Workflow) -> WorkflowInfo:
    """Read a workflow."""
    return WorkflowInfo(
        workflow_id=message.workflow_id,
        name=message.name,
        status=workflow_status(message.status),
        version=message.version,
        submitted_at_us=message.submitted_at_us,
        ended_at_us=message.ended_at_us,
        failure=_failure(message),
        nodes_total=message.nodes_total,
        node_counts={node_status(count.status): count.count for count in message.node_counts},
        shard=message.shard,
        definition_hash=message.definition_hash,
        cancel_reason=message.cancel_reason,
        assignment_strategy=message.assignment_strategy,
        pause=_pause(message),
        rerun_of=message.rerun_of,
    )


def _pause(
    message: client_pb2.Workflow
    | client_pb2.ExplainResponse
    | admin_pb2.PauseDispatchResponse
    | admin_pb2.ResumeDispatchResponse,
) -> Pause | None:
    found = message.pause
    return Pause(found.since_us, found.who, found.reason) if message.HasField("pause") else None


def pause_outcome(message: admin_pb2.PauseDispatchResponse | admin_pb2.ResumeDispatchResponse) -> PauseOutcome:
    """Read what came of a pause or its end."""
    workers = message.workers if isinstance(message, admin_pb2.PauseDispatchResponse) else 0
    return PauseOutcome(message.changed, _pause(message), tuple(message.unseen_by), workers)


def paused_dispatch(message: admin_pb2.PausedDispatch) -> PausedDispatch:
    """Read what is paused."""
    pause = Pause(message.pause.since_us, message.pause.who, message.pause.reason)
    return PausedDispatch(pause, message.executor, message.workflow_id)


def node_info(message: client_pb2.Node) -> NodeInfo:
    """Read a node."""
    return NodeInfo(
        node_id=message.node_id,
        instance=message.instance,
        executor=message.executor,
        status=node_status(message.status),
        attempt=message.attempt,
        worker=message.worker,
        started_at_us=message.started_at_us,
        ended_at_us=message.ended_at_us,
        run_us=message.run_us,
        failure=_failure(message),
        depends_on=tuple(message.depends_on),
        width=message.width,
        instances_ended=message.instances_ended,
        retry_at_us=message.retry_at_us,
        waiting_reason=message.waiting_reason,
        cached=message.cached,
    )


def node_detail(message: client_pb2.GetNodeResponse) -> NodeDetail:
    """Read a node with its payloads."""
    attempts = tuple(
        AttemptInfo(one.attempt, one.worker, one.started_at_us, one.ended_at_us, one.run_us, _failure(one))
        for one in message.attempts
    )
    return NodeDetail(
        node_info(message.node),
        decode_json(message.input),
        decode_json(message.output),
        decode_json(message.progress),
        attempts,
    )


def explanation(message: client_pb2.ExplainResponse) -> Explanation:
    """Read why nodes do not run."""
    return Explanation(
        status=workflow_status(message.status),
        nodes=tuple(
            NodeExplanation(one.node_id, one.instance, node_status(one.status), one.reason) for one in message.nodes
        ),
        nodes_left_out=message.nodes_left_out,
        strategy=message.strategy,
        workers=tuple(
            WorkersExplanation(_verdict(one.verdict), one.reason, one.count, tuple(one.workers))
            for one in message.workers
        ),
        pause=_pause(message),
    )


def _verdict(verdict: "client_pb2.WorkerVerdict.ValueType") -> str:
    try:
        return client_pb2.WorkerVerdict.Name(verdict).removeprefix("WORKER_VERDICT_")
    except ValueError:
        return str(verdict)  # of a newer cluster: shown by its number


def history_event(message: client_pb2.HistoryEvent) -> HistoryEvent:
    """Read a line of history."""
    try:
        kind = client_pb2.HistoryEventType.Name(message.type).removeprefix("HISTORY_EVENT_TYPE_")
    except ValueError:
        kind = str(message.type)  # a newer cluster's event: shown by its number
    return HistoryEvent(
        message.at_us,
        kind,
        message.node_id,
        message.instance,
        message.attempt,
        message.worker,
        _failure(message),
        message.note,
    )


def result(message: client_pb2.WorkflowResult) -> Result:
    """Read a result."""
    return Result(
        workflow_id=message.workflow_id,
        status=workflow_status(message.status),
        output=decode_json(message.output),
        failure=_failure(message),
        submitted_at_us=message.submitted_at_us,
        ended_at_us=message.ended_at_us,
    )


def worker_info(message: admin_pb2.Worker) -> WorkerInfo:
    """Read a worker."""
    return WorkerInfo(
        name=message.name,
        incarnation=message.incarnation,
        host=message.host,
        zone=message.zone,
        status=admin_pb2.WorkerStatus.Name(message.status).removeprefix("WORKER_STATUS_"),
        executors=tuple(message.executors),
        slots=message.slots,
        assigned=message.assigned,
        credit=message.credit,
        cpu_percent=message.cpu_percent,
        memory_percent=message.memory_percent,
        round_trip_us=message.round_trip_us,
        silent_ms=message.silent_ms,
        version=message.version,
        labels=dict(message.labels),
        stays=message.stays,
        busy=max(message.assigned, message.busy),  # an earlier coordinator tells of its own only
    )


def coordinator_info(message: admin_pb2.Coordinator) -> CoordinatorInfo:
    """Read a coordinator."""
    return CoordinatorInfo(
        message.name,
        message.incarnation,
        message.address,
        message.http_address,
        message.live,
        message.shards,
        message.workers,
        message.stepped_down_until_us,
    )


def shard_info(message: admin_pb2.Shard) -> ShardInfo:
    """Read a shard."""
    return ShardInfo(message.shard, message.epoch, message.holder, message.holder_name, message.batch_seq)


def strategy_info(message: admin_pb2.GetStrategyResponse) -> StrategyInfo:
    """Read by which strategy a cluster places."""
    return StrategyInfo(
        message.wanted,
        message.chosen,
        message.changed_at_us,
        tuple(CoordinatorStrategy(one.name, one.incarnation, one.own, one.in_force) for one in message.coordinators),
    )


def strategy_change(message: admin_pb2.StrategyChange) -> StrategyChange:
    """Read a change of it."""
    return StrategyChange(message.changed_at_us, message.before, message.after, message.by, message.reason)


def audit_entry(message: admin_pb2.AuditEntry) -> AuditEntry:
    """Read an entry of the audit log."""
    return AuditEntry(
        message.entry_id,
        message.began_at_us,
        message.ended_at_us,
        message.act,
        message.subject,
        message.reason,
        message.who,
        message.coordinator,
        message.outcome,
    )


def failover(message: admin_pb2.Failover) -> Failover:
    """Read an event of the record."""
    try:
        kind = admin_pb2.FailoverKind.Name(message.kind).removeprefix("FAILOVER_KIND_").lower()
    except ValueError:
        kind = str(message.kind)  # of a newer cluster: shown by its number
    return Failover(
        message.event_id,
        kind,
        message.failed_engine_id,
        message.failed_incarnation,
        message.takeover_engine_id,
        message.takeover_incarnation,
        tuple(message.affected_workflows),
        tuple(message.affected_nodes),
        message.affected_workflows_count,
        message.affected_nodes_count,
        message.detected_at_us,
        message.recovered_at_us,
        message.alerted_at_us,
    )


def _failure(
    message: client_pb2.Workflow
    | client_pb2.Node
    | client_pb2.Attempt
    | client_pb2.HistoryEvent
    | client_pb2.WorkflowResult,
) -> Failure | None:
    return from_failure(message.failure) if message.HasField("failure") else None
