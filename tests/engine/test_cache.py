"""The result cache: a node asks before it runs, and whatever the answer is, or is not, it ends exactly once."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring import limits
from mainspring_coordinator.engine.effects import Answer, AskCache, Assign, Effect, KeepResult, LoadOutputs
from mainspring_coordinator.engine.events import (
    CacheAnswer,
    CacheAnswered,
    CachedOutput,
    Event,
    OutputsLoaded,
    Read,
    ShardLost,
    ShardReady,
    ShardTaken,
    WorkflowEvicted,
)
from mainspring_coordinator.engine.operator_events import ActOnNode
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import NodeAssigned, NodeChanged, ResultCached, WorkflowUpdated
from mainspring_coordinator.engine.status import NodeAct, NodeStatus, WorkflowStatus
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config

wait_s = limits.cache_wait_ms_max / 1_000
one = {"id": "a", "executor": "work", "cache": {"ttl": "1h"}}
after_one = {"id": "b", "executor": "work", "input": "${a}"}
mapped = {"id": "m", "executor": "work", "map": {"over": "${input}"}, "cache": {"ttl": "1h", "key": "of ${item}"}}


class Loading(Rig):
    """A rig whose database answers at once what is asked of it."""

    def __init__(self, plan: Plan, **changes: Any) -> None:
        super().__init__(config=with_config(**changes))
        self._plan = plan

    def step(self, event: Event) -> list[Effect]:
        effects = super().step(event)
        for wanted in of(effects, LoadOutputs):
            effects = effects + self.step(self._loaded(wanted))
        return effects

    def _loaded(self, wanted: LoadOutputs) -> OutputsLoaded:
        known = fold(self.rows, {self._plan.hash: self._plan})[1].get(wanted.workflow_id, {})
        loaded = {node: known.get((node, -1), b"null") for node in wanted.nodes}
        for node, width in wanted.widths.items():
            loaded[node] = b"[" + b",".join(known.get((node, at), b"null") for at in range(width)) + b"]"
        return OutputsLoaded(wanted.shard, wanted.workflow_id, loaded)


def asked(effects: Sequence[Effect]) -> list[AskCache]:
    return of(effects, AskCache)


def answer(
    rig: Rig, ask: AskCache, found: bytes | None = None, *, age_s: float = 0, failed: bool = False
) -> list[Effect]:
    """Let the cache answer a question."""
    output = None if found is None else CachedOutput(found, rig.now_us - int(age_s * SECOND))
    said = CacheAnswer(ask.workflow_id, ask.node, ask.instance, ask.number, output, failed)
    return rig.step(CacheAnswered(ask.shard, (said,)))


def key_of(plan: Plan, value: Any = None) -> bytes:
    """Return the key under which the first node of a plan asks."""
    rig = Rig()
    rig.submit(plan, value=value)
    return asked(rig.effects)[0].key


def status_of(rig: Rig, node: int = 0) -> NodeStatus:
    return NodeStatus(rig.engine.state.shards[0].workflows["wf"].statuses[node])


# -- hits and misses -------------------------------------------------------------------------------------------------------


def test_a_node_asks_before_any_worker_is_looked_for() -> None:
    rig = Rig()
    rig.submit(define([one]))  # no worker is attached
    assert [(ask.workflow_id, ask.node, ask.instance) for ask in asked(rig.effects)] == [("wf", 0, -1)]
    rig.attach()
    assert rig.running() == []
    assert not rig.engine.state.ready.waiting


def test_a_hit_ends_the_node_and_starts_what_it_frees_in_one_step() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one, after_one]))
    effects = answer(rig, only(rig.effects, AskCache), b'{"x":1}')
    (changed,) = rows_of(effects, NodeChanged)
    assert (changed.status, changed.attempt, changed.output) == (NodeStatus.SUCCEEDED, 0, b'{"x":1}')
    assert only(effects, Assign).input == b'{"x":1}'
    assert rows_of(effects, ResultCached) == []
    assert rig.engine.state.cache_answers == {"hit": 1, "miss": 0, "error": 0, "late": 0}
    rig.finish("b")
    assert rig.rows[-1].status is WorkflowStatus.SUCCEEDED  # type: ignore[union-attr]  # the end of the workflow


def test_a_miss_runs_and_what_it_gives_is_kept_with_its_end() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one]))
    ask = only(rig.effects, AskCache)
    assert only(answer(rig, ask), Assign).attempt == 1
    rig.now_us += SECOND
    (kept,) = rows_of(rig.finish("a", 7), ResultCached)
    assert (kept.workflow_id, kept.key, kept.output) == ("wf", ask.key, b"7")
    assert (kept.stored_at_us, kept.expires_at_us) == (rig.now_us, rig.now_us + 3_600 * SECOND)
    assert rig.engine.state.cache_answers["miss"] == 1


def test_elsewhere_than_in_the_database_it_is_kept_by_an_effect() -> None:
    rig = Rig(config=with_config(results_in_database=False))
    rig.attach()
    rig.submit(define([one]))
    ask = only(rig.effects, AskCache)
    answer(rig, ask)
    effects = rig.finish("a", 7)
    assert rows_of(effects, ResultCached) == []
    assert only(effects, KeepResult) == KeepResult(0, "wf", ask.key, b"7", rig.now_us, 3_600_000)


@pytest.mark.parametrize(("age_s", "taken"), [(0, True), (3_599.9, True), (3_600, False), (-5, True), (-5.1, False)])
def test_only_what_is_younger_than_the_nodes_own_time_is_taken(age_s: float, taken: bool) -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one]))
    effects = answer(rig, only(rig.effects, AskCache), b"1", age_s=age_s)
    assert bool(of(effects, Assign)) is not taken


def test_a_failed_attempt_keeps_nothing_and_the_next_one_asks_again() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{**one, "retry": {"max_attempts": 2, "initial": "1s", "jitter": 0}}, after_one]))
    answer(rig, asked(rig.effects)[0])
    assert rows_of(rig.fail("a"), ResultCached) == []
    again = only(rig.after(1), AskCache)
    assert rig.running() == []
    (changed,) = rows_of(answer(rig, again, b"1"), NodeChanged)
    assert (changed.status, changed.attempt, changed.retry_at_us) == (NodeStatus.SUCCEEDED, 0, 0)
    view = rig.read().view
    assert view is not None
    assert list(view.attempts) == [0, 1]


def test_nodes_without_a_cache_ask_nothing_beside_those_with_one() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one, {"id": "c", "executor": "work"}]))
    assert [assign.node_id for _, assign in rig.running()] == ["c"]
    assert rows_of(rig.finish("c"), ResultCached) == []


def test_a_hit_needs_no_permit() -> None:
    rig = Rig()
    rig.attach()
    node = {**one, "concurrency": {"key": "db", "limit": 1}}
    rig.submit(define([node, {**node, "id": "b", "input": 2}]))
    first, second = asked(rig.effects)
    answer(rig, first)
    assert len(rig.running()) == 1
    assert rows_of(answer(rig, second, b"1"), NodeChanged)[0].status is NodeStatus.SUCCEEDED


def test_an_output_that_is_too_much_for_the_workflow_fails_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "workflow_payload_bytes_max", 10)
    rig = Rig()
    rig.submit(define([one]))
    (changed,) = rows_of(answer(rig, only(rig.effects, AskCache), b"1" * 11), NodeChanged)
    assert changed.status is NodeStatus.FAILED
    assert b"PayloadTooLarge" in (changed.failure or b"")


# -- keys ------------------------------------------------------------------------------------------------------------------


def test_what_makes_nodes_the_same() -> None:
    plain = key_of(define([one]), 1)
    same = [
        key_of(define([{**one, "id": "other", "retry": {"max_attempts": 3}}], timeout="1m"), 2),
        key_of(define([{**one, "cache": {"ttl": "5s"}}])),
    ]
    assert same == [plain, plain]
    different = [
        key_of(define([{**one, "executor": "works"}])),
        key_of(define([{**one, "input": 1}])),
        key_of(define([{**one, "cache": {"ttl": "1h", "key": "null"}}])),
        key_of(define([{**one, "executor": "work 4:x"}])),
        key_of(define([{**one, "input": "x"}])),
        key_of(define([{**one, "input": "y", "cache": {"ttl": "1h", "key": "x"}}])),
    ]
    assert len({plain, *different}) == 7


def test_a_key_stands_in_the_place_of_the_input() -> None:
    def key(template: str, value: Any, given: Any = "${input}") -> bytes:
        return key_of(define([{**one, "input": given, "cache": {"ttl": "1h", "key": template}}]), value)

    assert key("${input.day}", {"day": 1, "who": "x"}) == key("${input.day}", {"day": 1, "who": "y"})
    assert key("${input.day}", {"day": 1}) != key("${input.day}", {"day": 2})
    assert key("${input.day}", {"day": 1}) != key("${input.day}", {"day": "1"})
    assert key("on ${input.day}", {"day": 1}, 5) == key("on 1", None)


def test_a_key_that_cannot_be_evaluated_fails_the_node() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{**one, "cache": {"ttl": "1h", "key": "${length(input)}"}}]), value=5)
    (changed,) = rows_of(rig.effects, NodeChanged)
    assert changed.status is NodeStatus.FAILED
    assert b"cache.key: " in (changed.failure or b"")
    assert asked(rig.effects) == []
    assert not rig.engine.state.shards[0].workflows


# -- no answer -------------------------------------------------------------------------------------------------------------


def test_without_an_answer_the_node_runs_after_a_bounded_wait_and_a_later_answer_is_nobodys() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one]))
    ask = only(rig.effects, AskCache)
    assert of(rig.after(wait_s - 0.001), Assign) == []
    assert len(of(rig.after(0.001), Assign)) == 1
    assert answer(rig, ask, b"1") == []
    assert rig.engine.state.cache_answers == {"hit": 0, "miss": 0, "error": 0, "late": 1}
    rig.finish("a", 2)
    assert rows_of(rig.effects, NodeChanged)[-1].output == b"2"


def test_that_nobody_can_tell_is_a_miss_that_is_counted_apart() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one]))
    assert len(of(answer(rig, only(rig.effects, AskCache), failed=True), Assign)) == 1
    assert rig.engine.state.cache_answers["error"] == 1


def test_the_time_to_start_begins_with_the_answer() -> None:
    rig = Rig()
    rig.submit(define([{**one, "timeouts": {"schedule_to_start": "500ms"}}]))
    rig.after(wait_s)
    assert status_of(rig) is NodeStatus.READY
    rig.after(0.499)
    assert status_of(rig) is NodeStatus.READY
    assert rows_of(rig.after(0.001), NodeChanged)[0].status is NodeStatus.FAILED


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_an_answer_to_a_workflow_that_ends_says_nothing(how: str) -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one, {"id": "c", "executor": "work", "retry": {"max_attempts": 1}}]))
    ask = only(rig.effects, AskCache)
    if how == "cancel":
        rig.cancel()
    else:
        rig.fail("c")
    assert answer(rig, ask, b"1") == []
    assert of(rig.after(wait_s), Assign) == []


@pytest.mark.parametrize("act", [NodeAct.SKIP, NodeAct.COMPLETE])
@pytest.mark.parametrize("found", [b"1", None])
def test_an_answer_for_a_node_that_an_operator_ended_says_nothing(act: NodeAct, found: bytes | None) -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one, after_one]))
    (ask,) = asked(rig.effects)
    assert only(rig.step(ActOnNode(9, 0, "wf", act, "a", -1, "by hand", 0, b"7")), Answer).created
    ended = status_of(rig)
    assert [assign.node_id for _, assign in rig.running()] == ["b"]
    assert not rows_of(answer(rig, ask, found), NodeChanged)
    assert not rows_of(rig.after(wait_s), NodeChanged), "nor does its time being over"
    assert status_of(rig) is ended
    rig.run_to_end()
    (end,) = rows_of(rig.effects, WorkflowUpdated)
    assert end.status is WorkflowStatus.SUCCEEDED


def test_it_is_explained() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([one]))
    view = rig.read().view
    assert view is not None
    assert view.reasons == {0: "its output is being looked for in the result cache"}


def test_that_it_did_not_run_is_explained() -> None:
    rig = Rig()
    rig.submit(define([one, after_one]))
    answer(rig, only(rig.effects, AskCache), b"1")
    explained = rig.step(Read(9, 0, "wf", about=("a", -1)))
    told = only(explained, Answer).explanation
    assert told is not None
    assert told.nodes[0].reason == "it has ended: SUCCEEDED, with an output from the result cache"


# -- recovery --------------------------------------------------------------------------------------------------------------


def taken_over(rig: Rig, plan: Plan, epoch: int = 2) -> list[Effect]:
    """Let another engine take the shard, from the rows alone."""
    rig.step(ShardLost(0))
    effects = rig.step(ShardTaken(0, epoch, rig.now_us, "f" * 32))
    for loaded in fold(rig.rows, {plan.hash: plan})[0]:
        effects += rig.step(loaded)
    rig.epoch = epoch
    effects += rig.step(ShardReady(0))
    for worker in rig.workers.values():
        effects += rig.inventory(worker)
    return effects


def test_a_successor_asks_again_and_the_first_ones_answer_is_nobodys() -> None:
    plan, rig = define([one, mapped]), Rig()
    rig.attach()
    rig.submit(plan, value=[1, 2])
    before = asked(rig.effects)
    again = asked(taken_over(rig, plan))
    assert [(ask.node, ask.instance, ask.key) for ask in again] == [(a.node, a.instance, a.key) for a in before]
    assert [answer(rig, ask, b"1") for ask in before] == [[], [], []]
    assert rig.running() == []
    for ask in again:
        answer(rig, ask, b"2")
    assert isinstance(rig.rows[-1], WorkflowUpdated)
    assert rig.rows[-1].output == b'{"a":2,"m":[2,2]}'


def test_what_runs_is_kept_by_a_successor_too() -> None:
    plan, rig = define([one]), Rig()
    rig.attach()
    rig.submit(plan)
    ask = only(rig.effects, AskCache)
    answer(rig, ask)
    assert asked(taken_over(rig, plan)) == []
    assert [row.key for row in rows_of(rig.finish("a"), ResultCached)] == [ask.key]


def test_an_attempt_that_is_offered_again_does_not_ask() -> None:
    rig = Rig()
    worker = rig.attach()
    rig.submit(define([one]))
    answer(rig, only(rig.effects, AskCache))
    effects = rig.drop(worker, goodbye=True)
    rig.attach("w2")
    assert asked(effects) == []
    assert len(rig.running()) == 1


def test_an_evicted_workflow_asks_anew_when_it_is_loaded() -> None:
    plan, rig = define([one]), Rig()
    rig.attach()
    rig.submit(plan)
    ask = only(rig.effects, AskCache)
    rig.step(WorkflowEvicted(0, "wf"))
    assert answer(rig, ask, b"1") == []
    assert of(rig.after(wait_s), Assign) == []
    (loaded,) = fold(rig.rows, {plan.hash: plan})[0]
    assert only(rig.step(loaded), AskCache).number != ask.number


def test_what_the_question_is_made_of_is_loaded_first() -> None:
    plan, rig = define([{"id": "a", "executor": "work"}, {**after_one, "cache": {"ttl": "1h"}}]), Rig()
    rig.attach()
    rig.submit(plan)
    rig.finish("a", 3)
    effects = taken_over(rig, plan)
    assert asked(effects) == []
    assert list(only(effects, LoadOutputs).nodes) == [0]
    ask = only(rig.step(OutputsLoaded(0, "wf", {0: b"3"})), AskCache)
    assert only(answer(rig, ask), Assign).input == b"3"


# -- maps ------------------------------------------------------------------------------------------------------------------


def test_instances_of_a_map_ask_each_for_itself_and_only_what_is_missing_runs() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{**mapped, "map": {"over": "${input}", "max_parallel": 1}}]), value=["x", "y", "z", "x"])
    asks = asked(rig.effects)
    assert [ask.instance for ask in asks] == [0, 1, 2, 3]
    assert asks[0].key == asks[3].key
    assert len({ask.key for ask in asks}) == 3
    assert rig.running() == []
    answer(rig, asks[2])
    answer(rig, asks[1])
    assert [assign.instance for _, assign in rig.running()] == [2]
    answer(rig, asks[0], b'"hit"')
    answer(rig, asks[3], b'"hit"')
    rig.finish("m", "ran")
    rig.finish("m", "ran")
    assert isinstance(rig.rows[-1], WorkflowUpdated)
    assert rig.rows[-1].output == b'{"m":["hit","ran","ran","hit"]}'
    assert [row.key for row in rows_of(rig.effects, ResultCached)] == [asks[2].key, asks[1].key]


def test_an_empty_map_asks_nothing() -> None:
    rig = Rig()
    rig.submit(define([mapped]), value=[])
    assert asked(rig.effects) == []
    assert not rig.engine.state.shards[0].workflows


def test_instances_that_were_never_looked_up_are_asked_for_by_a_successor_in_the_middle_of_a_map() -> None:
    plan = define([mapped])
    rig = Loading(plan)
    rig.attach(slots=1)
    rig.submit(plan, value=[1, 2, 3])
    first = asked(rig.effects)
    answer(rig, first[1], b"1")
    answer(rig, first[2])
    assert [assign.instance for _, assign in rig.running()] == [2]
    assert [ask.instance for ask in asked(taken_over(rig, plan))] == [0]
    rig.after(wait_s)
    rig.run_to_end()
    assert not rig.engine.state.shards[0].workflows


def test_a_wide_map_is_asked_for_in_parts() -> None:
    rig = Rig(config=with_config(step_nodes=10))
    rig.at_once = False
    rig.submit(define([mapped]), value=list(range(100)))
    seen = len(asked(rig.effects))
    steps = 0
    while rig.engine.busy:
        before = len(asked(rig.effects))
        rig.after(0)
        steps += 1
        assert len(asked(rig.effects)) - before <= 10
    assert seen < 100 == len(asked(rig.effects))
    assert steps >= 9


# -- whatever is answered --------------------------------------------------------------------------------------------------

shapes = (
    [one, after_one, {**after_one, "id": "c", "cache": {"ttl": "1h"}}],
    [mapped, {**after_one, "input": "${m}", "cache": {"ttl": "1h"}}],
    [{**one, "retry": {"max_attempts": 3, "initial": "500ms"}, "allow_failure": True}, {**mapped, "depends_on": ["a"]}],
)


@given(seed=st.integers(0, 2**32), shape=st.sampled_from(shapes), step_nodes=st.sampled_from([1, 3, 500]))
def test_with_any_answers_late_twice_or_never_each_node_ends_once_and_none_is_assigned_after_a_hit(
    seed: int, shape: Sequence[dict[str, Any]], step_nodes: int
) -> None:
    draw, plan = random.Random(seed), define(shape)
    rig = Loading(plan, step_nodes=step_nodes)
    rig.attach(slots=2)
    rig.submit(plan, value=[1, 2, 3])
    epoch = 1
    for _ in range(60):
        asks, running = asked(rig.effects), rig.running()
        what = draw.choice(["answer", "answer", "answer", "end", "end", "wait", "take over"])
        if what == "answer" and asks:
            # Any question there ever was: answered twice, after its deadline, or that of an owner before us.
            answer(rig, draw.choice(asks), draw.choice([b"1", None]), age_s=draw.choice([0, 4_000]))
        elif what == "end" and running:
            _, assign = draw.choice(running)
            draw.choice([rig.finish, rig.fail])(assign.node_id, instance=assign.instance)
        elif what == "wait":
            rig.after(draw.choice([0.1, wait_s]))
        elif what == "take over" and epoch < 4:
            epoch += 1
            taken_over(rig, plan, epoch)
        check_rows(rig)
    for _ in range(30):
        rig.after(wait_s)
        rig.run_to_end()
    check_rows(rig)
    assert not rig.engine.state.shards[0].workflows


def check_rows(rig: Rig) -> None:
    """No node ends twice, or is assigned once it has ended."""
    ended: set[tuple[int, int]] = set()
    for row in rig.rows:
        if isinstance(row, NodeAssigned | NodeChanged):
            assert (row.node, row.instance) not in ended, row
        if isinstance(row, NodeChanged) and row.status in (NodeStatus.SUCCEEDED, NodeStatus.FAILED):
            ended.add((row.node, row.instance))
