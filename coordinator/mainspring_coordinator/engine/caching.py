"""The result cache: a node takes the output of another that was the same and succeeded not long ago, and does not run.

Such a node, once it is READY, asks before any worker, permit or slot is looked for. The question leaves after the commit that it follows
from. The node waits for the answer, but for so long only; then it goes on as if there were nothing, and what the cache says later is
nobody's. That it waits is not stored: a successor finds the node as one that has not begun, and asks anew. An attempt that is offered
again does not ask, because it may have run.

What is the same is told by a hash of the executor and the key, or the input if there is no key.
"""

import hashlib

from mainspring import limits
from mainspring.errors import Failure
from mainspring.failures import path_error
from mainspring.paths import PathError
from mainspring_coordinator.engine import maps, nodes
from mainspring_coordinator.engine.effects import AskCache, KeepResult
from mainspring_coordinator.engine.events import CacheAnswered, CachedOutput
from mainspring_coordinator.engine.payloads import input_of, key_of, lacking, load
from mainspring_coordinator.engine.ready import Item
from mainspring_coordinator.engine.rows import ResultCached
from mainspring_coordinator.engine.state import Assignment, ShardState, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Act, Turn


def has_cache(workflow: WorkflowState, node: int) -> bool:
    """Tell whether a node may take the output of another one."""
    caches = workflow.plan.caches
    return bool(caches) and caches[node] is not None


def ask(turn: Turn, workflow: WorkflowState, item: Item) -> None:
    """A node that has a cache is READY: ask for its output, as soon as what the question is made of is in memory."""
    node, instance = item
    workflow.asked[item] = 0
    if missing := lacking(workflow, workflow.plan.input_refs[node]):
        workflow.parked.append(item)
        load(turn, workflow, missing)
        return
    if instance >= 0 and not maps.items_there(turn, workflow, node, item):
        return
    try:
        key = _key(workflow, node, instance)
    except PathError as error:
        del workflow.asked[item]
        field = "input" if _has_no_key(workflow, node) else "cache.key"
        nodes.never_ran(turn, workflow, node, instance, Failure(path_error, f"{field}: {error}", non_retryable=True))
        return
    state = turn.state
    state.questions += 1
    number = workflow.asked[item] = state.questions
    state.timers.set(
        turn.now_us + limits.cache_wait_ms_max * 1_000,
        TimerKind.CACHE,
        shard=workflow.shard,
        workflow_id=workflow.id,
        node=node,
        instance=instance,
        number=number,
    )
    turn.emit(AskCache(workflow.shard, workflow.id, node, instance, number, key))


def ask_in_parts(turn: Turn, workflow: WorkflowState, node: int) -> Act:
    """All instances of a `map` node that have not begun ask, ahead of those that wait for a worker.

    They count as given out from now on: what the cache does not have is started as those are that are to be started again.
    """
    expanded = workflow.maps[node]
    expanded.next = expanded.width
    for instance in range(expanded.width):
        if turn.left <= 0:
            turn = yield
            if not turn.state.knows(workflow):
                return
        if workflow.status is not WorkflowStatus.RUNNING:
            return
        if expanded.statuses[instance] == NodeStatus.WAITING:
            turn.left -= 1
            turn.set_node(workflow, node, instance, NodeStatus.READY)
            ask(turn, workflow, (node, instance))


def answered(turn: Turn, shard: ShardState, event: CacheAnswered) -> None:
    """The cache answers; what nobody waits for any more says nothing."""
    for answer in event.answers:
        workflow, item = shard.workflows.get(answer.workflow_id), (answer.node, answer.instance)
        if workflow is None or workflow.asked.get(item) != answer.number:
            continue
        del workflow.asked[item]
        if answer.found is not None and _is_young(turn, workflow, answer.node, answer.found):
            turn.state.cache_answers["hit"] += 1
            nodes.taken_from_cache(turn, workflow, item, answer.found.output)
        else:
            turn.state.cache_answers["error" if answer.failed else "miss"] += 1
            nodes.wait_for_worker(turn, workflow, *item)


def overdue(turn: Turn, workflow: WorkflowState, timer: Timer) -> None:
    """The cache has not answered in time: the node runs."""
    item = (timer.node, timer.instance)
    if workflow.asked.get(item) == timer.number:
        del workflow.asked[item]
        turn.state.cache_answers["late"] += 1
        nodes.wait_for_worker(turn, workflow, *item)


def key_at_start(workflow: WorkflowState, node: int, instance: int, data: bytes) -> bytes:
    """Return under what the output of an attempt goes into the cache that begins with this input; empty if it does not."""
    if not has_cache(workflow, node):
        return b""
    return (
        _digest(workflow, node, b"input", data)
        if _has_no_key(workflow, node)
        else _key_if_there(workflow, node, instance)
    )


def keep(turn: Turn, workflow: WorkflowState, assignment: Assignment, output: bytes) -> None:
    """An attempt ended well: others may take what it gave."""
    cache = workflow.plan.caches[assignment.node]
    if cache is None:
        return
    # After a recovery the key is made anew, if what it is made of is in memory; if not, it is not worth a read.
    key = assignment.cache_key or _key_if_there(workflow, assignment.node, assignment.instance)
    if not key:
        return
    if turn.state.config.results_in_database:
        expires_at_us = turn.now_us + cache.ttl_ms * 1_000
        turn.store(ResultCached(workflow.shard, workflow.id, key, output, turn.now_us, expires_at_us))
    else:
        turn.emit(KeepResult(workflow.shard, workflow.id, key, output, turn.now_us, cache.ttl_ms))


def _is_young(turn: Turn, workflow: WorkflowState, node: int, found: CachedOutput) -> bool:
    cache = workflow.plan.caches[node]
    assert cache is not None
    age_us = turn.now_us - found.stored_at_us
    # Stored while the database's clock was ahead, it would count for the whole offset.
    return -limits.cache_ahead_ms_max * 1_000 <= age_us < cache.ttl_ms * 1_000


def _has_no_key(workflow: WorkflowState, node: int) -> bool:
    keys = workflow.plan.graph.cache_keys
    return not keys or keys[node] is None


def _key_if_there(workflow: WorkflowState, node: int, instance: int) -> bytes:
    if lacking(workflow, workflow.plan.input_refs[node]) or (instance >= 0 and workflow.maps[node].items is None):
        return b""
    try:
        return _key(workflow, node, instance)
    except PathError:
        # An attempt runs that did not ask, because it is offered again; whoever asks will be told.
        return b""


def _key(workflow: WorkflowState, node: int, instance: int) -> bytes:
    if _has_no_key(workflow, node):
        return _digest(workflow, node, b"input", input_of(workflow, node, instance))
    return _digest(workflow, node, b"key", key_of(workflow, node, instance))


def _digest(workflow: WorkflowState, node: int, kind: bytes, data: bytes) -> bytes:
    executor = workflow.plan.nodes[node].executor.encode()
    hashed = hashlib.sha256(b"%b %d:%b" % (kind, len(executor), executor))
    hashed.update(data)
    return hashed.digest()
