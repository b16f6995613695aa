"""How long nodes wait, told from numbers alone, beside what a queue that keeps each node's time says."""

import random
from collections.abc import Sequence

import pytest

from mainspring.label_values import LabelValues
from mainspring_coordinator.engine.effects import Assign
from mainspring_coordinator.engine.order import Rank, next_instance
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from mainspring_coordinator.engine.ready import ClassKey, ReadyQueue
from mainspring_coordinator.waits import Line, Waiting, Waits, wait_buckets_s

ms = 1_000
s = 1_000_000
begun = 5_000 * s
database_ahead = 10**15
"""Database time and the host's clock have nothing in common."""


def assign(executor: str, instance: int = -1) -> Assign:
    return Assign(1, 0, 1, 1, 1, "wf", "flow", "node", instance, 1, executor, b"null", 0, None, False)


class Queue:
    """The engine's queue, and who waits in it since when."""

    def __init__(self, waits: Waits | None = None) -> None:
        self.ready = ReadyQueue(30 * s)
        self.waits = waits or Waits()
        self.now = begun
        self.number = 0

    def push(self, executor: str = "work", count: int = 1, priority: int = 0, label: str = "") -> None:
        key = ClassKey(executor, (("zone", (label,)),) if label else ())
        for _ in range(count):
            self.number += 1
            item = (self.number, -1)
            self.ready.push(key, (0, "wf"), Rank(priority), item, lambda _: {}, self.now + database_ahead)

    def take(self, executor: str = "work", count: int = 1, label: str = "") -> None:
        one = self.ready.waiting[ClassKey(executor, (("zone", (label,)),) if label else ())]
        for _ in range(count):
            self.ready.take(one, (0, "wf"), self.now + database_ahead)

    def batch(self, given_out: Sequence[str] = (), takes_us: int = 0) -> None:
        """Close a batch, and let it out so much later."""
        self.waits.cut(self.ready, self.now)
        self.now += takes_us
        self.waits.let_out([assign(executor) for executor in given_out], self.now)

    def oldest(self, executor: str = "work") -> Waiting:
        return self.waits.now(self.ready, self.now + database_ahead, self.now)[executor]


def started(line: Line) -> int:
    return sum(line.counts)


def test_what_is_paused_does_not_wait_for_a_worker() -> None:
    queue = Queue()
    queue.push(count=3)
    queue.batch()
    queue.now += 600 * s
    queue.ready.put_in_force(ClusterPauses(None, {"work": Pause(5, "ann", "")}, 5))
    queue.batch()
    assert queue.oldest() == Waiting(0, 0.0)
    queue.ready.put_in_force(ClusterPauses(changed_at_us=6))
    queue.batch()
    assert queue.oldest().nodes == 3


def test_a_node_that_is_given_out_at_once_waits_for_the_commit() -> None:
    queue = Queue()
    queue.batch(["work"], takes_us=3 * ms)
    line = queue.waits.lines["work"]
    assert (started(line), line.counts[0]) == (1, 1)
    assert line.seconds == pytest.approx(0.003)


def test_a_node_waits_from_the_batch_that_made_it_ready_to_the_one_that_gives_it_out() -> None:
    queue = Queue()
    queue.push(count=2)
    queue.batch()
    queue.now += 2 * s
    assert queue.oldest() == Waiting(2, 2.0)
    queue.take()
    queue.batch(["work"])
    line = queue.waits.lines["work"]
    assert (started(line), line.seconds) == (1, 2.0)
    assert line.counts[wait_buckets_s.index(5)] == 1
    assert queue.oldest().nodes == 1


def test_what_is_cancelled_waits_no_more_and_was_not_started() -> None:
    queue = Queue()
    queue.push(count=5)
    queue.batch()
    queue.now += s
    queue.take(count=5)
    queue.batch()
    assert started(queue.waits.lines["work"]) == 0
    assert queue.oldest() == Waiting(0, 0.0)


def test_the_one_item_of_a_map_waits_until_its_last_instance_is_given_out() -> None:
    queue = Queue()
    key = ClassKey("work", ())
    queue.ready.push(key, (0, "wf"), Rank(0), (1, next_instance), lambda _: {}, begun + database_ahead)
    queue.batch()
    for instance in range(3):
        queue.now += s
        queue.waits.cut(queue.ready, queue.now)
        queue.waits.let_out([assign("work", instance)], queue.now)
    assert queue.oldest() == Waiting(1, 3.0)
    assert started(queue.waits.lines["work"]) == 0


def test_what_nobody_serves_shows_behind_what_is_served_all_the_time() -> None:
    queue = Queue()
    queue.push(label="nowhere")
    queue.batch()
    for _ in range(50):
        queue.now += s
        queue.push(label="here")
        queue.batch()
        queue.now += s
        queue.take(label="here")
        queue.batch(["work"])
    assert queue.oldest() == Waiting(1, 100.0)


def test_a_batch_that_is_not_counted_is_settled_with_the_next_one_that_is() -> None:
    queue = Queue()
    for number in range(200):
        queue.push(label=f"zone-{number}")
    queue.batch()
    queue.now += ms  # counting 200 classes takes its share of 40 ms
    queue.take(label="zone-0")
    queue.batch(["work"])
    assert started(queue.waits.lines["work"]) == 0
    queue.now += 40 * ms
    queue.take(label="zone-1")
    queue.batch(["work"])
    assert started(queue.waits.lines["work"]) == 2
    assert queue.oldest().nodes == 198


def test_a_new_term_begins_with_nothing() -> None:
    queue = Queue()
    queue.push(count=3)
    queue.batch()
    queue.ready = ReadyQueue(30 * s)
    queue.now += s
    queue.batch()
    assert queue.oldest() == Waiting(0, 0.0)
    queue.push()
    queue.batch()
    queue.now += s
    assert queue.oldest() == Waiting(1, 1.0)


def test_the_hundred_and_first_executor_is_other() -> None:
    queue = Queue(Waits(LabelValues(3)))
    for number in range(6):
        queue.push(f"executor-{number}")
    queue.batch([f"executor-{number}" for number in range(6)])
    assert set(queue.waits.lines) == {"executor-0", "executor-1", "executor-2", "other"}
    assert queue.oldest("other").nodes == 3
    assert started(queue.waits.lines["other"]) == 3
    values = LabelValues()
    assert [values.of(f"name-{number}") for number in (98, 99, 100)] == ["name-98", "name-99", "name-100"]
    assert len({values.of(f"name-{number}") for number in range(1_000)}) == 101
    assert values.of("name-999") == "other"


@pytest.mark.parametrize("seed", range(10))
def test_in_any_order_the_sum_is_right_and_the_longest_wait_is_no_longer_than_it_is(seed: int) -> None:
    chance = random.Random(seed)
    line, now, there, truly = Line(), begun, list[int](), 0
    first_come = seed % 2 == 0
    for _ in range(400):
        now += chance.randrange(1, 3 * s)
        there += [now] * chance.randrange(0, 6)
        left = [
            there.pop(0 if first_come else chance.randrange(len(there)))
            for _ in range(chance.randrange(0, min(len(there), 8) + 1))
        ]
        truly += sum(now - since for since in left)
        line.count(now, len(there), len(left), now)
        if there:
            since = line.since_us(len(there))
            assert since == min(there) if first_come else since >= min(there)
    still = sum(now - since for since in there)
    told = sum((now - at) * count for at, count in steps(line))
    assert line.seconds * s + told == pytest.approx(truly + still)
    if first_come:
        assert line.seconds * s == pytest.approx(truly)


def steps(line: Line) -> list[tuple[int, int]]:
    """When how many of those came that wait."""
    upto, found = line.gone, list[tuple[int, int]]()
    for at, came in line.marks:
        found.append((at, came - upto))
        upto = came
    return found


def test_a_long_queue_is_remembered_in_few_marks_and_nearly_right() -> None:
    line, now = Line(), begun
    for _ in range(5_000):
        now += s
        line.count(now, line.waiting + 1, 0, now)
    assert len(line.marks) <= 256
    assert line.waiting == 5_000
    for waiting in (5_000, 3_000, 1_000):
        wait, truly = now - line.since_us(waiting), (waiting - 1) * s
        assert truly <= wait <= truly + 5_000 * s / 64
