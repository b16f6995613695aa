"""Two coordinators and one database, with every fault that the first form of ownership must survive."""

import re
from dataclasses import replace

import pytest

from mainspring.errors import SettingsError
from tests.ownership.cluster import SECOND, TIMES, Cluster, Node


def two() -> tuple[Cluster, Node, Node]:
    cluster = Cluster()
    one, other = cluster.add("one"), cluster.add("other")
    cluster.run(4)
    assert (len(one.shards), len(other.shards)) == (8, 8)
    return cluster, one, other


def test_a_lone_coordinator_owns_all_with_its_first_step() -> None:
    cluster = Cluster()
    node = cluster.add("one", lone=True, workers=0)
    assert node.shards == list(range(16))
    assert node.takes == [(shard, 1) for shard in range(16)]


def test_a_newcomer_gets_its_share_after_two_seconds() -> None:
    cluster = Cluster()
    one = cluster.add("one")
    other = cluster.add("other")
    cluster.run(1.9)
    assert len(one.shards) == 16
    assert cluster.run(1, until=lambda: len(other.shards) == 8) < 0.8
    cluster.run(10)
    assert len(one.asked) == 1, "once the shares are equal, nothing is asked for again"


def test_the_shards_of_a_killed_coordinator_are_taken_with_the_next_look() -> None:
    cluster, one, other = two()
    one.kill()
    assert cluster.run(1, until=lambda: len(other.shards) == 16) <= 0.25
    assert one.term.journal.connection.id in cluster.database.killed


def test_a_hung_coordinator_is_seized_after_t_and_not_before() -> None:
    cluster, one, other = two()
    connections = [one.term.journal.connection.id, cluster.database.coordinators[one.incarnation].lock_connection.id]
    one.frozen = True
    hung = cluster.run(8, until=lambda: len(other.shards) == 16)
    assert 4.7 <= hung <= 6.7
    assert cluster.database.killed == connections
    one.frozen = False
    cluster.run(0.1)
    assert one.lost == "the lease was not renewed for 5000 ms"


def test_an_owner_stops_trusting_itself_before_it_is_seized() -> None:
    cluster, one, other = two()
    one.frozen = True
    cluster.run(8, until=lambda: not one.lease.fresh(cluster.clock.us))
    assert len(other.shards) == 8
    cluster.run(8, until=lambda: len(other.shards) == 16)
    assert len(other.shards) == 16


def test_one_own_stall_seizes_nobody() -> None:
    cluster, one, other = two()
    # The other process sleeps just short of its lease, while the first did not renew in the last second: both were paused.
    other.frozen = one.frozen = True
    cluster.run(3.5)
    other.frozen = False
    cluster.run(0.9)
    one.frozen = False
    cluster.run(3)
    assert cluster.database.killed == []
    assert (one.lost, other.lost) == (None, None)


def test_a_coordinator_that_was_seized_comes_back_as_another_incarnation() -> None:
    cluster, one, other = two()
    one.frozen = True
    cluster.run(8, until=lambda: len(other.shards) == 16)
    one.frozen = False
    cluster.run(0.1)
    again = cluster.add("one")
    assert again.incarnation != one.incarnation
    cluster.run(3)
    assert (len(again.shards), len(other.shards)) == (8, 8)


def test_a_lease_is_not_renewed_while_the_loop_hangs() -> None:
    cluster, one, other = two()
    one.loop_hangs_since_us = cluster.clock.us
    cluster.run(4, until=lambda: one.lost is not None)
    assert one.lost is not None
    assert re.fullmatch(r"the control loop has not run for \d+ ms", one.lost)
    assert cluster.run(1, until=lambda: len(other.shards) == 16) <= 0.25


def test_a_lease_is_not_renewed_while_a_batch_does_not_end() -> None:
    cluster, one, _ = two()
    one.oldest_batch_us = TIMES.lease_us + 1
    cluster.run(1.5)
    assert one.lost == "a batch has been under way for 5000 ms"


def test_a_database_that_does_not_answer_ends_the_incarnation_and_its_writer_before_its_lock() -> None:
    cluster, one, other = two()
    cluster.database.down = True
    cluster.run(1)
    assert one.lost == other.lost == "the database does not answer"
    assert not one.lease.fresh(cluster.clock.us)
    cluster.database.down = False
    assert cluster.database.connections == set()


def test_a_lock_that_is_gone_ends_the_incarnation() -> None:
    cluster, one, _ = two()
    cluster.database.locks.pop(one.incarnation)
    cluster.run(0.3)
    assert one.lost == "the lock or the lease row of this incarnation is gone"


def test_a_lock_held_by_another_connection_than_the_recorded_one_is_no_lock() -> None:
    cluster, one, other = two()
    one.frozen = True
    cluster.database.locks[one.incarnation] = 4711
    assert cluster.run(1, until=lambda: len(other.shards) == 16) <= 0.25


def test_a_writer_that_connected_again_is_recorded() -> None:
    cluster, one, _ = two()
    one.term.journal.connection = cluster.database.connect()  # type: ignore[misc]  # a fake's journal connects like this
    cluster.run(1.1)
    assert cluster.database.coordinators[one.incarnation].writer_connection == one.term.journal.connection


def test_a_coordinator_without_workers_gives_its_shards_to_one_that_has_some() -> None:
    cluster, one, other = two()
    one.workers = 0
    cluster.run(2.5)
    assert len(other.shards) == 8, "workers that are away for a moment move nothing"
    cluster.run(2)
    assert len(other.shards) == 16
    one.workers = 1
    cluster.run(2)
    assert len(one.shards) == 8


def test_workers_that_reach_one_coordinator_first_move_nothing() -> None:
    cluster = Cluster()
    one, other = cluster.add("one", workers=0), cluster.add("other", workers=0)
    cluster.run(5)
    assert len(one.shards) == 8
    one.workers = 1
    cluster.run(1.5)
    other.workers = 1
    cluster.run(5)
    assert len(other.takes) == 8


def test_shards_that_nobody_takes_for_t_are_taken_by_anyone_and_kept() -> None:
    cluster, one, other = two()
    one.term.withdrawn = True
    one.term.journal.release({shard: cluster.database.shards[shard].epoch for shard in one.shards})
    waited = cluster.run(10, until=lambda: len(other.shards) == 16)
    assert 5.7 <= waited <= 6.2
    cluster.run(20)
    assert len(other.shards) == 16
    assert other.asked == []


def test_a_request_to_release_that_is_not_heard_is_repeated_after_t() -> None:
    cluster = Cluster()
    one = cluster.add("one")
    one.obeys = False
    cluster.add("other")
    cluster.run(2 + 2 * 6)
    first, second, *_ = [at for at, _ in one.asked]
    assert TIMES.hung_us <= second - first <= TIMES.hung_us + SECOND


def test_a_withdrawn_coordinator_takes_nothing_and_stays_live() -> None:
    cluster, one, other = two()
    one.term.withdrawn = True
    other.kill()
    cluster.run(7)
    assert len(one.shards) == 8
    assert one.lost is None


def test_a_clean_end_leaves_no_lease_row_but_an_owner_leaves_one() -> None:
    cluster, one, other = two()
    one.alive = False
    one.term.end(clean=True)
    assert one.incarnation in cluster.database.coordinators
    cluster.run(1)
    assert len(other.shards) == 16
    other.alive = False
    other.term.journal.release({shard: cluster.database.shards[shard].epoch for shard in other.shards})
    other.term.end(clean=True)
    assert other.incarnation not in cluster.database.coordinators
    assert cluster.database.connections == set()


def test_the_lease_row_of_the_dead_goes_after_t() -> None:
    cluster, one, _ = two()
    one.kill()
    cluster.run(5)
    assert one.incarnation in cluster.database.coordinators
    cluster.run(2)
    assert one.incarnation not in cluster.database.coordinators


def test_a_lone_coordinator_refuses_to_begin_beside_a_live_one() -> None:
    cluster = Cluster()
    cluster.add("one", lone=True)
    with pytest.raises(SettingsError, match=r"coordinator 'one' \(one:1\) is live .* DISTRIBUTED_MODE=true"):
        cluster.add("other", lone=True)


def test_a_lone_coordinator_replaces_a_hung_one_after_t() -> None:
    cluster = Cluster()
    one = cluster.add("one", lone=True)
    one.frozen = True
    other = cluster.add("other", lone=True)
    cluster.run(1)
    assert len(other.shards) == 16


def test_of_two_lone_coordinators_that_begin_together_the_younger_yields() -> None:
    cluster = Cluster()
    one = Node(cluster, "one", lone=False, workers=0).begin()
    other = Node(cluster, "other", lone=False, workers=0).begin()
    one.term._lone = other.term._lone = True  # as if each had looked before the other took its lock
    younger, elder = (one, other) if one.incarnation > other.incarnation else (other, one)
    with pytest.raises(SettingsError, match="is live on this database"):
        younger.step()
    younger.term.end(clean=False)
    elder.step()
    assert len(elder.shards) == 16


def test_a_lone_coordinator_gives_nothing_up() -> None:
    cluster = Cluster()
    one = cluster.add("one", lone=True)
    other = cluster.add("other")
    cluster.run(10)
    assert len(one.shards) == 16
    assert other.shards == []


def test_the_recovery_grace_is_stored_with_the_epoch() -> None:
    cluster = Cluster()
    cluster.add("one")
    graces = {row.grace_until_us - cluster.database.now_us() for row in cluster.database.shards.values()}
    assert graces == {9_714_000}


def test_a_lone_owner_stays_beside_one_that_claims_to_be_older() -> None:
    cluster = Cluster()
    one = cluster.add("one", lone=True)
    cluster.database.offset_us -= 3600 * SECOND  # the database's clock went back
    other = Node(cluster, "other", lone=False, workers=0).begin()
    other.term._lone = True
    with pytest.raises(SettingsError, match="coordinator 'one'"):
        other.step()
    cluster.run(2)
    assert (one.lost, len(one.shards)) == (None, 16)


def test_a_shard_that_is_ours_by_its_row_alone_is_taken_again_under_a_new_epoch() -> None:
    cluster, one, _ = two()
    shard = one.shards[0]
    epoch = cluster.database.shards[shard].epoch
    one.forgot.add(shard)
    assert cluster.run(3, until=lambda: (shard, epoch + 1) in one.takes) <= 1.3
    cluster.run(5)
    assert one.takes.count((shard, epoch + 1)) == 1
    assert one.lost is None


def test_a_shard_that_was_taken_a_moment_ago_is_not_taken_again() -> None:
    cluster, one, other = two()
    one.kill()
    cluster.run(1, until=lambda: len(other.shards) == 16)
    other.forgot |= set(other.shards)  # the control loop has not heard of it yet
    cluster.run(0.9)
    other.forgot.clear()
    cluster.run(3)
    assert {cluster.database.shards[shard].epoch for shard in other.shards} <= {1, 2, 3}
    assert len({shard for shard, _ in other.takes}) == 16
    assert len(other.takes) == 16


def test_a_locked_row_keeps_no_other_shard_from_being_taken() -> None:
    cluster, one, other = two()
    stuck = one.shards[0]
    cluster.database.row_locks[stuck] = cluster.database.connect()
    one.kill()
    cluster.run(4, until=lambda: len(other.shards) == 15)
    assert len(other.shards) == 15
    cluster.run(10)
    assert other.lost is None, "waiting for a row does not cost the lease"
    cluster.database.row_locks.clear()
    assert cluster.run(2, until=lambda: len(other.shards) == 16) <= 1


def test_a_lease_row_that_is_locked_for_a_moment_costs_nothing() -> None:
    cluster, one, other = two()
    cluster.database.lease_locks.add(one.incarnation)
    cluster.run(3)
    cluster.database.lease_locks.clear()
    cluster.run(3)
    assert (one.lost, other.lost) == (None, None)
    assert (len(one.takes), len(other.takes)) == (16, 8)


def test_a_lease_row_that_stays_locked_ends_the_incarnation_before_it_is_seized() -> None:
    cluster, one, other = two()
    cluster.database.lease_locks.add(one.incarnation)
    cluster.run(10, until=lambda: len(other.shards) == 16)
    assert one.lost == "the lease was not renewed for 5000 ms"
    assert other.lost is None


def test_a_writer_is_recorded_once_its_lease_row_is_free() -> None:
    cluster, one, _ = two()
    one.term.journal.connection = cluster.database.connect()  # type: ignore[misc]  # a fake's journal connects like this
    cluster.database.lease_locks.add(one.incarnation)
    cluster.run(2)
    cluster.database.lease_locks.clear()
    cluster.run(2)
    assert cluster.database.coordinators[one.incarnation].writer_connection == one.term.journal.connection


def test_a_dead_ones_lease_row_that_is_locked_stays_behind_until_it_is_free() -> None:
    cluster, one, other = two()
    cluster.database.lease_locks.add(one.incarnation)
    one.kill()
    cluster.run(12)
    assert other.lost is None
    assert one.incarnation in cluster.database.coordinators
    cluster.database.lease_locks.clear()
    cluster.run(1)
    assert one.incarnation not in cluster.database.coordinators


def test_a_writer_that_the_dead_opened_anew_is_ended_too() -> None:
    cluster, one, other = two()
    rows, who = cluster.database.coordinators, one.incarnation
    one.kill()
    cluster.run(0.3)
    zombie = cluster.database.connect()
    cluster.database.row_locks[other.shards[0]] = zombie
    rows[who] = replace(rows[who], writer_connection=zombie)
    cluster.database.shards[other.shards[0]] = replace(cluster.database.shards[other.shards[0]], holder=who)
    assert cluster.run(3, until=lambda: len(other.shards) == 16) <= 1
    assert zombie.id in cluster.database.killed


@pytest.mark.parametrize("jump_s", [3_600, -3_600])
def test_a_clock_that_jumps_moves_no_shard_and_ends_no_term(jump_s: int) -> None:
    cluster, one, other = two()
    shards = (one.shards, other.shards)
    cluster.database.offset_us += jump_s * SECOND
    cluster.run(20)
    assert (one.lost, other.lost) == (None, None)
    assert (one.shards, other.shards) == shards
    other.kill()
    assert cluster.run(5, lambda: len(one.shards) == 16) < 1
