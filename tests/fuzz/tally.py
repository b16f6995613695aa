"""What was sent and what was answered, counted, and as a table."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

findings_shown: Final = 40


@dataclass(slots=True)
class Tally:
    """Counts of one run."""

    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter[str]))
    """By kind of message: how it was answered."""
    targets: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter[str]))
    """By method or port: how it was answered."""
    messages: Counter[str] = field(default_factory=Counter[str])
    """By method or port: how many messages were sent; of a stream there are several."""
    slowest_s: dict[str, float] = field(default_factory=dict[str, float])
    findings: Counter[str] = field(default_factory=Counter[str])

    @property
    def total(self) -> int:
        """How many messages were sent."""
        return self.messages.total()

    def note(self, kind: str, target: str, code: str, seconds: float = 0.0, messages: int = 1) -> None:
        """Count what was sent in one go."""
        self.kinds[kind][code] += 1
        self.targets[target][code] += 1
        self.messages[target] += messages
        self.slowest_s[target] = max(self.slowest_s.get(target, 0.0), seconds)

    def find(self, what: str) -> None:
        """Note a defect; what repeats is counted."""
        self.findings[what] += 1

    def to_json(self) -> dict[str, object]:
        """Return all of it."""
        return {
            "messages": dict(self.messages),
            "by_kind": {kind: dict(codes) for kind, codes in self.kinds.items()},
            "by_target": {target: dict(codes) for target, codes in self.targets.items()},
            "slowest_s": self.slowest_s,
            "findings": dict(self.findings),
        }

    def to_text(self) -> str:
        """Return the tables and the findings."""
        by_target = _table("method or port", self.targets, {target: str(n) for target, n in self.messages.items()})
        by_kind = _table("kind", self.kinds, {kind: str(codes.total()) for kind, codes in self.kinds.items()})
        found = [f"  {count} x {what}" for what, count in self.findings.most_common(findings_shown)]
        left = len(self.findings) - len(found)
        if left > 0:
            found.append(f"  and {left} more kinds")
        told = "\n".join(["findings:", *found]) if found else "no findings"
        return f"{by_target}\n\n{by_kind}\n\n{told}"


def _table(title: str, rows: Mapping[str, Counter[str]], sent: Mapping[str, str]) -> str:
    lines = [(name, sent[name], _codes(codes)) for name, codes in sorted(rows.items())]
    return "\n".join(_aligned([(title, "messages", "answers"), *lines]))


def _codes(codes: Counter[str]) -> str:
    return ", ".join(f"{code} {count}" for code, count in codes.most_common())


def _aligned(lines: Sequence[tuple[str, str, str]]) -> Iterable[str]:
    first, second = (max(len(line[column]) for line in lines) for column in (0, 1))
    return (f"{name:<{first}}  {count:>{second}}  {rest}" for name, count, rest in lines)
