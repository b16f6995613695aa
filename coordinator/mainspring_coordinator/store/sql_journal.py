"""The one writer of a coordinator's incarnation, on any SQL database.

Its rules:

* The first statement of every transaction proves every shard that the transaction touches. Fewer rows than asked: nothing is written.
* A transaction is one message where that is possible (decision 0014). If anything in it is not as it should be, it is done once more
  statement by statement, and that is what tells who lost a shard, what was there already, and which rows are refused.
* When a connection breaks, whatever it was doing, a new one is opened and recorded in the lease row, the old one is ended, and the
  fence rows, read with a lock, say what became of the transaction (`settle`). Until then nothing else is written, and the batch keeps
  its id: a caller who was told `StoreUnavailableError` comes back with the same batch, and gets the answer of the first try.
* A transaction that the server undid by itself (a deadlock, a lock wait) is rolled back as a whole and tried again, a few times.
* Rows that the database refuses as such are found by halving the batch by workflow, in transactions that are all rolled back.
"""

import random
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NoReturn, TypeVar

from mainspring.errors import FencedError, PoisonBatchError, StoreUnavailableError
from mainspring_coordinator.engine.rows import PlanSaved, Row, WorkflowDeleted, WorkflowInserted
from mainspring_coordinator.store.coalesce import copies
from mainspring_coordinator.store.deletes import writes_of
from mainspring_coordinator.store.errors import Trouble, driver_errors, message_of, met, translate, trouble_of
from mainspring_coordinator.store.link import Claim, Link, RowMissingError
from mainspring_coordinator.store.protocol import Batch, Committed, ConnectionId, ExistingWorkflow, ShardRow, no_epochs
from mainspring_coordinator.store.settle import Outcome, decide
from mainspring_coordinator.store.shapes import TableWrite
from mainspring_coordinator.store.sql_words import RowTooLargeError

_T = TypeVar("_T")
_data_errors: Final = (RowMissingError, RowTooLargeError)
_retries_max: Final = 8
_retry_delay_s_max: Final = 0.05


class _RetryError(Exception):
    """The fence matched too few rows, yet all are ours again by now: look once more."""


@dataclass(slots=True)
class _Try:
    """A transaction under way."""

    batch_id: bytes
    claims: Mapping[int, Claim]
    connection: ConnectionId
    existing: Mapping[str, ExistingWorkflow] = field(default_factory=dict[str, ExistingWorkflow])


class SqlJournal:
    """See `Journal`."""

    def __init__(self, open_link: Callable[[], Link], incarnation: str, where: str, *, connects_max: int) -> None:
        """`where` names the database in errors; `connects_max`: how many connections one call may open before it gives up."""
        self._open_link = open_link
        self._incarnation = incarnation
        self._where = where
        self._connects_max = connects_max
        self._owned: dict[int, Claim] = {}
        self._unsettled: _Try | None = None
        self._done: tuple[bytes, Committed] | None = None
        self._closed = threading.Event()
        self._busy = threading.Lock()
        self._link: Link | None = None
        try:
            self._link = open_link()
        except driver_errors as error:
            raise translate(error, where) from error
        self._connection = self._link.connection

    @property
    def connection(self) -> ConnectionId:
        """See `Journal`."""
        return self._connection

    def adopt(self, shard: ShardRow) -> None:
        """See `Journal`."""
        self._owned[shard.shard] = Claim(shard.epoch, shard.batch_seq)

    def drop(self, shard: int) -> None:
        """See `Journal`."""
        self._owned.pop(shard, None)

    def commit(self, batch: Batch) -> Committed:
        """See `Journal`."""
        with self._working():
            return self._until_done(lambda link: self._commit(link, batch))

    def prove(self, epochs: Mapping[int, int]) -> None:
        """See `Journal`."""

        def act(link: Link) -> None:
            rows = link.fence_rows(list(epochs), lock=False)
            link.rollback()
            if lost := self._lost(epochs, rows):
                raise FencedError(lost)

        with self._working():
            self._until_done(act)

    def release(self, epochs: Mapping[int, int], least: Mapping[int, int] = no_epochs) -> None:
        """See `Journal`. Those that are lost already do not keep the others from being released; the error names them."""
        batch_id = secrets.token_bytes(16)
        left, lost = dict(epochs), dict[int, int]()
        with self._working():
            while left:
                try:
                    self._until_done(partial(self._release, batch_id=batch_id, epochs=left, least=least))
                    break
                except FencedError as error:
                    lost |= error.lost
                    left = {shard: epoch for shard, epoch in left.items() if shard not in error.lost}
            for shard in epochs:
                self.drop(shard)
        if lost:
            raise FencedError(lost)

    def close(self) -> None:
        """See `Journal`."""
        self._closed.set()
        if (link := self._link) is not None:
            link.abort()
        self._close_if_idle()

    # -- one call --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._busy.acquire()
        try:
            yield
        finally:
            self._busy.release()
            # `close` may have come after the last look: whoever of the two is later closes.
            if self._closed.is_set():
                self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._busy.acquire(blocking=False):
            try:
                self._drop_link()
            finally:
                self._busy.release()

    def _until_done(self, act: Callable[[Link], _T]) -> _T:
        """Do something on a link whose past is settled; connect anew and try again, both within bounds."""
        connects = retries = 0
        while True:
            if self._closed.is_set():
                raise StoreUnavailableError(f"{self._where}: the journal was closed")
            settled = False
            try:
                link = self._ready_link()
                settled = True
                return act(link)
            except (FencedError, PoisonBatchError):
                raise
            except (_RetryError, *driver_errors) as error:
                trouble = trouble_of(error) if not isinstance(error, _RetryError) else Trouble.RETRY
                # A lock wait while settling says nothing of what is to be settled: that stays open, for another connection.
                if trouble is Trouble.RETRY and settled and self._rolled_back():
                    retries += 1
                else:
                    self._drop_link()
                    connects += 1
                if trouble in {Trouble.SCHEMA, Trouble.BUG, Trouble.DATA}:
                    raise translate(error, self._where) from error
                met(trouble)
                if connects >= self._connects_max or retries >= _retries_max:
                    raise StoreUnavailableError(f"{self._where}: {message_of(error)}") from error
                self._closed.wait(random.uniform(0, _retry_delay_s_max))  # noqa: S311  # jitter, no secret
            except BaseException:
                self._drop_link()
                raise

    def _rolled_back(self) -> bool:
        """Undo the transaction; False when even that fails, so that the connection must go."""
        if self._link is None:
            return False
        try:
            self._link.rollback()
        except driver_errors:
            return False
        self._unsettled = None
        return True

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(*driver_errors):  # it is broken, which is why it is dropped
                link.close()

    def _ready_link(self) -> Link:
        if self._link is None:
            link = self._open_link()
            self._link, self._connection = link, link.connection
            link.record(self._incarnation)
            if self._closed.is_set():
                link.abort()
        if self._unsettled is not None:
            self._settle(self._link, self._unsettled)
        return self._link

    def _settle(self, link: Link, unsettled: _Try) -> None:
        link.kill(unsettled.connection)
        link.begin()
        rows = link.fence_rows(list(unsettled.claims), lock=True)
        link.rollback()
        outcome = decide(unsettled.batch_id, unsettled.claims, rows)
        self._unsettled = None
        if outcome is Outcome.COMMITTED:
            self._note_committed(unsettled, link.round_trips)
        elif outcome is Outcome.UNKNOWN:
            raise FencedError({shard: rows[shard].epoch if shard in rows else 0 for shard in unsettled.claims})

    def _note_committed(self, done: _Try, round_trips: int) -> Committed:
        for shard, claim in done.claims.items():
            if self._owned.get(shard) == claim:
                self._owned[shard] = replace(claim, batch_seq=claim.batch_seq + 1)
        committed = Committed(done.existing, round_trips)
        self._done = (done.batch_id, committed)
        self._unsettled = None
        return committed

    # -- transactions ----------------------------------------------------------------------------------------------------------

    def _commit(self, link: Link, batch: Batch) -> Committed:
        if self._done is not None and self._done[0] == batch.batch_id:
            return self._done[1]
        try:
            return self._transaction(link, batch, dry=False)
        except (*_data_errors, *driver_errors) as error:
            if not isinstance(error, _data_errors) and trouble_of(error) is not Trouble.DATA:
                raise
            met(Trouble.DATA)
            self._poison(link, batch, error)

    def _transaction(self, link: Link, batch: Batch, *, dry: bool) -> Committed:
        """Write a batch; `dry`: try whether it could be written."""
        rows = batch.rows
        writes = writes_of(rows)
        before = link.round_trips
        if not dry and is_plain(rows) and (at_once := self._at_once(link, batch, writes)) is not None:
            return self._note_committed(at_once, link.round_trips - before)
        under_way = self._fence(link, batch.batch_id, batch.epochs, free=False)
        inserted = [row.workflow_id for row in batch.rows if type(row) is WorkflowInserted]
        if inserted and (found := link.existing(inserted)):
            under_way.existing = {existing.workflow_id: existing for existing in found}
            rows = without(rows, under_way.existing)
            writes = writes_of(rows)
        for copied in copies(rows):
            link.copy(copied)
        for write in writes:
            link.write(write)
        if dry:
            link.rollback()
            self._unsettled = None
            return Committed({}, 0)
        self._send_commit(link)
        return self._note_committed(under_way, link.round_trips - before)

    def _at_once(self, link: Link, batch: Batch, writes: Sequence[TableWrite]) -> _Try | None:
        """Write a batch in one message; None if nothing was written."""
        claims = self._claims(batch.epochs)
        # Noted before it is sent, as in `_fence`.
        under_way = self._unsettled = _Try(batch.batch_id, claims, link.connection)
        if link.at_once(self._incarnation, batch.batch_id, claims, writes):
            return under_way
        self._unsettled = None
        return None

    def _release(self, link: Link, *, batch_id: bytes, epochs: Mapping[int, int], least: Mapping[int, int]) -> None:
        if self._done is not None and self._done[0] == batch_id:
            return
        under_way = self._fence(link, batch_id, epochs, free=True)
        for shard, epoch in epochs.items():
            if least.get(shard, 0) > epoch:
                link.raise_epoch(shard, least[shard])
        self._send_commit(link)
        self._note_committed(under_way, 0)

    def _fence(self, link: Link, batch_id: bytes, epochs: Mapping[int, int], *, free: bool) -> _Try:
        claims = self._claims(epochs)
        # Noted before the first statement: from here on a broken connection leaves something to settle.
        self._unsettled = _Try(batch_id, claims, link.connection)
        link.begin()
        if link.fence(self._incarnation, batch_id, claims, free=free) < len(claims):
            link.rollback()
            rows = link.fence_rows(list(claims), lock=False)
            link.rollback()
            self._unsettled = None
            lost = self._lost(epochs, rows) | {
                shard: rows[shard].epoch if shard in rows else 0
                for shard, claim in claims.items()
                # Ours by name, but written by someone else in between: a database that lost history. In doubt it is lost.
                if shard not in rows or rows[shard].batch_seq != claim.batch_seq
            }
            if lost:
                raise FencedError(lost)
            raise _RetryError
        return self._unsettled

    def _claims(self, epochs: Mapping[int, int]) -> Mapping[int, Claim]:
        claims = {shard: self._owned.get(shard, Claim(epoch, -1)) for shard, epoch in epochs.items()}
        # A batch made under an epoch that is not the adopted one can never hold; -1 makes its claim match nothing.
        return {
            shard: claim if claim.epoch == epochs[shard] else Claim(epochs[shard], -1)
            for shard, claim in claims.items()
        }

    def _send_commit(self, link: Link) -> None:
        try:
            link.commit()
        except driver_errors:
            # Whatever it says, what became of it is read from the fence rows, on another connection.
            self._drop_link()
            raise

    def _lost(self, epochs: Mapping[int, int], rows: Mapping[int, ShardRow]) -> dict[int, int]:
        lost: dict[int, int] = {}
        for shard, epoch in epochs.items():
            row = rows.get(shard)
            if row is None or row.epoch != epoch or row.holder != self._incarnation:
                lost[shard] = row.epoch if row is not None else 0
        return lost

    # -- rows that the database refuses ----------------------------------------------------------------------------------------

    def _poison(self, link: Link, batch: Batch, error: Exception) -> NoReturn:
        """Find the workflow whose rows are refused, and raise `PoisonBatchError`; nothing is written."""
        link.rollback()
        self._unsettled = None
        suspects = sorted({row.workflow_id for row in batch.rows})
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            suspects = half if self._refused(link, batch, half) is not None else suspects[len(half) :]
        reason = self._refused(link, batch, suspects)
        raise PoisonBatchError(suspects[0], message_of(reason if reason is not None else error)) from error

    def _refused(self, link: Link, batch: Batch, workflow_ids: list[str]) -> Exception | None:
        names = set(workflow_ids)
        rows = [row for row in batch.rows if row.workflow_id in names]
        shards = {row.shard for row in rows}
        part = Batch(batch.batch_id, {shard: epoch for shard, epoch in batch.epochs.items() if shard in shards}, rows)
        try:
            self._transaction(link, part, dry=True)
        except _data_errors as error:
            refused: Exception = error
        except driver_errors as error:
            if trouble_of(error) is not Trouble.DATA:
                raise
            refused = error
        else:
            return None
        link.rollback()
        self._unsettled = None
        return refused


def is_plain(rows: Sequence[Row]) -> bool:
    """Tell whether nothing has to be looked at between the rows: none is copied, and no id is to be made that is deleted before."""
    return not copies(rows) and not any(type(row) is WorkflowDeleted for row in rows)


def without(rows: Sequence[Row], existing: Mapping[str, ExistingWorkflow]) -> list[Row]:
    """Return rows but for those of workflows that are there already.

    Definitions stay: another workflow of the batch may share one that only the first of them brought.
    """
    return [row for row in rows if row.workflow_id not in existing or type(row) is PlanSaved]
