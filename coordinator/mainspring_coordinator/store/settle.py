"""What became of a commit whose answer never came: pure.

The rules rest on two facts. A commit is atomic, so that one touched fence row decides for the whole batch. And a fence row's
`batch_seq` only rises, by one with each transaction, each of which writes its own id; taking a shard changes neither. The rows must
be read with a lock and after the old connection was ended: a plain read could say "not there" of a commit that is still to come.
"""

from collections.abc import Mapping
from enum import Enum

from mainspring_coordinator.store.link import Claim
from mainspring_coordinator.store.protocol import ShardRow


class Outcome(Enum):
    """What became of it."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not committed"
    UNKNOWN = "unknown"
    """All its shards went to others, who have written so much since that no trace is left."""


def decide(batch_id: bytes, claims: Mapping[int, Claim], rows: Mapping[int, ShardRow]) -> Outcome:
    """Return what became of a batch, from the fence rows that it touched."""
    for shard, claim in claims.items():
        row = rows.get(shard)
        if row is None:
            continue
        if row.last_batch_id == batch_id:
            return Outcome.COMMITTED
        # One more with another id: somebody else's transaction came in the place of ours.
        if row.batch_seq <= claim.batch_seq + 1:
            return Outcome.NOT_COMMITTED
    return Outcome.UNKNOWN
