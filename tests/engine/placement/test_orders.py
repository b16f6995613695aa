"""The orders behind the strategies, against what they stand for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_coordinator.engine.placement.lazy_heap import LazyHeap
from mainspring_coordinator.engine.placement.ring import Ring, point_of, probes_of
from tests.engine.placement.checks import wrong_with_pool
from tests.engine.placement.fleets import Fleet

changes = st.lists(st.tuples(st.integers(1, 8), st.none() | st.integers(0, 5)), max_size=200)


@given(changes)
def test_the_first_of_an_order_is_the_least_whatever_came_before(changes: list[tuple[int, int | None]]) -> None:
    order, truth = LazyHeap(), dict[int, int]()
    for session, value in changes:
        if value is None:
            order.drop(session)
            truth.pop(session, None)
        else:
            order.put(session, value, f"w{session}")
            truth[session] = value
        ranks = [(one, f"w{at}", at) for at, one in truth.items()]
        assert order.first() == min(ranks, default=None)
        assert LazyHeap.of(ranks).first() == order.first()
        assert len(order._heap) <= 2 * len(order) + 64


def ring_of(names: list[str]) -> Ring:
    ring = Ring()
    for session, name in enumerate(names, 1):
        ring.add(point_of(name), name, session)
    return ring


def holder(ring: Ring, key: str) -> str:
    near = ring.nearest(probes_of(key))
    assert near is not None
    return near[1]


@given(st.sets(st.text(max_size=8), min_size=2, max_size=30), st.sets(st.text(max_size=8), max_size=50), st.data())
def test_a_worker_that_leaves_moves_its_own_keys_and_one_that_comes_takes_only_its_own(
    names: set[str], keys: set[str], data: st.DataObject
) -> None:
    ordered = sorted(names)
    leaver = data.draw(st.sampled_from(ordered))
    ring = ring_of(ordered)
    before = {key: holder(ring, key) for key in keys}
    ring.remove(point_of(leaver), ordered.index(leaver) + 1)
    after = {key: holder(ring, key) for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == leaver}
    ring.add(point_of(leaver), leaver, 99)
    assert {key: holder(ring, key) for key in keys} == before


@pytest.mark.parametrize("workers", [3, 10, 100, 1_000])
def test_keys_are_spread_evenly(workers: int) -> None:
    ring = ring_of([f"worker-{number}" for number in range(workers)])
    mean = 30
    held = Counter(holder(ring, f"key-{number}") for number in range(mean * workers))
    # About 1.1 times the mean, and what chance does to 30 keys.
    assert max(held.values()) < 2.2 * mean
    assert len(held) == workers


@pytest.mark.parametrize("workers", [1, 2, 3, 64, 500])
def test_however_often_a_ring_is_asked_the_soonest_worker_has_the_key(workers: int) -> None:
    names = [f"worker-{number}" for number in range(workers)]
    ring = ring_of(names)
    for number in range(100):
        probes = probes_of(f"key-{number}")
        distances = {(point_of(name) - probe) % 2**64: name for name in names for probe in probes}
        assert holder(ring, f"key-{number}") == distances[min(distances)]


def test_a_ring_of_nobody_has_nobody() -> None:
    assert Ring().nearest(probes_of("key")) is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_pool_is_what_it_would_be_if_it_were_made_anew(seed: int, size: int) -> None:
    fleet = Fleet(seed, size)
    for _ in range(120):
        fleet.disturb()
        assert next(wrong_with_pool(fleet.pool), None) is None


def test_labels_that_nobody_asks_for_make_no_kinds() -> None:
    fleet = Fleet(1, 10_000)
    fleet.pool.know(("e0", ()))
    kinds = len(fleet.pool.kinds)
    assert kinds <= 2 * 3 * 2  # the wants met, the numbers of executors, a shard
    fleet.pool.know(("e0", (("id", "7"),)))
    assert len(fleet.pool.kinds) == kinds + 1
    fleet.pool.keep([("e0", ())])
    assert len(fleet.pool.kinds) == kinds
