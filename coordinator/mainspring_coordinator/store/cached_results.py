"""What is read of the result cache where it is a table; `protocol.Reader` has it, beside the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from mainspring import limits

ahead_us: Final = limits.cache_ahead_ms_max * 1_000
"""What was stored later than this after now was stored while the database's clock was ahead: it is passed over, and hides nothing."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """An output that other nodes may take."""

    key: bytes
    """32 bytes."""
    output: bytes
    stored_at_us: int


class ResultReader(Protocol):
    """Reads of the result cache."""

    def cached_results(self, keys: Sequence[bytes], now_us: int) -> Sequence[StoredResult]:
        """Return what there is of these keys whose time is not over and not to come: of each the youngest output, by key."""
        ...

    def expired_results(self, shard: int, now_us: int, limit: int) -> Sequence[tuple[bytes, int]]:
        """Return (key, when its time was over) of outputs that were stored under a shard's fence, by that time and key."""
        ...
