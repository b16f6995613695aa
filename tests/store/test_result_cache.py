"""Outputs that other nodes may take: stored with what led to them, under the fence of a shard, and gone when their time is over."""

import pytest

from mainspring.errors import FencedError
from mainspring_coordinator.engine.rows import ResultCached, ResultDropped
from mainspring_coordinator.store.cached_results import StoredResult, ahead_us
from mainspring_coordinator.store.protocol import Store
from tests.store.members import assigned, join, me, rival, succeeded, workflow

one, two = b"\x00'\\" + b"a" * 29, b"b" * 32


def cached(
    key: bytes, output: bytes, stored_at_us: int, *, shard: int = 0, ttl_us: int = 10, name: str = "wf"
) -> ResultCached:
    return ResultCached(shard, name, key, output, stored_at_us, stored_at_us + ttl_us)


def test_an_output_is_there_for_its_time(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(cached(one, b'{"a":"\\\'"}', 100), cached(two, b"2", 200))
    reader = store.reader()
    found = [StoredResult(one, b'{"a":"\\\'"}', 100), StoredResult(two, b"2", 200)]
    assert reader.cached_results([two, one, b"c" * 32, two], 109) == found
    assert reader.cached_results([one, two], 110) == found[1:]
    assert reader.cached_results([], 0) == reader.cached_results([b"c" * 32], 0) == []


def test_the_youngest_of_all_shards_is_read(store: Store) -> None:
    member = join(store, me, 0, 1, 2)
    member.commit(*(cached(one, b"%d" % shard, at, shard=shard) for shard, at in ((0, 5), (1, 7), (2, 6))))
    assert store.reader().cached_results([one], 8) == [StoredResult(one, b"1", 7)]
    member.commit(cached(one, b"3", 9))
    assert store.reader().cached_results([one], 9) == [StoredResult(one, b"3", 9)]
    # The youngest is over its time before an older one.
    member.commit(cached(one, b"4", 20, ttl_us=1), cached(one, b"5", 19, shard=1, ttl_us=100))
    assert store.reader().cached_results([one], 30) == [StoredResult(one, b"5", 19)]


def test_what_was_stored_while_the_clock_was_ahead_is_passed_over_and_hides_nothing(store: Store) -> None:
    member = join(store, me, 0, 1)
    now_us = 1_000_000
    member.commit(cached(one, b"1", now_us), cached(one, b"2", now_us + ahead_us + 1, shard=1))
    reader = store.reader()
    assert reader.cached_results([one], now_us) == [StoredResult(one, b"1", now_us)]
    # Clocks of coordinators are not quite the same.
    assert reader.cached_results([one], now_us + 1) == [StoredResult(one, b"2", now_us + ahead_us + 1)]


def test_what_is_over_its_time_is_found_and_goes_unless_it_was_replaced(store: Store) -> None:
    member = join(store, me, 0, 1)
    member.commit(cached(one, b"1", 100), cached(two, b"2", 90), cached(one, b"3", 0, shard=1))
    reader = store.reader()
    assert reader.expired_results(0, 109, 10) == [(two, 100)]
    assert reader.expired_results(0, 110, 10) == [(two, 100), (one, 110)]
    assert reader.expired_results(0, 110, 1) == [(two, 100)]
    member.commit(cached(two, b"4", 300))
    member.commit(ResultDropped(0, "", one, 110), ResultDropped(0, "", two, 100))
    assert reader.expired_results(0, 1_000, 10) == [(two, 310)]
    assert reader.expired_results(1, 1_000, 10) == [(one, 10)]


def test_what_comes_in_the_batch_in_which_the_one_before_goes_stays(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(cached(one, b"1", 100), cached(two, b"1", 100))
    member.commit(
        *(ResultDropped(0, "", one, 110), cached(one, b"2", 110)),
        *(cached(two, b"2", 110), ResultDropped(0, "", two, 110)),
    )
    found = store.reader().cached_results([one, two], 0)
    assert found == [StoredResult(one, b"2", 110), StoredResult(two, b"2", 110)]


def test_it_is_written_with_the_end_of_its_node_or_not_at_all(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("wf"), assigned("wf", 0))
    other = join(store, rival, 0)
    with pytest.raises(FencedError):
        member.commit(succeeded("wf", 0, b"1"), cached(one, b"1", 100))
    assert store.reader().cached_results([one], 0) == []
    other.commit(succeeded("wf", 0, b"1"), cached(one, b"1", 100))
    assert store.reader().cached_results([one], 0) == [StoredResult(one, b"1", 100)]


def test_two_coordinators_store_one_key_at_once_and_neither_waits(store: Store) -> None:
    first, second = join(store, me, 0), join(store, rival, 1)
    keys = [bytes([at]) * 32 for at in range(50)]
    first.commit(*(cached(key, b"1", 1) for key in keys))
    second.commit(*(cached(key, b"2", 2, shard=1) for key in reversed(keys)))
    assert [row.output for row in store.reader().cached_results(keys, 3)] == [b"2"] * 50
