"""Nodes that could run and wait for a worker.

They wait in classes: nodes of one class can run on the same workers, so that a class whose workers are all busy is passed over
without looking at what waits in it. The order within a class is that of `order`.

An item for which there is a worker with room, and that waits for something else (for the worker that has its key, for one near its
inputs), is *tied* to that: it is not looked at again before that has changed, so that nobody else waits behind it.

A class whose executor is paused stays as it is and is passed over as a whole. What is paused of a workflow stands apart, in its order,
and so takes no turns; neither counts among that for which workers are asked.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from mainspring.limits import idle_classes_max
from mainspring_coordinator.engine.order import Item, Line, Order, Rank, WorkflowKey, next_instance
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from mainspring_coordinator.engine.permits import place_prefix
from mainspring_coordinator.engine.placement.pool import Requires, Want

__all__ = ["ClassKey", "Item", "Rank", "ReadyClass", "ReadyQueue", "WorkflowKey", "next_instance"]


Tied: TypeAlias = "deque[tuple[Item, Rank]]"
"""Items of one workflow that wait for the same."""
_Apart: TypeAlias = "dict[tuple[ClassKey, int], Line]"
"""What is kept apart of one workflow, by class and priority."""


class ClassKey(NamedTuple):
    """What a worker must have."""

    executor: str
    requires: Requires
    """Sorted."""
    alone: bool = False
    """It must have nothing else."""
    strategy: str = ""
    """How the definition wants it to be chosen; empty: as the coordinator does."""


@dataclass(slots=True)
class ReadyClass:
    """What waits in one class."""

    key: ClassKey
    waiting: Order
    count: int = 0
    asleep: int = 0
    """How many of them wait for a permit: no worker is asked to keep room for those."""
    eligible: dict[int, None] = field(default_factory=dict[int, None])
    """Sessions that can run it, whether they have room or not, in the order in which they came; kept by the fleet."""
    reported: bool = False
    """At the last report something waited in it."""
    pause: Pause | None = None
    """Why nothing of it is given out, if it is paused."""
    tied: "dict[str, OrderedDict[WorkflowKey, Tied]]" = field(default_factory=dict[str, OrderedDict[WorkflowKey, Tied]])
    """By what they wait for, beside `waiting`: items that are not to be looked at before that has changed."""
    ties: "dict[WorkflowKey, dict[str, None]]" = field(default_factory=dict[WorkflowKey, dict[str, None]])
    """By workflow: what its tied items wait for."""

    @property
    def want(self) -> Want:
        """Return what a worker must have, as the pool of workers knows it."""
        return (self.key.executor, self.key.requires)

    @property
    def wanting(self) -> int:
        """Return for how many items workers are asked to keep room."""
        return self.count - self.asleep if self.pause is None else 0


class ReadyQueue:
    """All that waits, by class.

    A class stays known when nothing waits in it any more, because its list of eligible workers is costly to make; only when many are
    idle, those are forgotten.
    """

    def __init__(self, ageing_us: int) -> None:
        """A priority of which nothing is taken for `ageing_us` counts as one higher (see `order`)."""
        self._ageing_us = ageing_us
        self.classes: dict[ClassKey, ReadyClass] = {}
        """Every class that is known."""
        self.waiting: OrderedDict[ClassKey, ReadyClass] = OrderedDict()
        """Those in which something waits, the one served longest ago first."""
        self.alone: dict[ClassKey, ReadyClass] = {}
        """Those of them whose nodes run alone."""
        self.turned: dict[ClassKey, ReadyClass] = {}
        """Those that became empty or not empty since the last report, and still are."""
        self.ties: dict[str, dict[ClassKey, ReadyClass]] = {}
        """By what something waits for: the classes in which it does."""
        self.fresh: dict[WorkflowKey, None] = {}
        """Workflows of which something came since all was last looked at."""
        self._held_back: dict[int, OrderedDict[WorkflowKey, _Apart]] = {}
        """By shard: what no worker may take yet, apart, so that nobody who looks for work has to pass over it."""
        self.pauses = ClusterPauses()
        """Those in force."""
        self.paused: dict[WorkflowKey, _Apart] = {}
        """What waits of workflows that are paused."""

    def push(
        self,
        key: ClassKey,
        workflow: WorkflowKey,
        rank: Rank,
        item: Item,
        eligible: Callable[[ClassKey], dict[int, None]],
        now_us: int,
        *,
        first: bool = False,
    ) -> None:
        """Add an item behind its workflow's others, or before them; `eligible` finds the workers of a class met for the first time."""
        if self.paused and workflow in self.paused:
            _push_apart(self.paused[workflow], key, workflow, rank, item, first=first)
            return
        if self._held_back and workflow[0] in self._held_back:
            lines = self._held_back[workflow[0]].setdefault(workflow, {})
            _push_apart(lines, key, workflow, rank, item, first=first)
            return
        ready = self.waiting.get(key) or self._enter(key, eligible)
        ready.count += 1
        if ready.asleep:
            self.turned[key] = ready
        self.fresh[workflow] = None
        ready.waiting.push(workflow, rank, item, now_us, first=first)

    def hold_back(self, shard: int) -> None:
        """No worker may take anything of a shard until `let_in` has let all of it in."""
        self._held_back[shard] = OrderedDict()

    def let_in(self, shard: int, eligible: Callable[[ClassKey], dict[int, None]], now_us: int) -> bool:
        """Let the workflow in that was held back first; False when none is left, and nothing of the shard is held back any more."""
        held = self._held_back.get(shard)
        if not held:
            self._held_back.pop(shard, None)
            return False
        workflow, lines = held.popitem(last=False)
        # What came of it while the shard was being let in was held back anew, and so stands behind.
        self._join(workflow, lines, eligible, now_us)
        return True

    def _join(
        self, workflow: WorkflowKey, lines: _Apart, eligible: Callable[[ClassKey], dict[int, None]], now_us: int
    ) -> None:
        for (key, _), line in lines.items():
            if line.items:
                ready = self.waiting.get(key) or self._enter(key, eligible)
                ready.count += len(line.items)
                if ready.asleep:
                    self.turned[key] = ready
                self.fresh[workflow] = None
                ready.waiting.join(line, now_us)

    def drop_held_back(self, shard: int) -> None:
        """Forget what is held back of a shard."""
        self._held_back.pop(shard, None)

    def put_in_force(self, pauses: ClusterPauses) -> bool:
        """These executors are paused from now on, or all are; tell whether anything that waits may go on."""
        self.pauses = pauses
        goes_on = False
        for key, ready in self.classes.items():
            before, ready.pause = ready.pause, pauses.over(key.executor)
            if (before is None) != (ready.pause is None) and key in self.waiting:
                self.turned[key] = ready
                goes_on = goes_on or ready.pause is None
        return goes_on

    def keep_apart(self, keys: Iterable[ClassKey], workflow: WorkflowKey) -> None:
        """A workflow, whose nodes are of these classes, is paused: what waits of it, and what will, stands apart until `let_go_on`."""
        shard = self._held_back.get(workflow[0])
        held: _Apart = shard.pop(workflow, {}) if shard is not None else {}
        apart = self.paused[workflow] = held
        for key in (*keys, *self.alone):
            ready = self.waiting.get(key)
            if ready is not None:
                self._shrink(ready, self._take_apart(ready, workflow, apart))

    def _take_apart(self, ready: ReadyClass, workflow: WorkflowKey, apart: _Apart) -> int:
        """Move all of a workflow in a class, what is tied first, because it had its turn first; return how many items that was."""
        gone = 0
        for place in list(ready.ties.get(workflow, ())):
            tied = self._pop_tied(ready, place, workflow)
            self._fall_asleep(ready, place, -len(tied))
            gone += len(tied)
            # A priority at a time, which takes a few milliseconds for the widest workflow there may be.
            for rank in {rank.priority: rank for _, rank in tied}.values():
                line = apart.setdefault((ready.key, rank.priority), Line(workflow, rank))
                line.items.extend(item for item, one in tied if one.priority == rank.priority)
        for line in ready.waiting.detach(workflow):
            gone += len(line.items)
            apart.setdefault((ready.key, line.rank.priority), Line(workflow, line.rank)).items.extend(line.items)
        return gone

    def let_go_on(self, workflow: WorkflowKey, eligible: Callable[[ClassKey], dict[int, None]], now_us: int) -> None:
        """A workflow is paused no more: it stands behind the others, and within it the order is what it was."""
        lines = self.paused.pop(workflow)
        shard = self._held_back.get(workflow[0])
        if shard is not None:
            shard[workflow] = lines
        else:
            self._join(workflow, lines, eligible, now_us)

    def items_of(self, workflow: WorkflowKey) -> list[Item]:
        """Return all that waits of a workflow."""
        lines = [line.items for line in self._held(workflow).values()]
        classes = [ready.waiting.items_of(workflow) for ready in self.waiting.values()]
        free = [item for items in (*lines, *classes) for item in items]
        return free + [item for _, item in self.tied_items_of(workflow)]

    def tied_items_of(self, workflow: WorkflowKey) -> list[tuple[str, Item]]:
        """Return what waits of a workflow for something else than room, with what that is."""
        return [
            (place, item)
            for ready in self.waiting.values()
            for place in ready.ties.get(workflow, ())
            for item, _ in ready.tied[place][workflow]
        ]

    def take(self, ready: ReadyClass, workflow: WorkflowKey, now_us: int) -> Item:
        """Take the next item of one workflow of a class; the workflow and the class go behind the others."""
        item = ready.waiting.take(workflow, now_us)
        self.waiting.move_to_end(ready.key)
        self._shrink(ready, 1)
        return item

    def remove(self, key: ClassKey, workflow: WorkflowKey, priority: int, item: Item) -> None:
        """Forget one item, if it waits."""
        held = self._held(workflow).get((key, priority))
        if held is not None and item in held.items:
            held.items.remove(item)
            return
        ready = self.waiting.get(key)
        if ready is not None and (
            self._take_tied(ready, workflow, item) or ready.waiting.remove(workflow, priority, item)
        ):
            self._shrink(ready, 1)

    def drop_workflow(self, keys: Iterable[ClassKey], workflow: WorkflowKey) -> None:
        """Forget all that waits of a workflow, whose nodes are of these classes, and that it is paused."""
        self.paused.pop(workflow, None)
        if self._held_back and workflow[0] in self._held_back:
            self._held_back[workflow[0]].pop(workflow, None)
        if not self.waiting:
            return
        for key in (*keys, *self.alone):
            ready = self.waiting.get(key)
            if ready is not None:
                gone = ready.waiting.drop(workflow)
                for place in list(ready.ties.get(workflow, ())):
                    loose = len(self._pop_tied(ready, place, workflow))
                    self._fall_asleep(ready, place, -loose)
                    gone += loose
                self._shrink(ready, gone)

    def tie(self, ready: ReadyClass, workflow: WorkflowKey, place: str, now_us: int) -> Item:
        """Let the next item of a workflow wait for something, and return it; the workflow goes behind the others."""
        item, rank = ready.waiting.withdraw(workflow, now_us)
        self._tied(ready, workflow, place).append((item, rank))
        self._fall_asleep(ready, place, 1)
        return item

    def tie_all(self, ready: ReadyClass, workflow: WorkflowKey, place: str) -> None:
        """Let all items of a workflow that are not tied wait for something."""
        self._tied(ready, workflow, place).extend(ready.waiting.withdraw_all(workflow))

    def untie(self, ready: ReadyClass, place: str, workflow: WorkflowKey, most: int, now_us: int) -> int:
        """Let up to so many items of a workflow be looked at again, and before others; return how many there were."""
        items = ready.tied[place][workflow]
        loose = [items.popleft() for _ in range(min(most, len(items)))]
        self._fall_asleep(ready, place, -len(loose))
        if not items:
            self._pop_tied(ready, place, workflow)
        self._put_first(ready, workflow, loose, now_us)
        return len(loose)

    def untie_item(self, key: ClassKey, workflow: WorkflowKey, item: Item, now_us: int) -> bool:
        """Let one item be looked at again if it is tied; tell whether it was."""
        ready = self.waiting.get(key)
        rank = self._take_tied(ready, workflow, item) if ready is not None else None
        if ready is None or rank is None:
            return False
        self._put_first(ready, workflow, [(item, rank)], now_us)
        return True

    def _take_tied(self, ready: ReadyClass, workflow: WorkflowKey, item: Item) -> Rank | None:
        for place in ready.ties.get(workflow, ()):
            items = ready.tied[place][workflow]
            for known, rank in items:
                if known == item:
                    items.remove((known, rank))
                    self._fall_asleep(ready, place, -1)
                    if not items:
                        self._pop_tied(ready, place, workflow)
                    return rank
        return None

    def _fall_asleep(self, ready: ReadyClass, place: str, by: int) -> None:
        if place.startswith(place_prefix):
            ready.asleep += by
            self.turned[ready.key] = ready

    def _tied(self, ready: ReadyClass, workflow: WorkflowKey, place: str) -> Tied:
        self.ties.setdefault(place, {})[ready.key] = ready
        ready.ties.setdefault(workflow, {})[place] = None
        return ready.tied.setdefault(place, OrderedDict()).setdefault(workflow, deque())

    def _pop_tied(self, ready: ReadyClass, place: str, workflow: WorkflowKey) -> Tied:
        items = ready.tied[place].pop(workflow)
        del ready.ties[workflow][place]
        if not ready.ties[workflow]:
            del ready.ties[workflow]
        if not ready.tied[place]:
            del ready.tied[place], self.ties[place][ready.key]
            if not self.ties[place]:
                del self.ties[place]
        return items

    def _put_first(
        self, ready: ReadyClass, workflow: WorkflowKey, items: Sequence[tuple[Item, Rank]], now_us: int
    ) -> None:
        self.fresh[workflow] = None
        for item, rank in reversed(items):
            ready.waiting.push(workflow, rank, item, now_us, first=True)
        ready.waiting.put_first(workflow)

    def _held(self, workflow: WorkflowKey) -> _Apart:
        if workflow in self.paused:
            return self.paused[workflow]
        shard = self._held_back.get(workflow[0])
        return shard.get(workflow, {}) if shard is not None else {}

    def _enter(self, key: ClassKey, eligible: Callable[[ClassKey], dict[int, None]]) -> ReadyClass:
        """Return a class in which nothing waits, as one in which something does."""
        ready = self.classes.get(key) or self._add_class(key, eligible)
        self.waiting[key] = ready
        if ready.reported and ready.pause is None:
            self.turned.pop(key, None)
        else:
            self.turned[key] = ready
        if key.alone:
            self.alone[key] = ready
        return ready

    def _add_class(self, key: ClassKey, eligible: Callable[[ClassKey], dict[int, None]]) -> ReadyClass:
        if len(self.classes) - len(self.waiting) >= idle_classes_max:
            self.classes = dict(self.waiting)
        ready = self.classes[key] = ReadyClass(
            key, Order(self._ageing_us), eligible=eligible(key), pause=self.pauses.over(key.executor)
        )
        return ready

    def _shrink(self, ready: ReadyClass, by: int) -> None:
        ready.count -= by
        if not ready.waiting and not ready.tied:
            del self.waiting[ready.key]
            self.alone.pop(ready.key, None)
            if ready.reported:
                self.turned[ready.key] = ready
            else:
                self.turned.pop(ready.key, None)
        elif ready.asleep:
            # Those that are left may all be asleep.
            self.turned[ready.key] = ready


def _push_apart(lines: _Apart, key: ClassKey, workflow: WorkflowKey, rank: Rank, item: Item, *, first: bool) -> None:
    line = lines.get((key, rank.priority))
    if line is None:
        line = lines[key, rank.priority] = Line(workflow, rank)
    if first:
        line.items.appendleft(item)
    else:
        line.items.append(item)
