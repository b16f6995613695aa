"""The workers that may get work, in orders that are kept by what changes, so that choosing one costs the same in a fleet of any size.

Workers that meet exactly the same of the wants that are known, run as many executors and have stated their inventories of the same
shards are one *kind*. A fleet of ten thousand has a handful of kinds, whatever labels its workers bear, because labels that nobody
asks for do not count. Whoever looks for a worker looks at the head of an order in each kind.

*Open* is a worker that has room for a node of any workflow. One that is at its bound of workflows may still take nodes of those that
it has; `dispatch` sees to that.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from mainspring_coordinator.engine.placement.kind import Kind, Member
from mainspring_coordinator.engine.placement.ring import point_of

Requires: TypeAlias = tuple[tuple[str, str | tuple[str, ...]], ...]
"""Labels with their values, or with those of which a worker must have one."""
Want: TypeAlias = tuple[str, Requires]
"""An executor and labels."""


def meets(executors: frozenset[str], labels: Mapping[str, str], executor: str, requires: Requires) -> bool:
    """Tell whether a worker that has these executors and labels meets a want."""
    if executor not in executors:
        return False
    for label, needed in requires:
        value = labels.get(label)
        if value != needed if isinstance(needed, str) else value not in needed:
            return False
    return True


class Pool:
    """Workers by kind."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        """By session."""
        self.kinds: dict[tuple[int, int, int], Kind] = {}
        self._wants: dict[Want, int] = {}
        """The bit of each want that is known."""
        self._able: dict[Want, list[Kind]] = {}
        """The kinds that meet a want, as far as it was asked since the last change of kinds."""

    @property
    def wants_known(self) -> int:
        """Return how many wants are known."""
        return len(self._wants)

    def add(
        self, session: int, name: str, host: str, zone: str, labels: Mapping[str, str], executors: frozenset[str]
    ) -> None:
        """A worker is there. It has no room, and has stated no inventory yet."""
        wants = 0
        for (executor, requires), bit in self._wants.items():
            if meets(executors, labels, executor, requires):
                wants |= bit
        kind = self._kind(wants, len(executors), 0)
        member = self.members[session] = Member(session, name, host, zone, labels, executors, point_of(name), kind)
        kind.add(member)

    def remove(self, session: int) -> None:
        """A worker takes no more work, if it still did."""
        member = self.members.pop(session, None)
        if member is not None:
            self._leave(member)

    def reconcile(self, session: int, shard: int) -> None:
        """A worker has stated its inventory of a shard."""
        member = self.members.get(session)
        if member is not None and not member.kind.shards >> shard & 1:
            before = member.kind
            self._leave(member)
            self._kind(before.wants, before.executors, before.shards | 1 << shard).add(member)

    def unreconcile(self, shard: int) -> None:
        """What workers have stated of a shard counts no more."""
        for kind in [kind for kind in self.kinds.values() if kind.shards >> shard & 1]:
            self._rename(kind, kind.wants, kind.shards & ~(1 << shard))

    def know(self, want: Want) -> None:
        """Something may wait for a worker that meets this want: from now on those that do are told apart."""
        if want in self._wants:
            return
        used = 0
        for known in self._wants.values():
            used |= known
        bit = self._wants[want] = ~used & (used + 1)
        for kind in list(self.kinds.values()):
            able = [one for one in kind.all.members.values() if meets(one.executors, one.labels, *want)]
            if len(able) == len(kind.all.members):
                self._rename(kind, kind.wants | bit, kind.shards)
            elif able:
                kind.forget_orders()
                other = self._kind(kind.wants | bit, kind.executors, kind.shards)
                for member in able:
                    kind.remove(member)
                    other.add(member)

    def keep(self, wants: Iterable[Want]) -> None:
        """Forget all other wants."""
        kept = set(wants)
        gone = 0
        for want in [want for want in self._wants if want not in kept]:
            gone |= self._wants.pop(want)
        for kind in [kind for kind in self.kinds.values() if kind.wants & gone]:
            self._rename(kind, kind.wants & ~gone, kind.shards)

    def note(self, session: int, *, is_open: bool, load: float) -> None:
        """A worker has, or has no longer, room for a node of any workflow; 0 is the load of an idle one."""
        member = self.members.get(session)
        if member is None or (member.open is is_open and member.load == load):
            return
        before, member.open, member.load = member.open, is_open, load
        member.kind.note(member, was_open=before)

    def took_turn(self, session: int, turn: int) -> None:
        """A worker was given something; turns go up."""
        member = self.members.get(session)
        if member is not None:
            member.turn = turn
            member.kind.took_turn(member)

    def able(self, want: Want) -> Sequence[Kind]:
        """Return the kinds whose workers meet a want that is known."""
        found = self._able.get(want)
        if found is None:
            bit = self._wants[want]
            found = self._able[want] = [kind for kind in self.kinds.values() if kind.wants & bit]
        return found

    def has_stated(self, want: Want, shard: int) -> bool:
        """Tell whether a worker that meets a want has stated its inventory of a shard."""
        return any(kind.shards >> shard & 1 for kind in self.able(want))

    def is_able(self, session: int, want: Want) -> bool:
        """Tell whether a worker is among those that take work, and meets a want that is known."""
        member = self.members.get(session)
        return member is not None and bool(member.kind.wants & self._wants[want])

    def _kind(self, wants: int, executors: int, shards: int) -> Kind:
        kind = self.kinds.get((wants, executors, shards))
        if kind is None:
            kind = self.kinds[wants, executors, shards] = Kind(wants, executors, shards)
            self._able.clear()
        return kind

    def _leave(self, member: Member) -> None:
        kind = member.kind
        kind.remove(member)
        if not kind.all.members:
            del self.kinds[kind.key]
            self._able.clear()

    def _rename(self, kind: Kind, wants: int, shards: int) -> None:
        """Let all workers of a kind have something else in common; they may join another kind that has that already."""
        del self.kinds[kind.key]
        self._able.clear()
        other = self.kinds.get((wants, kind.executors, shards))
        small, large = other, kind
        if other is not None and len(kind.all.members) < len(other.all.members):
            small, large = kind, other
        large.wants, large.shards = wants, shards
        if small is not None:
            large.forget_orders()
            for member in small.all.members.values():
                large.add(member)
        self.kinds[large.key] = large
