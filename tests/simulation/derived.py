"""An engine's state against what it is derived from: occupancy, indices, bounds, and that everything waits for something that will come."""

from collections.abc import Iterable, Iterator

from mainspring import limits
from mainspring_coordinator.engine.alone import must_run_alone
from mainspring_coordinator.engine.permits import place_prefix, waits_for
from mainspring_coordinator.engine.placement.base import host_place, shard_place, worker_place
from mainspring_coordinator.engine.ready import next_instance
from mainspring_coordinator.engine.state import Assignment, State, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.step import Engine
from mainspring_coordinator.engine.timers import TimerKind
from mainspring_coordinator.engine.worker import WorkerState
from tests.engine.placement.checks import wrong_with

_N = NodeStatus


def check_engine(engine: Engine) -> Iterator[tuple[int, str]]:
    """Yield (law, what is wrong)."""
    state = engine.state
    yield from _check_indices(state)
    yield from _check_placement(state)
    for shard in state.shards.values():
        if len(shard.deferred) > limits.deferred_events_a_shard_max:
            yield 9, f"{len(shard.deferred)} events wait for shard {shard.shard}"
        if len(shard.recent) > limits.recent_results_a_shard_max:
            yield 9, f"{len(shard.recent)} results of shard {shard.shard} are remembered"
        # In the midst of a long act of several steps some of it waits for the next of these.
        if shard.ready and not engine.busy:
            for flow in shard.workflows.values():
                yield from _check_flow(state, flow)


def _check_indices(state: State) -> Iterator[tuple[int, str]]:
    flows = [flow for shard in state.shards.values() for flow in shard.workflows.values()]

    def of_settled(assignments: Iterable[Assignment]) -> dict[tuple[int, int], Assignment]:
        # An occupied shard is being built, or forgotten, in parts.
        return {(a.shard, a.id): a for a in assignments if a.shard not in state.occupied}

    live = of_settled(a for shard in state.shards.values() for a in shard.live.values())
    held = of_settled(a for held in state.held.values() for a in held.assignments.values())
    if not live == held == of_settled(a for flow in flows for a in flow.live.values()):
        yield 6, "the indices of live assignments differ"
    places = {(a.workflow_id, a.node, a.instance) for a in live.values()}
    if len(places) != len(live):
        yield 4, "a node has two live assignments"
    if not state.occupied and state.cached_bytes != sum(flow.output_bytes for flow in flows):
        yield 6, "the payloads in memory are counted wrongly"


def _check_placement(state: State) -> Iterator[tuple[int, str]]:
    for what in wrong_with(state):
        yield 6, what
    for worker in state.workers.values():
        if (worker.session in state.roomy) != (state.room(worker) > 0):
            yield 6, f"worker {worker.name} has room {state.room(worker)}, and is noted otherwise"


def _check_flow(state: State, flow: WorkflowState) -> Iterator[tuple[int, str]]:
    if not goes_on(state, flow):
        yield 5, f"nothing brings {flow.id} ({flow.status.name}) forward: {list(flow.statuses)}"
    if _is_paused(state, flow):
        return  # for as long as that lasts nobody asks for what it waits for
    for place, item in state.ready.tied_items_of(flow.key):
        if not _is_untied_some_day(state, flow, place, item):
            yield 5, f"{flow.id} waits for {place}, and nothing ends that"
    for worker in state.workers.values():
        if _may_take(state, worker, flow):
            yield 7, f"{flow.id} has nodes that are ready, and {worker.name} has room for them"


def _is_paused(state: State, flow: WorkflowState) -> bool:
    return flow.pause is not None or state.ready.pauses.over("work") is not None


def _is_untied_some_day(state: State, flow: WorkflowState, place: str, item: tuple[int, int]) -> bool:
    if place.startswith("host:"):
        return any(t.kind is TimerKind.NEARNESS and (t.workflow_id, t.node) == (flow.id, item[0]) for t in state.timers)
    if place.startswith(place_prefix):
        shard, _, key = waits_for(place)
        if state.shards[shard].reloading:
            return True  # nothing is said of a shard that lacks a workflow, and of every key once that is there
        demand = state.shards[shard].demands.by_key[key]
        due = [t for t in state.timers if t.kind is TimerKind.PERMITS and t.number == demand.number]
        return (shard, key) in state.unsaid or any((t.shard, t.workflow_id) == (shard, key) for t in due)
    worker = state.workers.get(state.sessions.get(place.removeprefix("worker:"), 0))
    # Whoever has not stated what it has of a shard does so when it attaches, and when the shard has a new owner.
    return place == shard_place(flow.shard) or (worker is not None and not worker.draining)


def _may_take(state: State, worker: WorkerState, flow: WorkflowState) -> bool:
    """Tell whether a step left a node unassigned that this worker may have: its dispatch would need a commit of its own."""
    if state.room(worker) <= 0 or flow.shard not in worker.reconciled:
        return False
    held = state.held.get(worker.incarnation)
    if held is not None and flow.key not in held.workflows and len(held.workflows) >= worker.workflows_max:
        return False
    parked = set(flow.parked)
    # Some wait on purpose, for one worker or for a host.
    elsewhere = [
        item
        for place, item in state.ready.tied_items_of(flow.key)
        if place not in (worker_place(worker.incarnation), host_place(worker.host), shard_place(flow.shard))
    ]
    waiting = [item for item in state.ready.items_of(flow.key) if item not in parked and item not in elsewhere]
    return any(instance == next_instance or not must_run_alone(flow, node, instance) for node, instance in waiting)


def goes_on(state: State, flow: WorkflowState) -> bool:
    """Tell whether every part of a workflow that has begun waits for something that will come."""
    if flow.status is not WorkflowStatus.RUNNING:
        return bool(flow.live)
    waiting = state.ready.items_of(flow.key) + flow.parked
    live = {(a.node, a.instance) for a in flow.live.values()}
    return all(_waits(flow, node, waiting, live) for node in range(len(flow.statuses))) and (
        not flow.parked or bool(flow.loading)
    )


def _waits(flow: WorkflowState, node: int, waiting: list[tuple[int, int]], live: set[tuple[int, int]]) -> bool:
    status, expanded = flow.statuses[node], flow.maps.get(node)
    if status == _N.WAITING:
        return bool(flow.remaining[node]) or (node, -1) in waiting
    if status == _N.RUNNING and expanded is not None:
        backing_off = any(at == node for at, _ in flow.retry_at_us)
        offered = any(at == node and instance != -1 for at, instance in waiting)
        return bool(expanded.live or expanded.collecting or offered or backing_off)
    if status == _N.READY:
        return (node, -1) in waiting
    if status == _N.BACKOFF:
        return (node, -1) in flow.retry_at_us
    return status != _N.RUNNING or (node, -1) in live
