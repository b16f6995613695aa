"""What becomes of nodes: ready, retried, ended; and what their ends release."""

from array import array
from collections.abc import Iterable
from typing import Final

from mainspring import limits
from mainspring.errors import Failure
from mainspring.failures import failure_to_json, payload_too_large, schedule_to_start_timeout, worker_lost
from mainspring.retry import delay_ms, draw_for
from mainspring_coordinator.engine import caching, maps, workflows
from mainspring_coordinator.engine.alone import must_run_alone
from mainspring_coordinator.engine.payloads import keep_output
from mainspring_coordinator.engine.ready import Item, next_instance
from mainspring_coordinator.engine.rows import AttemptEnded, NodeChanged
from mainspring_coordinator.engine.state import Assignment, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus, node_terminal
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Act, Turn

_too_much: Final = Failure(
    payload_too_large,
    f"the workflow's payloads are over {limits.workflow_payload_bytes_max} bytes; "
    "store large data elsewhere and pass references",
    non_retryable=True,
)


def make_ready(turn: Turn, workflow: WorkflowState, node: int) -> None:
    """All that a node depends on has ended: it may run, or, if it is a `map`, be expanded."""
    if workflow.plan.nodes[node].map is not None:
        maps.expand(turn, workflow, node)
        return
    turn.set_node(workflow, node, -1, NodeStatus.READY)
    if workflow.plan.caches and caching.has_cache(workflow, node):
        caching.ask(turn, workflow, (node, -1))
        return
    await_start(turn, workflow, node, -1)
    enqueue(turn, workflow, (node, -1))


def wait_for_worker(turn: Turn, workflow: WorkflowState, node: int, instance: int) -> None:
    """Let a node that is READY wait for a worker."""
    if instance < 0:
        await_start(turn, workflow, node, instance)
        enqueue(turn, workflow, (node, instance))
    else:
        maps.start_again(turn, workflow, node, instance)


def await_start(turn: Turn, workflow: WorkflowState, node: int, instance: int) -> None:
    """Set the deadline by which a READY node must have been assigned, if it has one."""
    limit_ms = workflow.plan.nodes[node].schedule_to_start_ms
    if limit_ms:
        attempts = workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]
        due_us = workflow.start_by_us[node, instance] = turn.now_us + limit_ms * 1_000
        turn.state.timers.set(
            due_us,
            TimerKind.SCHEDULE_TO_START,
            shard=workflow.shard,
            workflow_id=workflow.id,
            node=node,
            instance=instance,
            number=attempts,
        )


def enqueue(turn: Turn, workflow: WorkflowState, item: Item, *, first: bool = False) -> None:
    """Let an item wait for a worker."""
    state = turn.state
    key = workflow.plan.class_keys[item[0]]
    if workflow.redeliveries and must_run_alone(workflow, *item):
        key = key._replace(alone=True)
    rank = workflow.plan.ranks[item[0]]
    state.ready.push(key, workflow.key, rank, item, state.eligible_sessions, turn.now_us, first=first)


def dequeue(turn: Turn, workflow: WorkflowState, item: Item) -> None:
    """Let an item wait for a worker no longer, if it does."""
    key = workflow.plan.class_keys[item[0]]
    for each in (key, key._replace(alone=True)):
        turn.state.ready.remove(each, workflow.key, workflow.plan.ranks[item[0]].priority, item)


def unpark(turn: Turn, workflow: WorkflowState, item: Item) -> None:
    """What an item waited for in memory is there, unless it has left again."""
    node, instance = item
    status = workflow.statuses[node]
    if workflow.asked and item in workflow.asked:
        caching.ask(turn, workflow, item)
    elif instance == next_instance:
        maps.offer(turn, workflow, node)
    elif instance >= 0:
        if workflow.maps[node].statuses[instance] == NodeStatus.READY:
            enqueue(turn, workflow, item, first=True)
    elif status == NodeStatus.WAITING:
        maps.expand(turn, workflow, node)
    elif status == NodeStatus.READY:
        # Else its time to start has passed meanwhile.
        enqueue(turn, workflow, item, first=True)


def succeeded(turn: Turn, workflow: WorkflowState, assignment: Assignment, output: bytes, run_us: int) -> None:
    """An attempt ended well."""
    workflow.payload_bytes += len(output)
    if workflow.payload_bytes > limits.workflow_payload_bytes_max and workflow.status is WorkflowStatus.RUNNING:
        failed(turn, workflow, assignment, _too_much, run_us)
        return
    turn.state.attempts_ended += 1
    change(turn, workflow, assignment, NodeStatus.SUCCEEDED, run_us, output=output)
    if workflow.plan.caches:
        caching.keep(turn, workflow, assignment, output)
    _has_output(turn, workflow, assignment.node, assignment.instance, output)


def taken_from_cache(turn: Turn, workflow: WorkflowState, item: Item, output: bytes) -> None:
    """A node that is READY has the output of another one. Its row has no attempt, which tells it from those that ran."""
    node, instance = item
    workflow.payload_bytes += len(output)
    if workflow.payload_bytes > limits.workflow_payload_bytes_max:
        never_ran(turn, workflow, node, instance, _too_much)
        return
    turn.set_node(workflow, node, instance, NodeStatus.SUCCEEDED)
    attempts, index = (workflow.attempts, node) if instance < 0 else (workflow.maps[node].attempts, instance)
    attempts[index] = 0
    if workflow.progress:
        workflow.progress.pop((node, instance), None)
    version = turn.state.touch(workflow, node, instance)
    turn.store(
        NodeChanged(
            workflow.shard,
            workflow.id,
            node,
            instance,
            version,
            NodeStatus.SUCCEEDED,
            0,
            output=output,
            ended_at_us=turn.now_us,
        )
    )
    _has_output(turn, workflow, node, instance, output)


def _has_output(turn: Turn, workflow: WorkflowState, node: int, instance: int, output: bytes) -> None:
    """A node has succeeded: what waits for it may go on."""
    if instance >= 0:
        maps.instance_ended(turn, workflow, node, instance, output)
        return
    workflow.unfinished -= 1
    keep_output(turn.state, workflow, node, output)
    release(turn, workflow, node)


def failed(turn: Turn, workflow: WorkflowState, assignment: Assignment, failure: Failure, run_us: int) -> None:
    """An attempt ended badly: another follows, or the node has failed."""
    turn.state.attempts_ended += 1
    turn.state.attempts_failed += 1
    node, instance, attempt = assignment.node, assignment.instance, assignment.attempt
    retry = workflow.plan.nodes[node].retry
    attempts_max = retry.max_attempts if retry.max_attempts is not None else turn.state.config.max_retries + 1
    final = (
        workflow.status is not WorkflowStatus.RUNNING
        or failure.non_retryable
        or failure.type in retry.non_retryable
        or attempt >= attempts_max
    )
    if final:
        change(turn, workflow, assignment, NodeStatus.FAILED, run_us, failure=failure)
        _failed_for_good(turn, workflow, node, instance, failure)
        return
    delay = delay_ms(retry, attempt, draw_for(workflow.id, node, instance, attempt))
    retry_at_us = turn.now_us + delay * 1_000
    turn.store(
        AttemptEnded(
            workflow.shard,
            workflow.id,
            node,
            instance,
            attempt,
            assignment.worker,
            assignment.started_at_us,
            turn.now_us,
            run_us,
            failure_to_json(failure),
        )
    )
    change(turn, workflow, assignment, NodeStatus.BACKOFF, run_us, failure=failure, retry_at_us=retry_at_us)
    workflow.retry_at_us[node, instance] = retry_at_us
    set_retry(turn, workflow, node, instance, attempt, retry_at_us)
    if instance >= 0:
        maps.offer(turn, workflow, node)


def set_retry(turn: Turn, workflow: WorkflowState, node: int, instance: int, attempt: int, retry_at_us: int) -> None:
    """Set the time at which a node in BACKOFF becomes READY."""
    turn.state.timers.set(
        retry_at_us,
        TimerKind.RETRY,
        shard=workflow.shard,
        workflow_id=workflow.id,
        node=node,
        instance=instance,
        number=attempt,
    )


def never_ran(turn: Turn, workflow: WorkflowState, node: int, instance: int, failure: Failure) -> None:
    """A node failed before it could be assigned: its input cannot be made, or it waited too long."""
    attempt = workflow.attempts[node] if instance < 0 else workflow.maps[node].attempts[instance]
    turn.set_node(workflow, node, instance, NodeStatus.FAILED)
    version = turn.state.touch(workflow, node, instance)
    turn.store(
        NodeChanged(
            workflow.shard,
            workflow.id,
            node,
            instance,
            version,
            NodeStatus.FAILED,
            attempt,
            failure=failure_to_json(failure),
            ended_at_us=turn.now_us,
        )
    )
    _failed_for_good(turn, workflow, node, instance, failure)


def cancelled(turn: Turn, workflow: WorkflowState, assignment: Assignment, run_us: int) -> None:
    """An attempt was stopped because its workflow is ending."""
    change(turn, workflow, assignment, NodeStatus.CANCELLED, run_us)
    if assignment.instance < 0:
        workflow.unfinished -= 1


def offer_again(turn: Turn, workflow: WorkflowState, assignment: Assignment, *, died: bool) -> None:
    """A worker does not have an attempt, or is lost: the same attempt is offered again, before what waits.

    `died`: the worker's incarnation ended under it without a word; after too many such deaths, the last one of a worker that had
    nothing else, the node fails.
    """
    node, instance = assignment.node, assignment.instance
    if workflow.status is not WorkflowStatus.RUNNING:
        cancelled(turn, workflow, assignment, 0)
        workflows.end_if_closed(turn, workflow)
        return
    redeliveries = assignment.redeliveries + died
    if died and redeliveries >= limits.redeliveries_max and not assignment.accompanied:
        message = (
            f"{redeliveries} workers died while they ran it, the last one, {assignment.worker!r}, while it ran nothing else; "
            "look at their logs before you run it again"
        )
        failed(turn, workflow, assignment, Failure(worker_lost, message, non_retryable=True), 0)
        return
    workflow.redeliveries[node, instance] = redeliveries
    change(turn, workflow, assignment, NodeStatus.READY, 0, redeliveries=redeliveries)
    if instance < 0:
        await_start(turn, workflow, node, instance)
        enqueue(turn, workflow, (node, -1), first=True)
    elif must_run_alone(workflow, node, instance):
        await_start(turn, workflow, node, instance)
        enqueue(turn, workflow, (node, instance), first=True)
        maps.offer(turn, workflow, node)
    else:
        maps.start_again(turn, workflow, node, instance)


def retry_due(turn: Turn, workflow: WorkflowState, timer: Timer) -> None:
    """The delay after a failed attempt has passed."""
    node, instance = timer.node, timer.instance
    expanded = workflow.maps.get(node)
    if instance >= 0 and expanded is None:
        return
    statuses, attempts = (
        (workflow.statuses, workflow.attempts) if expanded is None else (expanded.statuses, expanded.attempts)
    )
    index = node if instance < 0 else instance
    if statuses[index] != NodeStatus.BACKOFF or attempts[index] != timer.number:
        return
    if workflow.retry_at_us.get((node, instance), 0) > turn.now_us:
        return
    try_again(turn, workflow, node, instance)


def try_again(turn: Turn, workflow: WorkflowState, node: int, instance: int) -> None:
    """A node in BACKOFF waits no longer for its time, but for a worker."""
    workflow.retry_at_us.pop((node, instance), None)
    turn.set_node(workflow, node, instance, NodeStatus.READY)
    if caching.has_cache(workflow, node):
        caching.ask(turn, workflow, (node, instance))
    else:
        wait_for_worker(turn, workflow, node, instance)


def start_overdue(turn: Turn, workflow: WorkflowState, timer: Timer) -> None:
    """A READY node was not assigned in time."""
    node, instance = timer.node, timer.instance
    if workflow.start_by_us.get((node, instance)) != timer.due_us:
        return  # that of an earlier wait of the same attempt
    expanded = workflow.maps.get(node)
    if expanded is None:
        overdue = (
            instance < 0 and workflow.statuses[node] == NodeStatus.READY and workflow.attempts[node] == timer.number
        )
    elif instance < 0:
        # A map waits as a whole until its first instance has started.
        overdue = workflow.statuses[node] == NodeStatus.RUNNING and not expanded.next
    else:
        overdue = expanded.statuses[instance] == NodeStatus.READY and expanded.attempts[instance] == timer.number
    if not overdue:
        return
    dequeue(turn, workflow, (node, next_instance) if instance < 0 and expanded is not None else (node, instance))
    spec = workflow.plan.nodes[node]
    pause = workflow.pause or turn.state.ready.pauses.over(spec.executor)
    next_step = (
        f"it is paused by {pause.who}; see what is with `mainspring pauses`"
        if pause is not None
        else f"see which workers run {spec.executor!r} with `mainspring workers`"
    )
    message = f"no worker took it within {spec.schedule_to_start_ms} ms; {next_step}"
    never_ran(turn, workflow, node, instance, Failure(schedule_to_start_timeout, message))


def release(turn: Turn, workflow: WorkflowState, node: int) -> None:
    """A node has ended: what waited for it is looked at before the step ends (never here, so that no chain of empty maps recurses)."""
    turn.released.append((workflow, node))


def settle(turn: Turn) -> None:
    """Let everything that this step released become ready, and end workflows of which nothing is left."""
    while turn.released:
        workflow, node = turn.released.popleft()
        children = workflow.plan.graph.children_of(node)
        if len(children) > turn.left:
            turn.begin(_free_in_parts(turn, workflow, children))
        else:
            turn.left -= len(children)
            _free(turn, workflow, children)
            workflows.finish_if_done(turn, workflow)


def _free(turn: Turn, workflow: WorkflowState, children: Iterable[int]) -> None:
    """Let those become ready that waited for nothing but the node that has ended."""
    remaining = workflow.remaining
    for child in children:
        if workflow.status is not WorkflowStatus.RUNNING:
            return
        left = remaining[child] - 1
        remaining[child] = left
        # An operator may have skipped or completed it before.
        if not left and workflow.statuses[child] == NodeStatus.WAITING:
            make_ready(turn, workflow, child)


def _free_in_parts(turn: Turn, workflow: WorkflowState, children: "array[int]") -> Act:
    """As `_free`, for more than a step may take on. A successor finds the node ended, and so the rest of its children ready."""
    done = 0
    while done < len(children):
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return
        part = children[done : done + turn.left]
        done += len(part)
        turn.left -= len(part)
        _free(turn, workflow, part)
    workflows.finish_if_done(turn, workflow)


def _failed_for_good(turn: Turn, workflow: WorkflowState, node: int, instance: int, failure: Failure) -> None:
    if instance >= 0:
        maps.instance_failed(turn, workflow, node, instance, failure)
        return
    workflow.unfinished -= 1
    if workflow.plan.nodes[node].allow_failure:
        keep_output(turn.state, workflow, node, b"null")
        release(turn, workflow, node)
    elif workflow.status is WorkflowStatus.RUNNING:
        # A workflow that is closing already ends as it was going to; this failure stands in the node's row.
        workflows.fail(turn, workflow, failure, node)


def change(
    turn: Turn,
    workflow: WorkflowState,
    assignment: Assignment,
    status: NodeStatus,
    run_us: int,
    *,
    output: bytes | None = None,
    failure: Failure | None = None,
    retry_at_us: int = 0,
    redeliveries: int | None = None,
) -> None:
    """End an assignment and store what its node becomes."""
    node, instance = assignment.node, assignment.instance
    state = turn.state
    turn.set_node(workflow, node, instance, status)
    state.remove_live(workflow, assignment)
    if instance >= 0:
        workflow.maps[node].live -= 1
    version = state.touch(workflow, node, instance)
    final = status in node_terminal
    if final and workflow.progress:
        # There is no next attempt that could read it.
        workflow.progress.pop((node, instance), None)
    turn.store(
        NodeChanged(
            workflow.shard,
            workflow.id,
            node,
            instance,
            version,
            status,
            assignment.attempt,
            output=output,
            failure=failure_to_json(failure) if failure is not None else None,
            ended_at_us=turn.now_us if final else 0,
            run_us=run_us,
            retry_at_us=retry_at_us,
            redeliveries=assignment.redeliveries if redeliveries is None else redeliveries,
        )
    )
