"""How much one caller may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring import limits
from mainspring.errors import BusyError
from mainspring_coordinator.auth import rates
from mainspring_coordinator.auth.rates import Connections, Rates, host_of
from tests.services.rig import FakeClock


@given(st.integers(1, 50), st.lists(st.integers(0, 2_000_000), max_size=60))
def test_over_any_time_a_caller_makes_no_more_calls_than_its_rate_and_one_second_at_once(
    rate: int, pauses_us: list[int]
) -> None:
    clock = FakeClock()
    told = Rates(rate, clock)
    for taken, pause_us in enumerate(pauses_us, 1):
        clock.us += pause_us
        try:
            told.take("a")
        except BusyError as busy:
            clock.us += busy.retry_after_ms * 1_000
            told.take("a")
        assert taken <= rate + (clock.us - 1_000_000) * rate / 1_000_000 + 1e-6


def test_callers_do_not_share_a_rate_and_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "callers_remembered_max", 2)
    told = Rates(1, FakeClock())
    for caller in ("a", "b"):
        told.take(caller)
    with pytest.raises(BusyError, match="a makes more than 1 calls a second"):
        told.take("a")
    told.take("c")
    told.take("b")  # forgotten, because it called longest ago


def test_a_host_has_so_many_connections_with_calls_under_way_and_others_have_theirs() -> None:
    told = Connections(2)
    for peer in ("ipv4:10.0.0.1:1", "ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2"):
        told.enter(peer)
    with pytest.raises(BusyError, match=r"ipv4:10\.0\.0\.1 has 2 connections with calls under way"):
        told.enter("ipv4:10.0.0.1:3")
    told.enter("ipv4:10.0.0.1:2")
    told.enter("ipv4:10.0.0.2:3")
    told.leave("ipv4:10.0.0.1:1")
    with pytest.raises(BusyError):
        told.enter("ipv4:10.0.0.1:3")
    told.leave("ipv4:10.0.0.1:1")
    told.enter("ipv4:10.0.0.1:3")


def test_nothing_is_kept_of_a_host_whose_calls_have_ended() -> None:
    told = Connections()
    for peer in ("ipv4:10.0.0.1:1", "ipv6:%5B::1%5D:2", "unix:"):
        told.enter(peer)
        told.leave(peer)
    assert told.hosts == 0


@pytest.mark.parametrize(
    ("peer", "host"), [("ipv4:10.0.0.1:1", "ipv4:10.0.0.1"), ("ipv6:%5B::1%5D:2", "ipv6:%5B::1%5D"), ("unix", "unix")]
)
def test_the_host_of_a_peer_is_what_stands_before_its_port(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_one_host_cannot_take_every_connection() -> None:
    assert limits.connections_a_peer_max < limits.connections_max
    assert limits.streams_a_connection_max > limits.watchers_max
