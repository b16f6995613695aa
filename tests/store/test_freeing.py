"""The shards of another incarnation are freed in one statement, and fence rows name the workers that were evicted."""

import pytest

from mainspring.errors import FencedError
from mainspring.limits import deaths_noted_chars_max, evictions_a_shard_max
from mainspring_coordinator.engine.eviction import text_of
from mainspring_coordinator.engine.rows import WorkersEvicted
from mainspring_coordinator.store.protocol import Store
from tests.store.members import join, me, rival, shard_row, workflow

NOTE = 'noted by "one" \U0001f600\n'


def test_the_shards_of_an_incarnation_are_freed_under_a_higher_epoch_and_those_of_others_are_not(store: Store) -> None:
    dead = join(store, rival, 0, 1, 3)
    one = join(store, me, 2)
    assert one.lock.free(rival, [0, 2, 3], NOTE) == 2
    rows = one.lock.poll().shards
    assert [(row.holder, row.epoch, row.deaths) for row in rows] == [
        (None, 2, NOTE),
        (rival, 1, ""),
        (me, 1, ""),
        (None, 2, NOTE),
    ]
    with pytest.raises(FencedError) as lost:
        dead.commit(workflow("w", 0))
    assert lost.value.lost == {0: 2}
    dead.commit(workflow("v", 1))
    # Twice does nothing more, and whoever takes one goes on from there.
    assert one.lock.free(rival, [0, 3], NOTE) == 0
    one.take(0)
    assert (shard_row(one, 0).epoch, shard_row(one, 0).deaths) == (3, NOTE)
    one.commit(workflow("x", 0))


def test_nothing_is_freed_of_nobody(store: Store) -> None:
    one = join(store, me, 0)
    assert one.lock.free(rival, [], NOTE) == 0
    assert one.lock.free(rival, [0, 1], NOTE) == 0
    assert [(row.holder, row.epoch) for row in one.lock.poll().shards] == [(me, 1), *[(None, 0)] * 3]


def test_a_death_for_which_there_is_no_room_is_not_noted_and_the_shard_is_freed_all_the_same(store: Store) -> None:
    join(store, rival, 0, 1)
    one = join(store, me)
    assert one.lock.free(rival, [0], "x" * deaths_noted_chars_max) == 1
    row = one.lock.take(shard_row(one, 0), rival, 0)
    assert row is not None
    assert one.lock.free(rival, [0, 1], NOTE) == 2
    assert shard_row(one, 0).deaths == "x" * deaths_noted_chars_max
    assert shard_row(one, 1).deaths == NOTE
    assert shard_row(one, 0).holder is None


def test_every_look_at_the_peers_shows_who_was_evicted(store: Store) -> None:
    one = join(store, me, 1)
    everything = text_of([f"{number:032x}" for number in range(evictions_a_shard_max)])
    one.commit(WorkersEvicted(1, "", "a" * 32), WorkersEvicted(1, "", everything))
    assert [row.evicted for row in one.lock.poll().shards] == ["", everything, "", ""]
    assert [row.evicted for row in store.reader().shards()] == ["", everything, "", ""]
    taken = one.lock.take(shard_row(one, 1), rival, 0)
    assert taken is not None
    assert taken.evicted == everything, "whoever takes the shard reads it with the shard"
    with pytest.raises(FencedError):
        one.commit(WorkersEvicted(1, "", ""))
