"""A shard changes hands at any point, and nothing is lost and nothing counts twice."""

import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring import limits
from mainspring.errors import Failure
from mainspring_coordinator.engine.effects import (
    Ack,
    Answer,
    AnswerCode,
    Assign,
    CancelCause,
    Disposition,
    Ended,
    LoadOutputs,
    Stop,
)
from mainspring_coordinator.engine.events import (
    Cancel,
    Event,
    OutputsLoaded,
    Read,
    ResultItem,
    Results,
    ShardReady,
    ShardTaken,
)
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rows import FailoverRecorded, GraceEnded, NodeChanged, WorkflowInserted
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.shard_loader import collect_output
from mainspring_coordinator.store.protocol import StoredNode
from tests.engine.replay import fold
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config

nodes: list[dict[str, Any]] = [
    {"id": "fetch", "executor": "work"},
    {"id": "each", "executor": "work", "map": {"over": "${fetch.of_items}", "max_parallel": 3}, "input": "${item}"},
    {"id": "side", "executor": "work", "input": "${fetch}", "retry": {"max_attempts": 5, "initial": "1s", "jitter": 0}},
    {"id": "sum", "executor": "work", "input": {"all": "${each}", "side": "${side}"}},
]


class Cluster:
    """One coordinator after another, over the same rows and the same workers."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rig = Rig()
        self.ended: list[Ended] = []
        self.results: dict[tuple[int, int], int] = {}

    def take_over(self, grace_s: float = 10) -> None:
        """Let another coordinator own the shard; workers stay as they are, and attach to it."""
        old = self.rig
        self.ended += of(old.effects, Ended)
        new = Rig(epoch=old.epoch + 1, own=False)
        new.rows = old.rows
        new.now_us = old.now_us + SECOND // 10
        new.step(ShardTaken(0, new.epoch, new.now_us + int(grace_s * SECOND), "e" * 32))
        workflows, _, _ = fold(old.rows, {self.plan.hash: self.plan})
        for workflow in workflows:
            new.step(workflow)
        new.step(ShardReady(0))
        self.rig = new
        for worker in old.workers.values():
            new.attach(worker.name, incarnation=worker.incarnation, running=worker.running)
        self.serve()

    def serve(self) -> None:
        """Answer what the engine asks of the database."""
        rig = self.rig
        pending = of(rig.effects, LoadOutputs)[getattr(rig, "served", 0) :]
        rig.served = len(of(rig.effects, LoadOutputs))  # type: ignore[attr-defined]  # a mark of this test's own
        for wanted in pending:
            _, outputs, _ = fold(rig.rows, {self.plan.hash: self.plan})
            rig.step(self._loaded(wanted, outputs.get(wanted.workflow_id, {})))
        if pending:
            self.serve()

    def _loaded(self, wanted: LoadOutputs, outputs: dict[tuple[int, int], bytes]) -> Event:
        workflow = self.rig.engine.state.shards[0].workflows[wanted.workflow_id]
        found = {}
        for node in wanted.nodes:
            width = workflow.maps[node].width if node in workflow.maps else None
            rows = [
                StoredNode("wf", at, inst, NodeStatus.SUCCEEDED, 1, 0, "", "", 0, 0, 0, 0, 0, 0, 0, None, data)
                for (at, inst), data in sorted(outputs.items())
                if at == node
            ]
            found[node] = collect_output(rows, width)
        return OutputsLoaded(wanted.shard, wanted.workflow_id, found)

    def finish_one(self, index: int, value: Any = None) -> None:
        """Let one running attempt end well."""
        running = self.rig.running()
        worker, assign = running[index % len(running)]
        output = (
            {"of_items": [1, 2, 3, 4, 5]}
            if assign.node_id == "fetch"
            else value or {"ran": f"{assign.node_id}/{assign.instance}"}
        )
        self.rig.end(worker, assign, NodeStatus.SUCCEEDED, orjson.dumps(output))
        self.serve()

    def disturb_or_work(self, chance: random.Random) -> None:
        """Do one thing that may happen to a cluster."""
        running = self.rig.running()
        act = chance.random()
        if act < 0.15:
            self.take_over()
        elif act < 0.25 and len(self.rig.workers) > 1:
            self.rig.drop(chance.choice(list(self.rig.workers.values())), goodbye=chance.random() < 0.5)
        elif act < 0.35:
            self.rig.attach(f"w{chance.randrange(10**9)}", slots=2)
        elif act < 0.45 and any(assign.node_id == "side" and assign.attempt < 4 for _, assign in running):
            self.rig.fail("side", Failure("Flaky", "again"))
        elif act < 0.55 or not running:
            self.rig.after(chance.choice([0.5, 3, 15]))
            self.serve()
        else:
            self.finish_one(chance.randrange(100))


def test_a_new_owner_adopts_what_runs_and_goes_on() -> None:
    cluster = Cluster(define(nodes))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    cluster.finish_one(0)
    running = {(a.node_id, a.instance, a.assignment) for _, a in cluster.rig.running()}
    cluster.take_over()
    assert {(a.node_id, a.instance, a.assignment) for _, a in cluster.rig.running()} == running
    while cluster.rig.running():
        cluster.finish_one(0)
    ended = only(of(cluster.rig.effects, Ended), Ended)
    assert ended.status is WorkflowStatus.SUCCEEDED


def test_outputs_of_before_a_takeover_are_read_back_when_needed() -> None:
    cluster = Cluster(define(nodes))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    for _ in range(4):
        cluster.finish_one(0)
    cluster.take_over()
    while cluster.rig.running():
        cluster.finish_one(0)
    last = next(a for a in of(cluster.rig.effects, Assign) if a.node_id == "sum")
    assert [part["ran"] for part in orjson.loads(last.input)["all"]] == [f"each/{n}" for n in range(5)]


def test_workers_that_do_not_come_back_are_lost_after_the_grace_which_a_takeover_cannot_renew() -> None:
    cluster = Cluster(define(nodes))
    worker = cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    del cluster.rig.workers[worker.session]
    cluster.take_over(grace_s=5)
    cluster.rig.attach("w2")
    assert not of(cluster.rig.after(4.8), Assign)
    assert only(cluster.rig.after(0.3), Assign).node_id == "fetch"


def test_an_owner_that_stood_still_when_the_grace_of_its_shard_ended_gives_it_once_more() -> None:
    cluster = Cluster(define(nodes))
    worker = cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    del cluster.rig.workers[worker.session]
    cluster.take_over(grace_s=5)
    assert not rows_of(cluster.rig.after(6.5), NodeChanged)
    cluster.rig.attach(incarnation=worker.incarnation, running=worker.running)
    assert not rows_of(cluster.rig.after(60), NodeChanged)
    del cluster.rig.workers[1]
    cluster.take_over(grace_s=5)
    assert not rows_of(cluster.rig.after(6.5), NodeChanged)
    assert rows_of(cluster.rig.after(6.5), NodeChanged)[0].redeliveries == 1, "but only once"


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
@pytest.mark.parametrize("failover", [True, False])
def test_who_says_goodbye_about_the_time_of_a_takeover_is_neither_waited_for_nor_dead(
    when: str, *, failover: bool
) -> None:
    plan = define([{"id": "a", "executor": "work"}])
    old = Rig()
    leaver = old.attach("w1")
    old.submit(plan)
    new = Rig(epoch=2, own=False, config=with_config(failover=failover))
    leaving, heir = new.attach("w1", incarnation=leaver.incarnation), new.attach("w2")
    if when == "before":
        new.drop(leaving, goodbye=True)
    new.step(ShardTaken(0, 2, new.now_us + 10 * SECOND, "e" * 32))
    if when == "meanwhile":
        new.drop(leaving, goodbye=True)
    new.step(fold(old.rows, {plan.hash: plan})[0][0])
    new.step(ShardReady(0))
    if when == "after":
        new.drop(leaving, goodbye=True)
    new.inventory(heir)
    assert [worker.name for worker, _ in new.running()] == ["w2"]
    new.after(60)
    assert {row.redeliveries for row in new.rows if isinstance(row, NodeChanged)} == {0}
    assert not [row for row in new.rows if isinstance(row, FailoverRecorded)]


def test_the_grace_ends_when_all_are_back_so_that_the_next_owner_gives_a_whole_one() -> None:
    cluster = Cluster(define(nodes))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    worker = next(iter(cluster.rig.workers.values()))
    back, cluster.rig.workers = cluster.rig.workers, {}
    cluster.take_over()
    assert not rows_of(cluster.rig.effects, GraceEnded), "a worker that has work is waited for"
    cluster.rig.attach(worker.name, incarnation=worker.incarnation, running=next(iter(back.values())).running)
    assert len(rows_of(cluster.rig.effects, GraceEnded)) == 1
    cluster.rig.attach("w2")
    assert len(rows_of(cluster.rig.effects, GraceEnded)) == 1


def test_the_grace_of_a_shard_on_which_nothing_runs_ends_at_once() -> None:
    rig = Rig(own=False)
    rig.step(ShardTaken(0, 1, rig.now_us + 9 * SECOND, "e" * 32))
    assert [row.shard for row in rows_of(rig.step(ShardReady(0)), GraceEnded)] == [0]


def test_a_result_from_before_a_takeover_counts_after_it() -> None:
    cluster = Cluster(define(nodes))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    cluster.take_over()
    worker, assign = cluster.rig.running()[0]
    effects = cluster.rig.end(worker, assign, NodeStatus.SUCCEEDED, b'{"of_items":[]}')
    assert only(effects, Ack).disposition is Disposition.RECORDED


@pytest.mark.parametrize("loading_s", [0, 20], ids=["read at once", "read for longer than the grace"])
def test_an_attempt_that_ended_in_time_counts_however_long_nobody_owned_its_shard(loading_s: int) -> None:
    once = {"timeouts": {"start_to_close": "5s"}, "retry": {"max_attempts": 1}}
    plan = define([{"id": "a", "executor": "work", **once}])
    old = Rig()
    old.attach()
    old.submit(plan)
    worker, assign = old.running()[0]
    new = Rig(epoch=2, own=False)
    new.now_us = old.now_us + 60 * SECOND
    new.step(ShardTaken(0, 2, new.now_us + 10 * SECOND, "e" * 32))
    new.step(fold(old.rows, {plan.hash: plan})[0][0])
    worker = new.attach(worker.name, incarnation=worker.incarnation, running=worker.running)
    new.after(loading_s)
    new.step(ShardReady(0))
    new.inventory(worker, finished=[assign.assignment])
    effects = new.end(worker, assign, NodeStatus.SUCCEEDED)
    assert only(effects, Ack).disposition is Disposition.RECORDED
    assert only(effects, Ended).status is WorkflowStatus.SUCCEEDED


def test_an_attempt_that_runs_too_long_is_ended_after_a_takeover_too() -> None:
    cluster = Cluster(define([{"id": "a", "executor": "work", "timeouts": {"start_to_close": "5s"}}]))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    cluster.rig.now_us += 60 * SECOND
    cluster.take_over(grace_s=10)
    assert not of(cluster.rig.after(9.9), Stop)
    assert only(cluster.rig.after(0.1), Stop).cause is CancelCause.TIMED_OUT


def test_events_about_a_shard_that_is_still_loading_wait_for_it() -> None:
    rig = Rig(own=False, epoch=2)
    rig.step(ShardTaken(0, 2, rig.now_us, "e" * 32))
    worker = rig.attach()
    assert not rig.step(Results(worker.session, (ResultItem(0, 1 << 32, NodeStatus.SUCCEEDED, b"1", None, 0),)))
    effects = rig.step(ShardReady(0))
    assert only(effects, Ack).disposition is Disposition.STALE


def test_what_waits_for_a_recovery_has_a_bound_past_which_callers_hear_it_and_workers_say_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "deferred_events_a_shard_max", 2)
    plan = define([{"id": "a", "executor": "work"}])
    old = Rig()
    old.attach()
    old.submit(plan)
    new = Rig(epoch=2, own=False)
    new.step(ShardTaken(0, 2, new.now_us, "e" * 32))
    for token in range(2):
        assert not new.step(Read(token, 0, "wf"))
    answer = only(new.step(Cancel(7, 0, "wf", "")), Answer)
    assert (answer.token, answer.code) == (7, AnswerCode.BUSY)
    assert "shard 0 is being recovered" in answer.message
    worker = next(iter(old.workers.values()))
    worker = new.attach(worker.name, incarnation=worker.incarnation, running=worker.running)
    item = ResultItem(0, old.running()[0][1].assignment, NodeStatus.SUCCEEDED, b"1", None, 1)
    assert not new.report(worker, item)
    for workflow in fold(old.rows, {plan.hash: plan})[0]:
        new.step(workflow)
    assert [found.code for found in of(new.step(ShardReady(0)), Answer)] == [AnswerCode.OK] * 2
    assert only(new.report(worker, item), Ack).disposition is Disposition.RECORDED


def test_a_takeover_in_the_middle_of_a_cancel_ends_it() -> None:
    cluster = Cluster(define(nodes))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    cluster.rig.cancel()
    cluster.take_over()
    assert of(cluster.rig.effects, Stop)
    cluster.rig.after(31)
    assert only(of(cluster.rig.effects, Ended), Ended).status is WorkflowStatus.CANCELLED


def test_a_takeover_keeps_the_time_of_the_next_attempt() -> None:
    cluster = Cluster(define([{"id": "a", "executor": "work", "retry": {"initial": "9s", "jitter": 0}}]))
    cluster.rig.attach()
    cluster.rig.submit(cluster.plan)
    cluster.rig.fail("a")
    due_us = rows_of(cluster.rig.effects, WorkflowInserted)[0].submitted_at_us + 9 * SECOND
    cluster.take_over()
    cluster.rig.now_us = due_us - 1
    assert not cluster.rig.after(0)
    assert only(cluster.rig.after(0.001), Assign).attempt == 2


def test_an_ended_workflow_is_not_known_any_more() -> None:
    rig = Rig()
    rig.attach()
    rig.submit(define([{"id": "a", "executor": "work"}]))
    rig.finish("a")
    assert rig.read().code is AnswerCode.NOT_FOUND


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_a_workflow_ends_with_the_same_output_however_often_its_owner_dies(seed: int) -> None:
    chance = random.Random(seed)
    cluster = Cluster(define(nodes))
    cluster.rig.attach("w1", slots=2)
    cluster.rig.attach("w2", slots=3)
    cluster.rig.submit(cluster.plan)
    for _ in range(200):
        if cluster.ended or of(cluster.rig.effects, Ended):
            break
        cluster.disturb_or_work(chance)
    ended = [*cluster.ended, *of(cluster.rig.effects, Ended)]
    if not ended:
        cluster.rig.attach("healer", slots=10)
        for _ in range(100):
            while cluster.rig.running():
                cluster.finish_one(0)
            if of(cluster.rig.effects, Ended):
                break
            cluster.rig.after(15)
            cluster.serve()
        ended = of(cluster.rig.effects, Ended)
    assert len(ended) == 1, seed
    if ended[0].status is WorkflowStatus.FAILED:
        assert ended[0].failure is not None
        assert b"WorkerLost" in ended[0].failure, seed
    else:
        assert ended[0].output == b'{"sum":{"ran":"sum/-1"}}', seed
