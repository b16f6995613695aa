"""What coordinators ask of a worker, in the machine's words. What a newer one says in words without a name here still does no harm."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from mainspring.v1 import worker_pb2 as wire
from mainspring_worker.attempts import Cause, Work

_causes: Final = {int(cause): cause for cause in Cause if cause not in (Cause.DISCONNECTED, Cause.STOPPED)}
_dispositions: Final[Mapping[int, str]] = {
    wire.ACK_DISPOSITION_RECORDED: "recorded",
    wire.ACK_DISPOSITION_STALE: "stale",
    wire.ACK_DISPOSITION_NOT_OWNER: "not_owner",
}


def to_works(assignments: Iterable[wire.Assignment]) -> list[Work]:
    """Return what is to be run."""
    return [Work(item.shard, item.id, item.epoch, item.ordinal, item.stop_on_disconnect, item) for item in assignments]


def to_acks(acks: Iterable[wire.ResultAck]) -> Iterator[tuple[int, int, int, str]]:
    """Yield (shard, id, epoch, answer); a result whose answer is of an unknown kind is kept and offered again."""
    for ack in acks:
        disposition = _dispositions.get(ack.disposition)
        if disposition is not None:
            yield ack.shard, ack.id, ack.epoch, disposition


def to_cancels(cancels: Iterable[wire.CancelAttempt]) -> Iterator[tuple[int, int, int, Cause]]:
    """Yield (shard, id, epoch, cause); whatever the cause is called, the attempt is to stop."""
    for item in cancels:
        yield item.shard, item.id, item.epoch, _causes.get(item.cause, Cause.UNSPECIFIED)
