"""What a reader returns of what concerns no one workflow: failovers, what operators did, and the history of the cluster's strategy."""

from dataclasses import dataclass

from mainspring_coordinator.engine.status import FailoverKind, FailoverStage


@dataclass(frozen=True, slots=True)
class StoredFailover:
    """An event of the record, without the ids."""

    event_id: str
    kind: FailoverKind
    failed_engine: str
    failed_incarnation: str
    takeover_engine: str
    takeover_incarnation: str
    detected_at_us: int
    settles_at_us: int
    stage: FailoverStage
    announced_at_us: int
    alerted_at_us: int
    recovered_at_us: int
    """When the last part of it was recorded, which happens once that part's work goes on."""
    workflows_count: int
    nodes_count: int


@dataclass(frozen=True, slots=True)
class StoredStrategyChange:
    """A change of the strategy that holds for the whole cluster."""

    changed_at_us: int
    before: str
    after: str
    """Empty: each coordinator's own."""
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoredAuditEntry:
    """What an operator did; `AuditEntry` has the fields' meanings."""

    entry_id: str
    began_at_us: int
    ended_at_us: int
    act: str
    subject: str
    reason: str
    who: str
    coordinator: str
    outcome: str
