"""Nodes that share a concurrency key: how many run at once, who goes next, and what becomes of a permit."""

from collections.abc import Mapping
from typing import Any

import pytest

from mainspring.ids import shard_of
from mainspring_coordinator.engine import timers
from mainspring_coordinator.engine.effects import Assign, GrantPermits, StatePermits
from mainspring_coordinator.engine.events import (
    PermitsGranted,
    PermitsLoaded,
    PermitsStated,
    ShardReady,
    ShardTaken,
)
from mainspring_coordinator.engine.permits import Group, HeldPermits, Reply, Statement
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import PermitsHeld
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, rows_of, with_config


def limited(limit: int = 2, key: str = "db", **rest: Any) -> dict[str, Any]:
    return {"executor": "work", "concurrency": {"key": key, "limit": limit}, **rest}


def nodes(count: int, limit: int = 2, **rest: Any) -> Plan:
    return define([{"id": f"n{at}", **limited(limit), **rest} for at in range(count)])


def held(rig: Rig) -> Mapping[tuple[str, int], int]:
    """Return how many permits are out by key and shard, as the rows say."""
    found = {(row.key, row.holder): row.count for row in rig.rows if isinstance(row, PermitsHeld)}
    return {name: count for name, count in found.items() if count}


def test_no_more_than_the_limit_run_and_all_do_in_the_end() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(nodes(5))
    ran = 0
    while rig.running():
        assert len(rig.running()) == min(2, 5 - ran)
        assert held(rig) == {("db", 0): len(rig.running())}
        rig.finish()
        ran += 1
    assert ran == 5
    assert held(rig) == {}
    assert not rig.engine.state.shards[0].demands.by_key
    assert not rig.engine.state.shards[0].home.ledgers


def test_nobody_waits_behind_a_node_that_waits_for_a_permit() -> None:
    rig = Rig()
    rig.attach(slots=3)
    rig.submit(nodes(4, 1), "limited")
    rig.submit(define([{"id": f"free{at}", "executor": "work"} for at in range(4)]), "free")
    assert sorted(assign.node_id for _, assign in rig.running()) == ["free0", "free1", "n0"]


def test_what_waits_for_one_worker_gets_the_room_that_a_node_without_a_permit_leaves() -> None:
    hard = {"affinity": {"key": "shared", "mode": "hard"}}
    rig = Rig()
    rig.attach("w1", slots=2)
    rig.submit(define([{"id": "first", **limited(1), **hard}, {"id": "long", "executor": "work", **hard}]), "first")
    rig.attach("w2")  # so that what follows is looked at, and tied to the worker that has the key
    rig.submit(define([{"id": "second", **limited(1), **hard}]), "second")
    rig.submit(define([{"id": "third", "executor": "work", **hard}]), "third")
    assert {assign.node_id for _, assign in rig.running()} == {"first", "long"}
    rig.finish("long")
    assert {assign.node_id for _, assign in rig.running()} == {"first", "third"}


def test_nodes_of_other_keys_and_of_none_are_not_concerned() -> None:
    rig = Rig(shards=4)
    rig.attach()
    rig.submit(define([{"id": key, **limited(1, key)} for key in "abc"] + [{"id": "free", "executor": "work"}]))
    assert len(rig.running()) == 4


def test_workflows_of_all_shards_share_the_limit_and_take_turns() -> None:
    rig = Rig(shards=4)
    rig.attach(slots=20)
    for number in range(8):
        rig.submit(nodes(3, 2), f"wf{number}")
    assert len({shard_of(f"wf{number}", 4) for number in range(8)}) == 4
    order: list[int] = []
    while rig.running():
        assert len(rig.running()) <= 2
        _, assign = rig.running()[0]
        order.append(assign.shard)
        rig.finish(assign.node_id)
    assert len(order) == 24
    for at in range(4, 12):
        assert len(set(order[at : at + 4])) >= 3, order


def test_each_instance_of_a_map_needs_a_permit() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{"id": "each", **limited(3), "map": {"over": "${input}"}}]), value=list(range(8)))
    ran = 0
    while rig.running():
        assert len(rig.running()) == min(3, 8 - ran)
        rig.finish()
        ran += 1
    assert (ran, held(rig)) == (8, {})


def test_each_node_keeps_to_its_own_limit_of_a_key() -> None:
    rig = Rig()
    rig.attach()
    strict = define([{"id": "strict", **limited(1)}])
    rig.submit(nodes(3, 3))
    rig.submit(strict, "strict")
    assert len(rig.running()) == 3
    rig.finish()
    rig.finish()
    assert not rig.running("strict")
    rig.finish()
    assert rig.running("strict")


def test_a_permit_for_a_wide_limit_is_not_taken_by_a_node_of_a_narrow_one() -> None:
    rig = Rig()
    worker = rig.attach(slots=1)
    rig.submit(nodes(1, 3), "first")
    rig.submit(nodes(1, 3), "second")
    rig.submit(define([{"id": "strict", **limited(1), "priority": 9}]), "strict")
    for _ in range(3):
        live = [assign.node_id for _, assign in rig.running()]
        assert "strict" not in live or live == ["strict"]
        rig.finish()
    assert worker.running == {}


def test_the_higher_priority_gets_the_next_permit() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(nodes(1, 1), "first")
    rig.submit(define([{"id": "low", **limited(1), "priority": 1}]), "low")
    rig.submit(define([{"id": "high", **limited(1), "priority": 8}]), "high")
    rig.finish("n0")
    assert [assign.node_id for _, assign in rig.running()] == ["high"]


def test_a_node_that_no_worker_can_run_asks_for_nothing() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{"id": "n", **limited(1), "requires": {"gpu": "true"}}]), "stuck")
    assert held(rig) == {}
    rig.submit(nodes(1, 1), "free")
    assert len(rig.running()) == 1


def test_a_node_that_waits_for_a_permit_does_not_draw_credit_from_other_coordinators() -> None:
    rig = Rig()
    worker = rig.attach()
    rig.submit(nodes(2, 1))
    assert worker.session not in rig.backlogged
    rig.submit(define([{"id": "free", "executor": "work"}] * 1), "free")
    rig.finish("n0")
    assert len(rig.running()) == 2


def test_when_only_nodes_that_wait_for_a_permit_are_left_no_more_credit_is_drawn() -> None:
    rig = Rig()
    worker = rig.attach(slots=2)
    rig.submit(nodes(2, 1))
    rig.submit(define([{"id": f"free{n}", "executor": "work"} for n in range(2)]), "free")
    assert rig.backlogged == {worker.session}
    rig.finish("free0")
    assert rig.running("free1")
    assert not rig.backlogged


def test_retries_hold_no_permit_while_they_wait() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(nodes(2, 1))
    rig.fail("n0")
    assert [assign.node_id for _, assign in rig.running()] == ["n1"]
    rig.after(2)
    rig.finish("n1")
    assert [assign.node_id for _, assign in rig.running()] == ["n0"]


def test_a_cancelled_workflow_gives_its_permits_to_others_once_its_nodes_have_ended() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(nodes(3, 1), "first")
    rig.submit(nodes(1, 1), "second")
    rig.cancel("first")
    assert not [assign for _, assign in rig.running() if assign.workflow_id == "second"]
    rig.after(31)
    assert [assign for _, assign in rig.running() if assign.workflow_id == "second"]
    rig.after(2)  # what the others of it wanted came to nothing
    assert held(rig) == {("db", 0): 1}


def test_a_node_whose_time_to_start_is_over_leaves_the_others_their_turns() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(nodes(1, 1), "first")
    rig.submit(
        define([{"id": "n", **limited(1), "timeouts": {"schedule_to_start": "5s"}, "allow_failure": True}]), "late"
    )
    rig.submit(nodes(1, 1), "last")
    rig.after(6)
    rig.finish("n0")
    assert [assign.workflow_id for _, assign in rig.running()] == ["last"]


def test_a_permit_that_nobody_can_use_is_put_back_and_asked_for_again() -> None:
    rig = Rig(shards=2)
    rig.passes_permits = False
    rig.attach(slots=1)
    here, there = (next(f"wf{n}" for n in range(99) if shard_of(f"wf{n}", 2) == at) for at in range(2))
    rig.submit(nodes(1, 1), here)
    said = of(rig.effects, StatePermits)[-1].statement
    # Its slot is taken before the permit comes.
    rig.submit(define([{"id": "other", "executor": "work"}]), there)
    replied = rig.step(PermitsStated(shard_of("db", 2), said))
    granted = of(replied, GrantPermits)[-1].reply
    assert granted.granted == {Group(5, 1): 1}
    rig.step(PermitsGranted(granted.shard, granted))
    assert [assign.node_id for _, assign in rig.running()] == ["other"]
    again = of(rig.after(1), StatePermits)[-1].statement
    assert (again.keeps, again.wants, again.number) == (0, {Group(5, 1): 1}, said.number + 1)
    # A permit that comes late, in reply to what was said before, is void.
    rig.finish("other")
    assert not rig.running()
    rig.step(PermitsGranted(granted.shard, granted))
    assert not rig.running()
    rig.passes_permits = True
    rig.step(PermitsStated(shard_of("db", 2), again))
    assert len(rig.running()) == 1


def test_a_permit_for_a_node_that_is_gone_goes_back() -> None:
    rig = Rig()
    rig.passes_permits = False
    rig.attach()
    rig.submit(nodes(1, 1), "gone")
    said = of(rig.effects, StatePermits)[-1].statement
    replied = rig.step(PermitsStated(0, said))
    rig.cancel("gone")
    reply = of(replied, GrantPermits)[-1].reply
    rig.step(PermitsGranted(0, reply))
    assert held(rig) == {("db", 0): 1}
    rig.passes_permits = True
    rig.after(1)
    assert held(rig) == {}
    assert not rig.engine.state.shards[0].demands.by_key


@pytest.fixture(params=[1_024, -1_000], ids=["now and then", "each step"])
def _looks_through_deadlines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let void deadlines be looked for as seldom as they are, and in each step."""
    monkeypatch.setattr(timers, "_few", request.param)


@pytest.mark.usefixtures("_looks_through_deadlines")
def test_what_is_not_answered_is_said_again_until_it_is() -> None:
    rig = Rig()
    rig.passes_permits = False
    rig.attach()
    rig.submit(nodes(1, 1))
    numbers = [one.statement.number for one in of(rig.effects, StatePermits)]
    for _ in range(3):
        numbers += [one.statement.number for one in of(rig.after(1), StatePermits)]
    assert numbers == [1, 2, 3, 4]
    rig.passes_permits = True
    rig.after(1)
    assert len(rig.running()) == 1


def test_while_something_runs_and_nothing_waits_nothing_is_said() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(nodes(1, 1))
    rig.after(1)
    effects = rig.after(1)
    assert not of(effects, StatePermits)


# -- new owners --------------------------------------------------------------------------------------------------------------


def take(rig: Rig, shard: int, epoch: int, plan: Plan, *, permits: bool = True) -> None:
    """Let a shard be recovered from the rows, as by another owner."""
    rows = list(rig.rows)
    rig.step(ShardTaken(shard, epoch, rig.now_us + 9 * SECOND, "e" * 32))
    for workflow in fold(rows, {plan.hash: plan})[0]:
        if workflow.shard == shard:
            rig.step(workflow)
    if permits:
        found = {
            (row.key, row.holder): HeldPermits(row.key, row.holder, row.epoch, row.count)
            for row in rows
            if isinstance(row, PermitsHeld) and row.shard == shard
        }
        rig.step(PermitsLoaded(shard, [one for one in found.values() if one.count]))
    rig.step(ShardReady(shard))


def test_the_new_owner_of_home_and_nodes_goes_on_where_the_last_one_was() -> None:
    plan = nodes(4, 2)
    rig = Rig()
    worker = rig.attach()
    rig.submit(plan)
    assert held(rig) == {("db", 0): 2}
    rig.epoch = 2
    take(rig, 0, 2, plan)
    rig.inventory(worker)
    assert len(rig.running()) == 2
    assert held(rig) == {("db", 0): 2}
    rig.after(4)
    rig.finish()
    assert len(rig.running()) == 2
    while rig.running():
        rig.finish()
    assert held(rig) == {}


def test_permits_that_a_new_owner_knows_nothing_of_are_asked_for_and_freed() -> None:
    rig = Rig(own=False)
    rig.step(ShardTaken(0, 7, 0, "e" * 32))
    rig.step(PermitsLoaded(0, [HeldPermits("db", 0, 3, 2)]))
    # Its owner was killed before it used them; the new one has nothing that needs a permit.
    effects = rig.step(ShardReady(0)) + rig.after(0)
    assert of(effects, GrantPermits)[0].reply == Reply("db", 0, 0, 0, 7, {})
    assert held(rig) == {}
    assert rows_of(effects, PermitsHeld) == [PermitsHeld(0, "", "db", 0, 7, 0)]
    assert not rig.engine.state.shards[0].home.ledgers


def test_a_shard_that_is_asked_before_it_is_ready_answers_when_it_is() -> None:
    rig = Rig(own=False)
    rig.passes_permits = False
    rig.step(ShardTaken(0, 7, 0, "e" * 32))
    assert not of(rig.step(PermitsGranted(0, Reply("db", 0, 0, 0, 9, {}))), StatePermits)
    (said,) = of(rig.step(ShardReady(0)), StatePermits)
    assert said.statement == Statement("db", 0, 7, 1, 9, 0, {})
    rig.step(PermitsGranted(0, Reply("db", 0, 7, 1, 9, {})))
    assert not rig.engine.state.shards[0].demands.by_key


@pytest.mark.usefixtures("_looks_through_deadlines")
def test_a_shard_that_is_silent_is_asked_again_and_again() -> None:
    rig = home()
    rig.step(PermitsStated(0, statement(number=1, wants={Group(5, 1): 1})))
    asked = [of(rig.after(seconds), GrantPermits) for seconds in (2, 1.1, 2, 1.1, 3.1)]
    assert [len(one) for one in asked] == [0, 1, 0, 1, 1]
    assert held(rig) == {("db", 9): 1}


def test_a_shard_that_only_wanted_something_and_is_silent_is_forgotten() -> None:
    rig = home()
    rig.step(PermitsStated(0, statement(shard=9, wants={Group(5, 1): 1})))
    rig.step(PermitsStated(0, statement(shard=8, wants={Group(5, 1): 1})))
    rig.after(2)
    rig.step(PermitsStated(0, statement(shard=9, number=2, keeps=1)))
    rig.after(2)
    assert set(rig.engine.state.shards[0].home.ledgers["db"]) == {9}


# -- the home ------------------------------------------------------------------------------------------------------------------


def home(**config: Any) -> Rig:
    """A home whose shards are elsewhere."""
    rig = Rig(config=with_config(**config))
    rig.passes_permits = False
    return rig


def statement(**rest: Any) -> Statement:
    given: dict[str, Any] = {"key": "db", "shard": 9, "epoch": 4, "number": 1, "home_epoch": 1, "keeps": 0, "wants": {}}
    return Statement(**{**given, **rest})


def tell(rig: Rig, **rest: Any) -> list[Reply]:
    return [effect.reply for effect in of(rig.step(PermitsStated(0, statement(**rest))), GrantPermits)]


def test_a_statement_that_comes_twice_changes_nothing_and_is_answered_twice() -> None:
    rig = home()
    first = tell(rig, wants={Group(5, 3): 2})
    assert first == [Reply("db", 9, 4, 1, 1, {Group(5, 3): 2}, 2, 0)]
    assert tell(rig, wants={Group(5, 3): 2}) == first
    assert [(row.epoch, row.count) for row in rig.rows if isinstance(row, PermitsHeld)] == [(4, 2)]


@pytest.mark.parametrize(
    "late",
    [
        {"epoch": 4, "number": 1},
        {"epoch": 3, "number": 9},
        {"epoch": 4, "number": 3, "home_epoch": 0},
        {"epoch": 9, "number": 9, "home_epoch": 2},
    ],
)
def test_what_is_late_or_made_for_another_home_takes_nothing_back(late: Mapping[str, int]) -> None:
    rig = home()
    tell(rig, number=1, wants={Group(5, 3): 2})
    tell(rig, number=2, keeps=2)
    replies = tell(rig, **late)
    assert held(rig) == {("db", 9): 2}
    assert all(reply.number == 0 for reply in replies)
    assert bool(replies) == (late.get("home_epoch") == 0)


def test_the_epoch_of_who_was_believed_stands_in_the_row() -> None:
    rig = home()
    tell(rig, epoch=4, wants={Group(5, 3): 2})
    tell(rig, epoch=5, keeps=2)
    assert [(row.epoch, row.count) for row in rig.rows if isinstance(row, PermitsHeld)] == [(4, 2), (5, 2)]


def test_what_one_gives_back_another_gets_in_the_same_commit() -> None:
    rig = home()
    tell(rig, shard=8, wants={Group(5, 1): 1})
    assert tell(rig, shard=9, wants={Group(5, 1): 1})[0].granted == {}
    replies = tell(rig, shard=8, number=2)
    assert [(reply.shard, reply.number, dict(reply.granted)) for reply in replies] == [
        (8, 2, {}),
        (9, 1, {Group(5, 1): 1}),
    ]
    assert held(rig) == {("db", 9): 1}


def test_shards_take_turns_and_a_level_of_priority_counts_as_ageing() -> None:
    rig = home(priority_ageing_us=SECOND)
    tell(rig, shard=1, wants={Group(5, 1): 1})
    tell(rig, shard=2, wants={Group(4, 1): 1})
    rig.after(2)
    tell(rig, shard=1, number=2, keeps=1)
    tell(rig, shard=3, wants={Group(5, 1): 1})
    tell(rig, shard=2, number=2, wants={Group(4, 1): 1})
    granted = tell(rig, shard=1, number=3)
    assert [reply.shard for reply in granted if reply.granted] == [2]
    granted = tell(rig, shard=2, number=3)
    assert [reply.shard for reply in granted if reply.granted] == [3]


def test_a_reply_says_how_many_are_out_and_wanted_elsewhere() -> None:
    rig = home()
    tell(rig, shard=1, wants={Group(5, 2): 2})
    tell(rig, shard=2, wants={Group(5, 2): 2, Group(7, 1): 1})
    (reply,) = tell(rig, shard=3, wants={Group(5, 2): 1})
    assert (reply.out, reply.waiting, dict(reply.granted)) == (2, 3, {})


def test_before_its_permits_are_loaded_a_home_answers_nobody() -> None:
    rig = Rig(own=False)
    rig.step(ShardTaken(0, 1, 0, "e" * 32))
    assert tell(rig, wants={Group(5, 2): 2}) == []


def test_assignments_beside_nodes_with_a_key_need_none() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{"id": "a", **limited(1)}, {"id": "b", "executor": "work"}]))
    assert len(of(rig.effects, Assign)) == 2
    assert held(rig) == {("db", 0): 1}
