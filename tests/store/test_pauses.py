"""Pauses: in the fence row of shard 0 for all to see, and beside the workflows, under the fences of their shards."""

from dataclasses import replace

import pytest

from mainspring.errors import FencedError
from mainspring.limits import pauses_bytes_max
from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.rows import PausesChanged, WorkflowPaused, WorkflowUpdated
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.store.protocol import Store, WorkflowFilter
from tests.store.members import join, me, rival, shard_row, workflow

WHO = "jörg (admin), as a'\\b@host, from [::1]:7"
WHY = "weil's so ist \\ \U0001f600"
STANDING = b'{"reason":"weil\'s \\\\ so ist"}'


def paused(name: str, since_us: int = 9, shard: int = 0) -> WorkflowPaused:
    return WorkflowPaused(shard, name, since_us, WHO, WHY)


def test_every_look_at_the_peers_shows_what_is_paused(store: Store) -> None:
    one = join(store, me, 0)
    assert shard_row(one, 0).pauses is store.reader().pauses() is None
    one.commit(PausesChanged(0, "", b"{}"), PausesChanged(0, "", STANDING))
    assert shard_row(one, 0).pauses == store.reader().pauses() == STANDING
    assert shard_row(one, 1).pauses is None
    assert [row.pauses for row in store.reader().shards()] == [STANDING, None, None, None]
    one.commit(PausesChanged(0, "", b"x" * pauses_bytes_max))
    assert len(store.reader().pauses() or b"") == pauses_bytes_max


def test_who_takes_shard_0_reads_it_with_the_shard(store: Store) -> None:
    one = join(store, me, 0)
    stale = shard_row(one, 0)
    one.commit(PausesChanged(0, "", STANDING))
    taken = one.lock.take(stale, rival, 0)
    assert taken is not None
    assert taken.pauses == STANDING


def test_without_the_epoch_of_a_shard_nothing_is_paused(store: Store) -> None:
    one = join(store, me, 0)
    one.commit(workflow("wf"))
    assert one.lock.take(shard_row(one, 0), rival, 0) is not None
    for row in (PausesChanged(0, "", STANDING), paused("wf")):
        with pytest.raises(FencedError):
            one.commit(row)
    assert store.reader().pauses() is None
    assert store.reader().paused_workflows((-1, ""), 9) == []


def test_a_workflows_pause_is_read_with_it_until_it_goes_on(store: Store) -> None:
    one = join(store, me, 0)
    reader = store.reader()
    one.commit(workflow("wf"), workflow("other"), paused("wf"))
    pause = Pause(9, WHO, WHY)
    stored = reader.workflow("wf")
    assert stored is not None
    assert stored.pause == pause
    found = {
        "open": reader.open_workflows(0, (-1, ""), 9),
        "named": reader.workflows_named(["wf", "other"]),
        "listed": reader.list_workflows(WorkflowFilter(), None, 9),
    }
    for rows in found.values():
        assert {row.workflow_id: row.pause for row in rows} == {"wf": pause, "other": None}
    one.commit(paused("wf", 0), paused("never", 0))
    assert reader.workflow("wf") == replace(stored, pause=None)
    one.commit(paused("wf"), paused("wf", 0), paused("wf", 11))
    assert (reader.workflow("wf") or stored).pause == Pause(11, WHO, WHY)


def test_what_has_ended_is_not_paused_nor_is_what_has_the_id_of_an_earlier_one(store: Store) -> None:
    one = join(store, me, 0)
    one.commit(workflow("ended"), workflow("later", submitted_at_us=10), paused("ended"), paused("later"))
    one.commit(WorkflowUpdated(0, "ended", 2, WorkflowStatus.SUCCEEDED, ended_at_us=12))
    assert [row.pause for row in store.reader().workflows_named(["ended", "later"])] == [None, None]
    assert store.reader().paused_workflows((-1, ""), 9) == []


def test_paused_workflows_are_listed_by_page_the_longest_first(store: Store) -> None:
    one = join(store, me, 0, 1)
    one.commit(*(workflow(f"wf{at}", at % 2) for at in range(5)))
    one.commit(*(paused(f"wf{at}", since_us, at % 2) for at, since_us in enumerate((9, 7, 9, 8, 7))))
    found: list[str] = []
    after = (-1, "")
    while page := store.reader().paused_workflows(after, 2):
        found += [name for name, _ in page]
        after = (page[-1][1].since_us, page[-1][0])
    assert found == ["wf1", "wf4", "wf3", "wf0", "wf2"]
