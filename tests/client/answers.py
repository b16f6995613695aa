"""Messages that scripted servers answer with."""

from collections.abc import Callable

from mainspring.v1 import client_pb2, workflow_pb2
from mainspring.wire import to_payload

RUNNING = workflow_pb2.WORKFLOW_STATUS_RUNNING
SUCCEEDED = workflow_pb2.WORKFLOW_STATUS_SUCCEEDED
FAILED = workflow_pb2.WORKFLOW_STATUS_FAILED
CANCELLED = workflow_pb2.WORKFLOW_STATUS_CANCELLED

definition = {"name": "one", "nodes": [{"id": "a", "executor": "noop"}]}


def submitted(request: client_pb2.SubmitRequest) -> client_pb2.SubmitResponse:
    return client_pb2.SubmitResponse(workflow_id=request.workflow_id, created=True, status=RUNNING)


def many_submitted(request: client_pb2.SubmitManyRequest) -> client_pb2.SubmitManyResponse:
    outcomes = [client_pb2.SubmitManyOutcome(workflow_id=item.workflow_id, created=True) for item in request.items]
    return client_pb2.SubmitManyResponse(outcomes=outcomes)


def ended(
    workflow_id: str = "w",
    status: workflow_pb2.WorkflowStatus.ValueType = SUCCEEDED,
    output: bytes = b"",
    failure: workflow_pb2.Failure | None = None,
) -> client_pb2.WorkflowResult:
    return client_pb2.WorkflowResult(
        workflow_id=workflow_id,
        status=status,
        output=to_payload(output) if output else None,
        failure=failure,
        submitted_at_us=1_000_000,
        ended_at_us=3_500_000,
    )


def result(
    status: workflow_pb2.WorkflowStatus.ValueType = SUCCEEDED,
    output: bytes = b"",
    failure: workflow_pb2.Failure | None = None,
) -> Callable[[client_pb2.GetResultRequest], client_pb2.GetResultResponse]:
    return lambda request: client_pb2.GetResultResponse(result=ended(request.workflow_id, status, output, failure))


def workflow(
    version: int = 1, status: workflow_pb2.WorkflowStatus.ValueType = RUNNING, workflow_id: str = "w"
) -> client_pb2.Workflow:
    over = status in (SUCCEEDED, FAILED, CANCELLED)
    return client_pb2.Workflow(
        workflow_id=workflow_id,
        name="one",
        status=status,
        version=version,
        nodes_total=2,
        submitted_at_us=1_000_000,
        ended_at_us=3_500_000 if over else 0,
        failure=workflow_pb2.Failure(type="ValueError", message="no such year", node_id="a")
        if status == FAILED
        else None,
        node_counts=[client_pb2.NodeCount(status=workflow_pb2.NODE_STATUS_RUNNING, count=2)],
        definition_hash="ab" * 32,
        assignment_strategy="load-balanced",
    )


def node(
    node_id: str = "a",
    status: workflow_pb2.NodeStatus.ValueType = workflow_pb2.NODE_STATUS_RUNNING,
    instance: int = -1,
    **more: object,
) -> client_pb2.Node:
    fields: dict[str, object] = {"executor": "noop", "attempt": 1, "worker": "worker-1", "started_at_us": 1_200_000}
    if status >= workflow_pb2.NODE_STATUS_SUCCEEDED:
        fields |= {"ended_at_us": 2_200_000, "run_us": 990_000}
    return client_pb2.Node(node_id=node_id, status=status, instance=instance, **(fields | more))  # type: ignore[arg-type]


def seen(
    version: int,
    *nodes: client_pb2.Node,
    status: workflow_pb2.WorkflowStatus.ValueType = RUNNING,
    snapshot: bool = False,
    more: bool = False,
) -> client_pb2.WatchResponse:
    return client_pb2.WatchResponse(workflow=workflow(version, status), nodes=nodes, snapshot=snapshot, more=more)
