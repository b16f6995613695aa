"""The reads of retention, a part of `Reader`: what is old, and what belongs to it. Each looks at no more rows than its limit says.

A workflow that is being deleted is shown by none of the other reads.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

RowKey: TypeAlias = tuple[str, int, int]
"""Workflow, node and instance of a node's row, or of that of one of its attempts."""
ChunkKey: TypeAlias = tuple[str, int, int, int]
"""Event, subject, part and chunk of what a failover affected."""


class AgedReader(Protocol):
    """Finds what may be deleted."""

    def is_kept(self, workflow_id: str, submitted_at_us: int) -> bool:
        """Tell whether a workflow is there, is not being deleted, and is not a later one of its id."""
        ...

    def deletions_begun(self, shard: int, limit: int) -> Sequence[str]:
        """Return workflows of a shard that are being deleted."""
        ...

    def ended_workflows(self, shard: int, since_us: int, limit: int) -> Sequence[tuple[int, str]]:
        """Return end and id of workflows of a shard that ended at this time or later, the earliest first."""
        ...

    def row_keys(self, workflow_ids: Sequence[str], limit: int) -> Sequence[RowKey]:
        """Return the keys of the rows that these workflows have beside their own, in order; one as often as it has rows."""
        ...

    def plans_used(self, shard: int, after: bytes, limit: int) -> Sequence[tuple[bytes, bool]]:
        """Return the hashes of a shard's definitions beyond `after`, each with whether a workflow uses it."""
        ...

    def failovers_told(self, before_us: int, limit: int) -> Sequence[str]:
        """Return events that were detected before this time and are closed, the oldest first."""
        ...

    def affected_keys(self, event_ids: Sequence[str], limit: int) -> Sequence[ChunkKey]:
        """Return the keys of the chunks that these events have, in order."""
        ...

    def audit_before(self, before_us: int, limit: int) -> Sequence[str]:
        """Return entries of the audit log that began before this time, the oldest first."""
        ...

    def strategy_changes_before(self, before_us: int, limit: int) -> Sequence[int]:
        """Return the names (times) of changes of the cluster's strategy before this time, the oldest first."""
        ...
