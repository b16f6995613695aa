"""A failover as it is shown and sent: an instance died, and another took over its work."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_epoch = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Failover:
    """An event of the record. Times are microseconds in the cluster's own time scale, 0 when not known."""

    event_id: str
    """Follows from the two incarnations: 32 hexadecimal characters."""
    kind: str
    """`coordinator_killed`, `coordinator_hung` or `worker_lost`; a newer cluster may know more."""
    failed_engine_id: str
    """The name of the instance that died."""
    failed_incarnation: str
    """Which start of it."""
    takeover_engine_id: str
    """The name of the coordinator that took over; empty if none may, because failover is off."""
    takeover_incarnation: str
    """Which start of it."""
    affected_workflows: tuple[str, ...]
    """The first of the workflows that it owned, or had nodes of, and that had not ended."""
    affected_nodes: tuple[str, ...]
    """The first of their nodes that were with a worker: "workflow/node", or "workflow/node[instance]" of a `map`."""
    affected_workflows_count: int
    """How many workflows there are."""
    affected_nodes_count: int
    """How many nodes there are."""
    detected_at_us: int
    """When the death was noticed."""
    recovered_at_us: int
    """When the last of the work went on, or was recorded as waiting."""
    alerted_at_us: int = 0
    """When the alert was delivered; 0: not yet, or none is wanted."""

    def document(self) -> dict[str, object]:
        """Return it under the names that programs read."""
        return {
            "eventId": self.event_id,
            "kind": self.kind,
            "failedEngineId": self.failed_engine_id,
            "failedIncarnation": self.failed_incarnation,
            "takeoverEngineId": self.takeover_engine_id,
            "takeoverIncarnation": self.takeover_incarnation,
            "affectedWorkflows": list(self.affected_workflows),
            "affectedWorkflowsCount": self.affected_workflows_count,
            "affectedNodes": list(self.affected_nodes),
            "affectedNodesCount": self.affected_nodes_count,
            "detectedAt": _moment(self.detected_at_us),
            "recoveredAt": _moment(self.recovered_at_us),
            "alertedAt": _moment(self.alerted_at_us),
        }


def _moment(at_us: int) -> str | None:
    """Return a time as ISO 8601 in UTC with milliseconds."""
    if not at_us:
        return None
    return (_epoch + timedelta(microseconds=at_us)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
