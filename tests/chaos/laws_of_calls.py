"""What clients were told must be what the database holds: the laws that their logs are held against. Pure."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from mainspring.failures import worker_lost
from mainspring.limits import redeliveries_max
from mainspring_coordinator.engine.status import (
    NodeStatus,
    WorkflowStatus,
    node_terminal,
    workflow_terminal,
    workflow_transitions,
)
from tests.chaos.books import Violation
from tests.chaos.evidence import Call, Evidence

_waiting: Final = (NodeStatus.READY, NodeStatus.BACKOFF)
_ended_early: Final = (WorkflowStatus.FAILED, WorkflowStatus.CANCELLED)
_cancelled_late_us: Final = 2_000_000
"""How exactly the database's time is known from outside: its clock is slewed after an outage."""
_starts_of_quarantine: Final = redeliveries_max
"""A node fails for good when so many workers died under it, each of which had started it."""


def nothing_acknowledged_is_lost(evidence: Evidence) -> Iterator[Violation]:
    """Law 1, for submits and cancels."""
    for call in evidence.calls:
        row = evidence.workflows.get(call.workflow)
        if call.outcome == "ok" and row is None:
            yield Violation("an acknowledged workflow is lost", f"{call.workflow}: {call}")
        elif call.op == "cancel" and call.outcome == "ok" and row is not None:
            told = WorkflowStatus[call.answer["status"]]
            if row.status not in (workflow_transitions[told] or {told}):
                yield Violation("an acknowledged cancel is lost", f"{call.workflow} is {row.status.name}: {call}")


def everything_ends(evidence: Evidence) -> Iterator[Violation]:
    """Nothing is left unfinished."""
    for name, row in evidence.workflows.items():
        if row.status not in workflow_terminal:
            yield Violation("a workflow is unfinished", f"{name} is {row.status.name}")
    for key, node in evidence.nodes.items():
        # What waited when its workflow failed or was cancelled is skipped, and its row, if it has one, may say that it waited.
        skipped = node.status in _waiting and evidence.workflows[key[0]].status in _ended_early
        if node.status not in node_terminal and not skipped:
            yield Violation("a node is unfinished", f"{key} is {node.status.name}")


def everything_ends_as_it_should(evidence: Evidence) -> Iterator[Violation]:
    """With the state and the value that its definition and input give, unless it was cancelled."""
    cancelled = {call.workflow for call in evidence.calls if call.op == "cancel"}
    starts = defaultdict[str, int](int)
    for effect in evidence.effects:
        if effect.act == "start":
            starts[effect.workflow] += 1
    for call in evidence.calls:
        row = evidence.workflows.get(call.workflow)
        if call.op != "submit" or row is None or row.status not in workflow_terminal:
            continue
        if row.status is WorkflowStatus.CANCELLED and call.workflow in cancelled:
            continue
        if row.failure == worker_lost and starts[call.workflow] >= _starts_of_quarantine:
            continue
        if row.status.name != call.expect["status"]:
            yield Violation("a workflow ended otherwise than it should", f"{row}: {call}")
        elif row.status is WorkflowStatus.SUCCEEDED and _value(row.output) != call.expect["value"]:
            yield Violation("a workflow gave another value than it should", f"{row}: {call}")


def results_told_are_results_kept(evidence: Evidence) -> Iterator[Violation]:
    """A state or result that a client was told is never taken back."""
    for call in evidence.calls:
        row = evidence.workflows.get(call.workflow)
        if call.op not in ("get", "wait") or call.outcome != "ok" or row is None:
            continue
        told = WorkflowStatus[call.answer["status"]]
        if told in workflow_terminal and told is not row.status:
            yield Violation("a state that was told was taken back", f"{row}: {call}")
        elif told is WorkflowStatus.SUCCEEDED and call.op == "wait" and call.answer["output"] != row.output:
            yield Violation("a result that was told was taken back", f"{row}: {call}")


def an_id_is_one_workflow(evidence: Evidence) -> Iterator[Violation]:
    """The same id with the same input is the same workflow, with another input it is refused; it is made once."""
    created: dict[str, Call] = {}
    for call in evidence.calls:
        if call.op == "clash" and call.outcome == "ok":
            yield Violation("an id was given to two workflows", str(call))
        elif call.op == "submit" and call.outcome == "refused" and call.error != "BusyError":
            yield Violation("a submit was refused that should not be", str(call))
        elif call.op == "submit" and call.outcome == "ok" and call.answer["created"]:
            if call.workflow in created:
                yield Violation("a workflow was made twice", f"{created[call.workflow]}, and {call}")
            created[call.workflow] = call


def reads_are_current(evidence: Evidence) -> Iterator[Violation]:
    """A read that began after another had ended never shows less; what was acknowledged before it is there."""
    by_workflow = defaultdict[str, list[Call]](list)
    for call in evidence.calls:
        if call.op in ("get", "submit", "cancel", "wait") and call.outcome != "unknown":
            by_workflow[call.workflow].append(call)
    for calls in by_workflow.values():
        done = sorted((call for call in calls if call.outcome == "ok"), key=lambda call: call.ended_ns)
        for call in calls:
            if call.op != "submit" and call.error == "NotFoundError":
                before = [one for one in done if one.ended_ns < call.invoked_ns]
                if before:
                    yield Violation("an acknowledged workflow was not found", f"{before[-1]}, then {call}")
        reads = [call for call in done if call.op == "get"]
        for call in reads:
            version = max((one.answer["version"] for one in reads if one.ended_ns < call.invoked_ns), default=0)
            if call.answer["version"] < version:
                yield Violation("a read went back", f"version {version} was told before {call}")


def no_call_fails_otherwise(evidence: Evidence) -> Iterator[Violation]:
    """Calls end well, or with an error that says that nothing is known, or that the cluster is busy."""
    for call in evidence.calls:
        expected = call.op == "clash" and call.error == "AlreadyExistsError"
        if call.outcome == "refused" and not expected and call.error not in ("BusyError", "NotFoundError"):
            yield Violation("a call failed with an error that no fault explains", str(call))


def nothing_is_assigned_after_a_cancel(evidence: Evidence) -> Iterator[Violation]:
    """After its acknowledgement no assignment of the workflow is committed."""
    told: dict[str, Call] = {}
    for call in evidence.calls:
        if call.op == "cancel" and call.outcome == "ok":
            told.setdefault(call.workflow, call)
    for (workflow, node, instance), row in evidence.nodes.items():
        if workflow in told:
            late_us = row.started_at_us - told[workflow].ended_ns // 1_000 - evidence.offset_us
            if late_us > _cancelled_late_us:
                what = f"{workflow}/{node}/{instance} {late_us / 1e6:.1f} s after {told[workflow]}"
                yield Violation("assigned after a cancel", what)


def _value(output: object) -> object:
    return output["value"] if isinstance(output, dict) else output


laws: Final = (
    nothing_acknowledged_is_lost,
    everything_ends,
    everything_ends_as_it_should,
    results_told_are_results_kept,
    an_id_is_one_workflow,
    reads_are_current,
    no_call_fails_otherwise,
    nothing_is_assigned_after_a_cancel,
)
