"""What a strategy sees and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that can run the node and has room for it."""

    session: int
    name: str
    cpu: float
    """Percent, as reported last."""
    memory: float
    """Percent, as reported last."""
    assigned: int
    """Its live assignments."""
    slots: int
    executors: int
    """How many executors it runs."""

    def with_one_more(self) -> "Candidate":
        """Return it as it is after one more assignment."""
        return Candidate(self.session, self.name, self.cpu, self.memory, self.assigned + 1, self.slots, self.executors)


class Strategy(Protocol):
    """Ranks candidates."""

    def choose(self, candidates: Sequence[Candidate], turn: int) -> int:
        """Return the session of the best of one or more candidates; `turn` counts the choices made so far."""
        ...
