"""`map` nodes: one node, run once for each element of a list.

Instances are bytes in two arrays. However wide a `map` is, one item of it stands in the ready queue; it gives out an instance each
time it is taken, those to be started again before new ones.
"""

from mainspring import limits
from mainspring.errors import Failure
from mainspring.failures import map_too_wide, not_a_list, path_error, payload_too_large
from mainspring.paths import NotAListError, PathError
from mainspring_coordinator.engine import caching, nodes, workflows
from mainspring_coordinator.engine.payloads import elements_of, keep_output, lacking, load
from mainspring_coordinator.engine.ready import Item, next_instance
from mainspring_coordinator.engine.rows import MapExpanded, NodeChanged
from mainspring_coordinator.engine.state import MapState, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.turn import Act, Turn


def expand(turn: Turn, workflow: WorkflowState, node: int) -> None:
    """All that a `map` node depends on has ended: make its instances."""
    missing = lacking(workflow, workflow.plan.over_refs[node])
    if missing:
        workflow.parked.append((node, -1))
        load(turn, workflow, missing)
        return
    turn.begin(_expand_in_parts(turn, workflow, node))


def _expand_in_parts(turn: Turn, workflow: WorkflowState, node: int) -> Act:
    """Nothing is stored before all elements are there; a successor makes them again."""
    items: list[bytes] = []
    try:
        if turn.left <= 0:
            turn = yield
            if not _waits(turn, workflow, node):
                return
            if lacking(workflow, workflow.plan.over_refs[node]):
                expand(turn, workflow, node)  # they have left memory meanwhile
                return
        width, elements = elements_of(workflow, node)
        if width > limits.map_width_max:
            message = (
                f"the list has {width} elements, more than the {limits.map_width_max} that a map may have; "
                "split it into several workflows"
            )
            nodes.never_ran(turn, workflow, node, -1, Failure(map_too_wide, message, non_retryable=True))
            return
        for element in elements:
            if turn.left <= 0:
                turn = yield
                if not _waits(turn, workflow, node):
                    return
            turn.left -= 1
            items.append(element)
    except PathError as error:
        reason = not_a_list if isinstance(error, NotAListError) else path_error
        nodes.never_ran(turn, workflow, node, -1, Failure(reason, str(error), non_retryable=True))
        return
    workflow.maps[node] = MapState(
        width, bytearray([NodeStatus.WAITING]) * width, bytearray(width), [None] * width, items
    )
    turn.set_node(workflow, node, -1, NodeStatus.RUNNING)
    version = turn.state.touch(workflow, node)
    turn.store(MapExpanded(workflow.shard, workflow.id, node, version, width, turn.now_us))
    if not width:
        collect(turn, workflow, node)
    elif caching.has_cache(workflow, node):
        turn.begin(caching.ask_in_parts(turn, workflow, node))
    else:
        nodes.await_start(turn, workflow, node, -1)
        offer(turn, workflow, node)


def _goes_on(turn: Turn, workflow: WorkflowState) -> bool:
    return turn.state.knows(workflow) and workflow.status is WorkflowStatus.RUNNING


def _waits(turn: Turn, workflow: WorkflowState, node: int) -> bool:
    """Tell whether a `map` is still to be expanded: an operator may have skipped it meanwhile."""
    return _goes_on(turn, workflow) and workflow.statuses[node] == NodeStatus.WAITING


def items_there(turn: Turn, workflow: WorkflowState, node: int, item: Item) -> bool:
    """Tell whether the elements are in memory; if not, they are made anew, as after a recovery, and the item waits for them."""
    expanded = workflow.maps[node]
    if expanded.items is not None:
        return True
    workflow.parked.append(item)
    missing = lacking(workflow, workflow.plan.over_refs[node])
    if missing:
        load(turn, workflow, missing)
    elif not expanded.listing:
        expanded.listing = True
        turn.begin(_list_in_parts(turn, workflow, node))
    return False


def _list_in_parts(turn: Turn, workflow: WorkflowState, node: int) -> Act:
    items: list[bytes] = []
    expanded = workflow.maps[node]
    for element in elements_of(workflow, node)[1]:
        if turn.left <= 0:
            turn = yield
            if not _goes_on(turn, workflow) or workflow.statuses[node] != NodeStatus.RUNNING:
                return
        turn.left -= 1
        items.append(element)
    assert len(items) == expanded.width, "the list of a map is the same whenever it is made"
    expanded.listing = False
    expanded.items = items
    waited = [item for item in workflow.parked if item[0] == node]
    workflow.parked = [item for item in workflow.parked if item[0] != node]
    for item in waited:
        nodes.unpark(turn, workflow, item)


def offer(turn: Turn, workflow: WorkflowState, node: int) -> None:
    """Let the `map` node's one item wait for a worker, if an instance may start."""
    expanded = workflow.maps[node]
    if (
        not expanded.queued
        and workflow.status is WorkflowStatus.RUNNING
        and workflow.statuses[node] == NodeStatus.RUNNING
        and may_start(workflow, node)
    ):
        expanded.queued = True
        nodes.enqueue(turn, workflow, (node, next_instance))


def may_start(workflow: WorkflowState, node: int) -> bool:
    """Tell whether an instance waits and the bound on parallel ones leaves room."""
    expanded = workflow.maps[node]
    spec = workflow.plan.nodes[node].map
    assert spec is not None
    return bool(expanded.again or expanded.next < expanded.width) and (
        not spec.max_parallel or expanded.live < spec.max_parallel
    )


def take_instance(turn: Turn, workflow: WorkflowState, node: int) -> int:
    """Take the next instance that may start, -1 if none is left; it becomes READY."""
    expanded = workflow.maps[node]
    while expanded.again:
        instance = expanded.again.popleft()
        if expanded.statuses[instance] == NodeStatus.READY:
            return instance
    if expanded.next == expanded.width:
        return -1
    instance = expanded.next
    expanded.next += 1
    pass_over_ended(expanded)
    turn.set_node(workflow, node, instance, NodeStatus.READY)
    return instance


def pass_over_ended(expanded: MapState) -> None:
    """Let the first instance that was never started be one that may be: operators end some that were not."""
    while expanded.next < expanded.width and expanded.statuses[expanded.next] != NodeStatus.WAITING:
        expanded.next += 1


def start_again(turn: Turn, workflow: WorkflowState, node: int, instance: int) -> None:
    """An instance is READY once more."""
    workflow.maps[node].again.append(instance)
    nodes.await_start(turn, workflow, node, instance)
    offer(turn, workflow, node)


def instance_failed(turn: Turn, workflow: WorkflowState, node: int, instance: int, failure: Failure) -> None:
    """An instance failed for good: its place in the list is null, or the whole node fails."""
    if workflow.plan.nodes[node].allow_failure:
        instance_ended(turn, workflow, node, instance, b"null")
        return
    workflow.maps[node].ended += 1
    if workflow.status is WorkflowStatus.RUNNING:
        workflows.fail(turn, workflow, failure, node)


def instance_ended(turn: Turn, workflow: WorkflowState, node: int, instance: int, output: bytes) -> None:
    """An instance ended, and has its place in the list."""
    expanded = workflow.maps[node]
    expanded.ended += 1
    expanded.outputs[instance] = output
    if workflow.status is not WorkflowStatus.RUNNING:
        return
    if expanded.ended == expanded.width:
        collect(turn, workflow, node)
    else:
        offer(turn, workflow, node)


def collect(turn: Turn, workflow: WorkflowState, node: int) -> None:
    """All instances have ended: their outputs, in the order of the list, are the node's."""
    expanded = workflow.maps[node]
    parts = [output for output in expanded.outputs if output is not None]
    if len(parts) < expanded.width:
        # Recovered: the first outputs were recorded by an earlier owner and are only in the database.
        expanded.collecting = True
        load(turn, workflow, [node])
        return
    finish(turn, workflow, node, b"[" + b",".join(parts) + b"]")


def finish(turn: Turn, workflow: WorkflowState, node: int, output: bytes) -> None:
    """Record the end of a `map` node. The list itself is not stored again: the instances' rows are the list."""
    expanded = workflow.maps[node]
    expanded.collecting = False
    expanded.items = None
    expanded.outputs = []
    too_large = len(output) > limits.map_output_bytes_max
    status = NodeStatus.FAILED if too_large else NodeStatus.SUCCEEDED
    turn.set_node(workflow, node, -1, status)
    version = turn.state.touch(workflow, node)
    turn.store(NodeChanged(workflow.shard, workflow.id, node, -1, version, status, 0, ended_at_us=turn.now_us))
    workflow.unfinished -= 1
    if too_large:
        message = f"the collected list has {len(output)} bytes, more than {limits.map_output_bytes_max}; return references instead"
        workflows.fail(turn, workflow, Failure(payload_too_large, message, non_retryable=True), node)
        return
    keep_output(turn.state, workflow, node, output)
    nodes.release(turn, workflow, node)
