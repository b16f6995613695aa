"""What a fence row notes of the owners that died, and who may take what they left."""

from dataclasses import replace

import pytest

from mainspring_coordinator.deaths import note, noted
from mainspring_coordinator.engine.events import Death
from mainspring_coordinator.engine.status import FailoverKind
from tests.ownership.cluster import Cluster

KILLED, HUNG = FailoverKind.COORDINATOR_KILLED, FailoverKind.COORDINATOR_HUNG


def test_notes_are_read_back_in_their_order_and_each_death_once() -> None:
    first = Death(KILLED, 'one "quoted"\n', "a" * 32, 7)
    second = Death(HUNG, "zwei 🗓", "b" * 32, 9)
    again = replace(first, detected_at_us=8)
    assert noted(note(first) + note(second) + note(again)) == [first, second]
    assert noted("") == []


def test_the_shards_of_a_killed_coordinator_note_who_died_and_when_it_was_seen() -> None:
    cluster = Cluster()
    victim, heir = cluster.add("victim"), cluster.add("heir")
    cluster.run(10, lambda: len(victim.shards) == len(heir.shards) == 8)
    left = victim.shards
    victim.kill()
    killed_us = cluster.database.now_us()
    cluster.run(5, lambda: len(heir.shards) == 16)
    deaths = {shard: noted(cluster.database.shards[shard].deaths) for shard in range(16)}
    assert {shard for shard, found in deaths.items() if found} == set(left)
    (death,) = {death for found in deaths.values() for death in found}
    assert (death.kind, death.name, death.incarnation) == (KILLED, "victim", victim.incarnation)
    assert killed_us <= death.detected_at_us <= killed_us + 500_000


def test_a_hung_coordinator_is_noted_as_such() -> None:
    cluster = Cluster()
    victim, heir = cluster.add("victim"), cluster.add("heir")
    cluster.run(10, lambda: len(victim.shards) == len(heir.shards) == 8)
    victim.frozen = True
    cluster.run(20, lambda: len(heir.shards) == 16)
    (death,) = {death for row in cluster.database.shards.values() for death in noted(row.deaths)}
    assert (death.kind, death.name) == (HUNG, "victim")


def test_shards_that_were_given_up_on_purpose_note_nothing() -> None:
    cluster = Cluster()
    one = cluster.add("one")
    cluster.run(5, lambda: len(one.shards) == 16)
    other = cluster.add("other")
    cluster.run(10, lambda: len(one.shards) == len(other.shards) == 8)
    assert not [row for row in cluster.database.shards.values() if row.deaths]


def test_what_nobody_has_recorded_is_noted_beside_the_next_death() -> None:
    cluster = Cluster(shards=2)
    incarnations: list[str] = []
    for name in ("one", "two", "three"):
        node = cluster.add(name)
        cluster.run(10, lambda node=node: len(node.shards) == 2)  # type: ignore[misc]  # a default binds the loop's value
        incarnations.append(node.incarnation)
        node.kill()
    found = noted(cluster.database.shards[0].deaths)
    assert [death.incarnation for death in found] == incarnations[:2]


@pytest.mark.parametrize("name", ["victim", "other"])
def test_with_failover_off_shards_wait_for_a_coordinator_of_the_same_name(name: str) -> None:
    cluster = Cluster(failover=False)
    victim, survivor = cluster.add("victim"), cluster.add("survivor")
    cluster.run(10, lambda: len(victim.shards) == len(survivor.shards) == 8)
    left = victim.shards
    victim.kill()
    cluster.run(30)
    assert cluster.database.held_by(victim.incarnation) == left
    assert len(survivor.shards) == 8
    newcomer = cluster.add(name)
    cluster.run(30, lambda: newcomer.shards == left)
    assert newcomer.shards == (left if name == "victim" else [])
    assert len(survivor.shards) == 8


def test_with_failover_off_shards_that_nobody_left_behind_are_shared_as_ever() -> None:
    cluster = Cluster(failover=False)
    one, other = cluster.add("one"), cluster.add("other")
    cluster.run(10, lambda: len(one.shards) == len(other.shards) == 8)
    assert len(one.shards) == len(other.shards) == 8
