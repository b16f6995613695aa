"""One incarnation's ownership, step by step: renew, look at the peers, take what is free, ask for what must be given up.

The thread that calls is the only one that touches the lock session. Whatever casts doubt on the ownership raises:
`TermLost`, or the store's own error. The incarnation is over then, and a new one may begin. In the end the writer is closed
before the lock, so that nobody finds the lock free while an old transaction may still be on its way.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from mainspring.clock import Clock
from mainspring.errors import (
    FencedError,
    RowLockedError,
    SettingsError,
    StoreError,
    StoreUnavailableError,
    UnavailableError,
)
from mainspring_coordinator.deaths import note
from mainspring_coordinator.engine.events import Death
from mainspring_coordinator.engine.status import FailoverKind
from mainspring_coordinator.epoch import Anchor, Health, Lease, Peers, Seizure, Times, View
from mainspring_coordinator.ranking import Candidate, Wanted, assign, wanted
from mainspring_coordinator.releasing import Released, ReleaseOrder, check_release
from mainspring_coordinator.store.protocol import ConnectionId, CoordinatorRow, Journal, LockSession, ShardRow, Store

_log: Final = structlog.get_logger(__name__)
_passed_over_us: Final = 60_000_000
_lock_gone: Final = "the lock or the lease row of this incarnation is gone"


class TermLost(Exception):  # noqa: N818  (an event of the protocol, not an error of anyone)
    """The incarnation is over; the text says why."""


@dataclass(frozen=True, slots=True)
class Who:
    """How a coordinator presents itself."""

    name: str
    grpc_address: str
    http_address: str
    strategy: str = ""
    """ASSIGNMENT_STRATEGY."""


class Witness(Protocol):
    """Is told what a term does, in the thread that steps it."""

    def anchored(self, anchor: Anchor) -> None:
        """Database time was read."""
        ...

    def looked(self, view: View) -> None:
        """The cluster was looked at."""
        ...

    def taken(self, row: ShardRow, seconds: float) -> None:
        """A shard became ours; `seconds` from the decision to the commit."""
        ...

    def release_wanted(self, shards: Sequence[int]) -> None:
        """These shards of ours are another's by the ranking."""
        ...


class Term:
    """One incarnation. `begin`, then `step` again and again, then `end`, whatever happened."""

    def __init__(
        self,
        store: Store,
        cluster: str,
        who: Who,
        times: Times,
        *,
        incarnation: str,
        lease: Lease,
        health: Callable[[], Health],
        witness: Witness,
        clock: Clock,
        lone: bool,
        failover: bool,
        chance: random.Random,
    ) -> None:
        """`lone`: own everything, and do not begin beside another live coordinator. `failover`: take over from the dead of other names."""
        self.incarnation = incarnation
        self._store = store
        self._cluster = cluster
        self._who = who
        self._times = times
        self._lease = lease
        self._health = health
        self._witness = witness
        self._clock = clock
        self._lone = lone
        self._failover = failover
        self._chance = chance
        self._session: LockSession | None = None
        self._journal: Journal | None = None
        self._writer: ConnectionId | None = None
        self._started_at_us = 0
        self._peers = Peers(times)
        self._renew_due_us = 0
        self._poll_due_us = 0
        self._buried: dict[str, ConnectionId] = {}
        """The dead, with the writer of each that was ended; one that comes again with another is ended again."""
        self._dead_since_us: dict[str, int] = {}
        self._passed_over: dict[str, int] = {}
        self._asked: tuple[Sequence[int], int] = ((), 0)
        self._row_locked: set[int] = set()
        """Shards whose row was locked when we wanted to take them; tried after the others."""
        self._stray: dict[int, tuple[int, int]] = {}
        """Shards that are ours by their row alone: the epoch, and since when we have seen it so."""
        self._plan: tuple[object, Wanted] = (None, Wanted((), ()))
        self.withdrawn = False
        """Take nothing more: the process is about to stop."""

    @property
    def journal(self) -> Journal:
        """The writer of this incarnation."""
        assert self._journal is not None, "the term has not begun"
        return self._journal

    def begin(self, pause: Callable[[int], None]) -> None:
        """Open the connections, take the lock, write the lease row. `pause` waits some microseconds.

        Raises `SettingsError` when this coordinator wants to be alone, or the database serves one only, and another is live.
        """
        self._session = session = self._store.open_lock_session(self._cluster)
        if self._store.serves_one:
            # The lock is one for all: who holds it, even if it hangs, keeps it until its process ends.
            for holder in self._peers.observe(session.poll(), self._clock.now_us()).live.values():
                raise _file_taken(f"coordinator {holder.name!r} ({holder.grpc_address}) is live on it")
        elif self._lone:
            self._see_nobody(session, pause)
        self._journal = self._store.open_journal(self.incarnation)
        self._writer = self._journal.connection
        self._started_at_us = session.poll().now_us
        row = CoordinatorRow(
            incarnation=self.incarnation,
            name=self._who.name,
            grpc_address=self._who.grpc_address,
            http_address=self._who.http_address,
            renew_seq=0,
            attached_workers=self._health().attached_workers,
            lock_connection=session.connection,
            writer_connection=self._writer,
            started_at_us=self._started_at_us,
            strategy=self._who.strategy,
        )
        if not session.acquire(row):
            if self._store.serves_one:
                raise _file_taken("another process has locked it")
            raise TermLost("the lock is held by another process")
        self._renew(session)

    def step(self) -> int:
        """Do what is due; return when the next step is, on our clock."""
        assert self._session is not None, "the term has not begun"
        now_us = self._clock.now_us()
        if not self._lease.fresh(now_us):
            raise TermLost(f"the lease was not renewed for {self._times.lease_us // 1_000} ms")
        if now_us >= self._renew_due_us:
            self._renew(self._session)
        if self._clock.now_us() >= self._poll_due_us:
            self._look(self._session)
        return min(self._renew_due_us, self._poll_due_us)

    def release(self, order: ReleaseOrder) -> Released:
        """Free the shards of another incarnation; one that lives loses its connections first, and with them its term.

        Raises as `check_release`, and `UnavailableError` when a transaction of somebody holds one of the rows: then nothing was freed.
        """
        assert self._session is not None, "the term has not begun"
        session = self._session
        view = self._peers.observe(session.poll(), self._clock.now_us())
        check_release(order, view, self.incarnation)
        live, gone = view.live.get(order.incarnation), view.dead.get(order.incarnation)
        if live is not None:
            # As one that hangs; the writer first, whose open transaction would block us.
            self._kill(session, live.writer_connection)
            self._kill(session, live.lock_connection)
            self._peers.seized(order.incarnation)
            death = Death(FailoverKind.COORDINATOR_KILLED, live.name, order.incarnation, view.now_us)
        else:
            if gone is not None:
                self._kill(session, gone.writer_connection)
            death = replace(view.death_of(order.incarnation), name=order.name)
        held = [shard for shard, row in view.shards.items() if row.holder == order.incarnation]
        self._poll_due_us = 0
        try:
            freed = session.free(order.incarnation, held, note(death))
        except RowLockedError as error:
            raise UnavailableError(
                f"a transaction still holds a row of its shards ({error}); nothing was freed, try again in a moment"
            ) from error
        _log.warning(
            "shards_freed", peer=order.name, incarnation=order.incarnation, shards=freed, lived=live is not None
        )
        return Released(freed, live is not None)

    def close_writer(self) -> None:
        """Stop acting and writing, whatever the writer is doing."""
        self._lease.end()
        if self._journal is not None:
            self._journal.close()

    def end(self, *, clean: bool) -> None:
        """Close the writer, then the lock. `clean`: leave no lease row behind if no shard is ours any more."""
        self.close_writer()
        session, self._session = self._session, None
        if session is None:
            return
        try:
            if clean and all(row.holder != self.incarnation for row in session.poll().shards):
                session.forget(self.incarnation)
        except StoreError as error:
            # Whoever looks next finds the lock free and cleans up.
            _log.info("lease_row_left_behind", incarnation=self.incarnation, error=str(error))
        finally:
            session.close()

    def _renew(self, session: LockSession) -> None:
        health = self._health()
        sent_us = self._clock.now_us()
        doubt = self._lease.doubt(health, sent_us)
        if doubt is not None:
            raise TermLost(doubt)
        try:
            writer = self.journal.connection
            if writer != self._writer:
                session.record_writer(self.incarnation, writer)
                self._writer = writer
            db_us = session.renew(self.incarnation, health.attached_workers, health.attempts)
        except FencedError as error:
            raise TermLost(_lock_gone) from error
        except RowLockedError as error:
            # A slow commit of our own writer, that records its connection. There is time to ask again for as long as the lease holds.
            _log.warning("lease_row_locked", error=str(error), action="trying again")
            self._renew_due_us = self._clock.now_us() + self._times.poll_us
            return
        received_us = self._clock.now_us()
        self._lease.granted(sent_us)
        self._renew_due_us = sent_us + self._times.renew_us
        self._witness.anchored(Anchor(db_us, sent_us, received_us))

    def _look(self, session: LockSession) -> None:
        poll = session.poll()
        now_us = self._clock.now_us()
        self._poll_due_us = now_us + round(self._times.poll_us * self._chance.uniform(0.8, 1.2))
        view = self._peers.observe(poll, now_us)
        if self.incarnation not in view.live:
            raise TermLost(_lock_gone)
        if self._lone:
            self._refuse_elder(view)
        self._witness.looked(view)
        for seizure in view.seize:
            self._seize(session, seizure)
        self._bury(session, view, now_us)
        plan = self._wanted(view, now_us)
        if not self.withdrawn:
            self._take(session, view, [*plan.take, *self._strays(view, now_us)], now_us)
            self._ask(plan.release, now_us)

    # -- company -----------------------------------------------------------------------------------------------------------

    def _see_nobody(self, session: LockSession, pause: Callable[[int], None]) -> None:
        """Return when no other coordinator moves; one that holds its lock has T to show that it lives."""
        first = self._peers.observe(session.poll(), self._clock.now_us())
        deadline_us = self._clock.now_us() + self._times.hung_us
        while first.live and self._clock.now_us() < deadline_us:
            pause(self._times.poll_us)
            view = self._peers.observe(session.poll(), self._clock.now_us())
            for incarnation, row in view.live.items():
                if incarnation not in first.live or row.renew_seq != first.live[incarnation].renew_seq:
                    raise _not_alone(row)
            if not view.live:
                return

    def _refuse_elder(self, view: View) -> None:
        # Two that began at the same moment saw nobody: the one that owns something stays, else the elder one.
        owning = set(view.holders.values())
        hung = {seizure.incarnation for seizure in view.seize}
        mine = (self.incarnation not in owning, self._started_at_us, self.incarnation)
        for row in view.live.values():
            theirs = (row.incarnation not in owning, row.started_at_us, row.incarnation)
            if theirs < mine and row.incarnation not in hung:
                raise _not_alone(row)

    # -- the dead and the hung ---------------------------------------------------------------------------------------------

    def _seize(self, session: LockSession, seizure: Seizure) -> None:
        if seizure.incarnation == self.incarnation:
            raise TermLost("our own lease row does not move")
        _log.warning(
            "coordinator_hung", peer=seizure.name, incarnation=seizure.incarnation, silent_ms=seizure.silent_us // 1_000
        )
        for connection in seizure.connections:
            self._kill(session, connection)
        self._peers.seized(seizure.incarnation)
        self._buried[seizure.incarnation] = seizure.connections[0]
        self._poll_due_us = 0

    def _bury(self, session: LockSession, view: View, now_us: int) -> None:
        """End the writers of the dead, so that no open transaction of theirs blocks us; forget those that own nothing."""
        holding = {row.holder for row in view.shards.values()}
        for incarnation, row in view.dead.items():
            since_us = self._dead_since_us.setdefault(incarnation, now_us)
            if incarnation in holding and self._buried.get(incarnation) != row.writer_connection:
                if incarnation not in self._buried:
                    _log.warning("coordinator_lost", peer=row.name, incarnation=incarnation)
                self._kill(session, row.writer_connection)
                self._buried[incarnation] = row.writer_connection
            elif incarnation not in holding and now_us - since_us >= self._times.hung_us:
                self._forget(session, incarnation)
        for known in [known for known in self._dead_since_us if known not in view.dead]:
            del self._dead_since_us[known]
            self._buried.pop(known, None)

    def _forget(self, session: LockSession, incarnation: str) -> None:
        try:
            session.forget(incarnation)
        except RowLockedError as error:
            # Nothing hangs on it: the next look tries again.
            _log.info("lease_row_left_behind", incarnation=incarnation, error=str(error))

    def _kill(self, session: LockSession, connection: ConnectionId) -> None:
        try:
            session.kill(connection)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            # Without the right to end connections a takeover still comes, when the server itself ends the session.
            _log.error("kill_refused", connection=connection.id, peer=connection.peer, error=str(error))

    # -- shards ------------------------------------------------------------------------------------------------------------

    def _wanted(self, view: View, now_us: int) -> Wanted:
        if self._lone:
            return Wanted([shard for shard, holder in view.holders.items() if holder is None], [])
        live = [candidate for candidate in view.candidates if self._passed_over.get(candidate.incarnation, 0) <= now_us]
        seen = (live, view.holders)
        if self._plan[0] != seen:
            self._plan = (seen, wanted(live, view.holders, self.incarnation))
        plan = self._plan[1]
        if not self._failover:
            return replace(plan, take=self._inherited(view, plan.take))
        orphans = sorted(set(view.orphans) - set(plan.take))
        if not orphans:
            return plan
        self._pass_over(live, view.holders, orphans, now_us)
        return replace(plan, take=[*plan.take, *orphans])

    def _inherited(self, view: View, wanted: Sequence[int]) -> Sequence[int]:
        """Return what may be taken with failover off: what nobody left behind, and all that one of our own name did."""
        left = {shard: row.holder for shard, row in view.shards.items() if row.holder is not None}
        names = {shard: view.dead[holder].name for shard, holder in left.items() if holder in view.dead}
        free = {*wanted, *view.orphans} - names.keys()
        return sorted(free | {shard for shard, name in names.items() if name == self._who.name})

    def _pass_over(
        self, live: Sequence[Candidate], holders: Mapping[int, str | None], orphans: Sequence[int], now_us: int
    ) -> None:
        """Leave out of our ranking, for a while, who did not take what was its own; it would get it back at once."""
        owners = assign(live, holders)
        for idle in {owners[shard] for shard in orphans} - {self.incarnation}:
            _log.warning("coordinator_takes_nothing", incarnation=idle)
            self._passed_over[idle] = now_us + _passed_over_us

    def _take(self, session: LockSession, view: View, shards: Sequence[int], decided_us: int) -> None:
        for shard in sorted(shards, key=lambda shard: shard in self._row_locked):
            if self._clock.now_us() >= self._renew_due_us:
                self._poll_due_us = 0  # the lease first, then a fresh look
                return
            seen = view.shards[shard]
            dead = seen.holder if seen.holder != self.incarnation else None
            noted = note(view.death_of(dead)) if dead is not None else ""
            try:
                row = session.take(seen, self.incarnation, self._times.grace_us, noted)
            except RowLockedError as error:
                # Its last owner's transaction is open still. Each look ends the writer that it has recorded by then.
                _log.warning("shard_row_locked", shard=shard, error=str(error), action="trying again")
                self._row_locked.add(shard)
                continue
            self._row_locked.discard(shard)
            if row is not None:
                self._witness.taken(row, (self._clock.now_us() - decided_us) / 1_000_000)

    def _strays(self, view: View, now_us: int) -> Sequence[int]:
        """Return shards that stay ours by their row alone: the journal found its own claim void, or a release never came to pass.

        Nobody else would take them while we live. Taken again, under a new epoch, they are built anew from the database.
        """
        owned = self._health().owned
        mine = {row.shard: row.epoch for row in view.shards.values() if row.holder == self.incarnation}
        stray = {shard: epoch for shard, epoch in mine.items() if owned.get(shard, 0) < epoch}
        before = self._stray
        self._stray = {
            shard: before[shard] if shard in before and before[shard][0] == epoch else (epoch, now_us)
            for shard, epoch in stray.items()
        }
        # What was taken or released a moment ago looks the same until the control loop has heard of it.
        return [shard for shard, (_, since_us) in self._stray.items() if now_us - since_us >= self._times.renew_us]

    def _ask(self, shards: Sequence[int], now_us: int) -> None:
        asked, at_us = self._asked
        if shards and (list(shards) != list(asked) or now_us - at_us >= self._times.hung_us):
            self._asked = (shards, now_us)
            self._witness.release_wanted(shards)
        elif not shards:
            self._asked = ((), 0)


def _file_taken(why: str) -> SettingsError:
    return SettingsError(
        f"DATABASE_URL names a file, which serves one coordinator, and {why}; stop that one, or give this one another "
        "file. Coordinators share the work, with DISTRIBUTED_MODE=true, on a MySQL or MariaDB database only"
    )


def _not_alone(row: CoordinatorRow) -> SettingsError:
    return SettingsError(
        f"DISTRIBUTED_MODE is off, but coordinator {row.name!r} ({row.grpc_address}) is live on this database; stop it, or set "
        "DISTRIBUTED_MODE=true for both so that they share the work"
    )
