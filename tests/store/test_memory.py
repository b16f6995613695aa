"""The failures that the store in memory can be told to have."""

import pytest

from mainspring.errors import FencedError, StoreUnavailableError
from mainspring_coordinator.store.memory import MemoryStore, after_commit, before_commit, before_read
from tests.store.members import join, me, rival, shard_row, workflow


class Faults:
    """Fails at the points that are in `at`, once each."""

    def __init__(self) -> None:
        self.at: set[str] = set()

    def __call__(self, point: str) -> None:
        if point in self.at:
            self.at.discard(point)
            raise StoreUnavailableError(point)


@pytest.mark.parametrize(("point", "written"), [(before_commit, False), (after_commit, True)])
def test_a_commit_that_failed_is_written_once_by_the_next_try(point: str, written: bool) -> None:
    faults = Faults()
    store = MemoryStore(fail=faults)
    member = join(store, me, 0)
    batch = member.batch([workflow("w")])
    faults.at.add(point)
    with pytest.raises(StoreUnavailableError, match=point):
        member.journal.commit(batch)
    assert (store.reader().workflow("w") is not None) is written
    assert not member.journal.commit(batch).existing
    assert shard_row(member, 0).batch_seq == 1


def test_a_failed_read_proves_nothing() -> None:
    faults = Faults()
    member = join(MemoryStore(fail=faults), me, 0)
    faults.at.add(before_read)
    with pytest.raises(StoreUnavailableError):
        member.journal.prove(member.epochs)
    member.journal.prove(member.epochs)


def test_a_dead_connection_frees_the_lock_and_the_clock_is_the_one_handed_in() -> None:
    store = MemoryStore(now_us=lambda: 42)
    one, two = join(store, me, 0), join(store, rival)
    assert two.lock.kill(one.lock.connection)
    with pytest.raises(StoreUnavailableError):
        one.lock.renew(me, 0)
    poll = two.lock.poll()
    assert (poll.now_us, [peer.locked_by for peer in poll.peers if peer.row.incarnation == me]) == (42, [None])
    two.take(0)
    with pytest.raises(FencedError):
        one.commit(workflow("w"))
