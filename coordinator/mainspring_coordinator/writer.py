"""The thread of the journal: one job at a time, in order, each answered on the event loop.

It never decides what to write. It goes on trying the same batch while the database is away; how long is the business of whoever
ends the term, which closes the journal and so ends the try.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias, TypeVar

import structlog

from mainspring.errors import FencedError, MainspringError, PoisonBatchError, StoreUnavailableError
from mainspring_coordinator.engine.rows import PlanSaved, Row
from mainspring_coordinator.store.protocol import Batch, ExistingWorkflow, Journal, ShardRow
from mainspring_coordinator.threads import Threads

_T = TypeVar("_T")
_log: Final = structlog.get_logger(__name__)
_retry_delay_s: Final = 0.05


@dataclass(frozen=True, slots=True)
class Write:
    """Commit a batch, then prove the shards that it does not write."""

    batch: Batch
    prove: Mapping[int, int]
    """Epochs by shard."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Begin to write a shard."""

    shard: ShardRow


@dataclass(frozen=True, slots=True)
class Release:
    """Give shards up in a fenced transaction."""

    epochs: Mapping[int, int]
    least: Mapping[int, int]
    """By shard: what its epoch is raised to by that, if it is lower."""


Job: TypeAlias = Write | Adopt | Release


@dataclass(slots=True)
class Written:
    """What became of a `Write`."""

    lost: dict[int, int] = field(default_factory=dict[int, int])
    """Shards that are not ours any more, with the epochs they have now; nothing of theirs was written."""
    existing: dict[str, ExistingWorkflow] = field(default_factory=dict[str, ExistingWorkflow])
    """Submitted ids that were there already."""
    poisoned: dict[str, str] = field(default_factory=dict[str, str])
    """Workflows whose rows the database refused, with the reason."""
    seconds: float = 0.0
    rows: int = 0
    error: MainspringError | None = None
    """The journal was closed, or failed in a way that ends the term; the outcome is unknown."""


class Writer:
    """Runs a journal in a thread of its own."""

    def __init__(self, journal: Journal, answer: Callable[[Job, Written], object], threads: Threads) -> None:
        """`answer` is called in the thread."""
        self._journal = journal
        self._answer = answer
        self._jobs = threads.mailbox()
        self._closed = threads.signal()
        threads.start(self._run, "journal")

    def put(self, job: Job) -> None:
        """Add a job; the loop has at most one `Write` under way, so that the queue stays short."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the thread and the connection at once; a job under way is answered with an error."""
        self._closed.set()
        self._jobs.put(None)
        self._journal.close()

    def _run(self) -> None:
        job: Job | None
        while (job := self._jobs.get()) is not None:
            result = Written()
            started = time.perf_counter()
            try:
                self._do(job, result)
            except MainspringError as error:
                result.error = error
            except Exception as error:  # a bug in the store: the term must end, and its cause be seen
                _log.exception("journal_failed")
                result.error = StoreUnavailableError(f"the journal failed: {error!r}")
            result.seconds = time.perf_counter() - started
            self._answer(job, result)

    def _do(self, job: Job, result: Written) -> None:
        match job:
            case Adopt():
                self._journal.adopt(job.shard)
            case Release():
                try:
                    self._until_possible(partial(self._journal.release, job.epochs, job.least))
                except FencedError as error:
                    # Taken by another meanwhile, or given up by a try whose answer was lost: not ours, as was wanted.
                    if not error.lost:
                        raise
                    result.lost.update(error.lost)
            case Write():
                self._write(job, result)

    def _write(self, job: Write, result: Written) -> None:
        batch = job.batch
        while batch.rows:
            try:
                committed = self._until_possible(partial(self._journal.commit, batch))
            except FencedError as error:
                if not error.lost:
                    raise
                result.lost.update(error.lost)
                batch = _keep(batch, [row for row in batch.rows if row.shard not in error.lost])
            except PoisonBatchError as error:
                # Its plan stays, because other workflows may rely on this one having stored it; unless the plan is what is refused.
                again = error.workflow_id in result.poisoned
                result.poisoned[error.workflow_id] = str(error)
                batch = _keep(batch, [row for row in batch.rows if _stays(row, error.workflow_id, plan_too=again)])
            else:
                result.existing.update(committed.existing)
                result.rows = len(batch.rows)
                break
        prove = {shard: epoch for shard, epoch in job.prove.items() if shard not in result.lost}
        if prove:
            try:
                self._until_possible(partial(self._journal.prove, prove))
            except FencedError as error:
                result.lost.update(error.lost)

    def _until_possible(self, act: Callable[[], _T]) -> _T:
        while True:
            try:
                return act()
            except StoreUnavailableError as error:
                if self._closed.is_set():
                    raise
                _log.warning("database_unavailable", error=str(error))
                if self._closed.wait(_retry_delay_s):
                    raise


def _stays(row: Row, refused: str, *, plan_too: bool) -> bool:
    return row.workflow_id != refused or (isinstance(row, PlanSaved) and not plan_too)


def _keep(batch: Batch, rows: Sequence[Row]) -> Batch:
    shards = {row.shard for row in rows}
    return Batch(batch.batch_id, {shard: epoch for shard, epoch in batch.epochs.items() if shard in shards}, rows)
