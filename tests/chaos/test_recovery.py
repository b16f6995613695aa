"""Recovery times are counted from the fault to what ends it, and told apart by whether another fault was near."""

import pytest

from tests.chaos.books import ShardBook, ShardSeen
from tests.chaos.evidence import Inflicted
from tests.chaos.faults import Kind
from tests.chaos.recovery import Times, percentile, recoveries
from tests.chaos.story import everybody
from tests.cluster.effects import Effect

second = 1_000_000_000


def book(*seen: tuple[float, int, str, int]) -> ShardBook:
    """Samples of shard 0: (seconds, epoch, holder, batch_seq)."""
    shards = ShardBook()
    for at_s, epoch, holder, batch_seq in seen:
        shards.observe(int(at_s * second), [ShardSeen(0, epoch, holder, batch_seq)])
    return shards


def fault(kind: Kind, target: str, began_s: float, ended_s: float, *, name: str = "f1") -> Inflicted:
    return Inflicted(name, kind, target, int(began_s * second), int(ended_s * second), {0: 5})


taken_over = book((9.9, 5, "a", 7), (10.2, 6, "", 7), (10.3, 6, "b", 7), (10.4, 7, "b", 7), (10.6, 7, "b", 8))


@pytest.mark.parametrize(
    ("others", "alone"),
    [
        ([], True),
        ([fault(Kind.KILL_WORKER, "w1", 10.1, 12.0, name="f2")], True),
        ([fault(Kind.PAUSE_DATABASE, "db", 10.1, 12.0, name="f2")], False),
        ([fault(Kind.KILL_COORDINATOR, "c2", 3.0, 6.0, name="f2")], False),
        ([fault(Kind.KILL_COORDINATOR, "c2", 3.0, 4.0, name="f2")], True),
    ],
)
def test_a_takeover_lasts_until_the_last_shard_is_taken_and_the_first_one_commits(
    others: list[Inflicted], alone: bool
) -> None:
    times = recoveries([fault(Kind.KILL_COORDINATOR, "c1", 10.0, 13.0), *others], everybody, taken_over, [])
    assert times["killed coordinator: all its shards taken"] == Times([0.4], [0.4] if alone else [], "f1")
    assert times["killed coordinator: first commit on its shards"] == Times([0.6], [0.6] if alone else [], "f1")


def test_a_coordinator_that_was_back_before_anybody_took_over_counts_for_nothing() -> None:
    assert recoveries([fault(Kind.CUT_FROM_DATABASE, "c1", 7.0, 8.0)], everybody, taken_over, []) == {}


def test_a_lost_workers_node_is_timed_until_it_starts_elsewhere() -> None:
    starts = [
        Effect("start", int(at_s * second), 1, "f", "n", -1, 1, worker, f"{worker}-1-1")
        for at_s, worker in ((9.0, "w1"), (10.6, "w2"))
    ]
    times = recoveries([fault(Kind.KILL_WORKER, "w1", 10.0, 13.0)], everybody, ShardBook(), starts)
    assert times == {"killed worker: its nodes start elsewhere": Times([0.6], [0.6], "f1, f/n/-1")}


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_are_values_that_were_seen(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value
    assert percentile([7], share) == 7
