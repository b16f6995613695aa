"""The home's side of permits: what its owner gives out, and to whom. `permits` has the rules.

Permits go out one by one to the group that has waited longest, a level of priority counting as AGEING; what was granted one waits anew, so
that shards take turns. A limit holds for who waits under it: it is granted a permit while fewer than that are out, whoever has those.

A shard of which nothing was heard for a while is asked. Its new owner may have no node of the key, and would never think of it.
"""

from heapq import heapify, heappop, heappush
from typing import Final

from mainspring import limits
from mainspring_coordinator.engine.effects import GrantPermits
from mainspring_coordinator.engine.events import PermitsLoaded, PermitsStated
from mainspring_coordinator.engine.permits import Group, Holder, Reply, Statement, Wanted
from mainspring_coordinator.engine.rows import PermitsHeld
from mainspring_coordinator.engine.state import ShardState
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Turn

_silence_us: Final = limits.permit_silence_ms_max * 1_000


def loaded(turn: Turn, event: PermitsLoaded) -> None:
    """Permits that are out, as the database has them. Who has them is asked once the shard is ready."""
    shard = turn.state.shards.get(event.shard)
    if shard is None or shard.ready:
        return
    for held in event.permits:
        holder = Holder(held.epoch, count=held.count, stored=(held.epoch, held.count))
        shard.home.ledgers.setdefault(held.key, {})[held.holder] = holder
        shard.home.heard[held.key, held.holder] = 0


def watch_silent(turn: Turn, shard: ShardState) -> None:
    """Set the time at which shards are asked of which nothing was heard."""
    home = shard.home
    if home.heard and not home.watching:
        home.watching = True
        due_us = max(turn.now_us, next(iter(home.heard.values())) + _silence_us)
        turn.state.timers.set(due_us, TimerKind.PERMITS_SILENT, shard=shard.shard, number=shard.epoch)


def ask_silent(turn: Turn, shard: ShardState, timer: Timer) -> None:
    """Ask who has permits and has been silent; forget who only wants some."""
    if timer.number != shard.epoch or not shard.ready:
        return
    home, left = shard.home, turn.state.config.step_nodes
    home.watching = False
    while home.heard and left > 0:
        (key, at), heard_us = next(iter(home.heard.items()))
        if heard_us + _silence_us > turn.now_us:
            break
        left -= 1
        holder = home.ledgers[key][at]
        if holder.count:
            _note_heard(turn, shard, key, at)
            _ask(turn, shard, key, at)
        else:
            _forget(shard, key, at)
    watch_silent(turn, shard)


def stated(turn: Turn, event: PermitsStated) -> None:
    """A shard's owner says what it keeps and wants of a key whose home we own."""
    shard, said = turn.state.shards.get(event.shard), event.statement
    if shard is None or not shard.ready or said.home_epoch > shard.epoch:
        return  # it will be said again, and in the last case to the owner after us
    ledger = shard.home.ledgers.get(said.key, {})
    holder = ledger.get(said.shard)
    if holder is None:
        if not said.keeps and not said.wants:
            _reply(turn, shard, said.key, said.shard, Holder(said.epoch, said.number), ledger)
            return
        if len(shard.home.heard) >= limits.permit_holders_a_home_max:
            return  # until others have none
        holder = Holder(said.epoch)
        ledger = shard.home.ledgers.setdefault(said.key, ledger)
        ledger[said.shard] = holder
    elif (said.epoch, said.number) < (holder.epoch, holder.number):
        return
    elif said.home_epoch != shard.epoch and said.keeps < holder.count:
        # It may be older than what the owner of the home before us heard, and granted.
        _ask(turn, shard, said.key, said.shard)
        return
    if (said.epoch, said.number) != (holder.epoch, holder.number):
        _take_down(turn, shard, holder, said)
    _note_heard(turn, shard, said.key, said.shard)
    lucky = _allot(turn, shard, ledger)
    for at in {said.shard: None, **lucky}:
        _store(turn, shard, said.key, at, ledger[at])
        _reply(turn, shard, said.key, at, ledger[at], ledger)
    if not holder.count and not holder.wants:
        _forget(shard, said.key, said.shard)
    watch_silent(turn, shard)


def _take_down(turn: Turn, shard: ShardState, holder: Holder, said: Statement) -> None:
    holder.epoch, holder.number, holder.count, holder.granted = said.epoch, said.number, said.keeps, {}
    before, holder.wants = holder.wants, {}
    for group, count in said.wants.items():
        wanted = before.get(group)
        if wanted is None:
            shard.home.order += 1
            wanted = Wanted(count, turn.now_us, shard.home.order)
        wanted.count = count
        holder.wants[group] = wanted


def _allot(turn: Turn, shard: ShardState, ledger: dict[int, Holder]) -> dict[int, None]:
    """Give out what is free; return the shards that were granted something."""
    ageing_us = turn.state.config.priority_ageing_us
    out = sum(holder.count for holder in ledger.values())
    waiting = [
        (wanted.since_us - group.priority * ageing_us, wanted.order, at, group)
        for at, holder in ledger.items()
        for group, wanted in holder.wants.items()
        if group.limit > out
    ]
    heapify(waiting)
    lucky: dict[int, None] = {}
    while waiting:
        _, _, at, group = heappop(waiting)
        if group.limit <= out:
            continue  # and more will be out
        holder = ledger[at]
        wanted = holder.wants[group]
        out += 1
        holder.count += 1
        holder.granted[group] = holder.granted.get(group, 0) + 1
        lucky[at] = None
        shard.home.order += 1
        wanted.count -= 1
        wanted.since_us, wanted.order = turn.now_us, shard.home.order
        if wanted.count:
            heappush(waiting, (wanted.since_us - group.priority * ageing_us, wanted.order, at, group))
        else:
            del holder.wants[group]
    return lucky


def _store(turn: Turn, shard: ShardState, key: str, at: int, holder: Holder) -> None:
    """Store what a shard has, and the epoch of its owner who said so: of no earlier one will anything be believed."""
    now = (holder.epoch, holder.count) if holder.count else (0, 0)
    if now != holder.stored:
        holder.stored = now
        turn.store(PermitsHeld(shard.shard, "", key, at, holder.epoch, holder.count))


def _reply(turn: Turn, shard: ShardState, key: str, at: int, holder: Holder, ledger: dict[int, Holder]) -> None:
    others = (other for place, other in ledger.items() if place != at)
    waiting = sum(wanted.count for other in others for wanted in other.wants.values())
    out = sum(other.count for other in ledger.values())
    granted: dict[Group, int] = dict(holder.granted)
    reply = Reply(key, at, holder.epoch, holder.number, shard.epoch, granted, out, waiting)
    turn.emit(GrantPermits(shard.shard, reply))


def _ask(turn: Turn, shard: ShardState, key: str, at: int) -> None:
    turn.emit(GrantPermits(shard.shard, Reply(key, at, 0, 0, shard.epoch, {})))


def _note_heard(turn: Turn, shard: ShardState, key: str, at: int) -> None:
    shard.home.heard[key, at] = turn.now_us
    shard.home.heard.move_to_end((key, at))


def _forget(shard: ShardState, key: str, at: int) -> None:
    home = shard.home
    del home.ledgers[key][at]
    home.heard.pop((key, at), None)
    if not home.ledgers[key]:
        del home.ledgers[key]
