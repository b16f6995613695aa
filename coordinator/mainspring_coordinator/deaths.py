"""How a fence row notes the deaths of a shard's owners until they are in the record.

A takeover appends the note in the very statement that takes the shard, so that no death is lost with a coordinator that is killed
right after it. Whoever owns the shard next finds the note, however many died in between.
"""

from collections.abc import Sequence

import orjson

from mainspring import limits
from mainspring.wire import clip
from mainspring_coordinator.engine.events import Death
from mainspring_coordinator.engine.status import FailoverKind


def note(death: Death) -> str:
    """Return the line that is appended to a fence row."""
    told = (int(death.kind), clip(death.name, limits.name_bytes_max), death.incarnation, death.detected_at_us)
    return orjson.dumps(told).decode() + "\n"


def noted(text: str) -> Sequence[Death]:
    """Return the deaths that a fence row notes, each once."""
    found: dict[str, Death] = {}
    for line in text.splitlines():
        kind, name, incarnation, detected_at_us = orjson.loads(line)
        found.setdefault(incarnation, Death(FailoverKind(kind), name, incarnation, detected_at_us))
    return list(found.values())
