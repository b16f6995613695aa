"""What one incarnation knows of its lease, its peers and database time. Pure: time is handed in, nothing is called.

Trust counts from when we asked. An owner may act while its last good renewal, counted from when it was *sent*, is
younger than L. A peer is hung when its lease row, as we *received* it, did not change for T > L. Since sending comes before
applying and applying before receiving, the owner stops trusting itself before anyone seizes it:

    owner:    sent ──── applied ─────────────── sent + L: may not act any more
    observer:           applied ── received ──────────────── received + T: seizes

A pause between an owner's look at its lease and its act breaks only this. The epoch in every write keeps the rest.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.engine.events import Death
from mainspring_coordinator.engine.status import FailoverKind
from mainspring_coordinator.ranking import Candidate
from mainspring_coordinator.store.protocol import (
    Attempts,
    ConnectionId,
    CoordinatorRow,
    Peer,
    Poll,
    ShardRow,
    none_ended,
)

clock_jump_us: Final = 2_000_000
"""A jump of database time beyond this is alarmed."""


@dataclass(frozen=True, slots=True)
class Times:
    """The times that ownership rests on, in microseconds."""

    lease_us: int
    """L"""
    renew_us: int
    """H"""
    poll_us: int
    """P"""
    hung_us: int
    """T"""
    newcomer_us: int
    grace_us: int
    """How long workers may take to attach to a new owner and keep their work."""

    @classmethod
    def of(cls, settings: CoordinatorSettings) -> "Times":
        """Take them from the settings."""
        return cls(
            lease_us=settings.lease_timeout_ms * 1_000,
            renew_us=settings.renew_interval_ms * 1_000,
            poll_us=settings.poll_interval_ms * 1_000,
            hung_us=settings.hung_after_ms * 1_000,
            newcomer_us=settings.newcomer_after_ms * 1_000,
            grace_us=settings.recovery_grace_ms * 1_000,
        )


@dataclass(frozen=True, slots=True)
class Health:
    """How the rest of the process is, as the election must know it before it renews."""

    ticked_us: int
    """When the control loop last ran, on the process's own clock."""
    oldest_batch_us: int
    """How long the batch in flight has been under way; 0: there is none."""
    attached_workers: int
    owned: Mapping[int, int]
    """The shards that the control loop has, with their epochs."""
    attempts: Attempts = none_ended


class Lease:
    """Our own right to act. Written by the election's thread, read by any."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._sent_us: int | None = None

    def granted(self, sent_us: int) -> None:
        """Count the lease from `sent_us`, when a renewal that succeeded was sent."""
        self._sent_us = sent_us

    def end(self) -> None:
        """Make nothing fresh any more: the incarnation is over."""
        self._sent_us = None

    def fresh(self, now_us: int) -> bool:
        """Tell whether we may act towards the outside."""
        sent_us = self._sent_us
        return sent_us is not None and now_us - sent_us < self._times.lease_us

    def doubt(self, health: Health, now_us: int) -> str | None:
        """Return why the lease must not be renewed, None when it may be."""
        silent_us = now_us - health.ticked_us
        if silent_us >= self._times.lease_us // 2:
            return f"the control loop has not run for {silent_us // 1_000} ms"
        if health.oldest_batch_us > self._times.lease_us:
            return f"a batch has been under way for {health.oldest_batch_us // 1_000} ms"
        return None


@dataclass(frozen=True, slots=True)
class Seizure:
    """A hung coordinator, and the connections that must be ended before its shards are taken."""

    incarnation: str
    name: str
    connections: Sequence[ConnectionId]
    """The writer first: its open transaction would block us."""
    silent_us: int


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as one poll showed it, judged."""

    now_us: int
    """Database time of the poll."""
    live: Mapping[str, CoordinatorRow]
    """By incarnation."""
    dead: Mapping[str, CoordinatorRow]
    """Lease rows whose incarnation is gone."""
    deaths: Mapping[str, Death]
    """How each of the dead ended, and when we saw it first."""
    candidates: Sequence[Candidate]
    """The live ones, for the ranking."""
    shards: Mapping[int, ShardRow]
    holders: Mapping[int, str | None]
    """Every shard with its live holder, None when it is free."""
    orphans: Collection[int]
    """Shards without a live holder for T: anyone may take them."""
    seize: Sequence[Seizure]

    def peers_have_workers(self, me: str) -> bool:
        """Tell whether workers are attached to a live coordinator other than `me`."""
        return any(row.attached_workers > 0 for incarnation, row in self.live.items() if incarnation != me)

    def death_of(self, holder: str) -> Death:
        """Return how a shard's holder ended; of one that left no lease row nothing but the incarnation is known."""
        return self.deaths.get(holder) or Death(FailoverKind.COORDINATOR_KILLED, "", holder, self.now_us)


@dataclass(slots=True)
class _Seen:
    """What we remember of one lease row."""

    renew_seq: int
    first_us: int
    """When we saw the row first."""
    unchanged_us: int = 0
    """For how long it has not changed, gaps between our own polls left out."""
    unchanged_polls: int = 0
    workers_us: int = 0
    """When it last had workers; before it ever had any, when we saw it first."""
    seized: bool = False
    death: Death | None = None
    """How it ended, as long as it counts as dead."""


@dataclass(slots=True)
class Peers:
    """Judges one poll after the other."""

    times: Times
    _seen: dict[str, _Seen] = field(default_factory=dict[str, _Seen])
    _free_since_us: dict[int, int] = field(default_factory=dict[int, int])
    _polled_us: int | None = None
    _workers_since_us: int | None = None
    """Since when some coordinator has had workers."""

    def seized(self, incarnation: str) -> None:
        """Its connections were ended: it counts as dead unless its lease row moves again."""
        self._seen[incarnation].seized = True

    def observe(self, poll: Poll, now_us: int) -> View:
        """Judge a poll that was received at `now_us`."""
        # A gap between polls is our own stall (or the database's), which says nothing about the peers.
        gap_us = 0 if self._polled_us is None else min(now_us - self._polled_us, self.times.renew_us)
        self._polled_us = now_us
        holding = {row.holder for row in poll.shards}
        live: dict[str, CoordinatorRow] = {}
        dead: dict[str, CoordinatorRow] = {}
        deaths: dict[str, Death] = {}
        candidates: list[Candidate] = []
        seize: list[Seizure] = []
        if not any(_locked(peer) and peer.row.attached_workers for peer in poll.peers):
            self._workers_since_us = None
        elif self._workers_since_us is None:
            self._workers_since_us = now_us
        for peer in poll.peers:
            row = peer.row
            seen = self._see(row, gap_us, now_us)
            if seen.seized or not _locked(peer):
                dead[row.incarnation] = row
                seen.death = seen.death or self._death(row, seen, poll.now_us)
                deaths[row.incarnation] = seen.death
                continue
            seen.death = None
            live[row.incarnation] = row
            candidates.append(self._candidate(row, seen, now_us, owns=row.incarnation in holding))
            if seen.unchanged_us >= self.times.hung_us and seen.unchanged_polls >= 3:
                seize.append(_seizure(peer, seen))
        self._forget_gone({peer.row.incarnation for peer in poll.peers})
        holders = {row.shard: row.holder if row.holder in live else None for row in poll.shards}
        return View(
            now_us=poll.now_us,
            live=live,
            dead=dead,
            deaths=deaths,
            candidates=candidates,
            shards={row.shard: row for row in poll.shards},
            holders=holders,
            orphans=self._orphans(holders, now_us),
            seize=seize,
        )

    def _death(self, row: CoordinatorRow, seen: _Seen, detected_at_us: int) -> Death:
        # Whoever hung was silent for about T before anyone ended its session; whoever was killed, hardly longer than a renewal takes.
        hung = seen.unchanged_us >= self.times.hung_us // 2
        kind = FailoverKind.COORDINATOR_HUNG if hung else FailoverKind.COORDINATOR_KILLED
        return Death(kind, row.name, row.incarnation, detected_at_us)

    def _see(self, row: CoordinatorRow, gap_us: int, now_us: int) -> _Seen:
        seen = self._seen.get(row.incarnation)
        if seen is None:
            seen = self._seen[row.incarnation] = _Seen(row.renew_seq, now_us, workers_us=now_us)
        elif row.renew_seq != seen.renew_seq:
            seen.renew_seq = row.renew_seq
            seen.unchanged_us = seen.unchanged_polls = 0
            seen.seized = False
        else:
            seen.unchanged_us += gap_us
            seen.unchanged_polls += 1
        if row.attached_workers > 0:
            seen.workers_us = now_us
        return seen

    def _candidate(self, row: CoordinatorRow, seen: _Seen, now_us: int, *, owns: bool) -> Candidate:
        # Workers that drop all at once mostly attach again at once, and those of a new cluster attach to one coordinator
        # before the others: being without them counts as late as being new does.
        without_us = 0 if self._workers_since_us is None else now_us - max(seen.workers_us, self._workers_since_us)
        return Candidate(
            row.incarnation,
            established=owns or now_us - seen.first_us >= self.times.newcomer_us,
            with_workers=row.attached_workers > 0 or without_us < self.times.newcomer_us,
        )

    def _orphans(self, holders: Mapping[int, str | None], now_us: int) -> Collection[int]:
        for shard, holder in holders.items():
            if holder is None:
                self._free_since_us.setdefault(shard, now_us)
            else:
                self._free_since_us.pop(shard, None)
        return {shard for shard, since_us in self._free_since_us.items() if now_us - since_us >= self.times.hung_us}

    def _forget_gone(self, present: Collection[str]) -> None:
        for incarnation in [known for known in self._seen if known not in present]:
            del self._seen[incarnation]


def _locked(peer: Peer) -> bool:
    """Tell whether the lock is held, and by the connection that the lease row records."""
    return peer.locked_by is not None and peer.locked_by == peer.row.lock_connection.id


def _seizure(peer: Peer, seen: _Seen) -> Seizure:
    row = peer.row
    return Seizure(row.incarnation, row.name, (row.writer_connection, row.lock_connection), seen.unchanged_us)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A reading of database time, between two readings of the boot clock."""

    db_us: int
    sent_us: int
    received_us: int


class DatabaseClock:
    """Database time, carried on by the boot clock; it never goes back and never jumps.

    The first anchor sets it. Each later one that disagrees by more than its own round trip can explain is approached by
    slewing; the clock runs a tenth faster or slower until it agrees. A jump of more than 2 s is reported, to be alarmed.
    One thread uses it.
    """

    def __init__(self) -> None:
        self._boot_us = 0
        self._db_us: int | None = None
        self._error_us = 0
        """What is still to be added, from `_boot_us` on."""
        self._highest_us = 0

    def now_us(self, boot_us: int) -> int:
        """Return database time at a reading of the boot clock; there must have been an anchor."""
        # An anchor is older than the last reading when it is taken; its new pace must not take back what was told.
        self._highest_us = max(self._highest_us, self._at(boot_us))
        return self._highest_us

    def anchor(self, anchor: Anchor) -> int:
        """Take an anchor; return by how much database time jumped if that is over 2 s, else 0."""
        middle_us = (anchor.sent_us + anchor.received_us) // 2
        if self._db_us is None:
            self._boot_us, self._db_us = middle_us, anchor.db_us
            return 0
        told_us = self._at(anchor.received_us)
        left_us = self._error_us - self._slewed(max(0, anchor.received_us - self._boot_us))
        error_us = anchor.db_us + anchor.received_us - middle_us - told_us
        if abs(error_us) <= (anchor.received_us - anchor.sent_us + 1) // 2:
            error_us = 0
        self._boot_us, self._db_us, self._error_us = anchor.received_us, told_us, error_us
        jump_us = error_us - left_us
        return jump_us if abs(jump_us) > clock_jump_us else 0

    def told_us(self, db_us: int, boot_us: int) -> int:
        """Return what the clock tells when the server's own shows `db_us`, a time near now; they differ after a jump."""
        return db_us - (self._error_us - self._slewed(max(0, boot_us - self._boot_us)))

    def _at(self, boot_us: int) -> int:
        assert self._db_us is not None, "database time is not known before the first renewal"
        passed_us = max(0, boot_us - self._boot_us)
        return self._db_us + passed_us + self._slewed(passed_us)

    def _slewed(self, passed_us: int) -> int:
        most_us = passed_us // 10
        return max(-most_us, min(most_us, self._error_us))
