"""An operator frees the shards of a coordinator's incarnation: of a dead one, and of one that lives only by force."""

from collections.abc import Callable

import pytest

from mainspring.errors import (
    BadRequestError,
    MainspringError,
    NotFoundError,
    PreconditionError,
    StoreUnavailableError,
    UnavailableError,
)
from mainspring_coordinator.deaths import noted
from mainspring_coordinator.engine.status import FailoverKind
from mainspring_coordinator.releasing import Released, ReleaseOrder, ReleaseOrders
from tests.ownership.cluster import Cluster, Node


def order(node: Node, *, name: str = "", force: bool = False) -> ReleaseOrder:
    return ReleaseOrder(node.incarnation, name or node.name, force)


def two(*, failover: bool = False) -> tuple[Cluster, Node, Node]:
    cluster = Cluster(failover=failover)
    victim, heir = cluster.add("victim"), cluster.add("heir")
    cluster.run(10, lambda: len(victim.shards) == len(heir.shards) == 8)
    return cluster, victim, heir


def test_with_failover_off_the_shards_of_the_dead_are_taken_with_the_next_look_after_their_release() -> None:
    cluster, victim, heir = two()
    left = victim.shards
    epochs = {shard: cluster.database.shards[shard].epoch for shard in left}
    victim.kill()
    cluster.run(30)
    assert victim.shards == left
    assert heir.term.release(order(victim)) == Released(8, was_live=False)
    freed = {shard: cluster.database.shards[shard] for shard in left}
    assert all(row.holder is None and row.epoch == epochs[shard] + 1 for shard, row in freed.items())
    assert cluster.run(1, until=lambda: len(heir.shards) == 16) <= 0.25
    (death,) = {death for row in cluster.database.shards.values() for death in noted(row.deaths)}
    assert (death.kind, death.name, death.incarnation) == (
        FailoverKind.COORDINATOR_KILLED,
        "victim",
        victim.incarnation,
    )
    cluster.run(30)
    assert victim.incarnation not in cluster.database.coordinators, "nothing of it is left"


def test_freed_shards_are_shared_by_all_that_live() -> None:
    cluster = Cluster(failover=False)
    nodes = [cluster.add(name) for name in ("victim", "one", "two")]
    cluster.run(20, lambda: sorted(len(node.shards) for node in nodes) == [5, 5, 6])
    nodes[0].kill()
    cluster.run(10)
    nodes[1].term.release(order(nodes[0]))
    cluster.run(2, lambda: len(nodes[1].shards) == len(nodes[2].shards) == 8)
    assert (len(nodes[1].shards), len(nodes[2].shards)) == (8, 8)


def test_one_that_lives_is_refused_and_keeps_all() -> None:
    cluster, victim, heir = two()
    held = victim.shards
    with pytest.raises(PreconditionError, match=r"'victim' .* lives: its lock is held"):
        heir.term.release(order(victim))
    cluster.run(5)
    assert (victim.shards, victim.lost, cluster.database.killed) == (held, None, [])


@pytest.mark.parametrize("frozen", [True, False])
def test_by_force_one_that_lives_loses_its_connections_first_and_with_them_its_term(frozen: bool) -> None:
    cluster, victim, heir = two(failover=True)
    connections = [
        victim.term.journal.connection.id,
        cluster.database.coordinators[victim.incarnation].lock_connection.id,
    ]
    victim.frozen = frozen
    with pytest.raises(PreconditionError):
        heir.term.release(order(victim))
    assert heir.term.release(order(victim, force=True)) == Released(8, was_live=True)
    assert cluster.database.killed == connections
    victim.frozen = False
    cluster.run(1.5)
    assert victim.lost == "the database does not answer"
    assert len(heir.shards) == 16
    again = cluster.add("victim")
    cluster.run(5, lambda: len(again.shards) == 8)
    assert (len(again.shards), len(heir.shards)) == (8, 8)


def test_the_name_must_be_that_of_the_incarnation() -> None:
    cluster, victim, heir = two()
    victim.kill()
    cluster.run(1)
    with pytest.raises(BadRequestError, match="is one of coordinator 'victim', not of 'viktim'"):
        heir.term.release(order(victim, name="viktim"))
    assert len(victim.shards) == 8


def test_nobody_releases_itself() -> None:
    _, victim, _ = two()
    with pytest.raises(PreconditionError, match="asked to release itself"):
        victim.term.release(order(victim, force=True))
    assert len(victim.shards) == 8


def test_an_incarnation_that_nobody_knows_is_not_found_but_one_without_a_lease_row_is() -> None:
    cluster, victim, heir = two()
    with pytest.raises(NotFoundError, match="no coordinator of incarnation"):
        heir.term.release(ReleaseOrder("f" * 32, "who", force=True))
    victim.kill()
    del cluster.database.coordinators[victim.incarnation]
    assert heir.term.release(order(victim)) == Released(8, was_live=False)
    (death,) = {death for row in cluster.database.shards.values() for death in noted(row.deaths)}
    assert (death.name, death.incarnation) == ("victim", victim.incarnation)


def test_a_row_that_is_locked_leaves_all_as_they_were_and_the_term_goes_on() -> None:
    cluster, victim, heir = two()
    held = victim.shards
    stranger = cluster.database.connect()
    cluster.database.row_locks[held[3]] = stranger
    victim.kill()
    with pytest.raises(UnavailableError, match="a transaction still holds a row"):
        heir.term.release(order(victim))
    assert victim.shards == held
    cluster.database.disconnect(stranger.id)
    assert heir.term.release(order(victim)).shards == 8
    assert heir.lost is None


# -- from the event loop to the thread -----------------------------------------------------------------------------------------

WANTED = ReleaseOrder("a" * 32, "one", force=False)


def raising(*errors: MainspringError) -> Callable[[ReleaseOrder], Released]:
    left = iter(errors)

    def release(_: ReleaseOrder) -> Released:
        raise next(left)

    return release


def test_orders_are_done_one_after_the_other_within_a_term() -> None:
    orders = ReleaseOrders()
    orders.open()
    first, second = orders.put(WANTED), orders.put(WANTED)
    orders.do(lambda wanted: Released(len(wanted.name), was_live=False))
    assert first.result(0) == second.result(0) == Released(3, was_live=False)


def test_between_terms_nothing_waits_for_ever() -> None:
    orders = ReleaseOrders()
    with pytest.raises(UnavailableError, match="has no term"):
        orders.put(WANTED).result(0)
    orders.open()
    waiting = orders.put(WANTED)
    orders.close()
    with pytest.raises(UnavailableError, match="has no term"):
        waiting.result(0)


def test_whoever_goes_before_it_is_begun_has_nothing_done_and_ends_no_term() -> None:
    orders = ReleaseOrders()
    orders.open()
    done: list[ReleaseOrder] = []

    def release(wanted: ReleaseOrder) -> Released:
        done.append(wanted)
        return Released(0, was_live=False)

    assert orders.put(WANTED).cancel()
    second = orders.put(WANTED)
    orders.do(release)
    assert done == [WANTED]
    assert second.done()
    assert orders.put(WANTED).cancel()
    orders.close()


def test_a_refusal_is_an_answer_and_what_ends_the_term_is_raised_as_well() -> None:
    orders = ReleaseOrders()
    orders.open()
    refused, failed, left = orders.put(WANTED), orders.put(WANTED), orders.put(WANTED)
    with pytest.raises(StoreUnavailableError):
        orders.do(raising(PreconditionError("lives"), StoreUnavailableError("gone")))
    assert isinstance(refused.exception(0), PreconditionError)
    assert isinstance(failed.exception(0), StoreUnavailableError)
    assert not left.done()
    orders.close()
    assert isinstance(left.exception(0), UnavailableError)
