"""The order in which what waits is given out, alone and against a model that is obviously right."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring_coordinator.engine.order import Item, Line, Order, Rank, WorkflowKey
from mainspring_coordinator.engine.ready import ClassKey, ReadyQueue

SECOND = 1_000_000
ageing = 30 * SECOND


def wf(name: str) -> WorkflowKey:
    return (0, name)


def names(order: Order, count: int, now_us: int = 0) -> str:
    """Take so many items; return their workflows."""
    taken = ""
    for _ in range(count):
        key = order.next(now_us)
        assert key is not None
        order.take(key, now_us)
        taken += key[1]
    return taken


def filled(*pushes: tuple[str, int, str, int]) -> Order:
    """Return an order with so many items for each workflow, priority and fairness key."""
    order = Order(ageing)
    for name, priority, fairness_key, count in pushes:
        for node in range(count):
            order.push(wf(name), Rank(priority, fairness_key), (node, -1), 0)
    return order


@pytest.mark.parametrize(
    ("pushes", "taken"),
    [
        ([("a", 5, "", 3)], "aaa"),
        ([("a", 5, "", 4), ("b", 5, "", 2)], "ababaa"),
        ([("a", 1, "", 2), ("b", 9, "", 2), ("c", 5, "", 1)], "bbcaa"),
        ([("a", 5, "k", 2), ("b", 5, "k", 2), ("c", 5, "", 4)], "acbcacbc"),
        ([("a", 5, "k", 1), ("b", 5, "k", 1), ("c", 5, "l", 1), ("d", 5, "l", 1)], "acbd"),
        ([("a", 5, "", 2), ("a", 7, "", 1), ("b", 5, "", 1)], "aaba"),
    ],
)
def test_what_goes_first(pushes: list[tuple[str, int, str, int]], taken: str) -> None:
    order = filled(*pushes)
    assert names(order, len(taken)) == taken
    assert order.next(0) is None
    assert not len(order)


def test_within_a_workflow_the_order_is_that_of_becoming_ready_unless_it_is_offered_again() -> None:
    order = Order(ageing)
    rank = Rank(5)
    for node in range(3):
        order.push(wf("a"), rank, (node, -1), 0)
    order.push(wf("a"), rank, (9, -1), 0, first=True)
    assert [order.take(wf("a"), 0)[0] for _ in range(4)] == [9, 0, 1, 2]


@pytest.mark.parametrize("levels", range(1, 10))
def test_a_low_priority_is_served_after_as_many_times_ageing_as_there_are_levels_above(levels: int) -> None:
    order = filled(("low", 0, "", 2), *(("high", priority, "", 10_000) for priority in range(1, levels + 1)))
    turns = [
        second
        for second in range(2 * levels * 30 + 60)
        for key in [order.next(second * SECOND)]
        if key is not None and order.take(key, second * SECOND) is not None and key == wf("low")
    ]
    # A turn a second: those between rise as well and are each served once before, and the highest counts from its last turn.
    assert len(turns) == 2
    assert levels * 30 <= turns[0] <= levels * 30 + levels + 1
    assert turns[1] - turns[0] <= levels * 30 + levels + 1


def test_what_has_just_come_has_not_waited_since_the_band_was_last_empty() -> None:
    order = filled(("high", 5, "", 10))
    later = 100 * ageing
    order.push(wf("low"), Rank(4), (0, -1), later)
    order.take(wf("high"), later)
    assert order.next(later) == wf("high")
    assert order.next(later + ageing - 1) == wf("high")


def test_a_key_with_a_thousand_workflows_leaves_another_every_second_turn() -> None:
    order = filled(*((f"w{number}", 5, "many", 3) for number in range(1_000)), ("x", 5, "one", 500))
    mine = 0
    for turn in range(1, 1_001):
        key = order.next(0)
        assert key is not None
        order.take(key, 0)
        mine += key == wf("x")
        assert mine >= turn // 2


def test_those_set_aside_take_no_turns_until_they_are_let_back_before_the_others() -> None:
    order = filled(("a", 5, "", 1), ("b", 5, "k", 1), ("c", 5, "k", 2), ("d", 5, "", 2))
    for name in "ab":
        order.set_aside(wf(name))
    assert not order.stands(wf("a"))
    assert names(order, 2) == "cd"
    order.push(wf("a"), Rank(5), (7, -1), 0)
    assert order.next(0) == wf("c")
    order.let_back()
    assert names(order, 5) == "abdac"
    assert order.next(0) is None


def test_one_that_is_dropped_while_aside_does_not_come_back() -> None:
    order = filled(("a", 5, "", 3), ("b", 4, "", 1))
    order.set_aside(wf("a"))
    assert order.level_us(0) == 4 * ageing
    assert order.drop(wf("a")) == 3
    order.push(wf("a"), Rank(3), (0, -1), 0)
    order.let_back()
    assert names(order, 2) == "ba"


@dataclass
class Waiting:
    """An item of the model."""

    workflow: WorkflowKey
    rank: Rank
    item: Item

    @property
    def key(self) -> object:
        return self.rank.fairness_key or self.workflow


class Model:
    """The same, as lists that are searched: bands of keys of workflows, each in its order."""

    def __init__(self) -> None:
        self.items: list[Waiting] = []
        self.keys: dict[int, list[object]] = {}
        self.workflows: dict[tuple[int, object], list[WorkflowKey]] = {}
        self.since_us: dict[int, int] = {}
        self.aside: list[tuple[WorkflowKey, Rank]] = []

    def push(self, one: Waiting, now_us: int, *, first: bool) -> None:
        priority = one.rank.priority
        if not any(other.rank.priority == priority for other in self.items):
            self.since_us[priority] = now_us
        self.items.insert(0, one) if first else self.items.append(one)
        if (one.workflow, one.rank) not in self.aside:
            self.stand(one.workflow, one.rank)

    def stand(self, workflow: WorkflowKey, rank: Rank, *, first: bool = False) -> None:
        key: object = rank.fairness_key or workflow
        keys = self.keys.setdefault(rank.priority, [])
        if key not in keys:
            keys.insert(0 if first else len(keys), key)
        group = self.workflows.setdefault((rank.priority, key), [])
        if workflow not in group:
            group.insert(0 if first else len(group), workflow)

    def clean(self) -> None:
        """Forget places of which nothing waits or takes turns."""
        lines = {(one.workflow, one.rank.priority) for one in self.items}
        self.aside = [(w, rank) for w, rank in self.aside if (w, rank.priority) in lines]
        away = {(w, rank.priority) for w, rank in self.aside}
        for (priority, key), group in list(self.workflows.items()):
            group[:] = [w for w in group if (w, priority) in lines - away]
            if not group:
                del self.workflows[priority, key]
                self.keys[priority].remove(key)

    def standing(self, now_us: int) -> list[int]:
        """Return the priorities of which something takes turns, the one to be served first."""
        found = [priority for priority, keys in self.keys.items() if keys]
        return sorted(found, key=lambda p: (p * ageing + now_us - self.since_us[p], p), reverse=True)

    def next(self, now_us: int) -> WorkflowKey | None:
        for priority in self.standing(now_us):
            return self.workflows[priority, self.keys[priority][0]][0]
        return None

    def take(self, workflow: WorkflowKey, now_us: int) -> Item:
        away = {rank for w, rank in self.aside if w == workflow}
        for priority in self.standing(now_us):
            for one in self.items:
                if one.workflow == workflow and one.rank.priority == priority and one.rank not in away:
                    self.items.remove(one)
                    self.since_us[priority] = now_us
                    for row, name in ((self.keys[priority], one.key), (self.workflows[priority, one.key], workflow)):
                        row.remove(name)  # type: ignore[arg-type]  # a row of keys, or of workflows
                        row.append(name)  # type: ignore[arg-type]
                    self.clean()
                    return one.item
        raise AssertionError("nothing to take")

    def set_aside(self, workflow: WorkflowKey) -> None:
        for rank in OrderedDict.fromkeys(one.rank for one in self.items if one.workflow == workflow):
            if (workflow, rank) not in self.aside:
                self.aside.append((workflow, rank))
        self.clean()

    def let_back(self) -> None:
        while self.aside:
            self.stand(*self.aside.pop(), first=True)

    def remove(self, keep: Callable[[Waiting], bool]) -> int:
        before = len(self.items)
        self.items = [one for one in self.items if keep(one)]
        self.clean()
        return before - len(self.items)


class Both:
    """The order and its model; each act is done to both."""

    def __init__(self) -> None:
        self.order, self.model = Order(ageing), Model()
        self.now_us = 0
        self.number = 0

    def push(self, workflow: WorkflowKey, rank: Rank, *, first: bool = False) -> None:
        self.order.push(workflow, rank, (self.number, -1), self.now_us, first=first)
        self.model.push(Waiting(workflow, rank, (self.number, -1)), self.now_us, first=first)

    def first(self, workflow: WorkflowKey, rank: Rank) -> None:
        self.push(workflow, rank, first=True)

    def join(self, workflow: WorkflowKey, rank: Rank) -> None:
        items = [(self.number, 0), (self.number, 1)]
        self.order.join(Line(workflow, rank, deque(items)), self.now_us)
        for item in items:
            self.model.push(Waiting(workflow, rank, item), self.now_us, first=False)

    def take(self, *_: object) -> None:
        turn = self.model.next(self.now_us)
        assert self.order.next(self.now_us) == turn
        if turn is not None:
            item = self.order.peek(turn, self.now_us)
            assert item == self.order.take(turn, self.now_us) == self.model.take(turn, self.now_us)

    def take_of(self, workflow: WorkflowKey, _: Rank) -> None:
        if self.order.stands(workflow):
            assert self.order.take(workflow, self.now_us) == self.model.take(workflow, self.now_us)

    def set_aside(self, workflow: WorkflowKey, _: Rank) -> None:
        if workflow in self.order:
            self.order.set_aside(workflow)
            self.model.set_aside(workflow)

    def let_back(self, *_: object) -> None:
        self.order.let_back()
        self.model.let_back()

    def remove(self, workflow: WorkflowKey, rank: Rank) -> None:
        assert not self.order.remove(workflow, rank.priority, (-5, -5))
        mine = [one for one in self.model.items if one.workflow == workflow and one.rank == rank]
        if mine:
            assert self.order.remove(workflow, rank.priority, mine[-1].item)
            self.model.remove(lambda one: one is not mine[-1])

    def drop(self, workflow: WorkflowKey, _: Rank) -> None:
        assert self.order.drop(workflow) == self.model.remove(lambda one: one.workflow != workflow)

    def agree(self) -> None:
        assert self.order.next(self.now_us) == self.model.next(self.now_us)
        assert len(self.order) == len({one.workflow for one in self.model.items})
        for name, _ in flows:
            waiting = sorted(one.item for one in self.model.items if one.workflow == wf(name))
            assert sorted(self.order.items_of(wf(name))) == waiting


flows = [("a", ""), ("b", ""), ("c", "k"), ("d", "k"), ("e", "k"), ("f", "l")]
acts = ["push", "push", "push", "first", "join", "take", "take", "take_of", "set_aside", "let_back", "remove", "drop"]
steps = st.tuples(st.sampled_from(acts), st.integers(0, len(flows) - 1), st.integers(0, 3), st.integers(0, 2 * ageing))


@settings(max_examples=300)
@given(st.lists(steps, max_size=60))
def test_it_does_what_the_model_does(steps: list[tuple[str, int, int, int]]) -> None:
    both = Both()
    for act, at, priority, later_us in steps:
        both.number += 1
        both.now_us += later_us
        name, fairness_key = flows[at]
        getattr(both, act)(wf(name), Rank(priority, fairness_key))
        both.agree()
    both.let_back()
    while both.model.items:
        both.take()
    both.agree()


@given(st.lists(st.tuples(st.integers(0, len(flows) - 1), st.integers(0, 3), st.booleans()), max_size=30))
def test_what_was_held_back_comes_in_as_it_would_have_come(pushes: list[tuple[int, int, bool]]) -> None:
    queues = [ReadyQueue(ageing), ReadyQueue(ageing)]
    key = ClassKey("work", ())
    queues[1].hold_back(0)
    for queue in queues:
        # By workflow, because that is how those held back come in.
        for number, (at, priority, first) in sorted(enumerate(pushes), key=lambda one: one[1][0]):
            name, fairness_key = flows[at]
            queue.push(key, wf(name), Rank(priority, fairness_key), (number, -1), lambda _: {}, 0, first=first)
    assert not queues[1].waiting
    while queues[1].let_in(0, lambda _: {}, 0):
        pass
    taken: list[list[Any]] = [[], []]
    for queue, mine in zip(queues, taken, strict=True):
        while queue.waiting:
            ready = queue.waiting[key]
            turn = ready.waiting.next(0)
            assert turn is not None
            mine.append((turn, queue.take(ready, turn, 0)))
    assert taken[0] == taken[1]
    assert len(taken[0]) == len(pushes)
