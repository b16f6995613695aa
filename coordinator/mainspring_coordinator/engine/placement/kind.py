"""Workers that are alike, and the orders among them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mainspring_coordinator.engine.placement.lazy_heap import Entry, LazyHeap
from mainspring_coordinator.engine.placement.ring import Near, Ring


@dataclass(slots=True, eq=False)
class Member:
    """A worker that is attached and takes work."""

    session: int
    name: str
    host: str
    zone: str
    labels: Mapping[str, str]
    executors: frozenset[str]
    point: int
    """Its place on rings."""
    kind: "Kind"
    open: bool = False
    """It has room for a node of any workflow."""
    load: float = 0.0
    """0 is idle."""
    turn: int = 0
    """The last turn that was its, higher than any before; 0: it had none."""


class Group:
    """Some workers, and the order of their loads from the time on when it is first asked for."""

    __slots__ = ("members", "order")

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        """By session."""
        self.order: LazyHeap | None = None
        """None until somebody asks who is least loaded."""

    def least_loaded(self) -> Entry | None:
        """Return the open one that is least loaded, None if none is open."""
        if self.order is None:
            self.order = LazyHeap.of((one.load, one.name, one.session) for one in self.members.values() if one.open)
        return self.order.first()

    def note(self, member: Member) -> None:
        """Keep the order after a change of a member, or after it was put in."""
        if self.order is not None:
            if member.open:
                self.order.put(member.session, member.load, member.name)
            else:
                self.order.drop(member.session)

    def remove(self, member: Member) -> None:
        """Take a member out."""
        del self.members[member.session]
        if self.order is not None:
            self.order.drop(member.session)

    def forget_order(self) -> None:
        """Much is about to change: make the order anew when it is asked for again."""
        self.order = None


_nobody: Final = Group()


class Kind:
    """Workers that meet the same wants, run as many executors and have stated their inventories of the same shards."""

    __slots__ = ("_hosts", "_ring", "_turns", "_zones", "all", "executors", "open", "shards", "wants")

    def __init__(self, wants: int, executors: int, shards: int) -> None:
        self.wants = wants
        """A bit for each known want that they meet."""
        self.executors = executors
        """How many executors they run."""
        self.shards = shards
        """A bit for each shard of which they have stated their inventories."""
        self.all = Group()
        self.open = 0
        """How many of them are open."""
        self._hosts: dict[str, Group] = {}
        self._zones: dict[str, Group] = {}
        self._turns: LazyHeap | None = None
        self._ring: Ring | None = None

    @property
    def key(self) -> tuple[int, int, int]:
        """Return what they have in common."""
        return (self.wants, self.executors, self.shards)

    def add(self, member: Member) -> None:
        """Take a worker in, and let it be of this kind."""
        member.kind = self
        self.open += member.open
        for group in (
            self.all,
            self._hosts.setdefault(member.host, Group()),
            self._zones.setdefault(member.zone, Group()),
        ):
            group.members[member.session] = member
            group.note(member)
        if self._turns is not None and member.open:
            self._turns.put(member.session, member.turn, member.name)
        if self._ring is not None:
            self._ring.add(member.point, member.name, member.session)

    def remove(self, member: Member) -> None:
        """Let a worker go."""
        self.open -= member.open
        self.all.remove(member)
        for groups, name in ((self._hosts, member.host), (self._zones, member.zone)):
            groups[name].remove(member)
            if not groups[name].members:
                del groups[name]
        if self._turns is not None:
            self._turns.drop(member.session)
        if self._ring is not None:
            self._ring.remove(member.point, member.session)

    def note(self, member: Member, *, was_open: bool) -> None:
        """Keep the orders after a member's load, turn or openness has changed."""
        # On the path of every node, twice: most groups have no order, and of most changes openness is none.
        self.open += member.open - was_open
        for group in (self.all, self._hosts[member.host], self._zones[member.zone]):
            if group.order is not None:
                group.note(member)
        if self._turns is not None and member.open is not was_open:
            if member.open:
                self._turns.put(member.session, member.turn, member.name)
            else:
                self._turns.drop(member.session)

    def took_turn(self, member: Member) -> None:
        """Keep the order of turns after that of a member has changed."""
        if self._turns is not None and member.open:
            self._turns.put(member.session, member.turn, member.name)

    def on_host(self, host: str) -> Group:
        """Return those on a host."""
        return self._hosts.get(host, _nobody)

    def in_zone(self, zone: str) -> Group:
        """Return those in a zone."""
        return self._zones.get(zone, _nobody)

    def next_in_turn(self) -> Entry | None:
        """Return the open one whose last turn is longest ago, None if none is open."""
        if self._turns is None:
            members = self.all.members.values()
            self._turns = LazyHeap.of((one.turn, one.name, one.session) for one in members if one.open)
        return self._turns.first()

    def nearest(self, probes: tuple[int, ...]) -> Near | None:
        """Return the one to which a key belongs, open or not, None if there is nobody."""
        if self._ring is None:
            self._ring = Ring()
            for member in self.all.members.values():
                self._ring.add(member.point, member.name, member.session)
        return self._ring.nearest(probes)

    def forget_orders(self) -> None:
        """Many are about to come or go: make the orders anew when they are asked for again."""
        for group in (self.all, *self._hosts.values(), *self._zones.values()):
            group.forget_order()
        self._turns = self._ring = None
