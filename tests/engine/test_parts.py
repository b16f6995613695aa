"""What touches many nodes is done in parts: no step does more than it may, and anything may happen between two of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from mainspring.errors import Failure
from mainspring_coordinator.engine.effects import Ack, Answer, AnswerCode, Assign, Disposition, Effect, Ended, Stop
from mainspring_coordinator.engine.events import (
    Inventory,
    Read,
    ShardLost,
    ShardReady,
    ShardTaken,
    Submit,
    Tick,
    WorkflowEvicted,
)
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import MapExpanded, NodeChanged, Row, WorkflowUpdated
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import Rig, Worker, define, of, only, rows_of, with_config

part = 10
width = 95
parts = -(-width // part)
roots = define([{"id": f"n{at}", "executor": "work"} for at in range(width)], output="${input}")
fan = define(
    [
        {"id": "first", "executor": "first"},
        *({"id": f"n{at}", "executor": "work", "depends_on": ["first"]} for at in range(width)),
        {"id": "last", "executor": "work", "depends_on": [f"n{at}" for at in range(width)]},
    ]
)
chain: list[dict[str, Any]] = [
    {"id": "a", "executor": "other"},
    {"id": "b", "executor": "other", "depends_on": ["a"]},
]


def new_rig(**config: Any) -> Rig:
    rig = Rig(config=with_config(step_nodes=part, **config))
    rig.at_once = False
    return rig


def go_on(rig: Rig) -> list[list[Effect]]:
    """Do what is left, and return what each further step did."""
    steps: list[list[Effect]] = []
    while rig.engine.is_due(rig.now_us):
        steps.append(rig.step(Tick()))
        assert len(steps) < 1_000
    return steps


def count(rig: Rig, status: NodeStatus, workflow_id: str = "wf") -> int:
    return rig.engine.state.shards[0].workflows[workflow_id].statuses.count(status)


def test_a_wide_submit_is_acknowledged_at_once_and_its_roots_become_ready_part_by_part() -> None:
    rig = new_rig()
    assert rig.submit(roots).created
    ready = [count(rig, NodeStatus.READY)]
    while rig.engine.busy:
        rig.step(Tick())
        ready.append(count(rig, NodeStatus.READY))
    assert ready[-1] == width
    assert max(after - before for before, after in zip([0, *ready], ready, strict=False)) <= part
    rig.attach(slots=width)
    rig.run_to_end()
    assert only(of(rig.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_wide_release_is_spread_and_its_first_part_goes_with_the_end_that_freed_it() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first",))
    rig.attach("w2", slots=width)
    rig.submit(fan)
    steps = [rig.finish("first"), *go_on(rig)]
    assert [len(of(effects, Assign)) for effects in steps[:parts]] == [part] * (parts - 1) + [width % part]
    assert of(steps[0], Ack)


def test_the_hops_of_others_go_on_in_one_step_each_while_a_wide_release_is_under_way() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first", "other"))
    rig.submit(fan)
    rig.submit(define(chain), "small")
    rig.finish("first")
    assert rig.engine.busy
    assert only(rig.finish("a"), Assign).node_id == "b"
    assert only(rig.finish("b"), Ended).workflow_id == "small"
    assert rig.engine.busy


def test_no_step_assigns_more_than_it_may() -> None:
    rig = new_rig()
    rig.submit(roots)
    go_on(rig)
    before = len(rig.effects)
    rig.attach(slots=width)
    go_on(rig)
    assert len(of(rig.effects[before:], Assign)) == width
    rig = new_rig()
    rig.attach(slots=width)
    steps = [len(of(effects, Assign)) for effects in (rig.step(Tick()) for _ in range(3))]
    rig.submit(roots)
    steps += [len(of(effects, Assign)) for effects in go_on(rig)]
    assert max(steps) <= part


def test_what_nodes_free_that_cannot_be_assigned_is_freed_whatever_the_step_had_left() -> None:
    rig = new_rig()
    rig.attach(slots=width)
    broken = [
        {"id": f"n{at}", "executor": "work", "input": "${sum(input)}", "allow_failure": True} for at in range(width)
    ]
    after = [{"id": f"m{at}", "executor": "work", "depends_on": [f"n{at}"]} for at in range(width)]
    rig.submit(define([*broken, *after], output="${input}"), value="text")
    go_on(rig)
    assert {assign.node_id for _, assign in rig.running()} == {f"m{at}" for at in range(width)}


def test_no_step_fires_more_deadlines_than_it_may() -> None:
    rig = new_rig()
    limited = [
        {"id": f"n{at}", "executor": "nobody", "allow_failure": True, "timeouts": {"schedule_to_start": "5s"}}
        for at in range(width)
    ]
    rig.submit(define(limited))
    go_on(rig)
    rig.now_us += 6_000_000
    failed = []
    while not of(rig.effects, Ended):
        failed.append(len(rows_of(rig.step(Tick()), NodeChanged)))
    assert sum(failed) == width
    assert max(failed) <= part


def test_a_cancel_in_the_middle_of_a_release_leaves_nothing_ready() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first",))
    rig.submit(fan)
    rig.finish("first")
    answer = rig.cancel()
    assert (answer.code, answer.status) == (AnswerCode.OK, WorkflowStatus.CANCELLED)
    go_on(rig)
    rig.attach("w2", slots=width)
    assert not rig.running()
    assert not rig.engine.state.ready.waiting


@pytest.mark.parametrize("steps", [0, 3])
def test_a_successor_releases_the_rest_of_what_its_predecessor_died_in(steps: int) -> None:
    old = new_rig()
    old.attach("w1", executors=("first",))
    old.submit(fan)
    old.finish("first")
    for _ in range(steps):
        old.step(Tick())
    assert old.engine.busy
    new = Rig(epoch=2, own=False)
    new.rows = old.rows
    new.step(ShardTaken(0, 2, new.now_us, "e" * 32))
    for workflow in fold(old.rows, {fan.hash: fan})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    new.attach("w2", slots=7)
    new.run_to_end()
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED
    assert len({(a.workflow_id, a.node_id) for a in of(new.effects, Assign)}) == width + 1


def test_a_shard_that_is_lost_in_the_middle_of_a_release_takes_the_rest_along() -> None:
    rig = new_rig()
    rig.attach("w1", executors=("first", "work"), slots=1)
    rig.submit(fan)
    rig.finish("first")
    assert rig.engine.busy
    rig.step(ShardLost(0))
    assert not [effects for effects in go_on(rig) if of(effects, Assign)]
    rig.step(ShardTaken(0, 2, rig.now_us, "e" * 32))
    rig.step(ShardReady(0))
    assert not of(rig.after(60), Answer)
    assert not rig.engine.state.ready.waiting


def running_rig(**config: Any) -> tuple[Rig, Worker]:
    """Return a rig whose one worker runs a wide workflow as a whole."""
    rig = new_rig(**config)
    worker = rig.attach(slots=width)
    rig.submit(roots)
    go_on(rig)
    assert len(rig.running()) == width
    return rig, worker


def changed(steps: list[list[Effect]]) -> list[int]:
    """Return how many nodes each step changed."""
    return [len(rows_of(effects, NodeChanged)) for effects in steps]


def test_a_cancel_is_stored_with_its_first_stops_and_reaches_the_rest_part_by_part() -> None:
    rig, worker = running_rig()
    before = len(rig.effects)
    assert rig.cancel().status is WorkflowStatus.CANCELLING
    first = rig.effects[before:]
    assert [row.status for row in rows_of(first, WorkflowUpdated)] == [WorkflowStatus.CANCELLING]
    steps = [first, *go_on(rig)]
    assert changed(steps) == [len(of(effects, Stop)) for effects in steps]
    assert sum(changed(steps)) == width
    assert max(changed(steps)) <= part
    for _, assign in rig.running():
        rig.end(worker, assign, NodeStatus.CANCELLED)
    assert only(of(rig.effects, Ended), Ended).status is WorkflowStatus.CANCELLED


def test_what_ends_before_a_cancel_has_reached_it_is_recorded_and_not_offered_again() -> None:
    rig, worker = running_rig()
    rig.cancel()
    reached = {stop.assignment for stop in of(rig.effects, Stop)}
    early = [assign for _, assign in rig.running() if assign.assignment not in reached]
    assert rows_of(rig.end(worker, early[-1], NodeStatus.SUCCEEDED), NodeChanged)[0].status is NodeStatus.SUCCEEDED
    effects = rig.end(worker, early[-2], NodeStatus.READY)
    assert NodeStatus.READY not in {row.status for row in rows_of(effects, NodeChanged)}
    go_on(rig)
    for _, assign in rig.running():
        rig.end(worker, assign, NodeStatus.CANCELLED)
    assert only(of(rig.effects, Ended), Ended).status is WorkflowStatus.CANCELLED
    assert len(of(rig.effects, Assign)) == width


def test_workers_that_ignore_a_cancel_are_given_up_part_by_part() -> None:
    rig, _ = running_rig()
    rig.cancel()
    go_on(rig)
    steps = [rig.after(31), *go_on(rig)]
    assert sum(changed(steps)) == width
    assert max(changed(steps)) <= part
    assert of(steps[-1], Ended)


def test_a_successor_ends_what_its_predecessor_had_only_begun_to_cancel() -> None:
    patient = define(
        [{"id": f"n{at}", "executor": "work", "retry": {"initial": "60s", "jitter": 0}} for at in range(width)]
    )
    old = new_rig()
    worker = old.attach(slots=width)
    old.submit(patient)
    go_on(old)
    for _, assign in old.running()[: width // 2]:
        old.end(worker, assign, NodeStatus.FAILED, b"", Failure("Busy", "later"))
    old.cancel()
    assert old.engine.busy
    new = Rig(epoch=2, own=False)
    new.step(ShardTaken(0, 2, new.now_us + 9_000_000, "e" * 32))
    for workflow in fold(old.rows, {patient.hash: patient})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    heir = new.attach(worker.name, slots=width, incarnation=worker.incarnation, running=worker.running)
    assert len(of(new.effects, Stop)) == len(heir.running)
    for _, assign in new.running():
        new.end(heir, assign, NodeStatus.CANCELLED)
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.CANCELLED
    last = {row.node: row.status for row in (*old.rows, *new.rows) if isinstance(row, NodeChanged)}
    assert len(last) == width
    assert set(last.values()) == {NodeStatus.SKIPPED, NodeStatus.CANCELLED}


@pytest.mark.parametrize("goodbye", [True, False])
def test_what_a_worker_leaves_is_offered_again_part_by_part(goodbye: bool) -> None:
    rig, worker = running_rig()
    steps = [rig.drop(worker, goodbye=goodbye)]
    if not goodbye:
        steps = [rig.after(3)]
    steps += go_on(rig)
    assert sum(changed(steps)) == width
    assert max(changed(steps)) <= part
    rig.attach("w2", slots=width)
    go_on(rig)
    assert len(rig.running()) == width
    assert {row.redeliveries for row in rig.rows if isinstance(row, NodeChanged)} == {0 if goodbye else 1}


def test_a_process_that_said_goodbye_and_comes_back_keeps_what_was_not_offered_again_yet() -> None:
    rig, worker = running_rig()
    rig.drop(worker, goodbye=True)
    assert rig.engine.busy
    back = rig.attach(worker.name, incarnation=worker.incarnation, slots=width, running=worker.running)
    go_on(rig)
    live = rig.engine.state.shards[0].live
    assert len(live) == width
    assert {assignment.session for assignment in live.values()} == {back.session}


def test_what_an_inventory_lacks_is_offered_again_and_what_it_has_too_much_stopped_part_by_part() -> None:
    rig, worker = running_rig()
    gone = [number for _, number in worker.running][: width // 2]
    kept = [number for _, number in worker.running][width // 2 :]
    worker.running = {key: assign for key, assign in worker.running.items() if key[1] in kept}
    strangers = [10_000 + number for number in range(width)]
    event = Inventory(worker.session, 0, 1, (), [*kept, *strangers], (), worker.seen)
    steps = [rig.step(event), *go_on(rig)]
    assert sum(changed(steps)) == len(gone)
    assert sum(len(of(effects, Stop)) for effects in steps) == width
    assert max(len(of(effects, Stop)) + count for effects, count in zip(steps, changed(steps), strict=True)) <= part
    assert len(rig.engine.state.shards[0].live) == width


def test_workers_that_do_not_come_back_to_a_taken_shard_are_missed_part_by_part() -> None:
    old, _ = running_rig()
    new = new_rig()
    new.step(ShardTaken(0, 2, new.now_us + 9_000_000, "e" * 32))
    for workflow in fold(old.rows, {roots.hash: roots})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    go_on(new)
    steps = [new.after(9), *go_on(new)]
    assert sum(changed(steps)) == width
    assert max(changed(steps)) <= part


def taken_rig(rows: Sequence[Row], plan: Plan) -> Rig:
    """Return a successor that has been given all that is in the database, and has built a first part of it."""
    rig = new_rig()
    rig.epoch = 2
    rig.step(ShardTaken(0, 2, rig.now_us + 9_000_000, "e" * 32))
    for workflow in fold(rows, {plan.hash: plan})[0]:
        rig.step(workflow)
    rig.step(ShardReady(0))
    return rig


def test_a_large_workflow_is_built_part_by_part_and_calls_wait_until_all_of_it_is_there() -> None:
    old, worker = running_rig()
    for _, assign in old.running()[: width // 3]:
        old.end(worker, assign, NodeStatus.SUCCEEDED)
    new = taken_rig(old.rows, roots)
    assert not new.step(Read(7, 0, "wf"))
    built = [count(new, NodeStatus.RUNNING)]
    answers: list[Answer] = []
    while new.engine.busy:
        answers += of(new.step(Tick()), Answer)
        built.append(count(new, NodeStatus.RUNNING))
    assert max(after - before for before, after in pairwise(built)) <= part
    assert only(answers, Answer).code is AnswerCode.OK
    new.attach(worker.name, slots=width, incarnation=worker.incarnation, running=worker.running)
    new.run_to_end()
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_deadline_that_passes_while_its_workflow_is_built_fires_when_it_is_there() -> None:
    timed = define([{"id": f"n{at}", "executor": "work"} for at in range(width)], timeout="5s")
    old = new_rig()
    old.submit(timed)
    new = taken_rig(old.rows, timed)
    new.now_us += 6_000_000
    assert not of(new.step(Tick()), Ended)
    assert new.engine.state.occupied
    go_on(new)
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.FAILED


def test_a_workflow_that_leaves_memory_while_it_is_built_is_waited_for_until_it_is_loaded_anew() -> None:
    old, worker = running_rig()
    new = taken_rig(old.rows, roots)
    assert new.engine.state.occupied
    new.step(WorkflowEvicted(0, "wf"))
    go_on(new)
    back = new.attach(worker.name, slots=width, incarnation=worker.incarnation, running=worker.running)
    go_on(new)
    assert not of(new.end(back, new.running()[0][1], NodeStatus.SUCCEEDED), Ack), "what it is of is not there yet"
    new.step(fold(old.rows, {roots.hash: roots})[0][0])
    go_on(new)
    assert only(of(new.effects, Ack), Ack).disposition is Disposition.RECORDED
    assert not of(new.effects, Stop)


def test_a_worker_that_dies_while_its_workflow_is_built_leaves_each_node_once() -> None:
    old, worker = running_rig()
    new = taken_rig(old.rows, roots)
    back = new.attach(worker.name, slots=width, incarnation=worker.incarnation, running=worker.running)
    new.drop(back)
    new.now_us += 3_000_000
    assert new.engine.state.occupied
    go_on(new)
    for _ in range(2):  # after a jump each grace is given once more
        new.after(10)
        go_on(new)
    assert len(new.engine.state.ready.items_of((0, "wf"))) == width
    new.attach("w2", slots=width)
    new.run_to_end()
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_lost_shard_is_forgotten_part_by_part_and_taken_again_only_then() -> None:
    rig = new_rig()
    worker = rig.attach(slots=width // 2)
    one = define([{"id": "a", "executor": "work"}])
    for number in range(width):
        rig.submit(one, f"wf{number}")
    rows = list(rig.rows)
    rig.step(ShardLost(0))
    held = [len(rig.engine.state.held[worker.incarnation].assignments)]
    rig.step(ShardTaken(0, 2, rig.now_us + 9_000_000, "e" * 32))
    held.append(len(rig.engine.state.held[worker.incarnation].assignments))
    for workflow in fold(rows, {one.hash: one})[0]:
        rig.step(workflow)
        mine = rig.engine.state.held.get(worker.incarnation)
        held.append(len(mine.assignments) if mine is not None else 0)
    assert max(before - after for before, after in pairwise(held)) <= part
    rig.step(ShardReady(0))
    go_on(rig)
    rig.epoch = 2
    rig.inventory(worker)
    go_on(rig)
    assert len(rig.engine.state.shards[0].live) == width // 2
    rig.run_to_end()
    assert len(of(rig.effects, Ended)) == width


def test_what_waits_of_a_shard_that_no_worker_has_stated_is_not_looked_over_by_every_step() -> None:
    one = define([{"id": "a", "executor": "work"}])
    rig = Rig(own=False)
    rig.step(ShardTaken(0, 1, rig.now_us, "e" * 32))
    rig.step(ShardReady(0))
    rig.attach("w1")
    rig.step(ShardTaken(1, 1, rig.now_us, "e" * 32))
    rig.step(ShardReady(1))
    for number in range(width):
        event = Submit(number, 1, f"wf{number}", one, b"null", one.hash, "load-balanced")
        rig.step(event)
    assert not rig.engine.state.ready.waiting
    assert len(rig.engine.state.ready.items_of((1, "wf0"))) == 1
    view = only(rig.step(Read(1_000, 1, "wf0")), Answer).view
    assert view is not None
    assert view.reasons == {0: "the workers with room have not stated yet what they have of this shard"}
    rig.inventory(next(iter(rig.workers.values())), 1)
    rig.run_to_end()
    assert len(of(rig.effects, Ended)) == width


def test_a_map_is_expanded_part_by_part_and_a_successor_makes_its_list_again_so() -> None:
    over = define(
        [{"id": "each", "executor": "work", "map": {"over": "${input}"}, "input": "${item}"}], output="${input}"
    )
    old = new_rig()
    old.submit(over, value=list(range(width)))
    steps = 1
    while not old.engine.state.shards[0].workflows["wf"].maps:
        old.step(Tick())
        steps += 1
    assert steps == parts
    worker = old.attach(slots=7)
    go_on(old)
    assert [assign.input for _, assign in old.running()] == [b"%d" % at for at in range(7)]
    new = taken_rig(old.rows, over)
    go_on(new)
    new.attach(worker.name, slots=8, incarnation=worker.incarnation, running=worker.running)
    expanded = new.engine.state.shards[0].workflows["wf"].maps[0]
    assert expanded.items is None
    assert len(go_on(new)) >= parts - 1
    new.run_to_end()
    assert [assign.input for assign in of(new.effects, Assign)] == [b"%d" % at for at in range(7, width)]
    assert only(of(new.effects, Ended), Ended).status is WorkflowStatus.SUCCEEDED


def test_a_cancel_in_the_middle_of_an_expansion_leaves_no_map() -> None:
    rig = new_rig()
    rig.submit(define([{"id": "each", "executor": "work", "map": {"over": "${input}"}}]), value=list(range(width)))
    assert rig.engine.busy
    assert rig.cancel().status is WorkflowStatus.CANCELLED
    go_on(rig)
    assert not [row for row in rig.rows if isinstance(row, MapExpanded)]
