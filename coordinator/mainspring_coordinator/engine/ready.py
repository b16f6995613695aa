"""Nodes that could run and wait for a worker.

They wait in classes: nodes of one class can run on the same workers, so that a class whose workers are all busy is passed over
without looking at what waits in it. The order within a class is that of `order`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mainspring.limits import idle_classes_max
from mainspring_coordinator.engine.order import Item, Line, Order, Rank, WorkflowKey, next_instance

__all__ = ["ClassKey", "Item", "Rank", "ReadyClass", "ReadyQueue", "WorkflowKey", "next_instance"]


class ClassKey(NamedTuple):
    """What a worker must have."""

    executor: str
    requires: tuple[tuple[str, str], ...]
    """Labels with their values, sorted."""
    alone: bool = False
    """It must have nothing else."""


@dataclass(slots=True)
class ReadyClass:
    """What waits in one class."""

    key: ClassKey
    waiting: Order
    count: int = 0
    eligible: dict[int, None] = field(default_factory=dict[int, None])
    """Sessions that can run it, whether they have room or not, in the order in which they came; kept by the fleet."""
    reported: bool = False
    """At the last report something waited in it."""


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
        self._held_back: dict[int, OrderedDict[WorkflowKey, dict[tuple[ClassKey, int], Line]]] = {}
        """By shard: what no worker may take yet, apart, so that nobody who looks for work has to pass over it."""

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
        if self._held_back and workflow[0] in self._held_back:
            lines = self._held_back[workflow[0]].setdefault(workflow, {})
            line = lines.get((key, rank.priority))
            if line is None:
                line = lines[key, rank.priority] = Line(workflow, rank)
            if first:
                line.items.appendleft(item)
            else:
                line.items.append(item)
            return
        ready = self.waiting.get(key) or self._enter(key, eligible)
        ready.count += 1
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
        _, lines = held.popitem(last=False)
        for (key, _), line in lines.items():
            if line.items:
                ready = self.waiting.get(key) or self._enter(key, eligible)
                ready.count += len(line.items)
                # What came of it while the shard was being let in was held back anew, and so stands behind.
                ready.waiting.join(line, now_us)
        return True

    def drop_held_back(self, shard: int) -> None:
        """Forget what is held back of a shard."""
        self._held_back.pop(shard, None)

    def items_of(self, workflow: WorkflowKey) -> list[Item]:
        """Return all that waits of a workflow."""
        lines = [line.items for line in self._held(workflow).values()]
        classes = [ready.waiting.items_of(workflow) for ready in self.waiting.values()]
        return [item for items in (*lines, *classes) for item in items]

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
        if ready is not None and ready.waiting.remove(workflow, priority, item):
            self._shrink(ready, 1)

    def drop_workflow(self, keys: Iterable[ClassKey], workflow: WorkflowKey) -> None:
        """Forget all that waits of a workflow, whose nodes are of these classes."""
        if self._held_back and workflow[0] in self._held_back:
            self._held_back[workflow[0]].pop(workflow, None)
        if not self.waiting:
            return
        for key in (*keys, *self.alone):
            ready = self.waiting.get(key)
            if ready is not None:
                self._shrink(ready, ready.waiting.drop(workflow))

    def _held(self, workflow: WorkflowKey) -> dict[tuple[ClassKey, int], Line]:
        shard = self._held_back.get(workflow[0])
        return shard.get(workflow, {}) if shard is not None else {}

    def _enter(self, key: ClassKey, eligible: Callable[[ClassKey], dict[int, None]]) -> ReadyClass:
        """Return a class in which nothing waits, as one in which something does."""
        ready = self.classes.get(key) or self._add_class(key, eligible)
        self.waiting[key] = ready
        if ready.reported:
            self.turned.pop(key, None)
        else:
            self.turned[key] = ready
        if key.alone:
            self.alone[key] = ready
        return ready

    def _add_class(self, key: ClassKey, eligible: Callable[[ClassKey], dict[int, None]]) -> ReadyClass:
        if len(self.classes) - len(self.waiting) >= idle_classes_max:
            self.classes = dict(self.waiting)
        ready = self.classes[key] = ReadyClass(key, Order(self._ageing_us), eligible=eligible(key))
        return ready

    def _shrink(self, ready: ReadyClass, by: int) -> None:
        ready.count -= by
        if not ready.waiting:
            del self.waiting[ready.key]
            self.alone.pop(ready.key, None)
            if ready.reported:
                self.turned[ready.key] = ready
            else:
                self.turned.pop(ready.key, None)
