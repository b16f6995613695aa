"""What a soak takes for growth, and what not."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.soak.report import Report
from tests.soak.samples import Watched
from tests.soak.trend import fit

SECONDS = 1_200
times = [float(second) for second in range(SECONDS)]


def wandering(seed: int, mean: float = 150.0, step: float = 0.3) -> list[float]:
    """A heap's memory: it stays where it is for a while, goes up and comes back."""
    rng, value, values = Random(seed), mean, []
    for _ in times:
        value += rng.gauss(0, step) - 0.05 * (value - mean)
        values.append(value)
    return values


def leaking(mib_a_minute: float) -> list[float]:
    return [value + mib_a_minute * at / 60 for at, value in zip(times, wandering(1), strict=True)]


def report(warm_up_s: float = 0.0, **values: list[float]) -> Report:
    return of(values, warm_up_s)


def of(values: dict[str, list[float]], warm_up_s: float = 0.0) -> Report:
    return Report(1_000, 500, 1, 0, warm_up_s, times, [Watched("c1", 1, "x", values)])


@pytest.mark.parametrize("seed", range(20))
def test_a_heap_that_wanders_is_not_taken_for_a_leak(seed: int) -> None:
    assert report(memory=wandering(seed)).sound


@pytest.mark.parametrize("mib_a_minute", [1.0, 5.0])
def test_a_leak_is_seen_over_the_noise(mib_a_minute: float) -> None:
    (verdict,) = report(memory=leaking(mib_a_minute)).verdicts()
    assert verdict.grows
    assert verdict.trend.slope * 60 == pytest.approx(mib_a_minute, abs=4 * 60 * verdict.trend.error)


def test_what_grows_while_it_warms_up_is_left_out() -> None:
    filling = [100 + min(at, 400) / 4 for at in times]
    assert not report(memory=filling).sound
    assert report(warm_up_s=400, memory=filling).sound


def step(at: int, by: float) -> list[float]:
    return [30.0 + (by if second >= at else 0.0) for second in times]


@pytest.mark.parametrize(
    ("measure", "values", "sound"),
    [
        ("threads", step(600, 3), True),
        ("files", [30.0 + second // 60 for second in times], False),
        ("connections", [3.0 + second // 120 for second in times], False),
        ("threads", [12.0 + second // 120 for second in times], False),
        ("files", [30.0 + Random(second).choice((0, 0, 3)) for second in times], True),
        ("queue", [float(Random(second).randrange(500)) for second in times], True),
    ],
)
def test_threads_files_and_connections_may_come_and_go_but_not_only_come(
    measure: str, values: list[float], sound: bool
) -> None:
    assert of({measure: values}).sound is sound


def test_a_fault_is_no_sound_run_and_all_of_it_is_told() -> None:
    told = report(memory=wandering(3), threads=step(600, 0))
    told.faults = ["a call failed"]
    assert not told.sound
    assert "| c1 | memory |" in told.to_text()
    assert "a call failed" in told.to_text()
    assert json.loads(told.to_json())["samples"]["c1"]["threads"][0] == 30


def test_the_picture_shows_each_measure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="a tool for development; the wheel is tested without it")
    report(memory=wandering(3), threads=step(600, 0)).picture(tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_too_short_a_run_is_no_proof() -> None:
    with pytest.raises(ValueError, match="watch for longer"):
        fit(times[:25], wandering(1)[:25])


@pytest.mark.parametrize("shape", [lambda at: 5.0, lambda at: 5.0 - at / 100])
def test_a_line_that_does_not_rise_does_not_grow(shape: Callable[[float], float]) -> None:
    assert not fit(times, [shape(at) for at in times]).grows(0.0)
