"""The cluster's strategy: in the fence row of shard 0 for all to see, with a history, under that shard's fence."""

from dataclasses import replace

import pytest

from mainspring.errors import FencedError
from mainspring_coordinator.engine.rows import StrategyChanged
from mainspring_coordinator.store.protocol import Attempts, Store
from mainspring_coordinator.store.stored_record import StoredStrategyChange
from tests.store.members import join, lease, me, rival, shard_row

REASON = "weil's so ist \\ \U0001f600"


def changed(after: str, at_us: int, reason: str = REASON) -> StrategyChanged:
    return StrategyChanged(0, "", f"{after},,0,{at_us}", "", after, "operator", reason, at_us)


def test_every_look_at_the_peers_shows_what_was_set_last(store: Store) -> None:
    one = join(store, me, 0)
    assert shard_row(one, 0).strategy == ""
    one.commit(changed("locality", 5), changed("affinity", 6))
    assert shard_row(one, 0).strategy == "affinity,,0,6"
    assert shard_row(one, 1).strategy == ""
    assert [row.strategy for row in store.reader().shards()] == ["affinity,,0,6", "", "", ""]


def test_who_takes_shard_0_reads_it_with_the_shard(store: Store) -> None:
    one = join(store, me, 0)
    one.commit(changed("locality", 5))
    taken = one.lock.take(shard_row(one, 0), rival, 0)
    assert taken is not None
    assert taken.strategy == "locality,,0,5"


def test_the_history_is_read_newest_first_by_page_and_each_change_stands_once(store: Store) -> None:
    one = join(store, me, 0)
    for at_us in range(5, 10):
        one.commit(changed("locality", at_us))
    one.commit(changed("affinity", 9, reason="again"))
    found = store.reader().strategy_changes(0, 3)
    assert [row.changed_at_us for row in found] == [9, 8, 7]
    assert found[0] == StoredStrategyChange(9, "", "locality", "operator", REASON)
    assert [row.changed_at_us for row in store.reader().strategy_changes(7, 9)] == [6, 5]


def test_without_the_epoch_of_shard_0_nothing_is_set(store: Store) -> None:
    one = join(store, me, 0)
    assert one.lock.take(shard_row(one, 0), rival, 0) is not None
    with pytest.raises(FencedError):
        one.commit(changed("locality", 5))
    assert shard_row(one, 0).strategy == ""
    assert store.reader().strategy_changes(0, 9) == []


def test_a_lease_row_says_what_a_coordinator_places_by_and_how_its_attempts_ended(store: Store) -> None:
    one = join(store, me)
    one.lock.acquire(replace(lease(me, one.lock), strategy="capability"))
    one.lock.renew(me, 0, Attempts(200, 7))
    (row,) = store.reader().coordinators()
    assert (row.strategy, row.attempts) == ("capability", Attempts(200, 7))
    assert one.lock.poll().peers[0].row.attempts == Attempts(200, 7)
