"""Why a node does not run, in words: what it waits for, and for each worker why it has not got it."""

from collections.abc import Iterator
from typing import Final

from mainspring.durations import span
from mainspring_coordinator.engine import crowding
from mainspring_coordinator.engine.alone import idle_worker, must_run_alone
from mainspring_coordinator.engine.effects import Explanation, NodeReason, Verdict, WorkerReason
from mainspring_coordinator.engine.pauses import utc
from mainspring_coordinator.engine.permits import waits_for
from mainspring_coordinator.engine.ready import ClassKey, Item
from mainspring_coordinator.engine.state import Assignment, State, WorkflowState, runs
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, node_terminal
from mainspring_coordinator.engine.worker import WorkerState

_reasons_max: Final = 1_000
_nodes_max: Final = 100
_parents_max: Final = 10
_able: Final = "could take it; its turn has not come yet"
_asked: Final = "its output is being looked for in the result cache"
_order: Final = (
    *(NodeStatus.READY, NodeStatus.BACKOFF, NodeStatus.CANCELLING, NodeStatus.RUNNING),
    NodeStatus.WAITING,
)
"""What is told first of a whole workflow."""


def reasons(state: State, workflow: WorkflowState) -> dict[int, str]:
    """Say for each READY node of a workflow, and each `map` node with an instance to start, what it waits for; at most 1,000."""
    found = _of_classes(state, workflow)
    for node, _ in workflow.asked:
        if node in found or len(found) < _reasons_max:
            found[node] = _asked
    by_place: dict[str, str] = {}
    tied = state.ready.tied_items_of(workflow.key)
    for place, (node, _) in tied:
        if state.ready.pauses.over(workflow.plan.nodes[node].executor) is not None:
            continue
        if place not in by_place:
            by_place[place] = _tied_reason(state, place)
        if node in found or len(found) < _reasons_max:
            found[node] = by_place[place]
    items = {item for _, item in tied}
    for item in workflow.redeliveries:
        if must_run_alone(workflow, *item) and item not in items and (item[0] in found or len(found) < _reasons_max):
            key = workflow.plan.class_keys[item[0]]
            found[item[0]] = _pause_reason(state, workflow, key) or _alone_reason(state, workflow, item)
    return found


def _of_classes(state: State, workflow: WorkflowState) -> dict[int, str]:
    """Say of nodes what those of their class wait for."""
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
            by_class[key] = _pause_reason(state, workflow, key) or _class_reason(state, workflow, key)
        found[node] = by_class[key]
    return found


def explain(state: State, workflow: WorkflowState, node_id: str, instance: int, now_us: int) -> Explanation:
    """Explain a node, or an instance of a `map` node, with a reason for each worker; without a node's id, up to 100 nodes that go on.

    A node that is not there has no reason.
    """
    if not node_id:
        return _whole(state, workflow, now_us)
    node = workflow.plan.graph.index.get(node_id)
    expanded = workflow.maps.get(node) if node is not None else None
    if node is None or (instance >= 0 and (expanded is None or instance >= expanded.width)):
        return Explanation(workflow.status, (), 0, "", ())
    status = NodeStatus(workflow.statuses[node] if instance < 0 or expanded is None else expanded.statuses[instance])
    told = reasons(state, workflow) if status is NodeStatus.READY or expanded is not None else {}
    reason = NodeReason(node, instance, status, _why(state, workflow, node, instance, status, told, now_us))
    strategy = workflow.plan.class_keys[node].strategy or state.config.strategy
    waits = status is NodeStatus.READY or (instance < 0 and expanded is not None and expanded.queued)
    workers = tuple(_of_workers(state, workflow, (node, instance), now_us)) if waits else ()
    return Explanation(workflow.status, (reason,), 0, strategy, workers, workflow.pause)


def _whole(state: State, workflow: WorkflowState, now_us: int) -> Explanation:
    told = reasons(state, workflow)
    by_status: dict[int, list[int]] = {status: [] for status in _order}
    left = 0
    for node, status in enumerate(workflow.statuses):
        if status in by_status:
            left += 1
            if len(by_status[status]) < _nodes_max:
                by_status[status].append(node)
    nodes = [(node, status) for status in _order for node in by_status[status]][:_nodes_max]
    found = [NodeReason(node, -1, s, _why(state, workflow, node, -1, s, told, now_us)) for node, s in nodes]
    return Explanation(workflow.status, tuple(found), left - len(found), "", (), workflow.pause)


def _why(
    state: State,
    workflow: WorkflowState,
    node: int,
    instance: int,
    status: NodeStatus,
    told: dict[int, str],
    now_us: int,
) -> str:
    attempts = workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]
    if status in node_terminal:
        cached = status is NodeStatus.SUCCEEDED and not attempts and (instance >= 0 or node not in workflow.maps)
        return f"it has ended: {status.name}{', with an output from the result cache' if cached else ''}"
    if workflow.status is not WorkflowStatus.RUNNING and status is not NodeStatus.CANCELLING:
        return f"the workflow is {workflow.status.name}: nothing of it is started any more"
    match status:
        case NodeStatus.WAITING:
            return _what_is_missing(workflow, node, instance)
        case NodeStatus.BACKOFF:
            left_us = max(0, workflow.retry_at_us.get((node, instance), now_us) - now_us)
            return f"attempt {attempts} failed; the next one is due in {span(left_us)}"
        case NodeStatus.READY:
            if (node, instance) in workflow.parked:
                return "what it gets is being read from the database"
            return told.get(node, "its turn has not come yet")
        case _ if instance < 0 and node in workflow.maps:
            return _of_a_map(workflow, node, told)
        case _:
            return _with_a_worker(state, workflow, node, instance, status, now_us)


def _what_is_missing(workflow: WorkflowState, node: int, instance: int) -> str:
    if instance >= 0:
        spec = workflow.plan.nodes[node].map
        most = spec.max_parallel if spec is not None else 0
        if most and workflow.maps[node].live >= most:
            return f"{most} instances are running, as many as `max_parallel` allows"
        return "instances begin in their order, and those before it have not all begun"
    graph = workflow.plan.graph
    waits = [parent for parent in graph.parents_of(node) if workflow.statuses[parent] not in node_terminal]
    if not waits:
        return "what it gets is being read from the database"
    named = ", ".join(graph.ids[parent] for parent in waits[:_parents_max])
    more = len(waits) - _parents_max
    return f"waits for {named}{f' and {more} more' if more > 0 else ''}"


def _of_a_map(workflow: WorkflowState, node: int, told: dict[int, str]) -> str:
    expanded = workflow.maps[node]
    said = f"{expanded.ended} of {expanded.width} instances have ended, {expanded.live} are with workers"
    return f"{said}; the next one: {told[node]}" if node in told else said


def _with_a_worker(
    state: State, workflow: WorkflowState, node: int, instance: int, status: NodeStatus, now_us: int
) -> str:
    held = next((one for one in workflow.live.values() if (one.node, one.instance) == (node, instance)), None)
    if held is None:
        return "its elements are being made"
    since = f"for {max(0, now_us - held.started_at_us) / 1e6:,.1f} s"
    if status is NodeStatus.CANCELLING:
        return f"worker {held.worker!r}, which has had it {since}, is told to stop it"
    if not held.session:
        return f"worker {held.worker!r} has had it {since}, and {_absence(state, held, now_us)}"
    return f"attempt {held.attempt} has been with worker {held.worker!r} {since}"


def _absence(state: State, held: Assignment, now_us: int) -> str:
    worker = state.workers.get(state.sessions.get(held.incarnation, 0))
    if worker is not None and not worker.attached:
        left_us = max(0, worker.absent_since_us + state.config.stream_grace_us - now_us)
        return f"is away; it is waited for, {left_us / 1e6:,.1f} s more (STREAM_GRACE)"
    return "has not told this coordinator yet that it still has it"


def _of_workers(state: State, workflow: WorkflowState, item: Item, now_us: int) -> Iterator[WorkerReason]:
    key = workflow.plan.class_keys[item[0]]
    tied = next((place for place, (node, _) in state.ready.tied_items_of(workflow.key) if node == item[0]), "")
    alone = must_run_alone(workflow, *item)
    paused = _pause_reason(state, workflow, key)
    for worker in state.workers.values():
        verdict, reason = _verdict(state, workflow, key, worker, now_us)
        if verdict is Verdict.ABLE and alone and worker.incarnation in state.held:
            verdict, reason = Verdict.ALONE, "has other nodes, and this one must run alone"
        if verdict is Verdict.ABLE and tied:
            verdict, reason = _by_tie(worker, tied)
        if verdict is Verdict.ABLE and paused:
            verdict, reason = Verdict.PAUSED, "could take it, but it is paused"
        yield WorkerReason(worker.name, worker.incarnation, verdict, reason)


def _by_tie(worker: WorkerState, tied: str) -> tuple[Verdict, str]:
    kind, _, what = tied.partition(":")
    if kind == "permit":
        return Verdict.LIMIT, "could take it, once there is a permit of its concurrency key"
    if kind == "host" and worker.host != what:
        return Verdict.NEARER, f"is not on host {what!r}, where its inputs are; it waits a moment for one that is"
    if kind == "worker" and worker.incarnation != what:
        return Verdict.KEY, "does not have its affinity key"
    return Verdict.ABLE, _able


def _verdict(
    state: State, workflow: WorkflowState, key: ClassKey, worker: WorkerState, now_us: int
) -> tuple[Verdict, str]:
    """Tell why a worker does not get a node now; the first reason of those that hold, the most lasting first."""
    if key.executor not in worker.executors:
        return Verdict.EXECUTOR, f"does not run executor {key.executor!r}"
    if not runs(worker, key):
        return Verdict.LABELS, _labels_missing(worker, key)
    if not worker.attached:
        return Verdict.ABSENT, f"is away for {max(0, now_us - worker.absent_since_us) / 1e6:,.0f} s"
    if worker.draining:
        return Verdict.DRAINING, "drains"
    return _verdict_on_room(state, workflow, worker)


def _verdict_on_room(state: State, workflow: WorkflowState, worker: WorkerState) -> tuple[Verdict, str]:
    held = state.held.get(worker.incarnation)
    if worker.reserved is not None:
        return Verdict.ALONE, "is kept free for a node that must run alone"
    if held is not None and held.alone:
        return Verdict.ALONE, "has a node that must run alone"
    if state.room(worker) <= 0:
        taken = len(held.assignments) if held is not None else 0
        return (
            Verdict.FULL,
            f"gives this coordinator {worker.credit} of its {worker.slots} slots, and {taken} are taken",
        )
    if workflow.shard not in worker.reconciled:
        return Verdict.INVENTORY, f"has not stated yet what it has of shard {workflow.shard}"
    if held is not None and len(held.workflows) >= worker.workflows_max and workflow.key not in held.workflows:
        return Verdict.WORKFLOWS, f"has {worker.workflows_max} workflows, its bound (MAX_CONCURRENT_WORKFLOWS)"
    return Verdict.ABLE, _able


def _labels_missing(worker: WorkerState, key: ClassKey) -> str:
    missing: list[str] = []
    for name, needed in key.requires:
        wanted = (needed,) if isinstance(needed, str) else needed
        has = worker.labels.get(name)
        if has not in wanted:
            missing.append(f"{name} is {has!r}" if has is not None else f"it has no {name}")
    labels = ", ".join(
        f"{name}={needed if isinstance(needed, str) else '|'.join(needed)}" for name, needed in key.requires
    )
    return f"lacks labels ({labels}): {', '.join(missing)}"


def _tied_reason(state: State, place: str) -> str:
    kind, _, what = place.partition(":")
    if kind == "host":
        return f"waits a moment for a worker on host {what!r}, where its inputs are; all of those are full"
    if kind == "shard":
        return "no worker that may run it has stated yet what it has of this shard"
    if kind == "permit":
        return _limit_reason(state, place)
    worker = state.workers.get(state.sessions.get(what, 0))
    return (
        f"waits for worker {(worker.name if worker is not None else what)!r}, which has its affinity key, to have room"
    )


def _pause_reason(state: State, workflow: WorkflowState, key: ClassKey) -> str:
    """Say by whom a node of a class is paused, and how it goes on; nothing if it is not. What must end first for it comes last."""
    pauses = state.ready.pauses
    for pause, what, how in (
        (pauses.everything, "the whole cluster is", "--all"),
        (pauses.executors.get(key.executor), f"executor {key.executor!r} is", f"--executor {key.executor}"),
        (workflow.pause, "its workflow is", f"--workflow {workflow.id}"),
    ):
        if pause is not None:
            why = f": {pause.reason}" if pause.reason else ""
            return (
                f"{what} paused by {pause.who} since {utc(pause.since_us)}{why}; resume with: mainspring resume {how}"
            )
    return ""


def _alone_reason(state: State, workflow: WorkflowState, item: Item) -> str:
    key = workflow.plan.class_keys[item[0]]._replace(alone=True)
    ready, rate = state.ready.waiting.get(key), state.rates.told(key.executor)
    if rate and ready is not None and idle_worker(state, ready, workflow.key):
        return _rate_reason(key, rate)
    return f"waits for a worker of its own, because {workflow.redeliveries[item]} workers died while they ran it"


def _rate_reason(key: ClassKey, rate: str) -> str:
    return f"executor {key.executor!r} is started {rate} at most (EXECUTOR_RATES), which is used up for the moment"


def _limit_reason(state: State, place: str) -> str:
    shard, group, key = waits_for(place)
    demand = state.shards[shard].demands.by_key.get(key)
    if demand is None or not demand.home_epoch:
        return f"limit {key!r}: the coordinator that keeps its permits has not answered yet"
    tied = (flows for ready in state.ready.ties[place].values() for flows in ready.tied[place].values())
    others = demand.waiting + sum(len(items) for items in tied) - 1
    said = f"limit {key!r}: {demand.out} of {group.limit} permits are out"
    return f"{said}, and {others} {'other waits' if others == 1 else 'others wait'} for one" if others else said


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
        those = "one worker that runs" if len(active) == 1 else f"{len(active)} workers that run"
        return f"all slots of the {those} executor {key.executor!r} are taken"
    if rate := state.rates.told(key.executor):
        return _rate_reason(key, rate)
    if all(workflow.shard not in worker.reconciled for worker in roomy):
        return "the workers with room have not stated yet what they have of this shard"
    return _turn_reason(workflow)


def _turn_reason(workflow: WorkflowState) -> str:
    if len(workflow.live) >= crowding.bound(workflow):
        return f"{len(workflow.live)} nodes of the workflow are under way, as many as may be beside small workflows"
    return (
        "its turn has not come yet, or the workers with room are at their bound of workflows (MAX_CONCURRENT_WORKFLOWS)"
    )
