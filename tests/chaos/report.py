"""What a run says in the end: to people, and to programs."""

import dataclasses
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring_coordinator.engine.status import NodeStatus
from tests.chaos.books import Violation
from tests.chaos.evidence import Evidence
from tests.chaos.recovery import Times, percentile

_shown_max = 20


@dataclass(frozen=True, slots=True)
class Run:
    """One run, over and judged."""

    seed: int
    seconds: float
    database: str
    networks: bool
    timings: Mapping[str, str]
    folder: Path
    evidence: Evidence
    times: Mapping[str, Times]
    healed_s: float
    """How long it took after the last fault until everything had ended."""
    samples: int
    violations: Sequence[Violation]

    def counts(self) -> dict[str, Any]:
        """Return the figures of the run."""
        evidence = self.evidence
        submits = [call for call in evidence.calls if call.op == "submit"]
        return {
            "faults": len(evidence.faults),
            "faults_by_kind": dict(sorted(Counter(str(fault.kind) for fault in evidence.faults).items())),
            "workflows_acknowledged": len({call.workflow for call in submits if call.outcome == "ok"}),
            "workflows_by_end": dict(sorted(Counter(row.status.name for row in evidence.workflows.values()).items())),
            "nodes_succeeded": sum(row.status is NodeStatus.SUCCEEDED for row in evidence.nodes.values()),
            "executions": sum(effect.act == "start" for effect in evidence.effects),
            "calls_by_outcome": dict(sorted(Counter(f"{call.op} {call.outcome}" for call in evidence.calls).items())),
            "ended_by_themselves": {name: len(times) for name, times in evidence.ended.items()},
        }

    def to_json(self) -> str:
        """Return the report for programs; times are seconds."""
        report = {
            "seed": self.seed,
            "seconds": self.seconds,
            "database": self.database,
            "network_namespaces": self.networks,
            "machine": {"system": platform.platform(), "python": platform.python_version()},
            "timings_ms": self.timings,
            **self.counts(),
            "recovery_s": {
                what: {"all": _figures(times.all), "alone": _figures(times.alone), "worst": times.worst}
                for what, times in self.times.items()
            },
            "healed_s": self.healed_s,
            "samples": self.samples,
            "violations": [dataclasses.asdict(one) for one in self.violations],
        }
        return json.dumps(report, indent=2)

    def to_text(self) -> str:
        """Return the report for people."""
        counts = self.counts()
        lines = [f"{counts['faults']} faults:"]
        lines += [f"  {count:5}  {kind}" for kind, count in counts["faults_by_kind"].items()]
        lines += [
            f"{counts['workflows_acknowledged']} workflows acknowledged; ended: {_listed(counts['workflows_by_end'])}",
            f"{counts['nodes_succeeded']} nodes succeeded in {counts['executions']} executions",
            f"calls: {_listed(counts['calls_by_outcome'])}",
            f"everything had ended {self.healed_s:.1f} s after the last fault; {self.samples} samples of the database",
            "",
            f"{'recovery, seconds':58} {'n':>5} {'p50':>7} {'p99':>7} {'max':>7}",
        ]
        for what, times in self.times.items():
            lines.append(_row(what, times.all))
            lines.append(_row("  with no other fault near", times.alone))
        lines += ["", f"{len(self.violations)} violations"]
        lines += [f"  {violation}" for violation in self.violations[:_shown_max]]
        if len(self.violations) > _shown_max:
            lines.append(f"  and {len(self.violations) - _shown_max} more: {self.folder / 'report.json'}")
        return "\n".join(lines)


def _figures(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {"count": len(values), **{name: round(percentile(values, share), 3) for name, share in shares.items()}}


def _row(what: str, values: Sequence[float]) -> str:
    figures = _figures(values)
    if not values:
        return f"{what:58} {0:5}"
    return f"{what:58} {len(values):5} {figures['p50']:7.2f} {figures['p99']:7.2f} {figures['max']:7.2f}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())
