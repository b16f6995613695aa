"""What operators want of the engine, and what the fence rows say that they wanted.

A `token` names a caller who waits for an answer, as in `events`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import AuditEntry, DeleteRow
from mainspring_coordinator.engine.status import NodeAct


@dataclass(frozen=True, slots=True)
class ActOnNode:
    """An operator acts on a node of a workflow that goes on; answered once that is stored, `created` if it was not so already."""

    token: int
    shard: int
    workflow_id: str
    act: NodeAct
    node_id: str
    instance: int
    reason: str
    attempt: int = 0
    """RETRY: only if this is its latest attempt; 0: whichever is."""
    output: bytes = b"null"
    """COMPLETE: what it gives."""


@dataclass(frozen=True, slots=True)
class CopyNodes:
    """A part of what a new workflow takes over from one that it runs again; answered once that is stored."""

    token: int
    shard: int
    workflow_id: str
    source: str
    nodes: tuple[int, ...]
    after: tuple[int, int]
    until: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rerun:
    """All that a new workflow takes over from one that it runs again is stored: it is to exist, and run the rest. Answered as `Submit`."""

    token: int
    shard: int
    workflow_id: str
    plan: Plan
    input: bytes
    digest: bytes
    strategy: str
    source: str


@dataclass(frozen=True, slots=True)
class WorkerEvicted:
    """An operator wants an incarnation to be treated as gone; answered once that is stored."""

    token: int
    shard: int
    """Any of ours, under whose fence it is stored."""
    incarnation: str


@dataclass(frozen=True, slots=True)
class EvictionsSeen:
    """The fence rows name these incarnations of workers as evicted."""

    incarnations: Sequence[str]


@dataclass(frozen=True, slots=True)
class Audited:
    """An operator does something; answered once that is stored."""

    token: int
    shard: int
    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class RetentionDue:
    """A look at the database found what is to be deleted; answered once that is stored."""

    token: int
    shard: int
    epoch: int
    """Under which the shard was ours before the look: what was found under an earlier one may have been deleted, and made anew."""
    rows: Sequence[DeleteRow]


@dataclass(frozen=True, slots=True)
class StrategySet:
    """An operator wants a strategy for the whole cluster; answered once that is stored, `created` if it was another one before."""

    token: int
    shard: int
    """Shard 0, whose owner speaks for the cluster."""
    strategy: str
    """Its name, or `dynamic`; empty: each coordinator has its own again."""
    reason: str


@dataclass(frozen=True, slots=True)
class StrategyChosen:
    """`dynamic` has chosen; answered as `StrategySet`."""

    token: int
    shard: int
    strategy: str
    reason: str


@dataclass(frozen=True, slots=True)
class StrategySeen:
    """What the fence row of shard 0 says of the strategy."""

    text: str


@dataclass(frozen=True, slots=True)
class PauseSet:
    """An operator pauses the cluster or an executor, or lets it go on; answered once that is stored, `created` if it was otherwise."""

    token: int
    shard: int
    """Shard 0, whose owner speaks for the cluster."""
    executor: str
    """Empty: everything."""
    paused: bool
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkflowPauseSet:
    """As `PauseSet`, for one workflow, at the owner of its shard."""

    token: int
    shard: int
    workflow_id: str
    paused: bool
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class PausesSeen:
    """What the fence row of shard 0 says is paused."""

    data: bytes | None
    token: int = 0
    """Of who waits until what was given out before is stored; 0: nobody does."""
    shard: int = -1
    """Any of ours, by which such an answer is proven."""
