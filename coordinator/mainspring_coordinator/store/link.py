"""One connection of the journal, as the journal sees it: the few acts that MySQL and SQLite do differently.

A link that raised anything is in an unknown state; the journal rolls back or drops it. Errors are the driver's own, and
`RowMissingError`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mainspring_coordinator.engine.rows import NodesCopied
from mainspring_coordinator.store.protocol import ConnectionId, ExistingWorkflow, ShardRow
from mainspring_coordinator.store.shapes import TableWrite


class RowMissingError(Exception):
    """A row that was to be updated is not there."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What we believe of a shard that we own: the next transaction must find it so."""

    epoch: int
    batch_seq: int


class Link(Protocol):
    """A connection and its transaction."""

    @property
    def connection(self) -> ConnectionId:
        """The server connection."""
        ...

    @property
    def round_trips(self) -> int:
        """How many times it has waited for the database."""
        ...

    def record(self, incarnation: str) -> None:
        """Write this connection into the incarnation's lease row, if there is one."""
        ...

    def at_once(
        self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], writes: Sequence[TableWrite]
    ) -> bool:
        """Prove and raise all claims, write, and commit, in one message.

        False: this cannot be done here, or something was not as it should be; nothing was changed, no transaction is open, and doing
        the same statement by statement either works or says what is wrong.
        """
        ...

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def fence(self, incarnation: str, batch_id: bytes, claims: Mapping[int, Claim], *, free: bool) -> int:
        """Prove and raise all claims in one statement; return how many held. `free`: give the shards up."""
        ...

    def raise_epoch(self, shard: int, least: int) -> None:
        """Let the epoch of a shard, which the same transaction has given up, be no lower than this."""
        ...

    def fence_rows(self, shards: Sequence[int], *, lock: bool) -> Mapping[int, ShardRow]:
        """Read fence rows by shard; `lock`: wait for whoever is writing them."""
        ...

    def existing(self, workflow_ids: Sequence[str]) -> Sequence[ExistingWorkflow]:
        """Read which of these workflows are there."""
        ...

    def write(self, write: TableWrite) -> None:
        """Write rows."""
        ...

    def copy(self, copied: NodesCopied) -> None:
        """Copy rows within the database."""
        ...

    def commit(self) -> None:
        """Make the transaction durable."""
        ...

    def rollback(self) -> None:
        """Undo the transaction."""
        ...

    def kill(self, other: ConnectionId) -> None:
        """End an older connection, so that nothing of it can come later; nothing happens when it is gone."""
        ...

    def abort(self) -> None:
        """End the connection at once, from any thread."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
