"""Which strategy the signals speak for: the guide's rules in their order, and calm between them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_coordinator.engine.placement import strategy_names
from mainspring_coordinator.engine.placement.dynamic import Choice, DynamicConfig, Signals, choose

SECOND = 1_000_000
CONFIG = DynamicConfig()
CALM = {"workers": 3, "cpu_percent": 10.0, "round_trip_us": 500.0, "attempts": 100, "failed": 0}


def signals(**changed: object) -> Signals:
    return Signals(**{**CALM, **changed})  # type: ignore[arg-type]  # the names are the signals'


def chosen(measured: Signals, before: str = "", since_us: int = 0, now_us: int = 1_000 * SECOND) -> str:
    choice = choose(CONFIG, measured, before, since_us, now_us)
    return choice.strategy if choice is not None else before


@pytest.mark.parametrize(
    ("changed", "strategy"),
    [
        ({}, "round-robin"),
        ({"cpu_percent": 80.0}, "round-robin"),
        ({"cpu_percent": 80.1}, "load-balanced"),
        ({"cpu_percent": 80.1, "round_trip_us": 100_001.0, "failed": 50}, "load-balanced"),
        ({"round_trip_us": 100_000.0}, "round-robin"),
        ({"round_trip_us": 100_001.0, "failed": 50}, "locality"),
        ({"failed": 10}, "round-robin"),
        ({"failed": 11}, "affinity"),
        ({"attempts": 19, "failed": 19}, "round-robin"),
        ({"attempts": 20, "failed": 3}, "affinity"),
        ({"attempts": 0, "failed": 0}, "round-robin"),
    ],
)
def test_the_first_rule_that_holds_wins_strictly_above_its_threshold(changed: dict[str, object], strategy: str) -> None:
    assert chosen(signals(**changed)) == strategy


@pytest.mark.parametrize("before", ["", *strategy_names])
@pytest.mark.parametrize(
    "changed", [{"workers": 0}, {"workers": 0, "cpu_percent": 99.0}, {"cpu_percent": None}, {"round_trip_us": None}]
)
def test_without_a_worker_or_a_sample_what_is_in_force_stays(changed: dict[str, object], before: str) -> None:
    assert chosen(signals(**changed), before) == before


def test_a_choice_names_what_it_was_made_by() -> None:
    now_us = 1_000 * SECOND
    assert choose(CONFIG, signals(cpu_percent=91.4), "", 0, now_us) == Choice(
        "load-balanced", "the workers' mean cpu is 91 % (threshold 80 %)"
    )
    assert choose(CONFIG, signals(round_trip_us=250_000.0), "", 0, now_us) == Choice(
        "locality", "the mean round trip is 250 ms (threshold 100 ms)"
    )
    assert choose(CONFIG, signals(failed=25), "", 0, now_us) == Choice(
        "affinity", "25 of the last 100 attempts failed (threshold 10%)"
    )


@pytest.mark.parametrize(
    ("before", "held", "let_go"),
    [
        ("load-balanced", {"cpu_percent": 72.1}, {"cpu_percent": 72.0}),
        ("locality", {"round_trip_us": 90_001.0}, {"round_trip_us": 90_000.0}),
        ("affinity", {"failed": 10}, {"failed": 9}),
    ],
)
def test_a_rule_lets_go_later_than_it_takes_hold(
    before: str, held: dict[str, object], let_go: dict[str, object]
) -> None:
    assert chosen(signals(**held), before) == before
    assert chosen(signals(**held), "round-robin") == "round-robin"
    assert chosen(signals(**let_go), before) == "round-robin"


def test_a_choice_holds_for_its_dwell() -> None:
    since_us = 500 * SECOND
    until_us = since_us + CONFIG.dwell_us
    assert chosen(signals(cpu_percent=99.0), "round-robin", since_us, until_us - 1) == "round-robin"
    assert chosen(signals(cpu_percent=99.0), "round-robin", since_us, until_us) == "load-balanced"


_measured = st.builds(
    Signals,
    workers=st.integers(0, 5),
    cpu_percent=st.one_of(st.none(), st.floats(0, 100)),
    round_trip_us=st.one_of(st.none(), st.floats(1, 1e6)),
    attempts=st.just(1_000),
    failed=st.integers(0, 1_000),
)


@given(st.lists(_measured, max_size=60))
def test_it_never_changes_twice_within_the_dwell_whatever_it_measures(measured: list[Signals]) -> None:
    before, since_us, changes = "", 0, list[int]()
    for pace, one in enumerate(measured):
        now_us = (1_000 + 30 * pace) * SECOND
        choice = choose(CONFIG, one, before, since_us, now_us)
        if choice is not None:
            assert choice.strategy in strategy_names
            assert choice.strategy != before
            changes.append(now_us)
            before, since_us = choice.strategy, now_us
    assert all(later - earlier >= CONFIG.dwell_us for earlier, later in pairwise(changes))


@given(st.lists(st.floats(72.1, 80.0), min_size=2, max_size=40), st.floats(80.5, 100))
def test_a_signal_that_stays_within_the_hysteresis_changes_nothing(within: list[float], first: float) -> None:
    before, since_us, changes = "", 0, 0
    for pace, cpu in enumerate([first, *within]):
        now_us = (1_000 + 600 * pace) * SECOND
        choice = choose(CONFIG, signals(cpu_percent=cpu), before, since_us, now_us)
        if choice is not None:
            before, since_us, changes = choice.strategy, now_us, changes + 1
    assert (before, changes) == ("load-balanced", 1)
