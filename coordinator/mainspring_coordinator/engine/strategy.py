"""Which strategy is in force where neither the node nor the definition names one.

Each coordinator has its own, ASSIGNMENT_STRATEGY. An operator may set another one for the whole cluster, and `dynamic`, whether it was
set or is a coordinator's own, stands for what the owner of shard 0 has chosen last. What holds for the cluster stands in the fence row of
shard 0, which every coordinator reads with each look at its peers; it is written under that shard's fence, so that there is one voice.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import StrategyChosen, StrategySet
from mainspring_coordinator.engine.placement.dynamic import start
from mainspring_coordinator.engine.rows import StrategyChanged
from mainspring_coordinator.engine.turn import Turn

dynamic: Final = "dynamic"
home: Final = 0
"""The shard whose owner speaks for the cluster."""


@dataclass(frozen=True, slots=True)
class ClusterStrategy:
    """What holds for the whole cluster. Times are microseconds in database time."""

    wanted: str = ""
    """What an operator set: a strategy or `dynamic`; empty: each coordinator has its own."""
    chosen: str = ""
    """What `dynamic` chose last; empty before the first time."""
    chosen_at_us: int = 0
    changed_at_us: int = 0
    """When anything of this changed; higher each time. -1: it may not be what is stored."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it from the fence row; empty: nothing was ever set."""
        if not text:
            return cls()
        wanted, chosen, chosen_at_us, changed_at_us = text.split(",")[:4]
        return cls(wanted, chosen, int(chosen_at_us), int(changed_at_us))

    def text(self) -> str:
        """Return it as the fence row has it; a later version may only append to it."""
        return f"{self.wanted},{self.chosen},{self.chosen_at_us},{self.changed_at_us}"

    def follows_dynamic(self, own: str) -> bool:
        """Tell whether a coordinator whose own strategy this is does what `dynamic` chooses."""
        return (self.wanted or own) == dynamic

    def in_force(self, own: str) -> str:
        """Return the strategy by which such a coordinator places."""
        return (self.chosen or start) if self.follows_dynamic(own) else self.wanted or own


def strategy_changed(turn: Turn, known: ClusterStrategy, event: StrategySet | StrategyChosen) -> ClusterStrategy:
    """Store what an operator or `dynamic` wants for the cluster, and answer; return what holds from now on."""
    if event.shard not in turn.state.shards:
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.NOT_OWNER))
        return known
    now_us = max(turn.now_us, known.changed_at_us + 1)
    if isinstance(event, StrategySet):
        after = replace(known, wanted=event.strategy)
        by, before = "operator", known.wanted
    else:
        # An operator who set another one meanwhile is not overruled by what was decided before.
        fixed = known.wanted not in ("", dynamic)
        after = known if fixed else replace(known, chosen=event.strategy, chosen_at_us=now_us)
        by, before = dynamic, known.chosen
    if (after.wanted, after.chosen) != (known.wanted, known.chosen):
        after = replace(after, changed_at_us=now_us)
        turn.store(StrategyChanged(event.shard, "", after.text(), before, event.strategy, by, event.reason, now_us))
    else:
        after = known
    turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK, created=after is not known))
    return after
