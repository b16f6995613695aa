"""What the engine knows of one worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mainspring_coordinator.engine.ready import ClassKey


@dataclass(slots=True, eq=False)
class WorkerState:
    """A worker that is attached, or was until a moment ago."""

    session: int
    name: str
    incarnation: str
    host: str
    zone: str
    labels: Mapping[str, str]
    """Its host and zone are among them, unless it sets labels of these names itself."""
    executors: frozenset[str]
    slots: int
    workflows_max: int
    attached: bool = True
    draining: bool = False
    credit: int = 0
    credit_seq: int = 0
    cpu: float = 0.0
    memory: float = 0.0
    reconciled: set[int] = field(default_factory=set[int])
    """Shards whose inventory it has stated on this stream; only of these it gets work."""
    last_ordinal: int = 0
    absent_since_us: int = 0
    """When its stream ended."""
    extended: bool = False
    """Its grace was over while we stood still, and was given once more."""
    reserved: ClassKey | None = None
    """It gets no other work until it has run a node of this class, which waits for a worker that has nothing else."""
    overdue: bool = False
    """Its grace has passed, and failover is off."""
    disbelieved: bool = False
    """It said of an epoch what cannot be believed, and its stream is to end."""
