"""Nodes that could run and wait for a worker.

They wait in classes: nodes of one class can run on the same workers, so that a class whose workers are all busy is passed over
without looking at what waits in it. Within a class, workflows take turns, and within a workflow the order is that of becoming ready;
so a wide workflow delays a small one by one node, not by all of them.

An item is (node, instance); a `map` node has a single item whatever its width, whose instance is `next_instance`.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from mainspring.limits import idle_classes_max

next_instance: Final = -2
Item: TypeAlias = tuple[int, int]
WorkflowKey: TypeAlias = tuple[int, str]
"""(shard, workflow id)."""


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
    waiting: "OrderedDict[WorkflowKey, deque[Item]]" = field(default_factory=OrderedDict[WorkflowKey, deque[Item]])
    """Ordered, because the first is taken again and again, which leaves a plain dict with ever more holes to look over."""
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

    def __init__(self) -> None:
        self.classes: dict[ClassKey, ReadyClass] = {}
        """Every class that is known."""
        self.waiting: dict[ClassKey, ReadyClass] = {}
        """Those in which something waits."""
        self.alone: dict[ClassKey, ReadyClass] = {}
        """Those of them whose nodes run alone."""
        self.turned: dict[ClassKey, ReadyClass] = {}
        """Those that became empty or not empty since the last report, and still are."""
        self._held_back: dict[int, OrderedDict[WorkflowKey, dict[ClassKey, deque[Item]]]] = {}
        """By shard: what no worker may take yet, apart, so that nobody who looks for work has to pass over it."""

    def push(
        self,
        key: ClassKey,
        workflow: WorkflowKey,
        item: Item,
        eligible: Callable[[ClassKey], dict[int, None]],
        *,
        first: bool = False,
    ) -> None:
        """Add an item behind its workflow's others, or before them; `eligible` finds the workers of a class met for the first time."""
        if self._held_back and workflow[0] in self._held_back:
            items = self._held_back[workflow[0]].setdefault(workflow, {}).setdefault(key, deque())
        else:
            ready = self.waiting.get(key) or self._enter(key, eligible)
            ready.count += 1
            waiting = ready.waiting.get(workflow)
            if waiting is None:
                waiting = ready.waiting[workflow] = deque()
            items = waiting
        if first:
            items.appendleft(item)
        else:
            items.append(item)

    def hold_back(self, shard: int) -> None:
        """No worker may take anything of a shard until `let_in` has let all of it in."""
        self._held_back[shard] = OrderedDict()

    def let_in(self, shard: int, eligible: Callable[[ClassKey], dict[int, None]]) -> bool:
        """Let the workflow in that was held back first; False when none is left, and nothing of the shard is held back any more."""
        held = self._held_back.get(shard)
        if not held:
            self._held_back.pop(shard, None)
            return False
        workflow, classes = held.popitem(last=False)
        for key, items in classes.items():
            if not items:
                continue
            ready = self.waiting.get(key) or self._enter(key, eligible)
            ready.count += len(items)
            # What came while the shard was being let in was held back behind what had been.
            before = ready.waiting.get(workflow)
            if before is None:
                ready.waiting[workflow] = items
            else:
                before.extend(items)
        return True

    def drop_held_back(self, shard: int) -> None:
        """Forget what is held back of a shard."""
        self._held_back.pop(shard, None)

    def items_of(self, workflow: WorkflowKey) -> list[Item]:
        """Return all that waits of a workflow."""
        held = self._held(workflow)
        classes = [ready.waiting.get(workflow, ()) for ready in self.waiting.values()]
        return [item for items in (*held.values(), *classes) for item in items]

    def take(self, ready: ReadyClass, workflow: WorkflowKey) -> Item:
        """Take the next item of one workflow of a class; the workflow goes behind the others."""
        items = ready.waiting.pop(workflow)
        item = items.popleft()
        if items:
            ready.waiting[workflow] = items
        self._shrink(ready, 1)
        return item

    def remove(self, key: ClassKey, workflow: WorkflowKey, item: Item) -> None:
        """Forget one item, if it waits."""
        held = self._held(workflow).get(key)
        if held is not None and item in held:
            held.remove(item)
            return
        ready = self.waiting.get(key)
        items = ready.waiting.get(workflow) if ready is not None else None
        if ready is None or items is None or item not in items:
            return
        items.remove(item)
        if not items:
            del ready.waiting[workflow]
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
                self._shrink(ready, len(ready.waiting.pop(workflow, ())))

    def _held(self, workflow: WorkflowKey) -> dict[ClassKey, deque[Item]]:
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
        ready = self.classes[key] = ReadyClass(key, eligible=eligible(key))
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
