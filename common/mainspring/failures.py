"""The JSON form of a failure, as the database keeps it, and the types that are the system's own (docs/failures.md)."""

from typing import Final

import orjson

from mainspring.errors import Failure

start_to_close_timeout: Final = "mainspring.StartToCloseTimeout"
schedule_to_start_timeout: Final = "mainspring.ScheduleToStartTimeout"
workflow_timeout: Final = "mainspring.WorkflowTimeout"
path_error: Final = "mainspring.PathError"
not_a_list: Final = "mainspring.NotAList"
map_too_wide: Final = "mainspring.MapTooWide"
payload_too_large: Final = "mainspring.PayloadTooLarge"
not_json: Final = "mainspring.NotJson"
process_crashed: Final = "mainspring.ProcessCrashed"
unknown_executor: Final = "mainspring.UnknownExecutor"
worker_lost: Final = "mainspring.WorkerLost"
result_refused: Final = "mainspring.ResultRefused"
rows_refused: Final = "mainspring.RowsRefused"
superseded_by_operator: Final = "mainspring.SupersededByOperator"
skipped_by_operator: Final = "mainspring.SkippedByOperator"
completed_by_operator: Final = "mainspring.CompletedByOperator"


def failure_to_json(failure: Failure) -> bytes:
    """Write a failure as a JSON object; fields that say nothing are left out."""
    value: dict[str, str | bool] = {"type": failure.type, "message": failure.message}
    if failure.stack:
        value["stack"] = failure.stack
    if failure.non_retryable:
        value["non_retryable"] = True
    if failure.node_id:
        value["node_id"] = failure.node_id
    return orjson.dumps(value)


def failure_from_json(data: bytes) -> Failure:
    """Read what `failure_to_json` wrote."""
    value = orjson.loads(data)
    return Failure(
        type=value["type"],
        message=value["message"],
        stack=value.get("stack", ""),
        non_retryable=value.get("non_retryable", False),
        node_id=value.get("node_id", ""),
    )
