"""The faults of a chaos are drawn before it begins: the same ones from the same seed, all kinds, and none that cannot be seen apart."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.faults import Fault, Kind, on_networks, schedule
from tests.chaos.story import everybody
from tests.chaos.switch import Rules

hour_s = 3600.0


def of(seed: int, seconds: float = hour_s, every_s: float = 5.0, *, breakable: bool = True) -> list[Fault]:
    return list(schedule(seed, seconds, every_s, everybody, breakable=breakable))


def test_a_seed_draws_the_same_faults_again() -> None:
    assert of(1) == of(1) != of(2)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_an_hour_has_far_more_than_300_faults_of_every_kind(seed: int) -> None:
    faults = of(seed)
    assert len(faults) >= 400
    assert Counter(fault.kind for fault in faults).keys() == set(Kind)
    assert all(0 <= fault.at_s < hour_s for fault in faults)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_two_minutes_have_most_kinds(seed: int) -> None:
    assert len({fault.kind for fault in of(seed, 120.0, 4.0)}) >= 8


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_no_fault_begins_while_another_has_its_target(seed: int) -> None:
    until_s: dict[tuple[str, bool], float] = {}
    for fault in of(seed):
        claim = (fault.target, fault.kind in on_networks)
        assert fault.at_s >= until_s.get(claim, 0.0)
        until_s[claim] = fault.at_s + fault.seconds


def test_faults_of_several_members_overlap() -> None:
    faults = of(3)
    ends_s = [fault.at_s + fault.seconds for fault in faults]
    assert any(later.at_s < end_s for later, end_s in zip(faults[1:], ends_s, strict=False))


def test_without_networks_there_are_only_faults_of_processes() -> None:
    assert not {fault.kind for fault in of(4, breakable=False)} & on_networks


@pytest.mark.parametrize("way", ["both", "out", "in"])
def test_cuts_are_drawn_whole_and_one_way(way: str) -> None:
    cuts = [fault for fault in of(5) if fault.kind is Kind.CUT_FROM_DATABASE and fault.way == way]
    assert cuts
    for fault in cuts:
        outwards, inwards = (fault.target, "db"), ("db", fault.target)
        assert set(fault.pairs) == {"both": {outwards, inwards}, "out": {outwards}, "in": {inwards}}[way]


def test_a_switch_adds_rules_up_and_takes_them_away() -> None:
    rules = Rules()
    rules.obey({"add": "f1", "pairs": [["c1", "db"]], "drop": 0.5, "delay_ms": 100})
    rules.obey({"add": "f2", "pairs": [["c1", "db"], ["db", "c1"]], "drop": 0.5, "jitter_ms": 40})
    assert rules.of == {("c1", "db"): (0.75, 0.1, 0.04, 0.0), ("db", "c1"): (0.5, 0.0, 0.04, 0.0)}
    rules.obey({"remove": "f1"})
    assert rules.of == {("c1", "db"): (0.5, 0.0, 0.04, 0.0), ("db", "c1"): (0.5, 0.0, 0.04, 0.0)}
    rules.obey({"add": "f3", "pairs": [["c1", "db"]], "bytes_a_s": 1_000})
    assert rules.of["c1", "db"] == (0.5, 0.0, 0.04, 0.001)
    rules.obey({"remove": "f3"})
    rules.obey({"remove": "f2"})
    assert rules.of == {}
