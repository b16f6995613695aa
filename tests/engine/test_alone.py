"""A node under which workers died runs alone, and only what dies alone is to blame."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring import limits
from mainspring_coordinator.engine.effects import Assign, Effect, Ended
from mainspring_coordinator.engine.events import CreditSet, ShardReady, ShardTaken, WorkerDraining
from mainspring_coordinator.engine.rows import NodeChanged
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import Rig, Worker, define, of, only, rows_of, with_config

killer = define([{"id": "bomb", "executor": "work"}])
GRACE = 2


def neighbours(count: int, executor: str = "work") -> Any:
    return define([{"id": f"n{at}", "executor": executor} for at in range(count)], output="${input}")


def kill(rig: Rig, node: str = "bomb") -> Worker:
    """Let the worker die that runs a node."""
    worker, _ = rig.running(node)[0]
    rig.drop(worker)
    rig.after(GRACE)
    return worker


def twice_bitten(**config: Any) -> Rig:
    """Return a rig without workers in which two of them have died under the bomb."""
    rig = Rig(config=with_config(**config))
    rig.submit(killer, "bad")
    for number in range(limits.redeliveries_alone_min):
        rig.attach(f"early{number}")
        kill(rig)
    return rig


def test_a_node_under_which_two_workers_died_goes_to_a_worker_that_has_nothing_else() -> None:
    rig = twice_bitten()
    rig.submit(neighbours(3), "good")
    busy = rig.attach("busy", slots=3)
    assert [assign.node_id for assign in busy.running.values()] == ["n0", "n1", "n2"]
    idle = rig.attach("idle")
    assert [assign.node_id for assign in idle.running.values()] == ["bomb"]
    rig.submit(neighbours(2), "more")
    assert [assign.node_id for assign in idle.running.values()] == ["bomb"]
    rig.finish("bomb")
    assert [assign.node_id for assign in idle.running.values()] == ["n0", "n1"]


def test_a_worker_is_not_kept_idle_for_a_node_that_lacks_a_permit() -> None:
    limited = {"executor": "work", "concurrency": {"key": "db", "limit": 1}}
    rig = Rig()
    rig.submit(define([{"id": "bomb", **limited}]), "bad")
    for number in range(limits.redeliveries_alone_min):
        rig.attach(f"early{number}")
        kill(rig)
    rig.submit(define([{"id": "long", **limited, "priority": 9}]), "first")
    first = rig.attach("first", slots=2)
    assert [assign.node_id for assign in first.running.values()] == ["long"]
    second = rig.attach("second", slots=2)
    rig.submit(neighbours(2), "good")
    assert {assign.node_id for worker in (first, second) for assign in worker.running.values()} == {"long", "n0", "n1"}
    rig.finish("n0")
    rig.finish("n1")
    rig.finish("long")
    assert [assign.node_id for worker in (first, second) for assign in worker.running.values()] == ["bomb"]


def test_the_third_worker_that_dies_under_it_alone_is_the_last() -> None:
    rig = twice_bitten()
    rig.attach("third")
    worker = kill(rig)
    ended = only(of(rig.effects, Ended), Ended)
    assert ended.status is WorkflowStatus.FAILED
    assert ended.failure is not None
    assert b"mainspring.WorkerLost" in ended.failure
    assert f"3 workers died while they ran it, the last one, '{worker.name}', while it ran nothing else" in (
        ended.failure.decode()
    )


def test_when_no_worker_is_idle_one_is_reserved_and_gets_nothing_else_until_it_has_run_the_node() -> None:
    rig = twice_bitten()
    rig.submit(neighbours(30), "good")
    workers = [rig.attach(f"w{number}", slots=2) for number in range(3)]
    view = rig.read("bad").view
    assert view is not None
    assert view.reasons == {0: "waits for a worker of its own, because 2 workers died while they ran it"}
    kept = next(worker for worker in workers if worker.session in rig.engine.state.reserved)
    assert len(kept.running) == 2
    for worker in workers:
        for assign in list(worker.running.values()):
            rig.end(worker, assign, NodeStatus.SUCCEEDED)
    assert [assign.node_id for assign in kept.running.values()] == ["bomb"]
    assert all(len(worker.running) == 2 for worker in workers if worker is not kept)
    rig.finish("bomb")
    assert len(kept.running) == 2
    rig.run_to_end()
    assert len(of(rig.effects, Ended)) == 2


def test_a_reservation_ends_with_what_it_was_made_for_and_moves_when_its_worker_leaves() -> None:
    rig = twice_bitten()
    rig.submit(neighbours(30), "good")
    first, second = (rig.attach(f"w{number}", slots=2) for number in range(2))
    assert list(rig.engine.state.reserved) == [first.session]
    rig.step(WorkerDraining(first.session))
    assert list(rig.engine.state.reserved) == [second.session]
    assert rig.cancel("bad").status is WorkflowStatus.CANCELLED
    assert not rig.engine.state.reserved
    rig.finish()
    assert len(second.running) == 2


def test_one_worker_alone_serves_in_turn_what_runs_alone_and_what_does_not() -> None:
    rig = Rig()
    for number in range(4):
        rig.submit(killer, f"bad{number}")
    for number in range(limits.redeliveries_alone_min):
        rig.drop(rig.attach(f"early{number}"))
        rig.after(GRACE)
    rig.submit(neighbours(8), "good")
    rig.attach("only", slots=2)
    order: list[str] = []
    while rig.running():
        worker, assign = rig.running()[0]
        assert not (any(a.node_id == "bomb" for a in worker.running.values()) and len(worker.running) > 1)
        order.append(assign.node_id)
        rig.end(worker, assign, NodeStatus.SUCCEEDED)
    assert order.count("bomb") == 4
    assert len(order) == 12
    assert "bomb" in order[:4]
    assert order[-1] != order[-3]


def test_credit_that_comes_back_is_enough_for_a_node_that_waits_alone() -> None:
    rig = twice_bitten()
    rig.adopts = True
    worker = rig.attach("w", slots=0)
    assert not rig.running()
    assert worker.session in rig.backlogged
    rig.step(CreditSet(worker.session, 2, 1))
    assert [assign.node_id for _, assign in rig.running()] == ["bomb"]


def test_an_instance_that_runs_alone_keeps_to_the_bound_on_parallel_ones_and_to_its_place() -> None:
    rig = Rig()
    each = {"id": "each", "executor": "work", "map": {"over": "${input}", "max_parallel": 1}, "input": "${item}"}
    rig.submit(define([each]), "wf", ["a", "b"])
    for number in range(limits.redeliveries_alone_min):
        rig.drop(rig.attach(f"early{number}", slots=1))
        rig.after(GRACE)
    rig.attach("w1")
    rig.attach("w2")
    assert len(rig.running()) == 1
    rig.run_to_end()
    assert [assign.input for assign in of(rig.effects, Assign)].count(b'"a"') == 3
    assert only(of(rig.effects, Ended), Ended).output == b'{"each":[{"of":"each"},{"of":"each"}]}'


def test_a_successor_lets_it_run_alone_too_and_blames_nothing_that_had_company() -> None:
    old = twice_bitten()
    new = Rig(epoch=2, own=False, config=with_config())
    new.rows, new.now_us = old.rows, old.now_us
    new.step(ShardTaken(0, 2, new.now_us, "e" * 32))
    for workflow in fold(old.rows, {killer.hash: killer})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    new.submit(neighbours(9), "good")
    new.attach("w1", slots=3)
    new.attach("w2", slots=3)
    new.run_to_end()
    assert len(of(new.effects, Ended)) == 2
    assert {assign.node_id for assign in of(new.effects, Assign)} >= {"bomb", "n8"}


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_only_what_kills_is_ever_blamed_and_everything_ends(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    rig = Rig(config=with_config(step_nodes=chance.choice([2, 500])))
    rig.at_once = chance.random() < 0.5
    bad = {f"bad{number}" for number in range(chance.randrange(1, 4))}
    good = {f"good{number}" for number in range(chance.randrange(1, 4))}
    for name in sorted(bad):
        rig.submit(killer, name)
    for name in sorted(good):
        rig.submit(neighbours(chance.randrange(1, 12)), name)
    ended: dict[str, Ended] = {}
    seen = 0
    for step in range(2_000):
        if len(rig.workers) < 3:
            rig.attach(f"w{step}", slots=chance.randrange(1, 4))
        running = rig.running()
        bombs = [worker for worker, assign in running if assign.node_id == "bomb"]
        if bombs and chance.random() < 0.5:
            rig.drop(chance.choice(bombs))
        elif running and chance.random() < 0.8:
            calm = [(worker, assign) for worker, assign in running if assign.node_id != "bomb"]
            if calm:
                worker, assign = chance.choice(calm)
                rig.end(worker, assign, NodeStatus.SUCCEEDED)
        else:
            rig.after(chance.choice([0.5, 3]))
        ended |= {effect.workflow_id: effect for effect in of(rig.effects[seen:], Ended)}
        look(rig, rig.effects[seen:])
        seen = len(rig.effects)
        if set(ended) == bad | good:
            break
    assert set(ended) == bad | good
    assert {name for name, effect in ended.items() if effect.status is WorkflowStatus.FAILED} == bad


def look(rig: Rig, effects: list[Effect]) -> None:
    """Hold what came out to the rule."""
    for held in rig.engine.state.held.values():
        alone = [a for a in held.assignments.values() if a.redeliveries >= limits.redeliveries_alone_min]
        assert not alone or len(held.assignments) == 1
    for row in rows_of(effects, NodeChanged):
        assert row.redeliveries <= limits.redeliveries_max
