"""The thread that keeps a coordinator's ownership alive, and its face towards the event loop.

One term follows the other for as long as the process runs; each is a new incarnation. Only this thread speaks on the lock
session, so a stalled database stalls nothing else, and the session's own socket timeout bounds the stall. What happens is
told to a `Listener` on the event loop, in order. The event loop itself is watched: it ticks, and the thread renews nothing
when the last tick is too old, so that a process whose loop hangs does not keep what it cannot serve.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from mainspring.clock import BootClock, Clock
from mainspring.errors import MainspringError, SettingsError, StoreUnavailableError
from mainspring.limits import database_start_wait_ms_max
from mainspring.naming import new_incarnation
from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.epoch import Anchor, DatabaseClock, Health, Lease, Times, View
from mainspring_coordinator.releasing import Released, ReleaseOrder, ReleaseOrders
from mainspring_coordinator.store.protocol import (
    Attempts,
    ClusterRow,
    CoordinatorRow,
    Journal,
    ShardRow,
    Store,
    none_ended,
)
from mainspring_coordinator.term import Term, TermLost, Who
from mainspring_coordinator.threads import SystemThreads, Thread, Threads

_log: Final = structlog.get_logger(__name__)
_backoff_us_min: Final = 100_000
_backoff_us_max: Final = 3_000_000
_tick_s: Final = 0.2


class Listener(Protocol):
    """Is told of our ownership, on the event loop, in this order of events. Nothing here may block."""

    def on_term(self, incarnation: str, journal: Journal) -> None:
        """A term began; its writer is `journal`, which the election closes when the term ends."""
        ...

    def on_taken(self, row: ShardRow) -> None:
        """A shard became ours."""
        ...

    def on_release_wanted(self, shards: Sequence[int]) -> None:
        """These shards of ours should be given up, when what they have under way is committed. May come again."""
        ...

    def on_peers(self, view: View) -> None:
        """What a coordinator goes by has changed: who lives, who owns what, who else has workers, or what fence rows say for all."""
        ...

    def on_term_lost(self, reason: str) -> None:
        """The term is over, and so is every right to write or to speak; the writer is closed already."""
        ...

    def on_tick(self) -> None:
        """Comes each 0.2 s, between terms as well."""
        ...


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the process says of itself when a lease is to be renewed; read in the election's thread."""

    oldest_batch_us: int
    """How long the batch in flight has been under way; 0: there is none."""
    attached_workers: int
    owned: Mapping[int, int]
    """The shards that the control loop has, with their epochs."""
    attempts: Attempts = none_ended
    """Those of the last minutes."""


class Measures(Protocol):
    """Is told what the election measures, in its thread or on the event loop."""

    def shard_taken(self, seconds: float) -> None:
        """A free shard was taken, so long after it was decided."""
        ...

    def loop_lag(self, seconds: float) -> None:
        """The event loop ticked so much too late."""
        ...

    def clock_jumped(self, seconds: float) -> None:
        """Database time jumped."""
        ...


class Election:
    """Starts and ends terms; implements `ports.Directory`. Methods are for the event loop unless they say otherwise."""

    def __init__(
        self,
        store: Store,
        settings: CoordinatorSettings,
        listener: Listener,
        vitals: Callable[[], Vitals],
        measures: Measures,
        *,
        grpc_address: str,
        http_address: str,
        clock: Clock | None = None,
        threads: Threads | None = None,
        chance: random.Random | None = None,
        name_term: Callable[[], str] = new_incarnation,
    ) -> None:
        """`grpc_address` and `http_address` are those under which others reach us; `name_term` makes each term's incarnation."""
        self._store = store
        self._settings = settings
        self._listener = listener
        self._vitals = vitals
        self._measures = measures
        self._who = Who(settings.engine_instance_id, grpc_address, http_address, settings.assignment_strategy)
        self._times = Times.of(settings)
        self._clock = clock or BootClock()
        self._threads = threads or SystemThreads()
        self._chance = chance or random.Random()  # noqa: S311  (spreads polls and tries; guards nothing)
        self._name_term = name_term
        self._lease = Lease(self._times)
        self._database_clock = DatabaseClock()
        self._aio = asyncio.get_running_loop()
        self._started: asyncio.Future[ClusterRow] = self._aio.create_future()
        self._ended: asyncio.Future[None] = self._aio.create_future()
        self._thread: Thread | None = None
        self._wake = self._threads.signal()
        self._stopping = False
        self._withdrawn = False
        self._given_up: str | None = None
        self._begun = False
        self._answered_us: int | None = None
        self._signature: object = None
        self._releases = ReleaseOrders()
        # As the event loop knows it:
        self._ticked_us = 0
        self._ticker: asyncio.TimerHandle | None = None
        self._incarnation = ""
        self._live: Mapping[str, CoordinatorRow] = {}
        self._owners: dict[int, str | None] = {}

    # -- for the process ---------------------------------------------------------------------------------------------------

    async def start(self) -> ClusterRow:
        """Begin; return the cluster once the first term has begun.

        Raises `StoreUnavailableError` when the database stays out of reach for too long, `SchemaError` when its schema is not
        ours, `SettingsError` when the settings do not fit the cluster or another coordinator is live that we may not join.
        """
        self._ticked_us = self._clock.now_us()
        self._tick()
        self._thread = self._threads.start(self._run, "election")
        return await self._started

    def withdraw(self) -> None:
        """Take no more shards, because the process is about to stop; the lease is still renewed."""
        self._withdrawn = True

    async def stop(self) -> None:
        """End the term and the thread; bounded by the socket timeout of the lock session."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            await self._ended
            self._thread.join()
        if self._ticker is not None:
            self._ticker.cancel()

    def give_up(self, reason: str) -> None:
        """End this term, and begin another one. Safe from any thread."""
        self._given_up = reason
        self._wake.set()

    async def release(self, order: ReleaseOrder) -> Released:
        """Free the shards of another coordinator's incarnation, in the election's thread. Raises as `Term.release`."""
        answer = self._releases.put(order)
        self._wake.set()
        return await asyncio.wrap_future(answer)

    def fresh(self) -> bool:
        """Tell whether the lease allows us to act towards the outside. Safe from any thread."""
        return self._lease.fresh(self._clock.now_us())

    def now_us(self) -> int:
        """Return database time; there must have been a term."""
        return self._database_clock.now_us(self._clock.now_us())

    def loop_silent_us(self) -> int:
        """Return since when the event loop has not ticked."""
        return self._clock.now_us() - self._ticked_us

    def database_silent_us(self) -> int | None:
        """Return since when the database has not answered us, None when it never did."""
        return None if self._answered_us is None else self._clock.now_us() - self._answered_us

    # -- ports.Directory ---------------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        """Our own incarnation; empty between terms."""
        return self._incarnation

    @property
    def name(self) -> str:
        """Our own name."""
        return self._who.name

    def owner_of(self, shard: int) -> tuple[str, str] | None:
        """Return (incarnation, gRPC address) of the live owner, None if there is none at the moment."""
        owner = self._owners.get(shard)
        row = self._live.get(owner) if owner else None
        return None if row is None else (row.incarnation, row.grpc_address)

    def coordinators(self) -> Sequence[tuple[str, str, str]]:
        """Return (incarnation, name, gRPC address) of all live coordinators, ourselves included."""
        return [(row.incarnation, row.name, row.grpc_address) for row in self._live.values()]

    def live_rows(self) -> Sequence[CoordinatorRow]:
        """Return the lease rows of all live coordinators, as of the last look that showed something new."""
        return list(self._live.values())

    def strategies(self) -> Sequence[str]:
        """Return the own strategies of all live coordinators."""
        return [row.strategy for row in self._live.values()]

    # -- term.Witness, in the thread ---------------------------------------------------------------------------------------

    def anchored(self, anchor: Anchor) -> None:
        """Database time was read."""
        self._tell(self._take_anchor, anchor)

    def looked(self, view: View) -> None:
        """The cluster was looked at: tell it if anything is new."""
        self._answered_us = self._clock.now_us()
        owners = {
            shard: (row.epoch, view.holders[shard], row.strategy, row.pauses, row.evicted)
            for shard, row in view.shards.items()
        }
        signature = (set(view.live), set(view.dead), owners, view.peers_have_workers(self._incarnation))
        if signature != self._signature:
            self._signature = signature
            self._tell(self._take_view, view)

    def taken(self, row: ShardRow, seconds: float) -> None:
        """A shard became ours."""
        self._measures.shard_taken(seconds)
        self._tell(self._take_shard, row)

    def release_wanted(self, shards: Sequence[int]) -> None:
        """These shards of ours are another's by the ranking."""
        self._tell(self._listener.on_release_wanted, shards)

    # -- on the event loop -------------------------------------------------------------------------------------------------

    def _begin_term(self, incarnation: str, journal: Journal) -> None:
        self._incarnation = incarnation
        self._listener.on_term(incarnation, journal)

    def _take_anchor(self, anchor: Anchor) -> None:
        jump_us = self._database_clock.anchor(anchor)
        if jump_us:
            _log.error(
                "database_time_jumped", by_ms=jump_us // 1_000, action="followed slowly; check the server's clock"
            )
            self._measures.clock_jumped(jump_us / 1_000_000)

    def _take_view(self, view: View) -> None:
        self._live = view.live
        self._owners = dict(view.holders)
        self._listener.on_peers(view)

    def _take_shard(self, row: ShardRow) -> None:
        self._owners[row.shard] = row.holder
        # The server wrote the grace by its own clock, and it will be over by ours: after a jump these are hours apart.
        grace_until_us = self._database_clock.told_us(row.grace_until_us, self._clock.now_us())
        self._listener.on_taken(replace(row, grace_until_us=grace_until_us))

    def _lose_term(self, reason: str) -> None:
        self._owners = {shard: owner for shard, owner in self._owners.items() if owner != self._incarnation}
        self._live = {who: row for who, row in self._live.items() if who != self._incarnation}
        self._incarnation = ""
        self._listener.on_term_lost(reason)

    def _tick(self) -> None:
        now_us = self._clock.now_us()
        if self._ticker is not None:
            self._measures.loop_lag(max(0.0, (now_us - self._ticked_us) / 1_000_000 - _tick_s))
        self._ticked_us = now_us
        self._ticker = self._aio.call_later(_tick_s, self._tick)
        self._listener.on_tick()

    def _finish_start(self, outcome: ClusterRow | Exception) -> None:
        if self._started.done():
            return
        if isinstance(outcome, ClusterRow):
            self._started.set_result(outcome)
        else:
            self._started.set_exception(outcome)

    def _finish(self) -> None:
        self._finish_start(StoreUnavailableError("the election was stopped before its first term began"))
        if not self._ended.done():
            self._ended.set_result(None)

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            cluster = self._open()
            if cluster is not None:
                self._serve(cluster)
        except Exception as error:
            self._tell(self._finish_start, error)
        finally:
            self._tell(self._finish)

    def _open(self) -> ClusterRow | None:
        """Return the cluster; wait, bounded, for a database that is not there yet. None: we were stopped meanwhile."""
        settings = self._settings
        wanted = ClusterRow(settings.cluster_name, settings.shards)
        deadline_us = self._clock.now_us() + database_start_wait_ms_max * 1_000
        backoff = _Backoff(self._chance)
        while not self._stopping:
            try:
                self._store.check()
                cluster = self._store.create_cluster(wanted)
            except StoreUnavailableError as error:
                self._refuse_late(deadline_us, error)
                _log.warning("database_unreachable", error=str(error), action="trying again")
                self._pause(backoff.next_us())
                continue
            if cluster.name != wanted.name:
                raise SettingsError(
                    f"CLUSTER_NAME = {wanted.name!r}, but the database of DATABASE_URL holds cluster {cluster.name!r}; "
                    "set one of them to fit the other"
                )
            if cluster.shards_total != wanted.shards_total and "shards" in settings.model_fields_set:
                raise SettingsError(
                    f"SHARDS = {wanted.shards_total}, but cluster {cluster.name!r} was made with {cluster.shards_total} shards, "
                    f"which is fixed; set SHARDS={cluster.shards_total} or leave it unset"
                )
            return cluster
        return None

    def _refuse_late(self, deadline_us: int, error: Exception) -> None:
        if self._clock.now_us() >= deadline_us:
            raise StoreUnavailableError(
                f"no term could begin within {database_start_wait_ms_max // 1_000} s: {error}; check that the database runs "
                "and what DATABASE_URL says of host, port, user and database, then type: mainspring db check"
            ) from error

    def _serve(self, cluster: ClusterRow) -> None:
        deadline_us = self._clock.now_us() + database_start_wait_ms_max * 1_000
        backoff = _Backoff(self._chance)
        while not self._stopping:
            began_us = self._clock.now_us()
            try:
                self._live_through(cluster)
            except (TermLost, StoreUnavailableError) as error:  # told and logged when the term ended
                if not self._begun:
                    self._refuse_late(deadline_us, error)
            except Exception:
                if not self._begun:
                    raise
            if self._clock.now_us() - began_us > self._times.lease_us:
                backoff = _Backoff(self._chance)
            self._pause(backoff.next_us())

    def _live_through(self, cluster: ClusterRow) -> None:
        """Begin a term and stay in it until it is lost or the process stops; raises what ended it."""
        self._given_up = None
        self._signature = None
        term = Term(
            self._store,
            cluster.name,
            self._who,
            self._times,
            incarnation=self._name_term(),
            lease=self._lease,
            health=self._health,
            witness=self,
            clock=self._clock,
            lone=not self._settings.distributed_mode,
            failover=self._settings.enable_failover,
            chance=self._chance,
        )
        reason, told = "the process stops", False
        try:
            term.begin(self._pause)
            self._tell(self._begin_term, term.incarnation, term.journal)
            told = True
            self._releases.open()
            self._step_on(term, cluster)
        except (TermLost, MainspringError) as error:
            reason = str(error)
            _log.warning("term_lost", incarnation=term.incarnation, reason=reason)
            raise
        except Exception as error:
            reason = f"an error that should not be: {error!r}"
            _log.exception("term_lost", incarnation=term.incarnation, reason=reason)
            raise
        finally:
            # First the right to act, then the writer, then everyone is told, last the lock.
            self._lease.end()
            term.close_writer()
            self._releases.close()
            if told:
                self._tell(self._lose_term, reason)
            term.end(clean=self._stopping)

    def _step_on(self, term: Term, cluster: ClusterRow) -> None:
        while not self._stopping:
            if self._given_up is not None:
                raise TermLost(self._given_up)
            term.withdrawn = self._withdrawn
            self._releases.do(term.release)
            due_us = term.step()
            if not self._begun:
                self._begun = True
                self._tell(self._finish_start, cluster)
            self._pause(due_us - self._clock.now_us())

    def _health(self) -> Health:
        vitals = self._vitals()
        return Health(self._ticked_us, vitals.oldest_batch_us, vitals.attached_workers, vitals.owned, vitals.attempts)

    def _pause(self, duration_us: int) -> None:
        """Wait until the time has passed or someone wakes us."""
        self._wake.wait(max(0, duration_us) / 1_000_000)
        self._wake.clear()

    def _tell(self, call: Callable[..., object], *args: object) -> None:
        try:
            self._aio.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the event loop is closed: the process ends, and nobody is left to be told
            self._stopping = True


class _Backoff:
    """Waits between tries, each about twice as long as the one before."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._next_us = _backoff_us_min

    def next_us(self) -> int:
        """Return how long to wait now."""
        wait_us, self._next_us = self._next_us, min(_backoff_us_max, self._next_us * 2)
        return round(wait_us * self._chance.uniform(0.8, 1.2))
