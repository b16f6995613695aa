"""Ready nodes meet workers with room: filter, then rank, then assign.

The cost of a pass does not grow with what waits: a class whose workers are all busy is passed over as a whole.
"""

from heapq import heapify, heappop, heappush

from mainspring import ids, limits
from mainspring.errors import Failure
from mainspring.failures import path_error, payload_too_large
from mainspring.paths import PathError
from mainspring_coordinator.engine import alone, fleet, maps, nodes
from mainspring_coordinator.engine.effects import Assign, ReportBacklog
from mainspring_coordinator.engine.payloads import input_of, lacking, load
from mainspring_coordinator.engine.placement import Candidate, Strategy
from mainspring_coordinator.engine.ready import Item, ReadyClass, WorkflowKey, next_instance
from mainspring_coordinator.engine.recovery import set_attempt_deadline
from mainspring_coordinator.engine.rows import NodeAssigned
from mainspring_coordinator.engine.state import Assignment, State, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.engine.turn import Turn


def dispatch(turn: Turn, strategy: Strategy) -> bool:
    """Assign what can be assigned now, as far as a step may; tell whether more than that can be."""
    state = turn.state
    # A share of its own, so that an end and what it frees go into one batch whatever else the step did.
    turn.left = state.config.step_nodes
    if state.reserved:
        alone.release_unneeded(state)
    again = bool(state.roomy or state.ready.alone)
    while again:
        again = _dispatch_shared(turn, strategy)
        # Last, because what they keep from others is kept when others had their share.
        for ready in list(state.ready.alone.values()):
            if turn.left <= 0:
                break
            again = _dispatch_alone(turn, ready) or again
            # A node that failed before it could be assigned may free others, of classes that were looked at already.
            again = again or bool(turn.released)
            nodes.settle(turn)
        again = again and turn.left > 0
    if state.ready.turned or state.backlog.changed:
        _report_backlog(turn)
    return turn.left <= 0


def _dispatch_shared(turn: Turn, strategy: Strategy) -> bool:
    """Assign what need not run alone, each time of the class in which the most urgent waits; tell whether nodes became ready meanwhile.

    Classes may have workers in common: were one served before the next, a wide workflow would keep all their slots from other classes.
    """
    state = turn.state
    classes = [ready for ready in state.ready.waiting.values() if not ready.key.alone]
    order = [(-ready.waiting.level_us(turn.now_us), at, ready) for at, ready in enumerate(classes)]
    heapify(order)
    freed, at = False, len(classes)
    while order and turn.left > 0:
        _, _, ready = heappop(order)
        more = _dispatch_class(turn, strategy, ready, 1 if order else turn.left)
        # A node that failed before it could be assigned may free others, of classes that were looked at already.
        freed = freed or bool(turn.released)
        nodes.settle(turn)
        if more:
            at += 1
            heappush(order, (-ready.waiting.level_us(turn.now_us), at, ready))
    for ready in classes:
        ready.waiting.let_back()
    return freed


def _dispatch_class(turn: Turn, strategy: Strategy, ready: ReadyClass, most: int) -> bool:
    """Take up to so many items of a class; tell whether another could be taken."""
    state = turn.state
    candidates = {session: candidate_of(state, session) for session in ready.eligible if session in state.roomy}
    while candidates and ready.count and turn.left > 0:
        if not most:
            return True
        found = _next(turn, ready, candidates)
        if found is None:
            return False
        key, able = found
        workflow = state.shards[key[0]].workflows[key[1]]
        item = state.ready.take(ready, key, turn.now_us)
        session = strategy.choose(able, turn.state.rotation)
        state.rotation += 1
        turn.left -= 1
        most -= 1
        if not _assign(turn, workflow, item, session):
            continue
        chosen = candidates[session]
        if state.room(state.workers[session]) > 0:
            candidates[session] = chosen.with_one_more()
        else:
            del candidates[session]
    return False


def _dispatch_alone(turn: Turn, ready: ReadyClass) -> bool:
    """Assign what runs alone to workers that have nothing, and reserve one for the rest; tell whether one may get other work again."""
    state = turn.state
    for _ in range(len(ready.waiting)):
        if turn.left <= 0:
            break
        key = ready.waiting.next(turn.now_us)
        if key is None:
            break
        shard = state.shards.get(key[0])
        workflow = shard.workflows.get(key[1]) if shard is not None else None
        # None: its lost shard is being forgotten
        if workflow is None or not _has_turn(workflow, ready.waiting.peek(key, turn.now_us)):
            ready.waiting.set_aside(key)
            continue
        session = alone.idle_worker(state, ready, key)
        if not session:
            alone.reserve(state, ready, key)
            # The next time another workflow's shard may be the one that a worker knows, or another class's turn.
            ready.waiting.put_last(key, turn.now_us)
            break
        item = state.ready.take(ready, key, turn.now_us)
        state.rotation += 1
        turn.left -= 1
        if _assign(turn, workflow, item, session):
            alone.end_reservation(state, session)
    ready.waiting.let_back()
    if ready.key in state.ready.alone:
        state.ready.alone[ready.key] = state.ready.alone.pop(ready.key)
    return alone.release_unneeded(state) if state.reserved else False


def _has_turn(workflow: WorkflowState, item: Item) -> bool:
    """Tell whether the bound on parallel instances of a `map` leaves room for this one; for what is no instance it always does."""
    node, instance = item
    spec = workflow.plan.nodes[node].map
    most = spec.max_parallel if spec is not None else 0
    return instance < 0 or not most or workflow.maps[node].live < most


def candidate_of(state: State, session: int) -> Candidate:
    """Return what a strategy may know of a worker."""
    worker = state.workers[session]
    held = state.held.get(worker.incarnation)
    return Candidate(
        session,
        worker.name,
        worker.cpu,
        worker.memory,
        len(held.assignments) if held is not None else 0,
        max(1, worker.slots),
        len(worker.executors),
    )


def _next(
    turn: Turn, ready: ReadyClass, candidates: dict[int, Candidate]
) -> tuple[WorkflowKey, list[Candidate]] | None:
    """Find the first workflow in turn that a candidate may serve, and those candidates; set those before it aside for this pass."""
    state = turn.state
    full = True
    for session in candidates:
        worker = state.workers[session]
        held = state.held.get(worker.incarnation)
        full = full and held is not None and len(held.workflows) >= worker.workflows_max
    known = iter(_workflows_of(state, candidates)) if full else None
    while True:
        key = next(known, None) if known is not None else ready.waiting.next(turn.now_us)
        if key is None:
            return None
        if ready.waiting.stands(key):
            able = [candidate for session, candidate in candidates.items() if _may_serve(state, session, key)]
            if able:
                return key, able
            ready.waiting.set_aside(key)


def _workflows_of(state: State, candidates: dict[int, Candidate]) -> "list[WorkflowKey]":
    """When every candidate is at its bound of workflows, only those that they already have can be served."""
    return [key for session in candidates for key in state.held[state.workers[session].incarnation].workflows]


def _may_serve(state: State, session: int, key: WorkflowKey) -> bool:
    worker = state.workers[session]
    if key[0] not in worker.reconciled:
        return False
    held = state.held.get(worker.incarnation)
    return held is None or key in held.workflows or len(held.workflows) < worker.workflows_max


def _assign(turn: Turn, workflow: WorkflowState, item: Item, session: int) -> bool:
    """Assign an item to a worker; False if it could not be, for a reason that lies with the item."""
    node, instance = item
    if instance >= 0 and not maps.items_there(turn, workflow, node, item):
        return False
    if instance == next_instance:
        expanded = workflow.maps[node]
        expanded.queued = False
        if not maps.may_start(workflow, node) or not maps.items_there(turn, workflow, node, item):
            return False
        instance = maps.take_instance(turn, workflow, node)
        if instance < 0:
            return False
    missing = lacking(workflow, workflow.plan.input_refs[node])
    if missing:
        if item[1] == next_instance:
            workflow.maps[node].again.appendleft(instance)
        workflow.parked.append(item)
        load(turn, workflow, missing)
        return False
    try:
        data = input_of(workflow, node, instance)
    except PathError as error:
        nodes.never_ran(turn, workflow, node, instance, Failure(path_error, f"input: {error}", non_retryable=True))
        return False
    if len(data) > limits.payload_bytes_max:
        message = f"the input has {len(data)} bytes, more than {limits.payload_bytes_max}; pass a reference instead"
        nodes.never_ran(turn, workflow, node, instance, Failure(payload_too_large, message, non_retryable=True))
        return False
    _give(turn, workflow, node, instance, session, data)
    if item[1] == next_instance:
        maps.offer(turn, workflow, node)
    return True


def _give(turn: Turn, workflow: WorkflowState, node: int, instance: int, session: int, data: bytes) -> None:
    state = turn.state
    worker = state.workers[session]
    shard = state.shards[workflow.shard]
    assignment_id = ids.assignment_id(shard.epoch, shard.next_number)
    shard.next_number += 1
    if shard.next_number > limits.assignment_number_max:
        fleet.hold_assignments(turn, shard)
    worker.last_ordinal += 1
    redeliveries = workflow.redeliveries.pop((node, instance), None) if workflow.redeliveries else None
    attempts, index = (workflow.attempts, node) if instance < 0 else (workflow.maps[node].attempts, instance)
    # Offered again, it is still the same attempt; only after a failure it is the next one.
    attempt = attempts[index] if redeliveries is not None else attempts[index] + 1
    if workflow.start_by_us:
        workflow.start_by_us.pop((node, instance), None)
    attempts[index] = attempt
    assignment = Assignment(
        shard.shard,
        assignment_id,
        workflow.id,
        node,
        instance,
        attempt,
        worker.name,
        worker.incarnation,
        turn.now_us,
        redeliveries or 0,
        session,
        worker.last_ordinal,
    )
    turn.set_node(workflow, node, instance, NodeStatus.RUNNING)
    state.add_live(workflow, assignment)
    if instance >= 0:
        workflow.maps[node].live += 1
    version = state.touch(workflow, node, instance)
    turn.store(
        NodeAssigned(
            shard.shard,
            workflow.id,
            node,
            instance,
            version,
            attempt,
            assignment_id,
            worker.name,
            worker.incarnation,
            turn.now_us,
            assignment.redeliveries,
        )
    )
    spec = workflow.plan.nodes[node]
    turn.emit(
        Assign(
            session,
            shard.shard,
            shard.epoch,
            assignment_id,
            worker.last_ordinal,
            workflow.id,
            workflow.plan.name,
            spec.id,
            instance,
            attempt,
            spec.executor,
            data,
            spec.start_to_close_ms,
            workflow.progress.get((node, instance)) if workflow.progress else None,
            spec.stop_on_disconnect,
        )
    )
    if spec.start_to_close_ms:
        set_attempt_deadline(turn, workflow, assignment)


def _report_backlog(turn: Turn) -> None:
    """Tell workers when what waits for them turned from empty to not empty or back; each is told of a change once."""
    state = turn.state
    for session, waiting in state.backlog.changes(state.ready):
        if session in state.workers:
            turn.emit(ReportBacklog(session, waiting))
