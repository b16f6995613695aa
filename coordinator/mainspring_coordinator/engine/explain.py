"""Why a node does not run, in words."""

from typing import Final

from mainspring_coordinator.engine.alone import must_run_alone
from mainspring_coordinator.engine.ready import ClassKey
from mainspring_coordinator.engine.state import State, WorkflowState, runs
from mainspring_coordinator.engine.status import NodeStatus

_reasons_max: Final = 1_000


def reasons(state: State, workflow: WorkflowState) -> dict[int, str]:
    """Say for each READY node of a workflow, and each `map` node with an instance to start, what it waits for; at most 1,000."""
    found: dict[int, str] = {}
    by_class: dict[ClassKey, str] = {}
    for node, status in enumerate(workflow.statuses):
        expanded = workflow.maps.get(node)
        if status != NodeStatus.READY and not (
            status == NodeStatus.RUNNING and expanded is not None and expanded.queued
        ):
            continue
        if len(found) == _reasons_max:
            break
        key = workflow.plan.class_keys[node]
        if key not in by_class:
            by_class[key] = _class_reason(state, workflow, key)
        found[node] = by_class[key]
    for place, (node, _) in state.ready.tied_items_of(workflow.key):
        if node in found or len(found) < _reasons_max:
            found[node] = _tied_reason(state, place)
    for (node, instance), deaths in workflow.redeliveries.items():
        if must_run_alone(workflow, node, instance) and (node in found or len(found) < _reasons_max):
            found[node] = f"waits for a worker of its own, because {deaths} workers died while they ran it"
    return found


def _tied_reason(state: State, place: str) -> str:
    kind, _, what = place.partition(":")
    if kind == "host":
        return f"waits a moment for a worker on host {what!r}, where its inputs are; all of those are full"
    if kind == "shard":
        return "no worker that may run it has stated yet what it has of this shard"
    worker = state.workers.get(state.sessions.get(what, 0))
    return (
        f"waits for worker {(worker.name if worker is not None else what)!r}, which has its affinity key, to have room"
    )


def _class_reason(state: State, workflow: WorkflowState, key: ClassKey) -> str:
    attached = [worker for worker in state.workers.values() if worker.attached]
    if not attached:
        return "no worker is attached; start one with `mainspring worker`"
    if not any(key.executor in worker.executors for worker in attached):
        return f"no worker runs executor {key.executor!r}; start one that registers it"
    able = [worker for worker in attached if runs(worker, key)]
    if not able:
        labels = ", ".join(
            f"{name}={value if isinstance(value, str) else '|'.join(value)}" for name, value in key.requires
        )
        return f"no worker that runs executor {key.executor!r} has the labels {labels}"
    active = [worker for worker in able if not worker.draining]
    if not active:
        return f"every worker that runs executor {key.executor!r} is draining"
    roomy = [worker for worker in active if state.room(worker) > 0]
    if not roomy:
        return f"all slots of the {len(active)} workers that run executor {key.executor!r} are taken"
    if all(workflow.shard not in worker.reconciled for worker in roomy):
        return "the workers with room have not stated yet what they have of this shard"
    return (
        "its turn has not come yet, or the workers with room are at their bound of workflows (MAX_CONCURRENT_WORKFLOWS)"
    )
