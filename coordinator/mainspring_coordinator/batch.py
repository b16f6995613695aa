"""The effects of the steps since the last cut, and the ways in which they must sometimes be cut down.

Rows go to the journal; everything else waits for their commit. When a shard is lost, or a submitted id turns out to be taken, or the
database refuses a workflow's rows, what belongs to it leaves both the batch in flight and the one being gathered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mainspring import limits
from mainspring_coordinator.engine.effects import (
    Ack,
    Answer,
    AnswerCode,
    Assign,
    Changed,
    Disposition,
    Effect,
    StatePermits,
    Stop,
    Store,
)
from mainspring_coordinator.engine.rows import (
    FailoverAffected,
    NodeChanged,
    PlanSaved,
    ResultCached,
    Row,
    WorkflowInserted,
)
from mainspring_coordinator.store.protocol import ExistingWorkflow

OutwardEffect = Effect
"""Every effect but `Store`."""


def needs_proof(effect: Effect) -> bool:
    """Tell whether an effect claims that what we know is current, so that a stale owner must not let it out."""
    if isinstance(effect, Answer):
        return effect.claims and effect.code not in (AnswerCode.NOT_OWNER, AnswerCode.BUSY)
    if isinstance(effect, Ack):
        return effect.disposition is Disposition.STALE
    return isinstance(effect, Stop)


def answered(dropped: Sequence[Effect], existing: Mapping[str, ExistingWorkflow]) -> tuple[list[Answer], list[Effect]]:
    """Return, of what was said of workflows whose ids the database has, the answers to submits as it has them, and all the rest."""
    answers: list[Answer] = []
    others: list[Effect] = []
    for effect in dropped:
        if isinstance(effect, Answer) and effect.digest:
            found = existing[effect.workflow_id]
            code = AnswerCode.OK if effect.digest == found.digest else AnswerCode.ALREADY_EXISTS
            told = replace(effect, code=code, status=found.status, created=False)
            if found.deleting:
                message = (
                    f"an earlier workflow {found.workflow_id!r} is being deleted for its age; submit again in a moment"
                )
                told = replace(told, code=AnswerCode.BUSY, status=None, message=message)
            answers.append(told)
        else:
            others.append(effect)
    return answers, others


@dataclass(slots=True)
class Gathered:
    """A batch being gathered, or in flight."""

    rows: list[Row] = field(default_factory=list[Row])
    outward: list[Effect] = field(default_factory=list[Effect])
    begun_us: int = 0
    """When its first effect came, by the host's clock."""
    fenced: dict[int, int] = field(default_factory=dict[int, int])
    """Once it is handed over: the epochs that it is to prove, by shard."""
    payload_bytes: int = 0
    """The size of the payloads in it, near enough for a bound."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.outward)

    @property
    def full(self) -> bool:
        """Tell whether it holds as much as a batch may, but for what one more step brings."""
        return len(self.rows) >= limits.batch_rows_max or self.payload_bytes >= limits.batch_bytes_max

    def add(self, effects: Sequence[Effect], now_us: int) -> None:
        """Take in the effects of a step."""
        if not self:
            self.begun_us = now_us
        rows, outward = self.rows, self.outward
        for effect in effects:
            if type(effect) is Store:
                row = effect.row
                rows.append(row)
                if type(row) is NodeChanged:
                    self.payload_bytes += len(row.output or b"")
                elif type(row) is WorkflowInserted:
                    self.payload_bytes += len(row.input)
                elif type(row) is PlanSaved:
                    self.payload_bytes += len(row.definition)
                elif type(row) is FailoverAffected:
                    self.payload_bytes += len(row.ids)
                elif type(row) is ResultCached:
                    self.payload_bytes += len(row.output)
            else:
                outward.append(effect)
                if type(effect) is Assign:
                    self.payload_bytes += len(effect.input)

    def add_changes(self, changes: Sequence[Changed]) -> None:
        """Take in what a cut says of the workflows that changed."""
        self.outward.extend(changes)

    def shards_to_prove(self) -> set[int]:
        """Return the shards of which something is claimed that no row of this batch proves."""
        written = {row.shard for row in self.rows}
        return {effect.shard for effect in self.outward if needs_proof(effect) and effect.shard not in written}  # type: ignore[union-attr]  # those that need proof name their shard

    def epochs(self, known: Mapping[int, int]) -> dict[int, int]:
        """Return the epochs of the shards that the rows touch."""
        return {shard: known[shard] for shard in {row.shard for row in self.rows}}

    def drop_shards(self, shards: set[int]) -> list[Effect]:
        """Take out all that belongs to these shards; return the effects, so that their callers can be told."""
        return self._drop(lambda thing: getattr(thing, "shard", -1) in shards)

    def drop_workflows(self, workflow_ids: set[str]) -> list[Effect]:
        """Take out all that belongs to these workflows; return the effects, so that their callers can be told.

        For those that turn out not to be new: nothing of them was ever sent, so that what is stated of permits is true without them.
        """
        return self._drop(lambda thing: getattr(thing, "workflow_id", "") in workflow_ids)

    def drop_refused(self, workflow_id: str) -> list[Effect]:
        """Take out all that belongs to a workflow whose rows are refused; return the effects, so that their callers can be told.

        What shards state of their permits goes too, since it may reflect the ends of nodes that are not going to be stored. It is made
        anew in a moment.
        """
        return self._drop(lambda thing: type(thing) is StatePermits or getattr(thing, "workflow_id", "") == workflow_id)

    def _drop(self, belongs: "Callable[[Effect | Row], bool]") -> list[Effect]:
        dropped = [effect for effect in self.outward if belongs(effect)]
        if dropped:
            self.outward = [effect for effect in self.outward if not belongs(effect)]
        self.rows = [row for row in self.rows if not belongs(row)]
        return dropped
