"""What all coordinators must agree on: shares, balance and little movement."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_coordinator.ranking import Candidate, Wanted, assign, wanted

NAMES = [f"{number:032x}" for number in range(12)]

candidates = st.lists(
    st.builds(Candidate, incarnation=st.sampled_from(NAMES), established=st.booleans(), with_workers=st.booleans()),
    min_size=1,
    max_size=8,
    unique_by=lambda candidate: candidate.incarnation,
)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Candidate], dict[int, str | None]]:
    """Some live coordinators, and shards that some of them hold or nobody does."""
    live = draw(candidates)
    holder = st.none() | st.sampled_from([candidate.incarnation for candidate in live])
    shards = draw(st.integers(1, 64))
    return live, dict(enumerate(draw(st.lists(holder, min_size=shards, max_size=shards))))


def eligible(live: list[Candidate]) -> set[str]:
    counted = [candidate for candidate in live if candidate.established] or live
    return {candidate.incarnation for candidate in ([c for c in counted if c.with_workers] or counted)}


def settled(live: list[Candidate], holders: dict[int, str | None]) -> dict[int, str | None]:
    return {**assign(live, holders)}


@given(clusters())
def test_all_that_see_the_same_want_disjoint_shares_that_are_everything(
    cluster: tuple[list[Candidate], dict[int, str | None]],
) -> None:
    live, holders = cluster
    plans = {candidate.incarnation: wanted(reversed(live), holders, candidate.incarnation) for candidate in live}
    for shard, holder in holders.items():
        takers = [who for who, plan in plans.items() if shard in plan.take]
        releases = [who for who, plan in plans.items() if shard in plan.release]
        assert len(takers) == (1 if holder is None else 0)
        assert set(releases) <= {holder}
    assert set(assign(live, holders)) == set(holders)


@given(clusters())
def test_shares_differ_by_at_most_one_and_only_the_eligible_have_any(
    cluster: tuple[list[Candidate], dict[int, str | None]],
) -> None:
    live, holders = cluster
    shares = Counter(assign(live, holders).values())
    sizes = [shares[who] for who in eligible(live)]
    assert max(sizes) - min(sizes) <= 1
    assert set(shares) <= eligible(live)


@given(clusters())
def test_no_shard_moves_that_need_not(cluster: tuple[list[Candidate], dict[int, str | None]]) -> None:
    live, holders = cluster
    owners = assign(live, holders)
    moved = sum(1 for shard, holder in holders.items() if holder is not None and owners[shard] != holder)
    share, odd = divmod(len(holders), len(eligible(live)))
    held = Counter(holder for holder in holders.values() if holder in eligible(live))
    over = sorted((max(0, held[who] - share) for who in eligible(live)), reverse=True)
    ineligible = sum(1 for holder in holders.values() if holder is not None and holder not in eligible(live))
    # The odd shards go to those that would otherwise lose most; each of them saves at most one move.
    assert moved == ineligible + sum(over) - sum(1 for size in over[:odd] if size > 0)


@given(clusters())
def test_once_settled_nothing_moves(cluster: tuple[list[Candidate], dict[int, str | None]]) -> None:
    live, holders = cluster
    holders = settled(live, holders)
    for candidate in live:
        assert wanted(live, holders, candidate.incarnation) == Wanted([], [])


@given(clusters(), st.data())
def test_moves_in_any_order_end_where_the_first_look_said(
    cluster: tuple[list[Candidate], dict[int, str | None]], data: st.DataObject
) -> None:
    live, holders = cluster
    allowed = Counter(assign(live, holders).values())
    released: Counter[int] = Counter()
    for _ in range(4 * len(holders) + 4):
        acts = [
            (candidate.incarnation, act, shard)
            for candidate in live
            for act, shards in zip(
                ("take", "release"), _both(wanted(live, holders, candidate.incarnation)), strict=True
            )
            for shard in shards
        ]
        if not acts:
            break
        who, act, shard = data.draw(st.sampled_from(acts))
        holders[shard] = who if act == "take" else None
        released[shard] += act == "release"
    else:
        pytest.fail("the shards never came to rest")
    assert not released or max(released.values()) <= 1
    assert sorted(Counter(holders.values()).values()) == sorted(allowed.values())


def _both(plan: Wanted) -> tuple[list[int], list[int]]:
    return list(plan.take), list(plan.release)


def _candidate(name: str, *, established: bool = True, with_workers: bool = True) -> Candidate:
    return Candidate(name, established=established, with_workers=with_workers)


def test_a_lone_coordinator_owns_all_at_once() -> None:
    lone = _candidate("a", established=False, with_workers=False)
    assert wanted([lone], dict.fromkeys(range(16)), "a") == Wanted(list(range(16)), [])


def test_a_newcomer_gets_nothing_until_it_counts() -> None:
    holders: dict[int, str | None] = dict.fromkeys(range(16), "a")
    assert wanted([_candidate("a"), _candidate("b", established=False)], holders, "a").release == []
    assert len(wanted([_candidate("a"), _candidate("b")], holders, "a").release) == 8


def test_a_coordinator_that_lost_its_workers_gives_all_up_to_one_that_has_some() -> None:
    holders: dict[int, str | None] = {0: "a", 1: "b"}
    cut_off = [_candidate("a", with_workers=False), _candidate("b")]
    assert wanted(cut_off, holders, "a").release == [0]
    assert (
        wanted([_candidate("a", with_workers=False), _candidate("b", with_workers=False)], holders, "a").release == []
    )


def test_a_dead_owners_shards_are_shared_by_the_living() -> None:
    holders: dict[int, str | None] = {shard: "b" if shard % 2 else None for shard in range(16)}
    live = [_candidate("b"), _candidate("c")]
    assert len(wanted(live, holders, "b").take) == 0
    assert len(wanted(live, holders, "c").take) == 8
