"""Permits: of the nodes that share a concurrency key, so many run at once in the whole cluster.

Each key has a *home*, a shard. Its owner keeps, as rows under its fence, how many permits of the key each shard has. The owner of a shard
with such nodes *states* how many permits it keeps and how many more it wants; the home takes back what is not kept, gives out what is
free, and replies once that is stored. Both say how things are, not what has changed: what is lost is said again, what comes twice changes
nothing, and no permit hangs on one message. `asking` is the one side, `granting` the other; a key's home is worked out outside the engine.

What makes it safe, a shard never having more live assignments of a key than the row says:

* A statement leaves after the commit that it reflects, and from then on the shard has no permits but those that it keeps, until a reply
  to this very statement, the last one that it made, grants more. What was granted in reply to an earlier one is void.
* The home takes nothing back but by a statement that is newer than the last one that it heard: of a higher epoch of the shard, or of the
  same with a higher number. The epoch stands in the row; the numbers are in memory, so that a statement which takes something back must
  be made for this owner of the home: it names the home's epoch. One that names another is answered with a question, and made anew.
* A grant leaves after the commit of the row that allows for it.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mainspring_coordinator.engine.order import Item, WorkflowKey

place_prefix: Final = "permit:"


class Group(NamedTuple):
    """Nodes of one key and shard that wait alike."""

    priority: int
    limit: int
    """They wait while so many permits of the key are out."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a shard's owner says to the home of a key."""

    key: str
    shard: int
    epoch: int
    number: int
    """One higher with each statement of the shard in this epoch."""
    home_epoch: int
    """For which owner of the home it is made; 0: for any, because none has been heard of yet."""
    keeps: int
    """How many permits the shard goes on having, the live assignments of the key among them."""
    wants: Mapping[Group, int]
    """How many more."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the home of a key says to a shard's owner."""

    key: str
    shard: int
    epoch: int
    """That of the statement."""
    number: int
    """The statement that it replies to; 0: it asks for one."""
    home_epoch: int
    granted: Mapping[Group, int]
    """All that was granted since that statement."""
    out: int = 0
    """How many permits all shards have."""
    waiting: int = 0
    """How many permits other shards want."""


@dataclass(frozen=True, slots=True)
class HeldPermits:
    """How many permits of a key a shard has, as the database says."""

    key: str
    holder: int
    """The shard that has them."""
    epoch: int
    count: int


@dataclass(slots=True, eq=False)
class Demand:
    """What a shard of ours has and wants of one key."""

    live: int = 0
    """Assignments."""
    spare: dict[int, int] = field(default_factory=dict[int, int])
    """By limit: permits that were granted and are not used yet. A node may use one that was granted under its own limit or a lower one."""
    number: int = 0
    """The last statement; 0 before the first."""
    answered: bool = True
    """The home replied to it."""
    home_epoch: int = 0
    """The highest that was heard of."""
    kept: int = 0
    """What the home takes us to have: stated, or granted since; -1: it asked, and was told nothing yet."""
    wanted: dict[Group, int] = field(default_factory=dict[Group, int])
    """What it takes us to want beyond that."""
    granted: dict[Group, int] = field(default_factory=dict[Group, int])
    """In reply to the last statement."""
    groups: dict[Group, None] = field(default_factory=dict[Group, None])
    """Those of which something may wait for a permit."""
    unplaced: dict[tuple[WorkflowKey, Item], Group] = field(default_factory=dict[tuple[WorkflowKey, Item], Group])
    """What a permit came for and no worker has taken since: it does not wait for a permit, but must be asked for if that is put back."""
    out: int = 0
    """What the last reply said of permits that are out, and are wanted elsewhere."""
    waiting: int = 0

    def usable(self, limit: int) -> int:
        """Return the limit under which a permit was granted that a node of this limit may use, 0 if there is none."""
        return max((known for known in self.spare if known <= limit), default=0)


@dataclass(slots=True)
class Demands:
    """Those of one shard, by key."""

    by_key: dict[str, Demand] = field(default_factory=dict[str, Demand])
    number: int = 0
    """How many statements were made."""

    def of(self, key: str) -> Demand:
        """Return the demand of a key, made if need be."""
        demand = self.by_key.get(key)
        if demand is None:
            demand = self.by_key[key] = Demand()
        return demand


@dataclass(slots=True, eq=False)
class Wanted:
    """How many permits a shard wants for one group."""

    count: int
    since_us: int
    """When it began to want them, or was granted the last one."""
    order: int
    """Who wanted, or was granted, before."""


@dataclass(slots=True, eq=False)
class Holder:
    """What a shard has and wants of a key, as its owner stated last."""

    epoch: int
    number: int = 0
    """The statement; 0: none was heard, it is as the row says."""
    count: int = 0
    stored: tuple[int, int] = (0, 0)
    """Epoch and count as the row says; (0, 0): there is none."""
    wants: dict[Group, Wanted] = field(default_factory=dict[Group, Wanted])
    granted: dict[Group, int] = field(default_factory=dict[Group, int])
    """Since the statement."""


@dataclass(slots=True)
class Home:
    """What the owner of a shard keeps of the keys whose home it is."""

    ledgers: dict[str, dict[int, Holder]] = field(default_factory=dict[str, dict[int, Holder]])
    """By key, then by shard."""
    heard: "OrderedDict[tuple[str, int], int]" = field(default_factory=OrderedDict[tuple[str, int], int])
    """By key and shard: when its owner said something, or was asked to; the longest ago first."""
    order: int = 0
    """How often somebody began to want something, or was granted something."""
    watching: bool = False
    """A time is set at which those are looked for that have been silent."""


def permit_place(shard: int, group: Group, key: str) -> str:
    """Return the name of what waits for a permit."""
    return f"{place_prefix}{shard}:{group.priority}:{group.limit}:{key}"


def waits_for(place: str) -> tuple[int, Group, str]:
    """Return whose permit of what is waited for in a place of that name."""
    shard, priority, limit, key = place.removeprefix(place_prefix).split(":", 3)
    return int(shard), Group(int(priority), int(limit)), key
