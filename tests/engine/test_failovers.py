"""What the engine puts on record of a death: once, with what was affected, in the transaction that gives it up."""

from collections.abc import Sequence
from itertools import pairwise

import orjson
import pytest

from mainspring import limits
from mainspring.limits import failover_ids_a_chunk_max
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Assign, Effect
from mainspring_coordinator.engine.events import Death, DeathsFound, FailoverTold, ShardReady, ShardTaken
from mainspring_coordinator.engine.failovers import event_id, id_chunks, node_name
from mainspring_coordinator.engine.rows import (
    DeathsRecorded,
    FailoverAffected,
    FailoverMarked,
    FailoverRecorded,
    NodeChanged,
)
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, Subject
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config

HOLDER = "e" * 32
GRACE = 2
one = define([{"id": "a", "executor": "work"}])
pair = define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work"}])


def ids(effects: Sequence[Effect], subject: Subject) -> list[str]:
    return [
        name for row in rows_of(effects, FailoverAffected) if row.subject is subject for name in orjson.loads(row.ids)
    ]


def test_a_dead_worker_is_on_record_with_what_it_held_in_the_step_that_gives_it_up() -> None:
    rig = Rig(shards=3, config=with_config(instance="c1"))
    worker = rig.attach("w1")
    names = [f"wf-{n}" for n in range(5)]
    for name in names:
        rig.submit(pair, name)
    gone_us = rig.now_us
    rig.drop(worker)
    assert not rows_of(rig.effects, FailoverRecorded)
    effects = rig.after(GRACE)
    events = rows_of(effects, FailoverRecorded)
    assert {row.shard for row in events} == {row.part for row in rows_of(effects, FailoverAffected)}
    assert {(row.event_id, row.kind, row.failed_engine, row.failed_incarnation) for row in events} == {
        (event_id(worker.incarnation, HOLDER, worker.session), FailoverKind.WORKER_LOST, "w1", worker.incarnation)
    }
    assert {(row.takeover_engine, row.takeover_incarnation) for row in events} == {("c1", HOLDER)}
    assert {(row.detected_at_us, row.settles_at_us) for row in events} == {(gone_us, rig.now_us)}
    assert sorted(ids(effects, Subject.WORKFLOWS)) == names
    assert sorted(ids(effects, Subject.NODES)) == [f"{name}/{node}" for name in names for node in "ab"]
    assert {row.recorded_at_us for row in rows_of(effects, FailoverAffected)} == {rig.now_us}


def test_an_instance_of_a_map_is_named_by_its_number() -> None:
    assert (node_name("w", "m", 7), node_name("w", "a", -1)) == ("w/m[7]", "w/a")


def test_an_idle_workers_death_is_an_event_that_affected_nothing() -> None:
    rig = Rig(shards=2)
    worker = rig.attach("w1")
    rig.drop(worker)
    effects = rig.after(GRACE)
    assert only_row(effects).failed_engine == "w1"
    assert [(row.subject, row.ids_count) for row in rows_of(effects, FailoverAffected)] == [(Subject.WORKFLOWS, 0)]


def test_whoever_says_goodbye_or_comes_back_in_time_did_not_die() -> None:
    rig = Rig()
    leaver, blinker = rig.attach("w1"), rig.attach("w2")
    rig.submit(pair)
    rig.drop(leaver, goodbye=True)
    rig.drop(blinker)
    rig.after(GRACE - 0.1)
    rig.attach("w2", incarnation=blinker.incarnation)
    rig.after(60)
    assert not [row for row in rig.rows if isinstance(row, FailoverRecorded | FailoverAffected)]


@pytest.mark.parametrize("failover", [True, False])
def test_a_worker_that_never_came_to_the_new_owner_is_on_record_once_its_grace_is_over(*, failover: bool) -> None:
    old = Rig()
    worker = old.attach("w1")
    old.submit(pair)
    new = Rig(epoch=2, own=False, config=with_config(failover=failover))
    grace_until_us = new.now_us + 10 * SECOND
    new.step(ShardTaken(0, 2, grace_until_us, "d" * 32))
    for workflow in fold(old.rows, {pair.hash: pair})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    assert not rows_of(new.after(9.9), FailoverRecorded)
    effects = new.after(0.1)
    row = only_row(effects)
    assert (row.event_id, row.failed_engine) == (event_id(worker.incarnation, "d" * 32), "w1")
    assert row.settles_at_us >= grace_until_us, "other shards may have had nodes of it"
    assert ids(effects, Subject.NODES) == ["wf/a", "wf/b"]
    assert bool(rows_of(effects, NodeChanged)) is failover
    new.after(600)
    assert sum(isinstance(row, FailoverRecorded) for row in new.rows) == 1


def test_a_worker_that_was_given_up_and_came_back_is_on_record_again_when_it_dies() -> None:
    rig = Rig()
    worker = rig.attach("w1")
    rig.submit(one)
    rig.drop(worker)
    first = only_row(rig.after(GRACE))
    back = rig.attach("w1", incarnation=worker.incarnation)
    assert [assign.node_id for _, assign in rig.running()] == ["a"]
    rig.drop(back)
    effects = rig.after(GRACE)
    second = only_row(effects)
    assert second.failed_incarnation == first.failed_incarnation
    assert second.event_id != first.event_id, "whoever stores it would take it for one that was told long ago"
    assert ids(effects, Subject.NODES) == ["wf/a"]


@pytest.mark.parametrize("failover", [True, False])
def test_a_death_is_recorded_once_whether_its_work_goes_elsewhere_or_waits(*, failover: bool) -> None:
    rig = Rig(config=with_config(failover=failover))
    worker = rig.attach("w1")
    rig.submit(one)
    rig.drop(worker)
    rig.attach("w2")
    moved = of(rig.after(GRACE), Assign)
    assert bool(moved) is failover
    rig.after(600)
    rig.attach("w1")
    assert len(rig.running()) == 1
    events = [row for row in rig.rows if isinstance(row, FailoverRecorded)]
    assert [row.failed_incarnation for row in events] == [worker.incarnation]


def only_row(effects: Sequence[Effect]) -> FailoverRecorded:
    (row,) = rows_of(effects, FailoverRecorded)
    return row


# Coordinators


def found(*incarnations: str, shard: int = 0, taken: bool = True) -> DeathsFound:
    deaths = [Death(FailoverKind.COORDINATOR_HUNG, f"c-{who[0]}", who, 7) for who in incarnations]
    return DeathsFound(shard, 0, deaths, id_chunks(["w1", "w2"]), id_chunks(["w1/a"]), taken)


def test_the_deaths_of_a_shards_owners_are_recorded_and_their_note_goes_in_one_step() -> None:
    rig = Rig(config=with_config(instance="c9"))
    effects = rig.step(found("a" * 32, "b" * 32))
    events = rows_of(effects, FailoverRecorded)
    assert [(row.failed_engine, row.kind, row.takeover_engine, row.detected_at_us) for row in events] == [
        ("c-a", FailoverKind.COORDINATOR_HUNG, "c9", 7),
        ("c-b", FailoverKind.COORDINATOR_HUNG, "c9", 7),
    ]
    for row in events:
        parts = [part for part in rows_of(effects, FailoverAffected) if part.event_id == row.event_id]
        assert [(part.subject, part.ids_count) for part in parts] == [
            (Subject.WORKFLOWS, 0),
            (Subject.WORKFLOWS, 2),
            (Subject.NODES, 1),
        ]
    assert [row.shard for row in rows_of(effects, DeathsRecorded)] == [0]


def test_a_death_from_which_nobody_takes_over_names_nobody_and_leaves_the_note_to_who_takes_the_shard() -> None:
    rig = Rig(config=with_config(instance="c9", failover=False))
    effects = rig.step(found("a" * 32, taken=False))
    row = only_row(effects)
    assert (row.takeover_engine, row.takeover_incarnation, row.event_id) == ("", "", event_id("a" * 32, ""))
    assert not rows_of(effects, DeathsRecorded)


def test_the_same_deaths_found_again_make_the_same_rows() -> None:
    rig = Rig()
    first, second = rig.step(found("a" * 32)), rig.step(found("a" * 32))
    assert first == second


def test_a_takeover_by_another_incarnation_is_another_event() -> None:
    events: list[str] = []
    for holder in "cd":
        rig = Rig(own=False)
        rig.step(ShardTaken(0, 3, rig.now_us, holder * 32))
        rig.step(ShardReady(0))
        events.append(only_row(rig.step(found("a" * 32))).event_id)
    assert len(set(events)) == 2


def test_deaths_of_a_shard_that_is_ours_no_more_are_left_to_its_owner() -> None:
    assert not Rig().step(found("a" * 32, shard=5))


def test_many_ids_are_cut_into_chunks_in_their_order() -> None:
    names = [f"w{n}" for n in range(2 * failover_ids_a_chunk_max + 1)]
    chunks = id_chunks(names)
    assert [chunk.count for chunk in chunks] == [failover_ids_a_chunk_max] * 2 + [1]
    assert [name for chunk in chunks for name in orjson.loads(chunk.ids)] == names
    assert all(first.ids != second.ids for first, second in pairwise(chunks))
    assert id_chunks([]) == []


def test_what_was_told_is_answered_with_its_commit_and_refused_where_the_fence_is_another_s() -> None:
    rig = Rig()
    mark = FailoverTold(5, 0, "f" * 32, FailoverStage.ANNOUNCED, 8 * SECOND, 0)
    effects = rig.step(mark)
    assert rows_of(effects, FailoverMarked) == [FailoverMarked(0, "", "f" * 32, FailoverStage.ANNOUNCED, 8 * SECOND, 0)]
    assert (only(effects, Answer).token, only(effects, Answer).code) == (5, AnswerCode.OK)
    refused = rig.step(FailoverTold(6, 3, "f" * 32, FailoverStage.CLOSED, 1, 1))
    assert (only(refused, Answer).token, only(refused, Answer).code) == (6, AnswerCode.NOT_OWNER)
    assert not rows_of(refused, FailoverMarked)


def test_how_many_deaths_are_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "workers_max", 3)
    rig = Rig()
    for number in range(9):
        worker = rig.attach(f"w{number}")
        rig.submit(one, f"wf-{number}")
        rig.drop(worker)
        assert only_row(rig.after(GRACE)).failed_engine == worker.name
    state = rig.engine.state
    assert (len(state.given_up), len(state.shards[0].mourned)) == (3, 3)


def test_what_is_missed_in_parts_is_on_record_whole_and_each_part_with_the_step_that_gives_it_up() -> None:
    wide = define([{"id": f"n{n}", "executor": "work"} for n in range(9)])
    old = Rig()
    old.attach("w1")
    old.submit(wide)
    new = Rig(epoch=2, own=False, config=with_config(step_nodes=2))
    new.step(ShardTaken(0, 2, new.now_us + SECOND, "d" * 32))
    for workflow in fold(old.rows, {wide.hash: wide})[0]:
        new.step(workflow)
    new.step(ShardReady(0))
    while new.engine.busy:
        new.after(0)
    named: list[str] = []
    effects = new.after(1)
    while new.engine.busy or effects:
        given_up = [f"wf/n{row.node}" for row in rows_of(effects, NodeChanged)]
        assert ids(effects, Subject.NODES) == given_up
        named += given_up
        effects = new.after(0)
    assert named == [f"wf/n{n}" for n in range(9)]
    parts = [row for row in new.rows if isinstance(row, FailoverAffected) and row.subject is Subject.NODES]
    assert len(parts) > 1
    assert len({row.chunk for row in parts}) == len(parts)
