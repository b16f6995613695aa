"""Delays: they grow, stay within their bounds, and are spread."""

from hypothesis import given
from hypothesis import strategies as st

from mainspring.retry import delay_ms, draw_for, full_jitter_ms
from mainspring.workflow import Retry

retries = st.builds(
    Retry,
    initial_ms=st.integers(0, 10**8),
    multiplier=st.floats(1, 1000),
    max_interval_ms=st.integers(0, 10**8),
    jitter=st.floats(0, 1),
)
draws = st.floats(0, 1, exclude_max=True)


def test_delays_grow_to_their_longest() -> None:
    retry = Retry(initial_ms=100, multiplier=3.0, max_interval_ms=1_000, jitter=0.0)
    assert [delay_ms(retry, attempt, 0.5) for attempt in (1, 2, 3, 4, 100)] == [100, 300, 900, 1_000, 1_000]


def test_jitter_goes_both_ways() -> None:
    retry = Retry(initial_ms=1_000, max_interval_ms=60_000, jitter=0.2)
    assert [delay_ms(retry, 1, draw) for draw in (0.0, 0.5, 0.999999)] == [800, 1_000, 1_200]


def test_at_the_longest_interval_delays_are_still_spread() -> None:
    retry = Retry(initial_ms=1_000, max_interval_ms=1_200, jitter=0.2)
    assert [delay_ms(retry, 9, draw) for draw in (0.0, 0.5, 0.999999)] == [800, 1_000, 1_200]


@given(retries, st.integers(1, 10_000), draws)
def test_no_delay_is_longer_than_the_interval_nor_shorter_than_nothing(retry: Retry, attempt: int, draw: float) -> None:
    assert 0 <= delay_ms(retry, attempt, draw) <= retry.max_interval_ms


def test_draws_are_the_same_for_the_same_names_and_even_over_many() -> None:
    assert draw_for("wf", 3, 1) == draw_for("wf", 3, 1) != draw_for("wf", 3, 2)
    drawn = [draw_for("wf-5f3a", 7, instance, attempt) for instance in range(5_000) for attempt in (1, 2)]
    assert all(0 <= one < 1 for one in drawn)
    assert all(450 < sum(place <= one * 20 < place + 1 for one in drawn) < 550 for place in range(20))


@given(st.integers(0, 10_000), st.integers(0, 100_000), st.integers(1, 10_000), draws)
def test_full_jitter_stays_below_its_cap(base_ms: int, cap_ms: int, attempt: int, draw: float) -> None:
    assert 0 <= full_jitter_ms(base_ms, cap_ms, attempt, draw) <= min(cap_ms, base_ms * 2**attempt)
