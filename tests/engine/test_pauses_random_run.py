"""The random cluster of `test_random_run`, in which operators pause things and let them go on at any time.

Nothing of what is paused is ever assigned, from the answer of the pause to that of its end; nothing is lost; no permit is kept.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.ids import shard_of
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Assign, Effect, Ended
from mainspring_coordinator.engine.operator_events import PauseSet, PausesSeen, WorkflowPauseSet
from mainspring_coordinator.engine.rows import PausesChanged
from tests.engine import test_random_run
from tests.engine.rig import define

shards = test_random_run.shards
_limited = {"concurrency": {"key": "db", "limit": 2}}


class PausedRun(test_random_run.Run):
    """One seeded run."""

    plan = define(
        [
            {"id": "fetch", "executor": "work", **_limited},
            {
                "id": "each",
                "executor": "work",
                "map": {"over": "${input}", "max_parallel": 2},
                "input": "${item}",
                **_limited,
            },
            {"id": "hard", "executor": "other", "affinity": {"mode": "hard"}, "depends_on": ["fetch"]},
            {"id": "wide", "executor": "other", "map": {"over": "${input}"}, "depends_on": ["fetch"]},
            {"id": "near", "executor": "work", "strategy": "locality", "input": "${fetch}", "priority": 9},
            {"id": "sum", "executor": "work", "depends_on": ["each", "hard", "wide", "near"]},
        ],
        timeout="3000s",
    )
    executors = ("work", "other")

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.tokens = 1_000_000
        self.asked: dict[int, tuple[str, str, bool]] = {}
        """By token: what was to be paused, or to go on."""
        self.paused: set[tuple[str, str]] = set()

    def look(self, effects: list[Effect]) -> None:
        """Hold what came out to what is paused, then to the laws."""
        others: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Answer) and effect.token in self.asked:
                kind, name, paused = self.asked.pop(effect.token)
                if effect.code is AnswerCode.OK:
                    # Of a workflow that is ending nothing is paused, and nothing assigned.
                    (self.paused.add if paused else self.paused.discard)((kind, name))
                continue
            if isinstance(effect, Assign):
                mine = {("cluster", ""), ("executor", effect.executor), ("workflow", effect.workflow_id)}
                assert not self.paused & mine, f"{effect.node_id} of {effect.workflow_id} is paused"
            if isinstance(effect, Ended):
                self.paused.discard(("workflow", effect.workflow_id))
            others.append(effect)
        super().look(others)
        state = self.rig.engine.state
        if ("cluster", "") in self.paused and not self.rig.engine.busy:
            kept = [one for shard in state.shards.values() for one in shard.demands.by_key.values() if one.spare]
            assert not kept, "what is paused holds no permit"

    def disturb(self) -> None:
        """Do one thing."""
        if self.chance.random() < 0.12:
            self.set_pause(self.chance.choice(["cluster", "executor", "workflow"]), paused=self.chance.random() < 0.5)
        else:
            super().disturb()

    def set_pause(self, kind: str, name: str = "", *, paused: bool) -> None:
        self.tokens += 1
        token = self.tokens
        if kind == "workflow":
            name = name or f"wf{self.chance.randrange(max(1, self.submitted))}"
            self.asked[token] = (kind, name, paused)
            self.step(WorkflowPauseSet(token, shard_of(name, shards), name, paused, "ann", ""))
            return
        name = name or (self.chance.choice(self.executors) if kind == "executor" else "")
        self.asked[token] = (kind, name, paused)
        self.step(PauseSet(token, 0, name, paused, "ann", ""))

    def move(self, shard: int) -> None:
        """As there; what is paused is read before anything of the shard."""
        stored = [row.standing for row in self.rig.rows if isinstance(row, PausesChanged)]
        self.step(PausesSeen(stored[-1] if stored else None))
        super().move(shard)

    def heal(self) -> None:
        """All goes on, and ends."""
        for kind, name in sorted(self.paused | {("workflow", f"wf{number}") for number in range(self.submitted)}):
            self.set_pause(kind, name, paused=False)
        super().heal()
        assert not self.rig.engine.state.ready.paused


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1))
def test_the_laws_hold_whatever_is_paused(seed: int) -> None:
    print(f"seed {seed}")
    run = PausedRun(seed)
    for _ in range(200):
        run.disturb()
    run.heal()
