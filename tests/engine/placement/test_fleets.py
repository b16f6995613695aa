"""Every strategy on fleets from one worker to ten thousand: nobody gets what he cannot run, and the shares are fair."""

import random
from collections import Counter, defaultdict
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring_coordinator.engine.placement import strategy_names
from mainspring_coordinator.engine.plan import Plan
from tests.engine.placement.checks import wrong_with
from tests.engine.placement.ledger import SHARDS, Ledger
from tests.engine.rig import define

seeds: Final = st.integers(0, 2**32 - 1)
sizes: Final = (1, 2, 7, 40, 300)


def plan_of(chance: random.Random, width: int) -> Plan:
    """Return a definition whose nodes want all sorts of things."""
    nodes: list[dict[str, Any]] = []
    for at in range(width):
        node: dict[str, Any] = {"id": f"n{at}", "executor": chance.choice(("e0", "e1", "e2"))}
        if chance.random() < 0.3:
            node["requires"] = {
                "zone": chance.choice(("z0", ["z1", "z2"])),
                "gpu": chance.choice(("true", ["true", "false"])),
            }
        if chance.random() < 0.3:
            node["affinity"] = {"key": f"k{chance.randrange(5)}", "mode": chance.choice(("soft", "hard"))}
        elif chance.random() < 0.3:
            node["strategy"] = chance.choice(strategy_names)
        if nodes and chance.random() < 0.5:
            node["input"] = f"${{{chance.choice(nodes)['id']}}}"
        nodes.append(node)
    return define(nodes)


class Run:
    """A fleet to which anything happens."""

    def __init__(self, seed: int, size: int, strategy: str) -> None:
        self.chance = random.Random(seed)
        self.ledger = Ledger(strategy=strategy, step_nodes=self.chance.choice((1, 3, 500)))
        self.flows = 0
        for _ in range(size):
            self.attach()

    def attach(self) -> None:
        chance, number = self.chance, self.ledger.sessions
        self.ledger.attach(
            host=f"h{number // 3}",
            zone=f"z{number % 3}",
            executors=chance.choice((("e0", "e1", "e2"), ("e0", "e1"), ("e1",), ("e2", "e3"))),
            labels={"gpu": chance.choice(("true", "false")), "id": str(number)},
            slots=chance.choice((1, 2, 5)),
            workflows_max=chance.choice((1, 2, 10)),
            shards=chance.choice(((0, 1), (0, 1), (0,), ())),
        )

    def disturb(self) -> None:
        """Let one thing happen."""
        chance, ledger = self.chance, self.ledger
        worker = chance.choice(list(ledger.workers.values())) if ledger.workers else None
        act = chance.random()
        if act < 0.2:
            self.flows += 1
            ledger.submit(plan_of(chance, chance.randrange(1, 12)), f"wf{self.flows}", shard=self.flows % SHARDS)
        elif act < 0.25 or worker is None:
            self.attach()
        elif act < 0.3:
            ledger.leave(worker)
        elif act < 0.33:
            ledger.drain(worker)
        elif act < 0.4:
            ledger.state(worker, chance.randrange(SHARDS))
        elif act < 0.5:
            ledger.report(worker, chance.randrange(100), chance.randrange(100))
        elif act < 0.55:
            ledger.after(chance.choice((1, 150, 300)))
        else:
            running = [assign for one in ledger.workers.values() for assign in one.work.values()]
            if running:
                ledger.end(chance.choice(running))

    def nothing_waits_in_vain(self) -> None:
        """Nodes wait only for what may still come: in the end, with room everywhere, all of them run."""
        ledger = self.ledger
        for worker in list(ledger.workers.values()):
            ledger.leave(worker)
        for _ in range(3):
            ledger.attach(executors=("e0", "e1", "e2"), labels={"gpu": "true"}, slots=50, zone="z0")
            ledger.attach(executors=("e0", "e1", "e2"), labels={"gpu": "true"}, slots=50, zone="z1")
        for _ in range(5_000):
            running = [assign for one in ledger.workers.values() for assign in one.work.values()]
            if running:
                ledger.end(running[0])
            elif not ledger.engine.state.ready.waiting:
                break
            # Some wait for a worker near their inputs, for a while.
            ledger.after(1 if running else 250)
        assert not ledger.engine.state.ready.waiting
        assert not any(shard.workflows for shard in ledger.engine.state.shards.values())


@pytest.mark.parametrize("strategy", strategy_names)
@settings(max_examples=15)
@given(seeds, st.sampled_from(sizes))
def test_nobody_gets_what_he_cannot_run_and_what_is_kept_is_what_it_is_kept_for(
    strategy: str, seed: int, size: int
) -> None:
    run = Run(seed, size, strategy)
    for _ in range(60 if size < 100 else 15):
        run.disturb()
        assert next(wrong_with(run.ledger.engine.state), None) is None
    run.nothing_waits_in_vain()


@pytest.mark.parametrize("strategy", ["round-robin", "load-balanced", "capability"])
@pytest.mark.parametrize("size", [1, 3, 100, 10_000])
def test_equal_workers_get_equal_shares(strategy: str, size: int) -> None:
    ledger = Ledger(strategy=strategy)
    for _ in range(size):
        ledger.attach(slots=4, shards=[0])
    nodes = size * 2 + size // 2
    for at in range(0, nodes, 1_000):
        width = min(1_000, nodes - at)
        ledger.submit(define([{"id": f"n{n}", "executor": "work"} for n in range(width)], output=1), f"wf{at}")
    counts = ledger.counts()
    assert len(counts) == size
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("size", [5, 1_000])
def test_keys_move_only_from_the_worker_that_leaves(size: int) -> None:
    homes: list[dict[str, str]] = []
    for missing in (None, f"w{size // 2}"):
        ledger = Ledger(strategy="affinity")
        for number in range(1, size + 1):
            if f"w{number}" != missing:
                ledger.attach(f"w{number}", slots=1_000, shards=[0])
        for number in range(500):
            ledger.submit(define([{"id": "a", "executor": "work"}]), f"wf{number}")
        homes.append({assign.workflow_id: ledger.workers[assign.session].name for assign in ledger.assigned})
    before, after = homes
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {key for key in before if before[key] == f"w{size // 2}"}


def test_workflows_of_a_fleet_stay_where_they_began_while_workers_come() -> None:
    ledger = Ledger(strategy="affinity")
    for _ in range(5):
        ledger.attach(slots=1_000)
    chain: list[dict[str, Any]] = [{"id": "n0", "executor": "work"}]
    chain += [{"id": f"n{at}", "executor": "work", "depends_on": [f"n{at - 1}"]} for at in range(1, 4)]
    for number in range(50):
        ledger.submit(define(chain), f"wf{number}", shard=number % SHARDS)
    done = 0
    while done < len(ledger.assigned):
        ledger.end(ledger.assigned[done])
        done += 1
        if done % 20 == 0:
            ledger.attach(slots=1_000)
    homes: defaultdict[str, set[int]] = defaultdict(set)
    for assign in ledger.assigned:
        homes[assign.workflow_id].add(assign.session)
    assert len(ledger.assigned) == 200
    assert all(len(home) == 1 for home in homes.values())
    assert max(Counter(min(home) for home in homes.values()).values()) < 30
