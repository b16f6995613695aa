"""Workers that have seen more of a shard than the database holds: believed within bounds, so that none can keep a shard from work."""

import pytest

from mainspring import limits
from mainspring_coordinator.engine.effects import Effect, EpochSpent, Refuse
from mainspring_coordinator.engine.events import Inventory, ShardLost, ShardReady, ShardTaken
from tests.engine.rig import Rig, Worker, of, only

window_s = limits.epoch_claims_window_ms / 1_000


def say(rig: Rig, worker: Worker, epoch: int, *has: int) -> list[Effect]:
    return rig.step(Inventory(worker.session, 0, epoch, (), has, (), 0))


def taken_again(rig: Rig, epoch: int) -> None:
    for event in (ShardLost(0), ShardTaken(0, epoch, rig.now_us, "e" * 32), ShardReady(0)):
        rig.step(event)


def test_a_shard_is_taken_above_the_highest_epoch_that_any_worker_has_seen() -> None:
    rig = Rig(epoch=5)
    first, second = rig.attach("w1"), rig.attach("w2")
    assert only(say(rig, first, 7), EpochSpent) == EpochSpent(0, 7, "w1")
    assert only(say(rig, second, 9), EpochSpent) == EpochSpent(0, 9, "w2")
    # Said again, should the first time have come to nothing.
    assert only(say(rig, first, 7), EpochSpent) == EpochSpent(0, 9, "w1")


@pytest.mark.parametrize("epoch", [5, 6, 900])
def test_ids_of_a_history_that_was_lost_say_what_was_seen_too(epoch: int) -> None:
    rig = Rig(epoch=5)
    worker = rig.attach("w1")
    assert only(say(rig, worker, 5, epoch << 32 | 3), EpochSpent) == EpochSpent(0, epoch, "w1")


@pytest.mark.parametrize(
    ("epoch", "has"), [(1_006, ()), (limits.epoch_max, ()), (5, (1_006 << 32,)), (5, (2**64 - 1,))]
)
def test_what_is_too_far_above_to_be_history_is_not_believed(epoch: int, has: tuple[int, ...]) -> None:
    rig = Rig(epoch=5)
    worker = rig.attach("w1")
    effects = say(rig, worker, epoch, *has)
    assert not of(effects, EpochSpent)
    refuse = only(effects, Refuse)
    assert (refuse.session, refuse.reason) == (worker.session, "PROTOCOL_ERROR")
    assert "'w1'" in refuse.message
    assert worker.incarnation in refuse.message
    assert "more than 1000 above it" in refuse.message
    # Its stream ends; what it said meanwhile is nothing, and is told once.
    assert not say(rig, worker, 6)
    assert only(say(rig, rig.attach("w2"), 1_005), EpochSpent) == EpochSpent(0, 1_005, "w2")


def test_an_epoch_is_raised_but_so_often_within_a_while_whoever_says_what() -> None:
    rig = Rig(epoch=5)
    for number in range(limits.epoch_claims_max):
        epoch = 10 * (number + 1)
        assert of(say(rig, rig.attach(f"w{number}"), epoch), EpochSpent)
        taken_again(rig, epoch + 1)
    rig.after(window_s - 1)
    late = rig.attach("late")
    effects = say(rig, late, 100)
    assert not of(effects, EpochSpent)
    assert "it was raised 3 times within 60 s" in only(effects, Refuse).message
    # Who has seen no more than we have is served.
    assert not of(say(rig, rig.attach("honest"), 31), Refuse)
    rig.drop(late)
    rig.after(1)
    again = rig.attach("late", incarnation=late.incarnation)
    assert only(say(rig, again, 100), EpochSpent) == EpochSpent(0, 100, "late")


def test_many_workers_that_have_seen_different_epochs_count_as_one_until_it_is_raised() -> None:
    rig = Rig(epoch=5)
    workers = [rig.attach(f"w{number}") for number in range(3 * limits.epoch_claims_max)]
    for number, worker in enumerate(workers):
        assert only(say(rig, worker, 6 + number), EpochSpent).above == 6 + number
    taken_again(rig, 6 + len(workers))
    assert rig.engine.state.epoch_claims == {0: [rig.now_us]}
    assert not any(of(say(rig, worker, 6 + len(workers)), EpochSpent) for worker in workers)
