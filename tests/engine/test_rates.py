"""An executor is started no more often than its rate allows, and nothing else waits for that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import Failure
from mainspring.rates import Rate, parse_rates
from mainspring_coordinator.engine import timers
from mainspring_coordinator.engine.effects import Assign
from mainspring_coordinator.engine.events import PeersSeen
from mainspring_coordinator.engine.rates import Rates
from tests.engine.rig import SECOND, Rig, define, of, with_config

MS = SECOND // 1_000


def starts(rig: Rig, executor: str = "work") -> int:
    return sum(effect.executor == executor for effect in of(rig.effects, Assign))


def limited(rate: str, **config: object) -> Rig:
    return Rig(config=with_config(rates=parse_rates(rate), **config))


def fan(width: int, executor: str = "work") -> list[dict[str, object]]:
    return [{"id": f"{executor}{n}", "executor": executor} for n in range(width)]


def play(rig: Rig, seconds: float) -> None:
    """Let time pass as a host does: to each deadline of the engine."""
    until_us = rig.now_us + int(seconds * SECOND)
    while (due_us := rig.engine.next_due_us()) is not None and due_us <= until_us:
        rig.after(max(0, due_us - rig.now_us) / SECOND)
    rig.after((until_us - rig.now_us) / SECOND)


def test_starts_are_spread_evenly_over_the_time_and_all_of_them_come() -> None:
    rig = limited("work=10/s")
    rig.attach(slots=100)
    rig.submit(define(fan(25)), "wide")
    seen = [starts(rig)]
    for _ in range(30):
        play(rig, 0.1)
        seen.append(starts(rig))
    assert seen == [*range(1, 25), *[25] * 7]


def test_what_has_no_rate_does_not_wait_for_what_has() -> None:
    rig = limited("slow=1/m")
    rig.attach(executors=("slow", "fast"), slots=100)
    rig.submit(define(fan(5, "slow") + fan(5, "fast")), "both")
    assert (starts(rig, "slow"), starts(rig, "fast")) == (1, 5)


def test_a_rate_is_shared_among_the_live_coordinators() -> None:
    rig = limited("work=10/s")
    rig.step(PeersSeen(have_workers=True, coordinators=2))
    rig.attach(slots=100)
    rig.submit(define(fan(50)), "wide")
    play(rig, 1.9)
    assert starts(rig) == 10
    rig.step(PeersSeen(have_workers=False, coordinators=1))
    play(rig, 1.0)
    assert starts(rig) == 20


def test_retries_count_and_instances_of_a_map_too() -> None:
    rig = limited("work=2/s", max_retries=5)
    rig.attach(slots=100)
    node = {"id": "m", "executor": "work", "map": {"over": "${input}"}}
    rig.submit(define([node]), "mapped", list(range(4)))
    play(rig, 1.0)
    assert starts(rig) == 3
    rig.fail("m", instance=0)
    play(rig, 60)
    assert starts(rig) == 5


def test_a_worker_at_its_bound_of_workflows_is_thought_of_again() -> None:
    rig = limited("work=1/s")
    rig.attach(slots=100, workflows_max=1)
    rig.submit(define(fan(4)), "wide")
    for count in range(1, 5):
        assert starts(rig) == count
        play(rig, 1.0)


def test_a_node_that_must_run_alone_keeps_to_the_rate_too() -> None:
    rig = limited("work=1/m")
    rig.submit(define(fan(1)), "wf")
    for _ in range(2):
        worker = rig.attach(slots=1)
        play(rig, 60)
        assert worker.running
        rig.drop(worker)
        play(rig, 3)
    # Two workers died under it. The second start was at 63 s, so that the third is due at 123 s; it is 126 s now.
    assert starts(rig) == 2
    last = rig.attach(slots=1)
    assert last.running
    rig.submit(define(fan(1)), "another")
    rig.fail(failure=Failure("again", "try again"))
    play(rig, 59)
    assert starts(rig) == 3
    play(rig, 2)
    assert starts(rig) == 4


def test_it_is_told_why_a_node_waits() -> None:
    rig = limited("work=1/m")
    rig.attach()
    rig.submit(define(fan(2)), "wf")
    view = rig.read("wf").view
    assert view is not None
    assert view.reasons == {
        1: "executor 'work' is started 1/m at most (EXECUTOR_RATES), which is used up for the moment"
    }
    play(rig, 61)
    assert starts(rig) == 2


@given(
    count=st.integers(1, 5_000),
    per_s=st.sampled_from([1, 60]),
    waits_us=st.lists(st.integers(0, 300_000), min_size=1, max_size=300),
)
def test_no_window_of_its_time_sees_more_than_the_rate(count: int, per_s: int, waits_us: list[int]) -> None:
    rates = Rates({"work": Rate(count, per_s)})
    began: list[int] = []
    now_us = 1_000 * SECOND
    for wait_us in waits_us:
        now_us += wait_us
        for _ in range(20):
            if rates.due_us("work", now_us):
                break
            rates.started("work", now_us)
            began.append(now_us)
    assert began
    window_us = per_s * SECOND
    together = count / per_s / 100
    for first, at_us in enumerate(began):
        within = sum(at_us <= other < at_us + window_us for other in began[first:])
        assert within <= count + together + 1e-9, (at_us, within)


@given(st.integers(1, 1_000))
def test_who_starts_whenever_it_may_gets_the_whole_rate(count: int) -> None:
    rates = Rates({"work": Rate(count, 1)})
    now_us, began = 1_000 * SECOND, 0
    until_us = now_us + 10 * SECOND
    while now_us < until_us:
        due_us = rates.due_us("work", now_us)
        if due_us:
            now_us = due_us
        else:
            rates.started("work", now_us)
            began += 1
    assert began >= 10 * count


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        (" a=1/s ,b.c-d = 20/m,", {"a": Rate(1, 1), "b.c-d": Rate(20, 60)}),
        ("x=1000000/h,y=7/d", {"x": Rate(1_000_000, 3_600), "y": Rate(7, 86_400)}),
    ],
)
def test_rates_are_read(text: str, found: dict[str, Rate]) -> None:
    assert parse_rates(text) == found
    assert parse_rates(",".join(f"{name}={rate}" for name, rate in found.items())) == found


@pytest.mark.parametrize(
    "text", ["a", "a=", "a=0/s", "a=1", "a=1/w", "a=-1/s", "a=1.5/s", "=1/s", "a b=1/s", "a=1000001/s", "a=1/s,a=2/s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no rate; write EXECUTOR=COUNT/UNIT|has two rates"):
        parse_rates(text)


def test_more_rates_than_the_bound_are_refused() -> None:
    with pytest.raises(ValueError, match="1001 executors have a rate, more than 1000"):
        parse_rates(",".join(f"e{n}=1/s" for n in range(1_001)))


def test_a_node_that_must_run_alone_gets_every_other_start_though_others_always_wait() -> None:
    rig = limited("work=1/s")
    rig.submit(define([{"id": "bomb", "executor": "work"}]), "bad")
    for _ in range(2):
        worker = rig.attach(slots=1)
        play(rig, 2)
        rig.drop(worker)
        play(rig, 3)
    rig.submit(define(fan(50)), "wide")
    for name in ("w1", "w2"):
        rig.attach(name, slots=100)
    assert not rig.running("bomb")
    play(rig, 1.0)
    assert rig.running("bomb")


def test_a_start_that_is_kept_and_that_nobody_can_use_goes_to_others_at_once() -> None:
    rig = limited("work=1/s")
    rig.submit(define([{"id": "bomb", "executor": "work"}]), "bad")
    for _ in range(2):
        worker = rig.attach(slots=1)
        play(rig, 2)
        rig.drop(worker)
        play(rig, 3)
    rig.submit(define(fan(50)), "wide")
    before = starts(rig)
    for name in ("one", "two"):
        rig.submit(define(fan(1, name)), f"keeps {name} busy")
        rig.attach(name, executors=(name, "work"), slots=100)
    for count in range(1, 6):
        assert starts(rig) == before + count
        rig.after(1.0)


def test_a_worker_at_its_bound_of_workflows_gets_its_turn_though_others_always_wait() -> None:
    rig = limited("work=1/s")
    rig.attach("small", workflows_max=1, labels={"gpu": "true"})
    needs = {"executor": "work", "requires": {"gpu": "true"}}
    rig.submit(define([{"id": f"gpu{n}", **needs} for n in range(2)]), "mine")
    rig.attach("large", slots=100)
    rig.submit(define(fan(50)), "wide")
    for _ in range(20):
        play(rig, 1.0)
    assert rig.running("gpu1")


def test_the_wait_for_a_rate_outlives_a_look_through_all_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "_few", -1_000)  # so that each step looks
    rig = limited("work=1/m")
    rig.attach()
    rig.submit(define(fan(2)), "wf")
    due_us = rig.now_us + 60 * SECOND
    for _ in range(40):
        rig.after(1)
        assert rig.engine.next_due_us() == due_us
