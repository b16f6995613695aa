"""What every store does, whatever is behind it."""

import pytest

from mainspring.errors import FencedError, PoisonBatchError, StoreUnavailableError
from mainspring_coordinator.engine.rows import (
    AttemptEnded,
    GraceEnded,
    MapExpanded,
    NodeChanged,
    PlanSaved,
    ProgressSaved,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.store.protocol import ClusterRow, Store, WorkflowFilter
from tests.store.members import assigned, digest, join, lease, me, rival, shard_row, shards_total, succeeded, workflow

KIB = 1024
MIB = 1024 * KIB


def ended(name: str, version: int, shard: int = 0) -> WorkflowUpdated:
    return WorkflowUpdated(shard, name, version, WorkflowStatus.SUCCEEDED, output=b'"done"', ended_at_us=30)


def test_the_cluster_that_is_there_wins(store: Store) -> None:
    assert store.reader().cluster() is None
    assert store.create_cluster(ClusterRow("first", 4)) == ClusterRow("first", 4)
    assert store.create_cluster(ClusterRow("second", 8)) == ClusterRow("first", 4)
    assert [row.shard for row in store.reader().shards()] == [0, 1, 2, 3]
    assert {row.epoch for row in store.reader().shards()} == {0}


def test_a_workflow_is_read_back_as_it_was_written(store: Store) -> None:
    everything = bytes(range(256)) * 4
    member = join(store, me, 0)
    member.commit(workflow("w", payload=everything, called="Übersicht 'x' \\ 🗓"))
    stored = store.reader().workflow("w")
    assert stored is not None
    assert (stored.input, stored.name, stored.digest) == (everything, "Übersicht 'x' \\ 🗓", digest)
    assert (stored.status, stored.version, stored.submitted_at_us, stored.output) == (
        WorkflowStatus.RUNNING,
        1,
        5,
        None,
    )
    assert store.reader().workflow("W") is None, "ids differ by case"


def test_a_node_keeps_its_latest_attempt_only(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"), assigned("w", 0))
    member.commit(ProgressSaved(0, "w", 0, -1, 3, b'{"done": 3}'))
    failure = b'{"type": "E"}'
    member.commit(
        NodeChanged(0, "w", 0, -1, 3, NodeStatus.BACKOFF, 1, None, failure, 20, 9, 25, 0),
        AttemptEnded(0, "w", 0, -1, 1, "one", 11, 20, 9, failure),
    )
    waiting = store.reader().node("w", 0, -1)
    assert waiting is not None
    assert (waiting.status, waiting.failure, waiting.retry_at_us, waiting.worker) == (
        NodeStatus.BACKOFF,
        failure,
        25,
        "wörker'\\",
    )
    member.commit(assigned("w", 0, version=4, attempt=2))
    again = store.reader().node("w", 0, -1)
    assert again is not None
    assert (again.status, again.attempt, again.failure, again.ended_at_us, again.retry_at_us) == (
        NodeStatus.RUNNING,
        2,
        None,
        0,
        0,
    )
    assert again.progress == b'{"done": 3}', "the next attempt can read it"
    (before,) = store.reader().attempts("w")
    assert (before.attempt, before.failure, before.run_us) == (1, failure, 9)


def test_rows_of_one_node_in_one_batch_keep_their_order(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"), assigned("w", 0), assigned("w", 1), assigned("w", 2))
    member.commit(
        succeeded("w", 0, b"7"),
        NodeChanged(0, "w", 1, -1, 3, NodeStatus.READY, 1, redeliveries=1),
        assigned("w", 1, version=4),
        succeeded("w", 1, b"8", version=5),
        MapExpanded(0, "w", 2, 6, 3, 12),
        succeeded("w", 2, b"[]", version=7, attempt=0),
        ended("w", 8),
    )
    rows = store.reader().outputs("w", [0, 1, 2])
    assert [(row.output, row.status, row.version) for row in rows] == [
        (b"7", NodeStatus.SUCCEEDED, 3),
        (b"8", NodeStatus.SUCCEEDED, 5),
        (b"[]", NodeStatus.SUCCEEDED, 7),
    ]
    assert (rows[1].worker, rows[1].assignment, rows[2].width) == ("wörker'\\", (1 << 32) + 1, 3)


def test_a_workflow_that_began_and_ended_in_one_batch_is_stored_ended(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"), succeeded("w", 0), ended("w", 2))
    stored = store.reader().workflow("w")
    assert stored is not None
    assert (stored.status, stored.output, stored.ended_at_us, stored.version) == (
        WorkflowStatus.SUCCEEDED,
        b'"done"',
        30,
        2,
    )
    assert not store.reader().open_workflows(0, (-1, ""), 10)


def test_a_second_submit_of_an_id_writes_nothing_of_its_workflow(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"))
    plan = PlanSaved(0, "w", b"p" * 32, b"{}")
    done = member.commit(plan, workflow("w", payload=b"other"), assigned("w", 0), workflow("v"), ended("w", 9))
    assert {name: (found.digest, found.status) for name, found in done.existing.items()} == {
        "w": (digest, WorkflowStatus.RUNNING)
    }
    stored = store.reader().workflow("w")
    assert stored is not None
    assert (stored.input, stored.status, store.reader().nodes_of(["w"])) == (b"{}", WorkflowStatus.RUNNING, [])
    assert store.reader().workflow("v") is not None
    assert store.reader().plan(0, b"p" * 32) == b"{}", "the other workflow may share it"


def test_versions_are_the_highest_of_workflow_and_nodes(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"), assigned("w", 0, version=2))
    member.commit(succeeded("w", 0, version=5))
    stored = store.reader().workflow("w")
    assert stored is not None
    assert stored.version == 5
    assert [row.version for row in store.reader().list_workflows(WorkflowFilter(), None, 10)] == [5]


def test_unfinished_workflows_come_in_pages_by_submit_time_and_id(store: Store) -> None:
    member = join(store, me, 0, 1)
    at_us = {"d": 3, "b": 1, "a": 9, "c": 3, "f": 0}
    member.commit(*(workflow(name, submitted_at_us=at_us[name]) for name in at_us))
    member.commit(workflow("e", shard=1), ended("b", 2))
    first = store.reader().open_workflows(0, (-1, ""), 2)
    assert [(row.workflow_id, row.input) for row in first] == [("f", b"{}"), ("c", b"{}")]
    assert [row.workflow_id for row in store.reader().open_workflows(0, (3, "c"), 9)] == ["d", "a"]


def test_lists_come_newest_first_and_filtered(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(
        *(workflow(f"w_{n}", submitted_at_us=n // 2, called="even" if n % 2 == 0 else "odd") for n in range(6))
    )
    member.commit(workflow("wx1", submitted_at_us=9), ended("w_0", 2))
    reader = store.reader()

    def ids(wanted: WorkflowFilter, before: tuple[int, str] | None = None, limit: int = 10) -> list[str]:
        return [row.workflow_id for row in reader.list_workflows(wanted, before, limit)]

    assert ids(WorkflowFilter(), None, 3) == ["wx1", "w_5", "w_4"]
    assert ids(WorkflowFilter(), (2, "w_4"), 3) == ["w_3", "w_2", "w_1"]
    assert ids(WorkflowFilter(name="odd")) == ["w_5", "w_3", "w_1"]
    assert ids(WorkflowFilter(id_prefix="w_")) == ["w_5", "w_4", "w_3", "w_2", "w_1", "w_0"]
    assert ids(WorkflowFilter(statuses=[WorkflowStatus.SUCCEEDED])) == ["w_0"]
    assert ids(WorkflowFilter(submitted_from_us=1, submitted_before_us=2)) == ["w_3", "w_2"]


def test_node_pages_follow_node_and_instance(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(
        workflow("w"), *(assigned("w", node, instance=instance) for node in (1, 0) for instance in (-1, 0, 1))
    )
    member.commit(succeeded("w", 0, instance=1))
    page = store.reader().node_page("w", (0, 0), 3)
    assert [(row.node, row.instance) for row in page] == [(0, 1), (1, -1), (1, 0)]
    only = store.reader().node_page("w", (-1, -1), 9, [NodeStatus.SUCCEEDED])
    assert [(row.node, row.instance, row.output) for row in only] == [(0, 1, None)]


def test_the_ended_instances_of_a_map_are_counted_without_the_node_itself(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(
        workflow("w"), *(assigned("w", node, instance=instance) for node in (0, 1) for instance in (-1, 0, 1, 2))
    )
    member.commit(succeeded("w", 0, instance=-1), succeeded("w", 0, instance=1), succeeded("w", 0, instance=2))
    reader = store.reader()
    assert [reader.instances_ended("w", node) for node in (0, 1, 2)] == [2, 0, 0]
    assert reader.instances_ended("nobody", 0) == 0


def test_a_large_definition_comes_back_whole_and_only_to_its_shard(store: Store) -> None:
    member = join(store, me, 0)
    definition = bytes(range(256)) * (5 * MIB // 256) + b"end"
    member.commit(PlanSaved(0, "w", b"\x00'\\" + b"p" * 29, definition), workflow("w"))
    member.commit(PlanSaved(0, "v", b"\x00'\\" + b"p" * 29, b"another"), workflow("v"))
    assert store.reader().plan(0, b"\x00'\\" + b"p" * 29) == definition
    assert store.reader().plan(1, b"\x00'\\" + b"p" * 29) is None


def test_large_payloads_are_one_transaction_in_many_statements(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"))
    payloads = [bytes([39 + n]) * MIB for n in range(12)]
    done = member.commit(*(succeeded("w", node, payload) for node, payload in enumerate(payloads)))
    assert [row.output for row in store.reader().outputs("w", range(12))] == payloads
    assert shard_row(member, 0).batch_seq == 2
    assert done.round_trips >= 1


def test_thousands_of_rows_are_one_transaction(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"), *(assigned("w", 0, instance=instance) for instance in range(2_500)))
    assert len(store.reader().nodes_of(["w"])) == 2_500


def test_a_stale_epoch_commits_nothing(store: Store) -> None:
    old, new = join(store, me, 0), join(store, rival)
    new.take(0)
    with pytest.raises(FencedError) as lost:
        old.commit(workflow("w"))
    assert lost.value.lost == {0: 2}
    assert store.reader().workflow("w") is None
    assert shard_row(new, 0).batch_seq == 0
    new.commit(workflow("w"))
    assert store.reader().workflow("w") is not None


def test_losing_one_shard_writes_nothing_and_leaves_the_rest_to_be_written(store: Store) -> None:
    old, new = join(store, me, 0, 1, 2), join(store, rival)
    new.take(1)
    rows = [workflow("a", 0), workflow("b", 1), workflow("c", 2)]
    with pytest.raises(FencedError) as lost:
        old.commit(*rows)
    assert lost.value.lost == {1: 2}
    assert not store.reader().list_workflows(WorkflowFilter(), None, 10)
    old.commit(rows[0], rows[2])
    assert [row.workflow_id for row in store.reader().list_workflows(WorkflowFilter(), None, 10)] == ["c", "a"]


def test_a_shard_that_was_never_adopted_is_lost(store: Store) -> None:
    member = join(store, me, 0)
    with pytest.raises(FencedError) as lost:
        member.journal.commit(member.batch([workflow("w", 3)], {3: 1}))
    assert lost.value.lost == {3: 0}


def test_a_proof_names_the_shards_that_are_lost(store: Store) -> None:
    old, new = join(store, me, 0, 1), join(store, rival)
    old.journal.prove({0: 1, 1: 1})
    new.take(1)
    with pytest.raises(FencedError) as lost:
        old.journal.prove({0: 1, 1: 1})
    assert lost.value.lost == {1: 2}


def test_a_released_shard_goes_on_with_its_sequence(store: Store) -> None:
    old, new = join(store, me, 0), join(store, rival)
    old.commit(workflow("w"))
    old.journal.release({0: 1})
    row = shard_row(new, 0)
    assert (row.holder, row.epoch, row.batch_seq) == (None, 1, 2)
    with pytest.raises(FencedError):
        old.commit(workflow("v"))
    new.take(0)
    new.commit(workflow("v"))
    assert (shard_row(new, 0).holder, shard_row(new, 0).epoch, shard_row(new, 0).batch_seq) == (rival, 2, 3)


def test_a_shard_is_released_under_no_lower_an_epoch_than_is_wanted(store: Store) -> None:
    old, new = join(store, me, 0, 1, 2), join(store, rival)
    old.journal.release({0: 1, 1: 1}, {0: 7, 1: 0, 2: 9})
    assert [(row.holder, row.epoch) for row in store.reader().shards()][:3] == [(None, 7), (None, 1), (me, 1)]
    new.take(0)
    new.commit(workflow("v"))
    assert (shard_row(new, 0).holder, shard_row(new, 0).epoch) == (rival, 8)
    with pytest.raises(FencedError) as lost:
        old.journal.release({0: 1, 2: 1}, {0: 50, 2: 1})
    assert lost.value.lost == {0: 8}
    assert [(row.holder, row.epoch) for row in store.reader().shards()][:3] == [(rival, 8), (None, 1), (None, 1)]


def test_releasing_a_lost_shard_still_releases_the_others(store: Store) -> None:
    old, new = join(store, me, 0, 1), join(store, rival)
    new.take(0)
    with pytest.raises(FencedError) as lost:
        old.journal.release({0: 1, 1: 1})
    assert lost.value.lost == {0: 2}
    assert [row.holder for row in store.reader().shards()] == [rival, None, None, None]


def test_of_two_that_take_a_shard_one_gets_it(store: Store) -> None:
    one, two = join(store, me), join(store, rival)
    seen = shard_row(one, 0)
    assert one.lock.take(seen, me, 0) is not None
    assert two.lock.take(seen, rival, 0) is None
    assert shard_row(one, 0).holder == me


def test_a_grace_that_has_not_passed_is_kept_by_the_next_owner(store: Store) -> None:
    one = join(store, me)
    first = one.lock.take(shard_row(one, 0), me, 60_000_000)
    assert first is not None
    second = one.lock.take(first, rival, 120_000_000)
    assert second is not None
    assert second.grace_until_us == first.grace_until_us
    now_us = one.lock.poll().now_us
    assert now_us < first.grace_until_us <= now_us + 60_000_000


def test_a_grace_that_was_ended_is_a_whole_one_for_the_next_owner(store: Store) -> None:
    one = join(store, me, 0, 1)
    first = one.lock.take(shard_row(one, 0), me, 1_000_000)
    assert first is not None
    one.journal.adopt(first)
    one.epochs[0] = first.epoch
    one.commit(GraceEnded(0), GraceEnded(0), GraceEnded(1))
    assert [shard_row(one, shard).grace_until_us for shard in (0, 1)] == [0, 0]
    one.commit(GraceEnded(0))
    second = one.lock.take(shard_row(one, 0), rival, 60_000_000)
    assert second is not None
    assert second.grace_until_us > one.lock.poll().now_us + 30_000_000


def test_a_grace_from_before_the_servers_clock_went_back_is_not_waited_for(store: Store) -> None:
    one = join(store, me)
    first = one.lock.take(shard_row(one, 0), me, 3_600_000_000)
    assert first is not None
    second = one.lock.take(first, rival, 60_000_000)
    assert second is not None
    assert second.grace_until_us <= one.lock.poll().now_us + 60_000_000


def test_the_lock_of_an_incarnation_is_held_once_and_shown_to_all(store: Store) -> None:
    one = join(store, me)
    other = store.open_lock_session("test")
    assert other.acquire(lease(me, other, "two")) is False
    (peer,) = other.poll().peers
    assert (peer.row.incarnation, peer.row.name, peer.locked_by) == (me, "one", one.lock.connection.id)
    one.lock.close()
    with pytest.raises(StoreUnavailableError):
        one.lock.poll()


def test_each_renewal_is_seen_by_the_peers(store: Store) -> None:
    one = join(store, me)
    before = one.lock.poll()
    now_us = one.lock.renew(me, 3)
    after = one.lock.poll()
    assert (after.peers[0].row.renew_seq, after.peers[0].row.attached_workers) == (before.peers[0].row.renew_seq + 1, 3)
    assert before.now_us <= now_us <= after.now_us


def test_a_lease_row_that_is_gone_cannot_be_renewed(store: Store) -> None:
    one = join(store, me)
    one.lock.forget(me)
    with pytest.raises(FencedError):
        one.lock.renew(me, 0)


def test_an_incarnation_that_holds_a_shard_is_not_forgotten(store: Store) -> None:
    one = join(store, me, 0)
    one.lock.forget(me)
    assert [row.incarnation for row in store.reader().coordinators()] == [me]
    one.journal.release({0: 1})
    one.lock.forget(me)
    assert not store.reader().coordinators()


def test_the_writer_is_in_the_lease_row(store: Store) -> None:
    one = join(store, me)
    assert store.reader().coordinators()[0].writer_connection == one.journal.connection


def test_an_attempt_that_is_stored_twice_stays_as_it_was(store: Store) -> None:
    member = join(store, me, 0)
    for worker in ("one", "two"):
        member.commit(AttemptEnded(0, "w", 0, -1, 1, worker, 1, 2, 1, b"{}"))
    assert [row.worker for row in store.reader().attempts("w", 0, -1)] == ["one"]
    assert store.reader().attempts("w", 1) == []


def test_progress_raises_the_version_that_is_stored(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"), assigned("w", 0))
    member.commit(ProgressSaved(0, "w", 0, -1, 9, b"1"))
    stored = store.reader().workflow("w")
    assert stored is not None
    assert stored.version == 9


def test_progress_of_a_node_without_a_row_makes_none(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(ProgressSaved(0, "w", 0, -1, 2, b"{}"))
    assert store.reader().nodes_of(["w"]) == []


def test_rows_that_cannot_be_written_are_named_by_their_workflow(store: Store) -> None:
    member = join(store, me, 0)
    rows = [workflow(f"w{n}") for n in range(9)]
    with pytest.raises(PoisonBatchError) as poison:
        member.commit(*rows, ended("ghost", 2))
    assert poison.value.workflow_id == "ghost"
    assert not store.reader().list_workflows(WorkflowFilter(), None, 10)
    member.commit(*rows)
    assert len(store.reader().list_workflows(WorkflowFilter(), None, 10)) == 9


def test_a_batch_that_was_committed_is_not_committed_again(store: Store) -> None:
    member = join(store, me, 0)
    batch = member.batch([workflow("w")])
    assert member.journal.commit(batch) == member.journal.commit(batch)
    assert shard_row(member, 0).batch_seq == 1


def test_a_closed_journal_says_so(store: Store) -> None:
    member = join(store, me, 0)
    member.journal.close()
    member.journal.close()
    with pytest.raises(StoreUnavailableError):
        member.commit(workflow("w"))
    assert shards_total == len(store.reader().shards())
