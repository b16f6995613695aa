"""What a worker says of its attempts, as the contract has it."""

from collections.abc import Iterable
from dataclasses import dataclass

from mainspring.v1 import worker_pb2 as wire
from mainspring.v1 import workflow_pb2
from mainspring.wire import json_encoding, to_failure
from mainspring_worker.attempts import Attempt, Outcome, Stated
from mainspring_worker.outcome import Ended


@dataclass(frozen=True, slots=True)
class Report:
    """What became of an attempt that ran."""

    ended: Ended
    run_us: int

    @property
    def outcome(self) -> Outcome:
        """Return how it ended, in one word."""
        if self.ended.cancelled:
            return Outcome.CANCELLED
        return Outcome.FAILED if self.ended.failure is not None else Outcome.SUCCEEDED


def to_result(attempt: Attempt) -> wire.Result:
    """Put a result on the wire."""
    work, outcome = attempt.work, attempt.outcome
    assert outcome is not None
    if attempt.result is None:
        return wire.Result(shard=work.shard, id=work.id, outcome=wire.Outcome.ValueType(outcome))
    assert isinstance(attempt.result, Report)
    ended, run_us = attempt.result.ended, attempt.result.run_us
    if outcome is Outcome.SUCCEEDED:
        payload = workflow_pb2.Payload(encoding=json_encoding, data=ended.output)
        return wire.Result(shard=work.shard, id=work.id, outcome=wire.OUTCOME_SUCCEEDED, output=payload, run_us=run_us)
    failure = to_failure(ended.failure) if ended.failure is not None else None
    return wire.Result(
        shard=work.shard, id=work.id, outcome=wire.Outcome.ValueType(outcome), failure=failure, run_us=run_us
    )


def to_inventories(stated: Iterable[Stated]) -> list[wire.ShardInventory]:
    """Put inventories on the wire."""
    return [
        wire.ShardInventory(
            shard=item.shard,
            epoch=item.epoch,
            queued=item.queued,
            running=item.running,
            finished=item.finished,
            ordinal_seen=item.ordinal_seen,
        )
        for item in stated
    ]
