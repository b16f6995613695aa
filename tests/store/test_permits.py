"""Permits: written and taken back under the fence of their home, read by page."""

import pytest

from mainspring.errors import FencedError
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.rows import PermitsHeld
from mainspring_coordinator.store.protocol import Store
from tests.store.members import join, me, rival


def held(key: str, holder: int, count: int, *, home: int = 0, epoch: int = 3) -> PermitsHeld:
    return PermitsHeld(home, "", key, holder, epoch, count)


def test_what_a_shard_has_is_stored_changed_and_gone(store: Store) -> None:
    member = join(store, me, 0, 1)
    member.commit(held("db", 7, 2), held("db", 8, 1), held("db", 7, 5, home=1))
    assert store.reader().permits(0, ("", -1), 10) == [HeldPermits("db", 7, 3, 2), HeldPermits("db", 8, 3, 1)]
    member.commit(held("db", 7, 3, epoch=4), held("db", 8, 0))
    assert store.reader().permits(0, ("", -1), 10) == [HeldPermits("db", 7, 4, 3)]
    assert store.reader().permits(1, ("", -1), 10) == [HeldPermits("db", 7, 3, 5)]
    member.commit(held("db", 9, 0))
    assert len(store.reader().permits(0, ("", -1), 10)) == 1


def test_of_several_rows_of_one_batch_the_last_counts(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(held("a", 1, 0), held("a", 1, 2), held("b", 1, 2), held("b", 1, 0), held("c", 1, 1), held("c", 1, 4))
    assert store.reader().permits(0, ("", -1), 10) == [HeldPermits("a", 1, 3, 2), HeldPermits("c", 1, 3, 4)]
    member.commit(held("a", 1, 0), held("c", 1, 0), held("c", 1, 1))
    assert store.reader().permits(0, ("", -1), 10) == [HeldPermits("c", 1, 3, 1)]


def test_keys_differ_by_every_byte_and_are_read_in_their_order(store: Store) -> None:
    member = join(store, me, 0)
    keys = ["a", "a ", "A", "ä", "a'\\b", "\x00", "k" * 128, "🗓" * 32]
    member.commit(*(held(key, holder, 1) for key in keys for holder in (0, 1_023)))
    expected = [(key, holder) for key in sorted(keys, key=str.encode) for holder in (0, 1_023)]
    found: list[tuple[str, int]] = []
    while page := store.reader().permits(0, found[-1] if found else ("", -1), 3):
        found += [(one.key, one.holder) for one in page]
    assert found == expected
    member.commit(*(held(key, holder, 0) for key in keys for holder in (0, 1_023)))
    assert store.reader().permits(0, ("", -1), 3) == []


def test_many_are_taken_back_at_once(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(*(held(f"key{at}", at % 7, 1) for at in range(400)))
    member.commit(*(held(f"key{at}", at % 7, 0) for at in range(1, 400)))
    assert store.reader().permits(0, ("", -1), 1_000) == [HeldPermits("key0", 0, 3, 1)]


def test_an_owner_that_was_replaced_changes_nothing(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(held("db", 7, 2))
    join(store, rival, 0)
    for row in (held("db", 7, 0), held("db", 8, 1)):
        with pytest.raises(FencedError):
            member.commit(row)
    assert store.reader().permits(0, ("", -1), 10) == [HeldPermits("db", 7, 3, 2)]
