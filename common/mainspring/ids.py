"""Names that are made by rule: shards, assignments, incarnations, workflow ids.

Pure, so that the engine may use it; names that need chance are made in `mainspring.naming`.
"""

import re
import zlib
from typing import Final

from mainspring.limits import assignment_number_max, epoch_max, workflow_id_bytes_max

_WORKFLOW_ID: Final = re.compile(rf"[A-Za-z0-9_.:@+=-]{{1,{workflow_id_bytes_max}}}")
_INCARNATION: Final = re.compile(r"[0-9a-f]{32}")


def shard_of(workflow_id: str, shards_total: int) -> int:
    """Return the shard, 0 to `shards_total` - 1, that a workflow belongs to for ever."""
    return zlib.crc32(workflow_id.encode()) % shards_total


def assignment_id(epoch: int, number: int) -> int:
    """Mint the name of an assignment within its shard: only the owner at `epoch` can make it."""
    assert 0 < epoch <= epoch_max, epoch
    assert 0 <= number <= assignment_number_max, number
    return epoch << 32 | number


def epoch_of(assignment: int) -> int:
    """Return the epoch that minted an assignment id."""
    return assignment >> 32


def is_workflow_id(text: str) -> bool:
    """Tell whether `text` may name a workflow."""
    return _WORKFLOW_ID.fullmatch(text) is not None


def is_incarnation(text: str) -> bool:
    """Tell whether `text` has the form of an incarnation."""
    return _INCARNATION.fullmatch(text) is not None
