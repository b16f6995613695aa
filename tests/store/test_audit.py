"""The audit log: an entry is written under the fence of a shard of whoever writes it, and once more with its outcome."""

from dataclasses import replace

import pytest

from mainspring.errors import FencedError
from mainspring_coordinator.engine.rows import AuditEntry
from mainspring_coordinator.store.protocol import Store
from tests.store.members import join, me, rival, shard_row

BEGUN = AuditEntry(
    1, "", "a" * 32, 5, 0, "StepDown", "engine-2", "weil's so ist \U0001f600", "me from here", "engine-1", ""
)


def told(store: Store) -> list[tuple[str, int, str]]:
    return [(row.entry_id[0], row.ended_at_us, row.outcome) for row in store.reader().audit(None, 9)]


def test_an_entry_gets_its_outcome(store: Store) -> None:
    one = join(store, me, 1)
    one.commit(BEGUN)
    assert told(store) == [("a", 0, "")]
    one.commit(replace(BEGUN, ended_at_us=7, outcome="done"))
    (row,) = store.reader().audit(None, 9)
    assert store.reader().audit_entry("a" * 32) == row
    assert store.reader().audit_entry("b" * 32) is None
    assert (row.ended_at_us, row.outcome) == (7, "done")
    assert (row.began_at_us, row.act, row.subject) == (5, "StepDown", "engine-2")
    assert (row.reason, row.who, row.coordinator) == (BEGUN.reason, "me from here", "engine-1")


def test_of_an_entry_that_is_there_nothing_changes_but_its_outcome(store: Store) -> None:
    one = join(store, me, 1)
    one.commit(BEGUN)
    forged = replace(BEGUN, who="somebody else", act="Nothing", subject="", reason="", ended_at_us=7, outcome="done")
    one.commit(forged)
    (row,) = store.reader().audit(None, 9)
    assert (row.who, row.act, row.subject, row.reason) == (BEGUN.who, BEGUN.act, BEGUN.subject, BEGUN.reason)
    assert (row.ended_at_us, row.outcome) == (7, "done")


def test_entries_are_read_newest_first_by_page(store: Store) -> None:
    one = join(store, me, 1)
    for at, letter in ((5, "a"), (6, "b"), (6, "c"), (7, "d")):
        one.commit(replace(BEGUN, entry_id=letter * 32, began_at_us=at))
    first = store.reader().audit(None, 2)
    assert [row.entry_id[0] for row in first] == ["d", "c"]
    rest = store.reader().audit((first[-1].began_at_us, first[-1].entry_id), 9)
    assert [row.entry_id[0] for row in rest] == ["b", "a"]


def test_nothing_is_written_under_the_fence_of_a_shard_that_was_lost(store: Store) -> None:
    one = join(store, me, 1)
    assert one.lock.take(shard_row(one, 1), rival, 0) is not None
    with pytest.raises(FencedError):
        one.commit(BEGUN)
    assert told(store) == []
