"""What the engine keeps by changes for the choice of workers, against the same made from scratch."""

from collections import Counter
from collections.abc import Iterator, Sequence

from mainspring_coordinator.engine.permits import place_prefix
from mainspring_coordinator.engine.placement.kind import Group, Kind, Member
from mainspring_coordinator.engine.placement.lazy_heap import Entry
from mainspring_coordinator.engine.placement.pool import Pool, meets
from mainspring_coordinator.engine.ready import ReadyQueue
from mainspring_coordinator.engine.state import State


def wrong_with(state: State) -> Iterator[str]:
    """Yield each difference."""
    there = {worker.session for worker in state.workers.values() if worker.attached and not worker.draining}
    if set(state.pool.members) != there:
        yield f"the pool has {sorted(state.pool.members)}, and {sorted(there)} take work"
        return
    for session, member in state.pool.members.items():
        worker = state.workers[session]
        held = state.held.get(worker.incarnation)
        is_open = state.room(worker) > 0 and (held is None or len(held.workflows) < worker.workflows_max)
        if member.open is not is_open or member.load != state.load_of(worker):
            yield f"the pool has {worker.name} as open {member.open} with load {member.load}"
        if member.kind.shards != sum(1 << shard for shard in worker.reconciled):
            yield f"the pool has {worker.name} with shards {member.kind.shards:b}, and it stated {worker.reconciled}"
    yield from wrong_with_pool(state.pool)
    yield from wrong_with_queue(state.ready)
    yield from wrong_with_permits(state)


def wrong_with_permits(state: State) -> Iterator[str]:
    """Yield what is wrong with what shards know of their permits."""
    for shard in state.shards.values():
        if shard.shard in state.occupied:
            continue
        live: Counter[str] = Counter()
        for one in shard.live.values():
            concurrency = shard.workflows[one.workflow_id].plan.concurrency
            if concurrency and (wanted := concurrency[one.node]) is not None:
                live[wanted.key] += 1
        counted = {key: demand.live for key, demand in shard.demands.by_key.items() if demand.live}
        if counted != live:
            yield f"shard {shard.shard} counts {counted} with permits, and has {dict(live)}"
        if set(shard.home.heard) != {(key, at) for key, ledger in shard.home.ledgers.items() for at in ledger}:
            yield f"shard {shard.shard} hears others than it has as holders of permits"


def wrong_with_pool(pool: Pool) -> Iterator[str]:
    """Yield what is wrong within the pool."""
    of_kinds = {session: one for kind in pool.kinds.values() for session, one in kind.all.members.items()}
    if of_kinds != pool.members:
        yield "the kinds have other members than the pool"
    for key, kind in pool.kinds.items():
        members = list(kind.all.members.values())
        if kind.key != key or not members or kind.open != sum(one.open for one in members):
            yield f"kind {key} is {kind.key}, with {len(members)} members, {kind.open} of them open"
        for one in members:
            wants = sum(bit for want, bit in pool._wants.items() if meets(one.executors, one.labels, *want))
            if one.kind is not kind or kind.wants != wants or kind.executors != len(one.executors):
                yield f"{one.name} is of another kind"
        yield from _wrong_orders(kind, members)
    for want, bit in pool._wants.items():
        if set(pool.able(want)) != {kind for kind in pool.kinds.values() if kind.wants & bit}:
            yield f"other kinds meet {want}"


def _wrong_orders(kind: Kind, members: Sequence[Member]) -> Iterator[str]:
    groups: list[tuple[Group, list[Member]]] = [(kind.all, list(members))]
    groups += [(kind.on_host(host), [one for one in members if one.host == host]) for host in {m.host for m in members}]
    groups += [(kind.in_zone(zone), [one for one in members if one.zone == zone]) for zone in {m.zone for m in members}]
    for group, expected in groups:
        if set(group.members) != {one.session for one in expected}:
            yield f"a group has {sorted(group.members)}"
        loads: list[Entry] = [(one.load, one.name, one.session) for one in expected if one.open]
        # An order that was never asked for stays unmade, so that changes of both sorts are looked at.
        if group.order is not None and group.order.first() != min(loads, default=None):
            yield f"the least loaded is {group.order.first()}, and should be {min(loads, default=None)}"
        if group.order is not None and len(group.order._heap) > 2 * len(group.order) + 64:
            yield "an order keeps more that is stale than it may"
    turns: list[Entry] = [(one.turn, one.name, one.session) for one in members if one.open]
    if kind._turns is not None and kind._turns.first() != min(turns, default=None):
        yield f"the next in turn is {kind._turns.first()}, and should be {min(turns, default=None)}"
    if kind._ring is not None:
        points = sorted((one.point, one.session) for one in members)
        if [(p, at[1]) for p, at in zip(kind._ring._points, kind._ring._at, strict=True)] != points:
            yield "the ring has others"


def is_permit(place: str) -> bool:
    """Tell whether what waits there waits for a permit."""
    return place.startswith(place_prefix)


def wrong_with_queue(queue: ReadyQueue) -> Iterator[str]:
    """Yield what is wrong with what is tied."""
    for key, ready in queue.waiting.items():
        tied = [items for flows in ready.tied.values() for items in flows.values()]
        lines = [line.items for of_one in ready.waiting._lines.values() for line in of_one]
        if ready.count != sum(map(len, lines)) + sum(map(len, tied)):
            yield f"{ready.count} are counted in {key}"
        if not all(lines) or not all(tied):
            yield f"{key} has workflows of which nothing waits"
        asleep = sum(len(items) for place, flows in ready.tied.items() if is_permit(place) for items in flows.values())
        if ready.asleep != asleep:
            yield f"{ready.asleep} are counted to wait for permits in {key}"
        ties = {flow: {place for place, flows in ready.tied.items() if flow in flows} for flow in ready.ties}
        if {flow: set(places) for flow, places in ready.ties.items()} != ties or not all(ties.values()):
            yield f"the ties of {key} differ"
    places = {(place, key) for key, ready in queue.waiting.items() for place in ready.tied}
    if {(place, key) for place, classes in queue.ties.items() for key in classes} != places:
        yield "the index of what is tied differs"
