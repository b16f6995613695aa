"""In which order the nodes of one class are given out.

Priorities make bands, of which one is chosen each time: that with the highest priority, to which one is added for every AGEING since
the band was last served or became not empty. So a band that is passed over rises until it is served, and then begins anew: the lowest
one is served after as many times AGEING as there are levels above it, whatever waits there. Within a band fairness keys take turns,
within a key its workflows, and within a workflow the order is that of becoming ready. A workflow without a fairness key is one by itself.

A wide workflow thus delays a small one by one node, not by all of its own; and nothing here costs more when more waits.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

next_instance: Final = -2
Item: TypeAlias = tuple[int, int]
"""(node, instance); a `map` node has a single item whatever its width, whose instance is `next_instance`."""
WorkflowKey: TypeAlias = tuple[int, str]
"""(shard, workflow id)."""


class Rank(NamedTuple):
    """What a node's place in the order depends on."""

    priority: int
    """0 to 9; higher goes first."""
    fairness_key: str = ""
    """Workflows with the same one share their turns; empty: the workflow has turns of its own."""


@dataclass(slots=True, eq=False)
class Line:
    """What waits of one workflow at one priority."""

    workflow: WorkflowKey
    rank: Rank
    items: deque[Item] = field(default_factory=deque[Item])
    aside: bool = False
    """It takes no turn until those set aside are let back."""


_Group: TypeAlias = "OrderedDict[WorkflowKey, Line]"
_Turns: TypeAlias = "OrderedDict[str | WorkflowKey, Line | _Group]"


@dataclass(slots=True, eq=False)
class _Band:
    """What waits at one priority."""

    priority: int
    since_us: int = 0
    """When it was last served, or became not empty if that was later."""
    count: int = 0
    """Items, those of lines set aside too."""
    turns: _Turns = field(default_factory=OrderedDict)
    """By fairness key, or by workflow if it has none. Ordered, because the first is taken again and again, which leaves a plain dict
    with ever more holes to look over."""


class Order:
    """What waits in one class, a workflow at a time."""

    def __init__(self, ageing_us: int) -> None:
        self._ageing_us = ageing_us
        self._lines: dict[WorkflowKey, tuple[Line, ...]] = {}
        """A workflow has one a priority."""
        self._bands: dict[int, _Band] = {}
        self._aside: list[Line] = []

    def __len__(self) -> int:
        """Return how many workflows wait."""
        return len(self._lines)

    def __contains__(self, workflow: WorkflowKey) -> bool:
        return workflow in self._lines

    def push(self, workflow: WorkflowKey, rank: Rank, item: Item, now_us: int, *, first: bool = False) -> None:
        """Add an item behind its workflow's others of the same priority, or before them."""
        for line in self._lines.get(workflow, ()):
            if line.rank.priority == rank.priority:
                break
        else:
            line = Line(workflow, rank)
            self._add(line)
        if first:
            line.items.appendleft(item)
        else:
            line.items.append(item)
        self._grow(line, 1, now_us)

    def join(self, line: Line, now_us: int) -> None:
        """Add items that stood in a line elsewhere, behind their workflow's others of the same priority."""
        for known in self._lines.get(line.workflow, ()):
            if known.rank.priority == line.rank.priority:
                known.items.extend(line.items)
                break
        else:
            self._add(line)
        self._grow(line, len(line.items), now_us)

    def next(self, now_us: int) -> WorkflowKey | None:
        """Return the workflow whose turn it is; None if none takes turns."""
        band = self._best(now_us)
        if band is None:
            return None
        first = next(iter(band.turns.values()))
        return (first if isinstance(first, Line) else next(iter(first.values()))).workflow

    def level_us(self, now_us: int) -> int:
        """Return how urgent the most urgent item that takes turns is, -1 if there is none; a level of priority is AGEING."""
        band = self._best(now_us)
        return self._level_us(band, now_us) if band is not None else -1

    def unserved_since_us(self) -> int:
        """Return since when nothing was taken of the priority that has waited longest, though something of it waits; 0 if nothing does."""
        return min((band.since_us for band in self._bands.values() if band.count), default=0)

    def stands(self, workflow: WorkflowKey) -> bool:
        """Tell whether something of a workflow waits that is not set aside."""
        return any(not line.aside for line in self._lines.get(workflow, ()))

    def peek(self, workflow: WorkflowKey, now_us: int) -> Item:
        """Return the item that `take` would."""
        return self._line_of(workflow, now_us).items[0]

    def take(self, workflow: WorkflowKey, now_us: int) -> Item:
        """Take the next item of a workflow that stands; it, and its fairness key, go behind the others."""
        line = self._line_of(workflow, now_us)
        item = line.items.popleft()
        self._shrink(line, 1)
        self._put_last(line, now_us)
        return item

    def withdraw(self, workflow: WorkflowKey, now_us: int) -> tuple[Item, Rank]:
        """Take the item that `take` would without counting it as served; its workflow goes behind the others."""
        line = self._line_of(workflow, now_us)
        item = line.items.popleft()
        self._shrink(line, 1)
        self._pass_turn(line)
        return item, line.rank

    def withdraw_all(self, workflow: WorkflowKey) -> list[tuple[Item, Rank]]:
        """Take all of a workflow that is not set aside, without counting it as served."""
        taken: list[tuple[Item, Rank]] = []
        for line in [line for line in self._lines[workflow] if not line.aside]:
            taken += [(item, line.rank) for item in line.items]
            count = len(line.items)
            line.items.clear()
            self._shrink(line, count)
        return taken

    def detach(self, workflow: WorkflowKey) -> list[Line]:
        """Take all of a workflow out, line by line; `join` brings it back."""
        taken: list[Line] = []
        for line in self._lines.get(workflow, ()):
            items, line.items = line.items, deque()
            self._shrink(line, len(items))
            taken.append(Line(workflow, line.rank, items))
        return taken

    def put_first(self, workflow: WorkflowKey) -> None:
        """Let a workflow have the next turn of its priorities, unless it is set aside."""
        for line in self._lines[workflow]:
            if not line.aside:
                self._withdraw(line)
                self._stand(line, first=True)

    def put_last(self, workflow: WorkflowKey, now_us: int) -> None:
        """Let a workflow that stands pass its turn."""
        self._put_last(self._line_of(workflow, now_us), now_us)

    def set_aside(self, workflow: WorkflowKey) -> None:
        """Let a workflow take no turns until `let_back`."""
        for line in self._lines[workflow]:
            if not line.aside:
                self._withdraw(line)
                line.aside = True
                self._aside.append(line)

    def let_back(self) -> None:
        """Let those set aside take turns again, before the others and in the order that they had."""
        while self._aside:
            line = self._aside.pop()
            line.aside = False
            if line.items:
                self._stand(line, first=True)

    def remove(self, workflow: WorkflowKey, priority: int, item: Item) -> bool:
        """Forget an item; tell whether it waited."""
        for line in self._lines.get(workflow, ()):
            if line.rank.priority == priority and item in line.items:
                line.items.remove(item)
                self._shrink(line, 1)
                return True
        return False

    def drop(self, workflow: WorkflowKey) -> int:
        """Forget all that waits of a workflow; return how many items that was."""
        dropped = 0
        for line in self._lines.get(workflow, ()):
            count = len(line.items)
            line.items.clear()
            self._shrink(line, count)
            dropped += count
        return dropped

    def items_of(self, workflow: WorkflowKey) -> Iterator[Item]:
        """Yield all that waits of a workflow."""
        for line in self._lines.get(workflow, ()):
            yield from line.items

    def _level_us(self, band: _Band, now_us: int) -> int:
        return band.priority * self._ageing_us + now_us - band.since_us

    def _best(self, now_us: int) -> _Band | None:
        best: _Band | None = None
        most = (-1, -1)
        for band in self._bands.values():
            if band.turns:
                level = (self._level_us(band, now_us), band.priority)
                if best is None or level > most:
                    best, most = band, level
        return best

    def _line_of(self, workflow: WorkflowKey, now_us: int) -> Line:
        """Return that line of a workflow that is served first."""
        lines = self._lines[workflow]
        if len(lines) == 1:
            return lines[0]

        def level(line: Line) -> tuple[int, int]:
            return self._level_us(self._bands[line.rank.priority], now_us), line.rank.priority

        return max((line for line in lines if not line.aside), key=level)

    def _add(self, line: Line) -> None:
        self._lines[line.workflow] = (*self._lines.get(line.workflow, ()), line)
        if line.rank.priority not in self._bands:
            self._bands[line.rank.priority] = _Band(line.rank.priority)
        self._stand(line)

    def _grow(self, line: Line, by: int, now_us: int) -> None:
        band = self._bands[line.rank.priority]
        if not band.count:
            band.since_us = now_us
        band.count += by

    def _shrink(self, line: Line, by: int) -> None:
        """Count items of a line that are gone already; an empty line goes as well."""
        self._bands[line.rank.priority].count -= by
        if line.items:
            return
        if not line.aside:
            self._withdraw(line)
        rest = tuple(other for other in self._lines[line.workflow] if other is not line)
        if rest:
            self._lines[line.workflow] = rest
        else:
            del self._lines[line.workflow]

    def _stand(self, line: Line, *, first: bool = False) -> None:
        """Let a line take turns, as the last or the first of its fairness key."""
        turns, name = self._bands[line.rank.priority].turns, line.rank.fairness_key
        if not name:
            turns[line.workflow] = line
            if first:
                turns.move_to_end(line.workflow, last=False)
            return
        group = turns.get(name)
        if group is None:
            group = turns[name] = OrderedDict()
            # A key that takes turns keeps its place, whoever of it comes back.
            turns.move_to_end(name, last=not first)
        assert not isinstance(group, Line)
        group[line.workflow] = line
        group.move_to_end(line.workflow, last=not first)

    def _withdraw(self, line: Line) -> None:
        turns, name = self._bands[line.rank.priority].turns, line.rank.fairness_key
        if not name:
            del turns[line.workflow]
            return
        group = turns[name]
        assert not isinstance(group, Line)
        del group[line.workflow]
        if not group:
            del turns[name]

    def _put_last(self, line: Line, now_us: int) -> None:
        """Count a line, which may be empty and gone, as served."""
        self._bands[line.rank.priority].since_us = now_us
        self._pass_turn(line)

    def _pass_turn(self, line: Line) -> None:
        turns, name = self._bands[line.rank.priority].turns, line.rank.fairness_key or line.workflow
        group = turns.get(name)
        if group is None:
            return
        turns.move_to_end(name)
        if not isinstance(group, Line) and line.items:
            group.move_to_end(line.workflow)
