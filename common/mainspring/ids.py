"""Names that are made by rule: shards, assignments, incarnations, workflow ids.

Chance is needed for some of them; those functions are called from the shells, never from the engine.
"""

import re
import secrets
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


def new_incarnation() -> str:
    """Make the id of one start of one process: 32 hexadecimal characters."""
    return secrets.token_hex(16)


def new_workflow_id() -> str:
    """Make an id for a workflow whose submitter chose none."""
    return f"wf-{secrets.token_hex(10)}"


def new_request_id() -> str:
    """Make the id of one mutating call, the same in each try of it."""
    return secrets.token_hex(12)
