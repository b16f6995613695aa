"""A shard's side of its permits: what it states of itself, and what it does with what it is granted. `permits` has the rules.

A node asks for a permit when a worker could take it, and not before: else nodes that no worker can run would hold all permits of a key.
Until the permit is there the node is tied, so that nobody waits behind it. A permit that no worker made use of for a while is put back,
and asked for anew, behind others, for those nodes that still wait.
"""

from collections.abc import Hashable, Iterator
from typing import Final, TypeVar

from mainspring import limits
from mainspring_coordinator.engine.effects import StatePermits
from mainspring_coordinator.engine.events import PermitsGranted
from mainspring_coordinator.engine.order import Item, WorkflowKey, next_instance
from mainspring_coordinator.engine.permits import Demand, Group, Reply, Statement, permit_place
from mainspring_coordinator.engine.ready import ReadyQueue
from mainspring_coordinator.engine.state import ShardState, State, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Turn

_K = TypeVar("_K", bound=Hashable)
_restate_us: Final = limits.permit_restate_ms * 1_000


def missing_permit(state: State, workflow: WorkflowState, item: Item) -> str:
    """Return what an item that a worker could take is to be tied to, because it lacks a permit; empty if it lacks none."""
    concurrency = workflow.plan.concurrency[item[0]]
    if concurrency is None:
        return ""
    demand = state.shards[workflow.shard].demands.of(concurrency.key)
    if demand.usable(concurrency.limit):
        return ""
    group = Group(workflow.plan.ranks[item[0]].priority, concurrency.limit)
    demand.groups[group] = None
    demand.unplaced.pop((workflow.key, item), None)
    state.unsaid[workflow.shard, concurrency.key] = None
    return permit_place(workflow.shard, group, concurrency.key)


def use_permit(state: State, workflow: WorkflowState, item: Item) -> None:
    """An item was given to a worker, and has its permit from now on, if it needs one."""
    concurrency = workflow.plan.concurrency[item[0]]
    if concurrency is None:
        return
    demand = state.shards[workflow.shard].demands.of(concurrency.key)
    demand.unplaced.pop((workflow.key, item), None)
    limit = demand.usable(concurrency.limit)
    _add(demand.spare, limit, -1)


def speak(turn: Turn) -> None:
    """State what has changed; what is more than a step may is left to the next."""
    state, left = turn.state, turn.state.config.step_nodes
    while state.unsaid and left > 0:
        left -= 1
        shard_id, key = next(iter(state.unsaid))
        del state.unsaid[shard_id, key]
        shard = state.shards.get(shard_id)
        if shard is not None and key in shard.demands.by_key and _knows_itself(shard):
            _state(turn, shard, key)


def speak_of_all(turn: Turn, shard: ShardState) -> None:
    """What we know of a shard is complete, or complete again."""
    turn.state.unsaid.update(dict.fromkeys((shard.shard, key) for key in shard.demands.by_key))


def restate(turn: Turn, shard: ShardState, timer: Timer) -> None:
    """Something was stated a while ago: say it again, if it was not heard, or came to nothing."""
    key = timer.workflow_id
    demand = shard.demands.by_key.get(key)
    if demand is None or demand.number != timer.number:
        return
    if not _knows_itself(shard):
        _set_timer(turn, shard, key, demand)
        return
    if demand.answered and not demand.spare and not demand.wanted:
        return
    demand.spare.clear()
    _state(turn, shard, key, again=True)


def granted(turn: Turn, event: PermitsGranted) -> None:
    """The home of a key replies to a statement, or asks for one."""
    reply = event.reply
    shard = turn.state.shards.get(event.shard)
    if shard is None:
        return
    if not _knows_itself(shard):
        if not reply.number:
            _answer_later(shard, reply)
        return
    demand = shard.demands.by_key.get(reply.key)
    if demand is not None and reply.home_epoch < demand.home_epoch:
        return  # the home has another owner now
    if demand is None or (reply.epoch, reply.number) != (shard.epoch, demand.number):
        _correct(turn, shard, reply, demand)
        return
    demand.home_epoch, demand.answered = reply.home_epoch, True
    demand.out, demand.waiting = reply.out, reply.waiting
    for group, count in reply.granted.items():
        more = count - demand.granted.get(group, 0)
        if more > 0:
            demand.granted[group] = count
            demand.kept += more
            _add(demand.wanted, group, -min(more, demand.wanted.get(group, 0)))
            _add(demand.spare, group.limit, more)
            _untie(turn, shard, reply.key, demand, group.limit, more)
    turn.state.unsaid[shard.shard, reply.key] = None


def _answer_later(shard: ShardState, reply: Reply) -> None:
    """A home asks what a shard has, which is not all in memory yet: as soon as it is, that is said, if only that it is nothing."""
    demand = shard.demands.of(reply.key)
    demand.home_epoch = max(demand.home_epoch, reply.home_epoch)
    demand.kept = -1


def _correct(turn: Turn, shard: ShardState, reply: Reply, demand: Demand | None) -> None:
    """The home does not know what we stated last."""
    if demand is None:
        if reply.number and not reply.granted:
            return  # late, and of nothing
        demand = shard.demands.of(reply.key)
    elif not demand.answered and reply.home_epoch == demand.home_epoch:
        return  # it will, once it hears what is on its way
    elif reply.number and not reply.granted:
        return
    demand.home_epoch = reply.home_epoch
    _state(turn, shard, reply.key, again=True)


def _knows_itself(shard: ShardState) -> bool:
    """Tell whether all live assignments of a shard are in memory: what is stated without them would give their permits away."""
    return shard.ready and not shard.reloading


def _state(turn: Turn, shard: ShardState, key: str, *, again: bool = False) -> None:
    """State what a shard keeps and wants of a key, if the home has heard otherwise, or `again` in any case."""
    demand = shard.demands.by_key[key]
    again = _put_back_of_paused(turn.state, shard, demand) or again
    if not (again or demand.answered):
        return  # looked at again when the reply comes, or when none has come
    wants = _wants(turn.state, shard, key, demand)
    keeps = demand.live + sum(demand.spare.values())
    if not again and keeps == demand.kept and not _differ(wants, demand.wanted):
        if not keeps and not wants and not demand.groups:
            del shard.demands.by_key[key]
        return
    shard.demands.number += 1
    demand.number, demand.answered = shard.demands.number, False
    demand.kept, demand.wanted, demand.granted = keeps, dict(wants), {}
    turn.emit(
        StatePermits(
            shard.shard, Statement(key, shard.shard, shard.epoch, demand.number, demand.home_epoch, keeps, wants)
        )
    )
    _set_timer(turn, shard, key, demand)


def _set_timer(turn: Turn, shard: ShardState, key: str, demand: Demand) -> None:
    turn.state.timers.set(
        turn.now_us + _restate_us, TimerKind.PERMITS, shard=shard.shard, workflow_id=key, number=demand.number
    )


def _differ(wants: dict[Group, int], wanted: dict[Group, int]) -> bool:
    """Tell whether the home must hear of what is wanted: of less than it knows of, or where it knows of nothing that is wanted."""
    return any(group not in wanted for group in wants) or any(
        wants.get(group, 0) < count for group, count in wanted.items()
    )


def _wants(state: State, shard: ShardState, key: str, demand: Demand) -> dict[Group, int]:
    """Return how many permits a shard could use beyond those it keeps, of each group no more than its limit."""
    found: dict[Group, int] = {}
    for group in sorted(demand.groups, reverse=True):
        count = 0
        for workflow, item in _tied(state, permit_place(shard.shard, group, key)):
            count += _count(shard, workflow, item)
            if count >= group.limit:
                break
        if count:
            found[group] = min(count, group.limit)
        elif permit_place(shard.shard, group, key) not in state.ready.ties:
            del demand.groups[group]
    spare = dict(demand.spare)
    for (workflow, item), group in list(demand.unplaced.items()):
        if not _waits(shard, workflow, item):
            del demand.unplaced[workflow, item]
            continue
        lacking = _count(shard, workflow, item)
        for limit in [limit for limit in spare if limit <= group.limit]:
            taken = min(lacking, spare[limit])
            spare[limit] -= taken
            lacking -= taken
        if lacking:
            found[group] = min(found.get(group, 0) + lacking, group.limit)
    return {group: found[group] for group in sorted(found, reverse=True)[: limits.permit_groups_max]}


def _put_back_of_paused(state: State, shard: ShardState, demand: Demand) -> bool:
    """Keep no permit for what is paused; tell whether there was one. What else waits with one has to ask anew."""
    queue = state.ready
    if not (queue.pauses or queue.paused):
        return False
    paused = [one for one in demand.unplaced if _is_paused(queue, shard, *one)]
    for one in paused:
        del demand.unplaced[one]
    # It may have come after the pause, too, for somebody who does not wait for it any more.
    unused = bool(demand.spare) and (bool(paused) or not demand.unplaced)
    if unused:
        demand.spare.clear()
    return unused


def _is_paused(queue: ReadyQueue, shard: ShardState, key: WorkflowKey, item: Item) -> bool:
    workflow = shard.workflows.get(key[1])
    if workflow is None:
        return False
    return key in queue.paused or queue.pauses.over(workflow.plan.class_keys[item[0]].executor) is not None


def _tied(state: State, place: str) -> Iterator[tuple[WorkflowKey, Item]]:
    """Yield what waits in a place and is not paused."""
    for ready in state.ready.ties.get(place, {}).values():
        for workflow, items in ready.tied[place].items() if ready.pause is None else ():
            for item, _ in items:
                yield workflow, item


def _waits(shard: ShardState, key: WorkflowKey, item: Item) -> bool:
    """Tell whether an item still waits for a worker."""
    workflow = shard.workflows.get(key[1])
    if workflow is None or workflow.status is not WorkflowStatus.RUNNING or item in workflow.parked:
        return False
    node, instance = item
    expanded = workflow.maps.get(node)
    if expanded is None:
        return instance < 0 and workflow.statuses[node] == NodeStatus.READY
    return expanded.queued if instance == next_instance else expanded.statuses[instance] == NodeStatus.READY


def _count(shard: ShardState, key: WorkflowKey, item: Item) -> int:
    """Return how many permits an item could use: that of a `map` stands for all instances that may start."""
    node, instance = item
    if instance != next_instance:
        return 1
    workflow = shard.workflows[key[1]]
    expanded, spec = workflow.maps[node], workflow.plan.nodes[node].map
    count = len(expanded.again) + expanded.width - expanded.next
    most = spec.max_parallel if spec is not None else 0
    return max(1, min(count, most - expanded.live) if most else count)


def _untie(turn: Turn, shard: ShardState, key: str, demand: Demand, limit: int, count: int) -> None:
    """Let as many nodes be looked at as a number of permits is enough for, workflows taking turns."""
    queue = turn.state.ready
    for group in sorted(demand.groups, reverse=True):
        place = permit_place(shard.shard, group, key)
        while count > 0 and group.limit >= limit:
            classes = queue.ties.get(place, {})
            ready = next((one for one in classes.values() if one.pause is None), None)
            if ready is None:
                break
            tied = ready.tied[place]
            workflow = next(iter(tied))
            item = tied[workflow][0][0]
            count -= _count(shard, workflow, item)
            queue.untie(ready, place, workflow, 1, turn.now_us)
            demand.unplaced[workflow, item] = group
            if workflow in tied:
                tied.move_to_end(workflow)
            if ready.key in classes:
                classes[ready.key] = classes.pop(ready.key)


def _add(counts: dict[_K, int], key: _K, by: int) -> None:
    left = counts.get(key, 0) + by
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)
