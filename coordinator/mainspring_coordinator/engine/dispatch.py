"""Ready nodes meet workers with room: filter, then rank, then assign.

The cost of a pass does not grow with what waits or with the fleet: a class whose workers are all busy is passed over as a whole, and
strategies look at the heads of orders that are kept by changes.
"""

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import islice

from mainspring import ids, limits
from mainspring.errors import Failure
from mainspring.failures import path_error, payload_too_large
from mainspring.paths import PathError
from mainspring_coordinator.engine import alone, crowding, lost_history, maps, nodes
from mainspring_coordinator.engine.asking import missing_permit, use_permit
from mainspring_coordinator.engine.caching import key_at_start
from mainspring_coordinator.engine.choices import Candidates
from mainspring_coordinator.engine.effects import Assign, ReportBacklog, StrategyFailed
from mainspring_coordinator.engine.payloads import input_of, lacking, load
from mainspring_coordinator.engine.placement import Strategy, Wait
from mainspring_coordinator.engine.placement.base import host_place, shard_place, worker_place
from mainspring_coordinator.engine.ready import Item, ReadyClass, WorkflowKey, next_instance
from mainspring_coordinator.engine.recovery import set_attempt_deadline
from mainspring_coordinator.engine.rows import NodeAssigned
from mainspring_coordinator.engine.state import Assignment, State, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Turn
from mainspring_coordinator.engine.worker import WorkerState


def dispatch(turn: Turn, strategies: Mapping[str, Strategy]) -> bool:
    """Assign what can be assigned now, as far as a step may; tell whether more than that can be."""
    state = turn.state
    # A share of its own, so that an end and what it frees go into one batch whatever else the step did.
    turn.left = state.config.step_nodes
    if state.reserved:
        alone.release_unneeded(state)
    again = bool(state.roomy or state.ready.alone)
    while again:
        touched, state.touched = state.touched, {}
        again = _dispatch_once(turn, strategies, touched)
        if turn.left <= 0:
            state.touched = touched | state.touched
            break
        # Whoever was given a node of another workflow, or not given one after all, may now take what is tied to it.
        again = again or _untie_for_roused(turn)
    if turn.left > 0:
        state.touched.clear()
        state.roused.clear()
        state.ready.fresh.clear()
    if state.ready.turned or state.backlog.changed:
        _report_backlog(turn)
    return turn.left <= 0


def _dispatch_once(turn: Turn, strategies: Mapping[str, Strategy], touched: dict[int, None]) -> bool:
    """Look at all that waits; tell whether it must be looked at once more."""
    state = turn.state
    _untie_for_roused(turn)
    again = _dispatch_shared(turn, strategies)
    # Last, because what they keep from others is kept when others had their share.
    for ready in [ready for ready in state.ready.alone.values() if ready.pause is None]:
        if turn.left <= 0:
            return False
        again = _dispatch_alone(turn, ready) or again
        again = _settle(turn) or again
    if turn.left <= 0:
        return False
    if state.ready.waiting:
        _dispatch_bound(turn, strategies, touched | state.touched)
        again = _settle(turn) or again
    if turn.left <= 0:
        return False
    return state.rates.keep_no_more() or again


def _settle(turn: Turn) -> bool:
    """Do what follows; tell whether a node failed before it could be assigned, which may free others, of classes that were looked at."""
    freed = bool(turn.released)
    nodes.settle(turn)
    return freed


def _dispatch_shared(turn: Turn, strategies: Mapping[str, Strategy]) -> bool:
    """Assign what need not run alone, each time of the class in which the most urgent waits; tell whether nodes became ready meanwhile.

    Classes may have workers in common: were one served before the next, a wide workflow would keep all their slots from other classes.
    """
    waiting = turn.state.ready.waiting
    classes = [ready for ready in waiting.values() if not ready.key.alone and ready.pause is None]
    order = [(-ready.waiting.level_us(turn.now_us), at, ready) for at, ready in enumerate(classes)]
    heapify(order)
    freed, at = False, len(classes)
    while order and turn.left > 0:
        _, _, ready = heappop(order)
        more = _dispatch_class(turn, strategies, ready, 1 if order else turn.left)
        freed = _settle(turn) or freed
        if more:
            at += 1
            heappush(order, (-ready.waiting.level_us(turn.now_us), at, ready))
    for ready in classes:
        ready.waiting.let_back()
    return freed


def _dispatch_class(turn: Turn, strategies: Mapping[str, Strategy], ready: ReadyClass, most: int) -> bool:
    """Place up to so many items of a class; tell whether another could be placed."""
    for _ in range(most):
        rates = turn.state.rates
        if rates and (rates.keeps(ready.key.executor) or _over_rate(turn, ready)):
            return False
        key = _first_served(turn, ready) if turn.left > 0 else None
        if key is None:
            return False
        _place(turn, strategies, ready, key)
    return bool(ready.waiting)


def _first_served(turn: Turn, ready: ReadyClass) -> WorkflowKey | None:
    """Find the first workflow in turn for which there is an open worker, which is the first one unless inventories are still awaited.

    Those before it are set aside for this pass; those that no worker has said anything of, until one does.
    """
    served = stated = 0
    for kind in turn.state.pool.able(ready.want):
        stated |= kind.shards
        if kind.open:
            served |= kind.shards
    while served and turn.left > 0 and (key := ready.waiting.next(turn.now_us)) is not None:
        if served >> key[0] & 1:
            if not _is_held_back(turn, key):
                return key
            ready.waiting.set_aside(key)
        elif stated >> key[0] & 1:
            ready.waiting.set_aside(key)
        else:
            turn.left -= 1
            turn.state.ready.tie_all(ready, key, shard_place(key[0]))
    return None


def _is_held_back(turn: Turn, key: WorkflowKey) -> bool:
    workflow = turn.state.shards[key[0]].workflows[key[1]]
    return crowding.holds_back(turn.state, workflow, turn.now_us)


def _place(turn: Turn, strategies: Mapping[str, Strategy], ready: ReadyClass, key: WorkflowKey, only: int = 0) -> None:
    """Assign the next item of a workflow, or tie it to what it is to wait for."""
    state = turn.state
    workflow = state.shards[key[0]].workflows[key[1]]
    item = ready.waiting.peek(key, turn.now_us)
    candidates = Candidates(state, ready, workflow, item, turn.now_us, only)
    strategy = strategies[ready.key.strategy]
    turn.left -= 1
    choice = _choice(turn, ready.key.strategy or state.config.strategy, strategy, candidates)
    if isinstance(choice, Wait):
        if strategy.remembers:
            # Else a newcomer might be nearer to the key, and what is tied would wait for a worker that is not going to get it.
            candidates.remember(0)
        state.ready.tie(ready, key, choice.place, turn.now_us)
        if choice.bounded and item not in workflow.near_until_us:
            until_us = workflow.near_until_us[item] = turn.now_us + state.config.locality_wait_us
            state.timers.set(
                until_us,
                TimerKind.NEARNESS,
                shard=workflow.shard,
                workflow_id=workflow.id,
                node=item[0],
                instance=item[1],
            )
        return
    if workflow.plan.concurrency and (place := missing_permit(state, workflow, item)):
        state.ready.tie(ready, key, place, turn.now_us)
        # Something else that waits for this worker may have its room.
        state.touch_worker(choice)
        return
    state.ready.take(ready, key, turn.now_us)
    state.rotation += 1
    if not _assign(turn, workflow, item, choice):
        # As above.
        state.touch_worker(choice)
    elif strategy.remembers:
        candidates.remember(choice)


def _choice(turn: Turn, name: str, strategy: Strategy, candidates: Candidates) -> int | Wait:
    """Ask a strategy; whatever is wrong with it stops nothing."""
    try:
        choice = strategy.choose(candidates)
        wrong = ""
        if not isinstance(choice, Wait) and not candidates.can_take(choice):
            wrong = f"it chose worker {choice}, which cannot take the node"
    except Exception as error:  # of whatever kind: it is a bug, and not one of this node
        choice, wrong = 0, f"{type(error).__name__}: {error}"
    if not wrong:
        return choice
    turn.emit(StrategyFailed(*candidates.names, name, wrong))
    return candidates.next_in_turn()


def _over_rate(turn: Turn, ready: ReadyClass, session: int = 0, *, late: bool = False) -> bool:
    """Tell whether what a class runs was started as often as it may for now; then it is looked at again when it may be.

    `session`: the worker that was to take it, of which nobody would think again by itself. `late`: others were asked before.
    """
    state, executor = turn.state, ready.key.executor
    due_us = state.rates.due_us(executor, turn.now_us)
    if due_us and state.rates.wait(executor, session, late=late):
        state.timers.set(due_us, TimerKind.RATE, workflow_id=executor)
    return due_us > 0


def rate_due(turn: Turn, timer: Timer) -> None:
    """An executor may be started again."""
    for session in turn.state.rates.let_go(timer.workflow_id):
        if session in turn.state.roomy:
            turn.state.touch_worker(session)


def patience_over(turn: Turn, workflow: WorkflowState, timer: Timer) -> None:
    """An item has waited long enough for a worker near its inputs."""
    key = workflow.plan.class_keys[timer.node]
    turn.state.ready.untie_item(key, workflow.key, (timer.node, timer.instance), turn.now_us)


def _untie_for_roused(turn: Turn) -> bool:
    """Let as much of what is tied to workers or their hosts be looked at again as they may take now; tell whether there was any."""
    state = turn.state
    roused, state.roused = state.roused, {}
    if not state.ready.ties:
        return False
    found = False
    for session in roused:
        worker = state.workers.get(session)
        if worker is not None and session in state.roomy and session in state.pool.members:
            for place in (worker_place(worker.incarnation), host_place(worker.host)):
                for ready in list(state.ready.ties.get(place, {}).values()):
                    found = (ready.pause is None and _untie(turn, worker, ready, place)) or found
    return found


def _untie(turn: Turn, worker: WorkerState, ready: ReadyClass, place: str) -> bool:
    state = turn.state
    member = state.pool.members[worker.session]
    if not state.pool.is_able(worker.session, ready.want):
        return False
    tied, room, shards = ready.tied[place], state.room(worker), member.kind.shards
    able = tied if member.open else state.held[worker.incarnation].workflows
    keys = list(islice((key for key in able if key in tied and shards >> key[0] & 1), room))
    for key in reversed(keys):
        state.ready.untie(ready, place, key, -(-room // len(keys)), turn.now_us)
    return bool(keys)


def _dispatch_bound(turn: Turn, strategies: Mapping[str, Strategy], touched: Iterable[int]) -> None:
    """Let workers that are at their bound of workflows take nodes of those that they have.

    Only a change of such a worker, or something new of such a workflow, can bring the two together; so nothing else is looked at.
    """
    state = turn.state
    for session in touched:
        if _is_bound(state, session):
            for key in list(state.held[state.workers[session].incarnation].workflows):
                _serve_bound(turn, strategies, session, key)
    for key in list(state.ready.fresh):
        shard = state.shards.get(key[0])
        workflow = shard.workflows.get(key[1]) if shard is not None else None
        if workflow is None or not any(key in ready.waiting for ready in _classes_of(state, workflow)):
            continue
        for incarnation in {assignment.incarnation: None for assignment in workflow.live.values()}:
            session = state.sessions.get(incarnation, 0)
            if _is_bound(state, session):
                _serve_bound(turn, strategies, session, key)


def _is_bound(state: State, session: int) -> bool:
    """Tell whether a worker has room, and only for nodes of workflows that it has."""
    member = state.pool.members.get(session)
    return member is not None and not member.open and session in state.roomy


def _classes_of(state: State, workflow: WorkflowState) -> list[ReadyClass]:
    waiting = state.ready.waiting
    return [waiting[key] for key in workflow.plan.classes if key in waiting and waiting[key].pause is None]


def _serve_bound(turn: Turn, strategies: Mapping[str, Strategy], session: int, key: WorkflowKey) -> None:
    """Let a worker take what waits of a workflow that it has."""
    state = turn.state
    shard = state.shards.get(key[0])
    workflow = shard.workflows.get(key[1]) if shard is not None else None
    member = state.pool.members[session]
    if workflow is None:
        return
    for ready in _classes_of(state, workflow):
        if state.pool.is_able(session, ready.want):
            # The shard's ids may come to their end meanwhile: then nobody gets anything of it.
            while (
                key in ready.waiting and session in state.roomy and member.kind.shards >> key[0] & 1 and turn.left > 0
            ):
                if crowding.holds_back(state, workflow, turn.now_us) or (
                    state.rates and _over_rate(turn, ready, session, late=True)
                ):
                    break
                _place(turn, strategies, ready, key, only=session)


def _dispatch_alone(turn: Turn, ready: ReadyClass) -> bool:
    """Assign what runs alone to workers that have nothing, and reserve one for the rest; tell whether one may get other work again."""
    state, freed = turn.state, False
    for _ in range(len(ready.waiting)):
        if turn.left <= 0 or (state.rates and _over_rate(turn, ready, late=True)):
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
        if workflow.plan.concurrency and (
            place := missing_permit(state, workflow, ready.waiting.peek(key, turn.now_us))
        ):
            # Others may have the worker meanwhile.
            state.ready.tie(ready, key, place, turn.now_us)
            freed = freed or session in state.reserved
            alone.end_reservation(state, session)
            continue
        item = state.ready.take(ready, key, turn.now_us)
        state.rotation += 1
        turn.left -= 1
        if _assign(turn, workflow, item, session):
            alone.end_reservation(state, session)
    ready.waiting.let_back()
    if ready.key in state.ready.alone:
        state.ready.alone[ready.key] = state.ready.alone.pop(ready.key)
    return alone.release_unneeded(state) or freed if state.reserved else freed


def _has_turn(workflow: WorkflowState, item: Item) -> bool:
    """Tell whether the bound on parallel instances of a `map` leaves room for this one; for what is no instance it always does."""
    node, instance = item
    spec = workflow.plan.nodes[node].map
    most = spec.max_parallel if spec is not None else 0
    return instance < 0 or not most or workflow.maps[node].live < most


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
    if workflow.plan.concurrency:
        use_permit(turn.state, workflow, item)
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
        lost_history.hold_assignments(turn, shard)
    worker.last_ordinal += 1
    redeliveries = workflow.redeliveries.pop((node, instance), None) if workflow.redeliveries else None
    attempts, index = (workflow.attempts, node) if instance < 0 else (workflow.maps[node].attempts, instance)
    # Offered again, it is still the same attempt; only after a failure it is the next one.
    attempt = attempts[index] if redeliveries is not None else attempts[index] + 1
    if workflow.start_by_us:
        workflow.start_by_us.pop((node, instance), None)
    if workflow.near_until_us:
        workflow.near_until_us.pop((node, instance), None)
    if instance < 0:
        state.note_origin(workflow, node, worker.incarnation)
    state.pool.took_turn(session, state.rotation)
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
    if workflow.plan.caches:
        assignment.cache_key = key_at_start(workflow, node, instance, data)
    turn.set_node(workflow, node, instance, NodeStatus.RUNNING)
    state.add_live(workflow, assignment)
    crowding.given(state, workflow, turn.now_us)
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
    if state.rates:
        state.rates.started(spec.executor, turn.now_us)
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
