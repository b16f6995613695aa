"""The lease, the judgement of peers and the clock, by tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_coordinator.epoch import Anchor, DatabaseClock, Health, Lease, Peers
from mainspring_coordinator.store.protocol import ConnectionId, CoordinatorRow, Peer, Poll, ShardRow
from tests.ownership.cluster import SECOND, TIMES


@pytest.mark.parametrize(
    ("sent_us", "now_us", "fresh"),
    [(None, 0, False), (100, 100, True), (100, 100 + 5 * SECOND - 1, True), (100, 100 + 5 * SECOND, False)],
)
def test_a_lease_counts_from_when_its_renewal_was_sent(sent_us: int | None, now_us: int, fresh: bool) -> None:
    lease = Lease(TIMES)
    if sent_us is not None:
        lease.granted(sent_us)
    assert lease.fresh(now_us) is fresh


def test_a_lease_that_was_ended_is_never_fresh() -> None:
    lease = Lease(TIMES)
    lease.granted(1)
    lease.end()
    assert not lease.fresh(1)


@pytest.mark.parametrize(
    ("silent_us", "batch_us", "doubt"),
    [
        (2_499_999, 5_000_000, None),
        (2_500_000, 0, "the control loop has not run for 2500 ms"),
        (0, 5_000_001, "a batch has been under way for 5000 ms"),
    ],
)
def test_a_process_that_does_not_get_on_may_not_renew(silent_us: int, batch_us: int, doubt: str | None) -> None:
    now_us = 100 * SECOND
    assert Lease(TIMES).doubt(Health(now_us - silent_us, batch_us, 0, {}), now_us) == doubt


def row(incarnation: str, renew_seq: int = 0, workers: int = 1) -> CoordinatorRow:
    return CoordinatorRow(
        incarnation, incarnation, "a:1", "a:2", renew_seq, workers, ConnectionId(1, "x:1"), ConnectionId(2, "x:2"), 0
    )


def poll(*peers: Peer, holder: str | None = None) -> Poll:
    return Poll(0, peers, [ShardRow(0, 1, holder, 0, None, 0)])


@pytest.mark.parametrize(("locked_by", "live"), [(1, True), (None, False), (2, False)])
def test_a_peer_lives_while_the_recorded_connection_holds_its_lock(locked_by: int | None, live: bool) -> None:
    view = Peers(TIMES).observe(poll(Peer(row("a"), locked_by), holder="a"), SECOND)
    assert ("a" in view.live, "a" in view.dead) == (live, not live)
    assert view.holders == {0: "a" if live else None}


@pytest.mark.parametrize(
    ("mine", "theirs", "locked_by", "have"), [(3, 1, 1, True), (0, 1, 1, True), (3, 0, 1, False), (0, 1, None, False)]
)
def test_only_a_live_peer_has_workers(mine: int, theirs: int, locked_by: int | None, have: bool) -> None:
    both = (Peer(row("me", workers=mine), 1), Peer(row("peer", workers=theirs), locked_by))
    assert Peers(TIMES).observe(poll(*both), SECOND).peers_have_workers("me") is have


def test_a_holder_without_a_lease_row_holds_nothing() -> None:
    assert Peers(TIMES).observe(poll(holder="gone"), SECOND).holders == {0: None}


@pytest.mark.parametrize(
    ("polls_us", "changes_at", "seized"),
    [
        # Polls each 0.2 s without a change: hung at T = 5.714 s, not before.
        ([200_000] * 28, None, False),
        ([200_000] * 29, None, True),
        # A change starts the count anew.
        ([200_000] * 40, 20, False),
        # Few polls far apart: each gap counts as one renewal interval at most.
        ([3 * SECOND] * 5, None, False),
        ([3 * SECOND] * 6, None, True),
        ([60 * SECOND], None, False),
    ],
)
def test_a_peer_is_hung_when_it_stays_unchanged_for_t_of_our_own_good_polls(
    polls_us: list[int], changes_at: int | None, seized: bool
) -> None:
    peers = Peers(TIMES)
    now_us = SECOND
    view = peers.observe(poll(Peer(row("a"), 1)), now_us)
    for number, gap_us in enumerate(polls_us):
        now_us += gap_us
        renewed = changes_at is not None and number >= changes_at
        view = peers.observe(poll(Peer(row("a", renew_seq=int(renewed)), 1)), now_us)
    assert bool(view.seize) is seized
    if seized:
        assert view.seize[0].connections == (ConnectionId(2, "x:2"), ConnectionId(1, "x:1"))


def test_who_was_seized_is_dead_until_its_lease_row_moves() -> None:
    peers = Peers(TIMES)
    peers.observe(poll(Peer(row("a"), 1)), SECOND)
    peers.seized("a")
    assert "a" in peers.observe(poll(Peer(row("a"), 1)), 2 * SECOND).dead
    assert "a" in peers.observe(poll(Peer(row("a", renew_seq=1), 1)), 3 * SECOND).live


def test_a_shard_is_an_orphan_after_t_without_a_live_holder() -> None:
    peers = Peers(TIMES)
    assert list(peers.observe(poll(), SECOND).orphans) == []
    assert list(peers.observe(poll(), SECOND + TIMES.hung_us).orphans) == [0]
    assert list(peers.observe(poll(Peer(row("a"), 1), holder="a"), 8 * SECOND).orphans) == []
    assert list(peers.observe(poll(), 9 * SECOND).orphans) == []


# -- database time ---------------------------------------------------------------------------------------------------------


def test_database_time_is_read_in_the_middle_of_the_round_trip() -> None:
    clock = DatabaseClock()
    assert clock.anchor(Anchor(db_us=1_000_000, sent_us=10, received_us=30)) == 0
    assert clock.now_us(20) == 1_000_000
    assert clock.now_us(120) == 1_000_100


def test_what_a_slow_round_trip_can_explain_changes_nothing() -> None:
    clock = DatabaseClock()
    clock.anchor(Anchor(0, 0, 0))
    clock.anchor(Anchor(db_us=1_400_000, sent_us=SECOND, received_us=2 * SECOND))
    assert clock.now_us(4 * SECOND) == 4 * SECOND


@pytest.mark.parametrize(
    ("offset_us", "jump_us", "after_1s", "after_100s"),
    [
        (1_500_000, 0, 1_100_000, 101_500_000),
        (-1_500_000, 0, 900_000, 98_500_000),
        (5_000_000, 5_000_000, 1_100_000, 105_000_000),
        (-5_000_000, -5_000_000, 900_000, 95_000_000),
        (3_600_000_000, 3_600_000_000, 1_100_000, 110_000_000),
    ],
)
def test_a_jump_is_approached_slowly_and_alarmed_beyond_two_seconds(
    offset_us: int, jump_us: int, after_1s: int, after_100s: int
) -> None:
    clock = DatabaseClock()
    clock.anchor(Anchor(0, 0, 0))
    assert clock.anchor(Anchor(db_us=SECOND + offset_us, sent_us=SECOND, received_us=SECOND)) == jump_us
    assert clock.now_us(2 * SECOND) - SECOND == after_1s
    assert clock.now_us(101 * SECOND) - SECOND == after_100s


@pytest.mark.parametrize("jump_us", [3_600 * SECOND, -3_600 * SECOND, SECOND, 0])
def test_a_grace_of_the_servers_clock_lasts_as_long_by_ours_after_a_jump(jump_us: int) -> None:
    clock = DatabaseClock()
    clock.anchor(Anchor(0, 0, 0))
    clock.anchor(Anchor(db_us=SECOND + jump_us, sent_us=SECOND, received_us=SECOND))
    until_us = clock.told_us(db_us=12 * SECOND + jump_us, boot_us=2 * SECOND)
    # The server's clock shows 2 s + jump now, so 10 s are left; ours slews meanwhile, by a tenth at most.
    assert until_us - clock.now_us(2 * SECOND) == 10 * SECOND


def test_a_jump_is_alarmed_once() -> None:
    clock = DatabaseClock()
    clock.anchor(Anchor(0, 0, 0))
    jumps = [
        clock.anchor(Anchor(second * SECOND + 60 * SECOND, second * SECOND, second * SECOND)) for second in range(1, 90)
    ]
    assert jumps == [60 * SECOND] + [0] * 88


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(-(10**8), 10**8)), max_size=30))
def test_database_time_never_goes_back_and_never_jumps(anchors: list[tuple[int, int, int]]) -> None:
    clock = DatabaseClock()
    boot_us = 10**9
    clock.anchor(Anchor(10**12, boot_us, boot_us))
    told = clock.now_us(boot_us)
    for gap_us, round_trip_us, offset_us in anchors:
        sent_us = boot_us + gap_us
        received_us = sent_us + round_trip_us
        # The loop has read the clock a little beyond the anchor before it takes it.
        boot_us = received_us + 50_000
        for take in (False, True):
            if take:
                clock.anchor(Anchor(10**12 + sent_us + offset_us, sent_us, received_us))
            now = clock.now_us(boot_us)
            passed_us = gap_us + round_trip_us + 50_000
            assert 0 <= now - told <= passed_us * 11 // 10 + 50_000
            told = now
