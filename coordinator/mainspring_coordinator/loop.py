"""The control loop: one owner of all state.

Events wait in a bounded queue; each is stepped through the engine, and the effects gather. While one batch is being committed, the
next one gathers (group commit, double buffered), so a commit is shared by all that came during the one before. What a batch lets out
leaves after its commit, and only while the lease is fresh.

A term is one incarnation's ownership. When it ends, everything here is dropped, callers are told that the outcome is unknown, and
the next term begins with an empty engine.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from mainspring import limits
from mainspring.clock import BootClock, Clock
from mainspring.errors import BusyError, MainspringError, NotOwnerError, UnavailableError
from mainspring_coordinator.alarm import Alarm
from mainspring_coordinator.batch import Gathered, answered
from mainspring_coordinator.delivery import Delivery, Notify, checked
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Answer, EpochSpent, LoadOutputs, LoadWorkflow
from mainspring_coordinator.engine.events import Event, PeersSeen, ShardLost, SubmitExisted, Tick, WorkflowEvicted
from mainspring_coordinator.engine.operator_events import EvictionsSeen, PausesSeen, StrategySeen
from mainspring_coordinator.engine.rows import WorkflowInserted
from mainspring_coordinator.engine.step import Engine
from mainspring_coordinator.holdings import Holdings, Proofs, owned_elsewhere, reject, resolve
from mainspring_coordinator.ports import Observer, Outlet, PermitEffect
from mainspring_coordinator.result_cache import Questions, ResultCache
from mainspring_coordinator.shard_loader import ShardLoader
from mainspring_coordinator.store.protocol import Batch, ExistingWorkflow, Journal, ShardRow
from mainspring_coordinator.tasks import Tasks
from mainspring_coordinator.threads import SystemThreads, Threads
from mainspring_coordinator.writer import Adopt, Job, Release, Write, Writer, Written

_log: Final = structlog.get_logger(__name__)
_slice_us: Final = limits.loop_slice_ms_max * 1_000 // 2
"""Half of what an act may hold the loop: the last event of a slice may take the other half."""


class ControlLoop:
    """Implements `ports.Loop`; all its methods run on the event loop."""

    def __init__(
        self,
        config: EngineConfig,
        shards_total: int,
        loader: ShardLoader,
        *,
        now_us: Callable[[], int],
        fresh: Callable[[], bool],
        new_batch_id: Callable[[], bytes],
        observer: Observer,
        give_up: Callable[[str], None],
        clock: Clock | None = None,
        threads: Threads | None = None,
        cache: ResultCache | None = None,
    ) -> None:
        """`now_us` is database time; `fresh` tells whether the lease lets us speak; `give_up` ends the term; `cache`: if not the table."""
        self._config = config
        self.shards_total = shards_total
        self._loader = loader
        self.now_us = now_us
        self._fresh = fresh
        self._new_batch_id = new_batch_id
        self._observer = observer
        self._give_up = give_up
        self._clock_us = (clock or BootClock()).now_us
        self._threads = threads or SystemThreads()
        self._aio = asyncio.get_running_loop()
        self._holdings = Holdings()
        self._delivery = Delivery(self._load, self._raise_epoch, observer.ended, observer.strategy_failed)
        cache, clock_us = cache or loader.cache(), self._clock_us
        self._questions = Questions(cache, self._post_unbounded, now_us=now_us, clock_us=clock_us)
        self._delivery.pass_to_cache = self._questions.put
        self._writer: Writer | None = None
        self._term = self._session = 0
        self._reset()

    def _reset(self) -> None:
        self._engine = Engine(self._config)
        self._over = False
        self._recovering: dict[int, asyncio.Task[None]] = {}
        self._queue: deque[Event | asyncio.Future[None]] = deque()
        self._gathering = Gathered()
        self._in_flight: Gathered | None = None
        self._scheduled = False
        self._alarm = Alarm(self._aio, self._schedule)
        self._refused_seen = 0
        self._tasks = Tasks(self._aio, self._give_up)
        self._questions.begin(self._tasks)
        self._flushing: list[asyncio.Future[None]] = []
        self._flushed: list[asyncio.Future[None]] = []
        self._proofs = Proofs()
        self._releasing: deque[asyncio.Future[None]] = deque()
        self._seen_epochs: dict[int, int] = {}

    # -- terms -------------------------------------------------------------------------------------------------------------

    def begin_term(self, journal: Journal) -> None:
        """Begin to own shards, through this journal."""
        assert self._writer is None, "a term is under way"
        self._reset()
        done, on_loop = partial(self._job_done, self._term), self._aio.call_soon_threadsafe
        self._writer = Writer(journal, lambda job, written: on_loop(done, job, written), self._threads)

    def end_term(self, reason: str) -> None:
        """Drop everything, at once: whoever waits learns that the outcome is unknown."""
        if self._writer is None:
            return
        self._term += 1
        self._writer.close()
        self._writer = None
        self._alarm.cancel()
        self._tasks.cancel()
        error = UnavailableError(f"this coordinator gave up its term ({reason}); the outcome is unknown, try again")
        self._delivery.fail_all(error)
        marks = [mark for mark in self._queue if isinstance(mark, asyncio.Future)]
        for futures in (marks, list(self._releasing), self._proofs.waiting(), self._flushing, self._flushed):
            reject(futures, error)
        self._holdings.end_term(error)
        self._reset()

    # -- shards ------------------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> Mapping[int, int]:
        """The shards that we own and that are ready, with their epochs."""
        return self._holdings.served

    def owned(self) -> Mapping[int, int]:
        """Return the shards that we own, those being recovered included, with their epochs; safe from any thread."""
        return dict(self._holdings.epochs)

    @property
    def engine(self) -> Engine:
        """What decides, and knows; to be read only."""
        return self._engine

    @property
    def queue_depth(self) -> int:
        """How many events wait."""
        return len(self._queue)

    def oldest_batch_us(self) -> int:
        """Return the age of the batch in flight, 0 if there is none; safe from any thread."""
        batch = self._in_flight
        return self._clock_us() - batch.begun_us if batch is not None else 0

    def take_shard(self, row: ShardRow) -> None:
        """The shard is ours in the database: build its state and serve it."""
        if self._writer is None:
            return
        if row.shard in self._holdings.epochs:
            # Lost and taken again before any commit told us: what was made under the old epoch must not leave under the new one.
            self._forget_shard(row.shard, NotOwnerError(f"shard {row.shard} was another coordinator's meanwhile"))
        self._holdings.take(row)
        self._writer.put(Adopt(row))
        self._recovering[row.shard] = self._tasks.spawn(self._recover(row))

    def looked(self, epochs: Mapping[int, int], *seen: PeersSeen | StrategySeen | PausesSeen | EvictionsSeen) -> None:
        """The database shows this: what is at a higher epoch is another's, even if we have nothing to write that would tell us."""
        for event in seen:
            self._post_unbounded(event)
        for shard, epoch in epochs.items():
            if epoch > self._holdings.epochs.get(shard, epoch):
                _log.warning("shard_lost", shard=shard, epoch_now=epoch)
                self._forget_shard(shard, owned_elsewhere())

    def _forget_shard(self, shard: int, error: MainspringError) -> None:
        """Drop all that is known of a shard and all that is gathered of it; its callers get the error."""
        self._delivery.refuse(self._gathering.drop_shards({shard}), error)
        self._drop(shard)
        self._stop_serving(shard)
        self._step(ShardLost(shard))

    def _drop(self, shard: int) -> None:
        """Own a shard no longer; what still reads it must not come into the state of a later ownership."""
        self._holdings.drop(shard)
        if (recovering := self._recovering.pop(shard, None)) is not None:
            recovering.cancel()

    async def _recover(self, row: ShardRow) -> None:
        async def taken_in() -> None:
            while True:
                # What is queued now has been stepped; and of this shard, all has been built of it.
                stepped = self._aio.create_future()
                self._queue.append(stepped)
                self._schedule()
                await stepped
                if not self._engine.is_taking_in(row.shard):
                    return

        recover = partial(self._loader.recover, row, self._post_unbounded, taken_in, self._flush)
        count = await self._loader.until_read(recover, partial(self._holdings.is_ours, row.shard, row.epoch))
        self._recovering.pop(row.shard, None)
        self._holdings.serve(row)
        _log.info("shard_ready", shard=row.shard, epoch=row.epoch, workflows=count)
        self._delivery.shards_changed(self._holdings.served)

    async def release_shards(self, shards: Sequence[int]) -> None:
        """Give shards up on purpose, one by one, after what each has under way is committed, and heard by the workers, which is bounded.

        A term that ends first gives up all.
        """
        term, mute = self._term, set[int]()
        try:
            for shard in shards:
                if term == self._term:
                    await self._release(shard, mute)
        except UnavailableError as error:
            _log.info("release_cut_short", shards=list(shards), reason=str(error))

    async def _release(self, shard: int, mute: set[int]) -> None:
        epoch = self._holdings.served.get(shard)
        if epoch is None or self._writer is None:
            return
        self._stop_serving(shard)
        await self._flush()
        if self._holdings.is_ours(shard, epoch):
            self._step(ShardLost(shard))
        # What came between the first flush and here is still ours to commit.
        await self._flush()
        # What the workers state to the next owner will hold all that we sent, so that it need not be offered again.
        await self._delivery.until_seen(mute)
        if self._holdings.is_ours(shard, epoch) and self._writer is not None:
            self._drop(shard)
            released = self._aio.create_future()
            self._releasing.append(released)
            self._writer.put(Release({shard: epoch}, {shard: self._seen_epochs.pop(shard, 0)}))
            await released

    async def _flush(self) -> None:
        """Return when all that is gathered now is committed."""
        if self._gathering or self._in_flight is not None:
            future = self._aio.create_future()
            self._flushed.append(future)
            self._schedule()
            await future

    def _stop_serving(self, shard: int) -> None:
        if self._holdings.stop_serving(shard):
            self._delivery.shards_changed(self._holdings.served)

    # -- ports.Loop --------------------------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Put an event into the queue. `BusyError` when it is full."""
        if len(self._queue) >= limits.events_queue_max:
            raise BusyError(
                f"the coordinator's queue holds {limits.events_queue_max} events; try again in a moment",
                retry_after_ms=500,
            )
        self._post_unbounded(event)

    def _post_unbounded(self, event: Event) -> None:
        """Post what was bounded where it came from: pages of a recovery, answers of the database."""
        if self._writer is not None:
            self._queue.append(event)
            self._schedule()

    async def ask(self, shard: int, make: Callable[[int], Event]) -> Answer:
        """Post the event that `make` builds around a token, and return its answer. See `ports.Loop`."""
        try:
            async with asyncio.timeout(limits.recovery_wait_ms_max / 1_000):
                await self._holdings.until_served(shard)
                # Not before: who waits for the shard gets its errors from there, and one sent here would be nobody's.
                with self._delivery.caller() as (token, future):
                    self.post(make(token))
                    return checked(await future)
        except TimeoutError as error:
            raise UnavailableError(
                f"shard {shard} gave no answer within {limits.recovery_wait_ms_max} ms; the outcome is unknown, try again"
            ) from error

    async def prove(self, shard: int) -> None:
        """Return once the shard is proven ours by a statement begun after this call."""
        await self._holdings.until_served(shard)
        if self._writer is None:
            raise UnavailableError("this coordinator gave up its term; try again")
        future = self._proofs.ask(shard)
        self._schedule()
        await future

    def new_session(self) -> int:
        """Return a number for a worker's stream."""
        self._session += 1
        return self._session

    def attach(self, session: int, outlet: Outlet) -> None:
        """Let a session's effects go to this outlet."""
        self._delivery.attach(session, outlet)

    def detach(self, session: int) -> None:
        """Forget a session's outlet."""
        self._delivery.detach(session)

    def subscribe(self, workflow_id: str, notify: Notify, *, end_only: bool = False) -> Callable[[], None]:
        """Call `notify` after each commit that changed a workflow. See `ports.Loop`."""
        return self._delivery.subscribe(workflow_id, notify, end_only=end_only)

    def on_permits(self, pass_on: Callable[[Sequence[PermitEffect]], None]) -> None:
        """Call `pass_on` with what each commit lets out of permits. See `ports.Loop`."""
        self._delivery.pass_on_permits = pass_on

    def on_shard_lost(self, notify: Callable[[int], None]) -> Callable[[], None]:
        """Call `notify` with each shard that stops being served; returns what ends it."""
        return self._holdings.on_lost(notify)

    # -- the loop ----------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled and self._writer is not None:
            self._scheduled = True
            self._aio.call_soon(self._run, self._term)

    def _run(self, term: int) -> None:
        """Step what waits, for a bounded time; then hand the batch over if the journal is free."""
        if term != self._term or self._over:
            return
        self._scheduled = False
        try:
            self._run_slice()
        except Exception as error:  # a bug: the state may be half changed, and must be built anew
            self._break(error)

    def _break(self, error: Exception) -> None:
        _log.exception("loop_failed")
        self._finish_term(f"the control loop failed: {error!r}")

    def _finish_term(self, reason: str) -> None:
        """Let nothing out any more; the term ends as soon as its owner hears of it."""
        self._over = True
        self._give_up(reason)

    def _run_slice(self) -> None:
        until_us = self._clock_us() + _slice_us
        queue, gathering = self._queue, self._gathering
        # Each post wakes us: without this look a batch would grow by one event each time, and the queue never be full.
        full = self._in_flight is not None and gathering.full
        while queue and not full:
            event = queue.popleft()
            if isinstance(event, asyncio.Future):
                resolve([event])
                continue
            self._step(event)
            full = gathering.full or self._clock_us() > until_us
        # A step for an event has done a part of what is due as well; with none there is always one Tick.
        while not full and self._engine.is_due(self.now_us()):
            self._step(Tick())
            full = gathering.full or self._clock_us() > until_us
        if self._in_flight is None:
            self._cut()
        if self._in_flight is None or not self._gathering.full:
            if queue or self._engine.busy:
                self._schedule()
            self._alarm.set(self._engine.next_due_us(), self.now_us())

    def _step(self, event: Event) -> None:
        self._gathering.add(self._engine.step(event, self.now_us()), self._clock_us())

    def _cut(self) -> None:
        """Hand the gathered batch to the journal; with nothing to write or prove, let it out at once."""
        if self._writer is None or self._over:
            return
        batch = self._gathering
        batch.add_changes(self._engine.cut())
        self._observer.cut(self._engine.state.ready)
        known = self._holdings.epochs
        prove = {shard: known[shard] for shard in (*batch.shards_to_prove(), *self._proofs.asked) if shard in known}
        if not batch and not prove:
            resolve(self._flushed)
            self._flushed.clear()
            self._proofs.begin()
            self._proofs.answer({}, known)
            return
        self._gathering = Gathered()
        self._proofs.begin()
        self._flushing, self._flushed = self._flushed, []
        self._in_flight = batch
        batch.begun_us = batch.begun_us or self._clock_us()
        if batch.rows or prove:
            batch.fenced = {**batch.epochs(known), **prove}
            self._writer.put(Write(Batch(self._new_batch_id(), batch.epochs(known), batch.rows), prove))
        else:
            self._finish(Written())

    def _job_done(self, term: int, job: Job, written: Written) -> None:
        if term != self._term or self._over:
            return
        if written.error is not None:
            self._finish_term(str(written.error))
            return
        if isinstance(job, Release):
            resolve([self._releasing.popleft()])
        if isinstance(job, Write):
            self._observer.committed(written)
            try:
                self._finish(written)
            except Exception as error:  # as in `_run`
                self._break(error)

    def _finish(self, written: Written) -> None:
        """The batch in flight is committed, or as much of it as was ours to commit."""
        batch, self._in_flight = self._in_flight, None
        assert batch is not None
        if written.lost:
            self._lose(batch, written.lost)
        if written.existing:
            self._existed(batch, written.existing)
        for workflow_id, reason in written.poisoned.items():
            self._evict(batch, workflow_id, reason)
        if not self._fresh():
            self._finish_term("the lease could not be renewed in time")
            return
        self._delivery.let_out(batch.outward)
        self._proofs.answer(written.lost, self._holdings.epochs)
        resolve(self._flushing)
        refused = self._engine.state.refused_results
        self._observer.let_out(batch.outward, refused - self._refused_seen)
        self._refused_seen = refused
        self._cut()
        # Also when nothing is queued: a full batch has held back what is due.
        self._schedule()

    def _lose(self, batch: Gathered, lost: Mapping[int, int]) -> None:
        self._delivery.refuse(batch.drop_shards(set(lost)), owned_elsewhere())
        for shard, epoch in lost.items():
            _log.warning("shard_lost", shard=shard, epoch_now=epoch)
            # If it was taken again while the batch was under way, what we have of it now is not what was lost.
            if self._holdings.epochs.get(shard) == batch.fenced.get(shard):
                self._forget_shard(shard, owned_elsewhere())

    def _existed(self, batch: Gathered, existing: Mapping[str, ExistingWorkflow]) -> None:
        """Submitted ids were in the database: answer from there, and forget the tentative workflows."""
        # Those of a shard that was lost in the same write are not among the rows any more.
        inserted = [row for row in batch.rows if isinstance(row, WorkflowInserted) and row.workflow_id in existing]
        found = {row.workflow_id: existing[row.workflow_id] for row in inserted}
        for row in inserted:
            if self._holdings.epochs.get(row.shard) == batch.fenced.get(row.shard):
                one = found[row.workflow_id]
                self._step(SubmitExisted(row.shard, row.workflow_id, one.digest, one.status))
        # Only now: a slot that the first of them gave back may have been given to the next one, which is to go as well.
        error = UnavailableError("the workflow's id was being looked up; try again")
        for gathered in (batch, self._gathering):
            # Each answer stays in the batch that it came with, whose proof is not older than its call.
            answers, others = answered(gathered.drop_workflows(set(found)), found)
            gathered.outward += answers
            self._delivery.refuse(others, error)

    def _evict(self, batch: Gathered, workflow_id: str, reason: str) -> None:
        """The database refused a workflow's rows: its event fails, and the workflow is loaded anew."""
        _log.error("rows_refused", workflow=workflow_id, reason=reason)
        shard = next((row.shard for row in batch.rows if row.workflow_id == workflow_id), None)
        if shard is None:
            return  # it was lost in the same write
        error = UnavailableError(f"the database refused to store workflow {workflow_id!r}: {reason}")
        epoch = batch.fenced.get(shard, 0)
        ours = self._holdings.is_ours(shard, epoch)
        if ours:
            self._step(WorkflowEvicted(shard, workflow_id))
        # Only now: what was due came first in that step, and was done with what is not stored.
        for gathered in (batch, self._gathering):
            self._delivery.refuse(gathered.drop_refused(workflow_id), error)
        if ours:
            self._load(LoadWorkflow(shard, workflow_id))

    async def _post_read(self, shard: int, epoch: int, read: Callable[[], Awaitable[Event]]) -> None:
        """Post what is read of a shard, if it is still ours under this epoch by then; try until the database answers."""
        ours = partial(self._holdings.is_ours, shard, epoch)
        if (event := await self._loader.until_read(read, ours)) is not None and ours():
            self._post_unbounded(event)

    def tick(self) -> None:
        """Look for what is due; called at a steady pace, so that no lost wake-up can hold a deadline for long."""
        self._schedule()

    def _load(self, wanted: LoadOutputs | LoadWorkflow) -> None:
        epoch = self._holdings.epochs.get(wanted.shard)
        if epoch is not None:
            self._tasks.spawn(self._post_read(wanted.shard, epoch, partial(self._loader.load, wanted)))

    def _raise_epoch(self, spent: EpochSpent) -> None:
        """Give a shard up, so that whoever should own it, as a rule we ourselves, takes it above what its workers have seen."""
        self._seen_epochs[spent.shard] = max(spent.above, self._seen_epochs.get(spent.shard, 0))
        self._tasks.spawn(self.release_shards([spent.shard]))
