"""Why is my node not running? Each answer there is, and that it is true."""

import re
from collections.abc import Mapping

import pytest

from mainspring.rates import parse_rates
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Explanation, Verdict
from mainspring_coordinator.engine.events import CreditSet, Inventory, Read, ShardReady, ShardTaken, WorkerDraining
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.rig import SECOND, Rig, define, only, with_config

one = define([{"id": "a", "executor": "work"}])
pair = define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work", "depends_on": ["a"]}])
picky = define([{"id": "a", "executor": "work", "requires": {"zone": ["a", "c"], "gpu": "true"}}])
wide = define(
    [
        {"id": "list", "executor": "work"},
        {"id": "each", "executor": "work", "map": {"over": "${list}", "max_parallel": 2}},
        {"id": "sum", "executor": "work", "input": "${each}"},
    ]
)


def explain(rig: Rig, node: str = "", instance: int = -1, workflow_id: str = "wf") -> Explanation:
    answer = only(rig.step(Read(7, 0, workflow_id, about=(node, instance))), Answer)
    assert answer.code is AnswerCode.OK
    assert answer.view is None
    assert answer.explanation is not None
    return answer.explanation


def why(rig: Rig, node: str, instance: int = -1) -> str:
    (told,) = explain(rig, node, instance).nodes
    return told.reason


def verdicts(rig: Rig, node: str = "a") -> dict[str, tuple[Verdict, str]]:
    return {one.worker: (one.verdict, one.reason) for one in explain(rig, node).workers}


def test_of_each_worker_the_first_reason_that_lasts_is_told() -> None:
    rig = Rig()
    rig.attach("other", executors=("other",))
    rig.attach("full", slots=0)
    draining = rig.attach("draining", slots=0)
    rig.step(WorkerDraining(draining.session))
    gone = rig.attach("gone", slots=0)
    rig.drop(gone)
    rig.now_us += SECOND
    rig.submit(one)
    assert verdicts(rig) == {
        "other": (Verdict.EXECUTOR, "does not run executor 'work'"),
        "full": (Verdict.FULL, "gives this coordinator 0 of its 0 slots, and 0 are taken"),
        "draining": (Verdict.DRAINING, "drains"),
        "gone": (Verdict.ABSENT, "is away for 1 s"),
    }
    assert explain(rig, "a").strategy == "load-balanced"
    assert why(rig, "a") == "all slots of the one worker that runs executor 'work' are taken"


def test_labels_that_a_worker_lacks_are_named_with_what_it_has() -> None:
    rig = Rig()
    rig.attach("b", zone="b", labels={"gpu": "true"})
    rig.attach("a", zone="a")
    rig.submit(picky)
    assert verdicts(rig) == {
        "b": (Verdict.LABELS, "lacks labels (gpu=true, zone=a|c): zone is 'b'"),
        "a": (Verdict.LABELS, "lacks labels (gpu=true, zone=a|c): it has no gpu"),
    }


def test_a_worker_that_has_not_stated_its_inventory_is_told_so() -> None:
    rig = Rig(own=False, epoch=2)
    rig.step(ShardTaken(0, 2, rig.now_us, "e" * 32))
    rig.step(ShardReady(0))
    worker = rig.attach("w", slots=1)
    rig.engine.state.unreconcile(0)
    rig.submit(one)
    assert verdicts(rig)["w"] == (Verdict.INVENTORY, "has not stated yet what it has of shard 0")
    rig.step(Inventory(worker.session, 0, 2, (), (), (), 0))
    assert why(rig, "a").startswith("attempt 1 has been with worker 'w' for 0.0 s")


def test_a_worker_at_its_bound_of_workflows_is_told_so() -> None:
    rig = Rig()
    rig.attach("w", slots=5, workflows_max=1)
    rig.submit(one, "first")
    rig.submit(one)
    assert verdicts(rig)["w"] == (Verdict.WORKFLOWS, "has 1 workflows, its bound (MAX_CONCURRENT_WORKFLOWS)")


def test_a_hard_affinity_waits_for_the_worker_that_has_the_key() -> None:
    keyed = define([{"id": "a", "executor": "work", "affinity": {"key": "k", "mode": "hard"}}])
    rig = Rig()
    first = rig.attach("first", slots=1)
    rig.submit(keyed, "before")
    rig.attach("second", slots=1)
    rig.submit(keyed)
    assert verdicts(rig) == {
        "first": (Verdict.FULL, "gives this coordinator 1 of its 1 slots, and 1 are taken"),
        "second": (Verdict.KEY, "does not have its affinity key"),
    }
    assert why(rig, "a") == "waits for worker 'first', which has its affinity key, to have room"
    assert explain(rig, "a").strategy == "affinity"
    del first


def test_a_node_that_waits_for_a_permit_is_told_the_limit_and_who_waits_too() -> None:
    limited = {"executor": "work", "concurrency": {"key": "db-42", "limit": 2}}
    rig = Rig()
    rig.attach("w")
    rig.attach("other", executors=("other",))
    rig.submit(define([{"id": name, **limited} for name in "abcd"]))
    rig.submit(define([{"id": "each", "map": {"over": "${input}"}, **limited}]), "wide", [1, 2, 3])
    assert why(rig, "c") == "limit 'db-42': 2 of 2 permits are out, and 2 others wait for one"
    assert verdicts(rig, "c") == {
        "w": (Verdict.LIMIT, "could take it, once there is a permit of its concurrency key"),
        "other": (Verdict.EXECUTOR, "does not run executor 'work'"),
    }
    (each,) = explain(rig, "each", workflow_id="wide").nodes
    assert each.reason == (
        "0 of 3 instances have ended, 0 are with workers; the next one: "
        "limit 'db-42': 2 of 2 permits are out, and 2 others wait for one"
    )
    rig.passes_permits = False
    rig.submit(define([{"id": "a", "executor": "work", "concurrency": {"key": "new", "limit": 1}}]), "last")
    (last,) = explain(rig, "a", workflow_id="last").nodes
    assert last.reason == "limit 'new': the coordinator that keeps its permits has not answered yet"


def test_nearness_is_waited_for_a_moment() -> None:
    near = define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work", "input": "${a}"}])
    rig = Rig(config=with_config(strategy="locality"))
    rig.attach("here", host="here", slots=1)
    rig.submit(near)
    rig.submit(one, "next")
    rig.attach("there", host="there", slots=1)
    assert [assign.workflow_id for _, assign in rig.running()] == ["wf", "next"]
    rig.attach("elsewhere", host="elsewhere", slots=1)
    rig.submit(one, "third")
    # What is behind takes the slot that the end of `a` frees, so that `b` finds its host full.
    rig.step(CreditSet(1, 2, 0))
    rig.finish("a")
    rig.end(*next(pair for pair in rig.running() if pair[1].workflow_id == "third"), NodeStatus.SUCCEEDED)
    told = verdicts(rig, "b")
    assert told["here"][0] is Verdict.FULL
    assert told["elsewhere"] == (
        Verdict.NEARER,
        "is not on host 'here', where its inputs are; it waits a moment for one that is",
    )


def test_what_runs_waits_or_has_ended_is_told_with_its_time() -> None:
    rig = Rig()
    worker = rig.attach("w")
    rig.submit(pair)
    rig.now_us += 2 * SECOND
    assert why(rig, "a") == "attempt 1 has been with worker 'w' for 2.0 s"
    assert why(rig, "b") == "waits for a"
    assert not explain(rig, "b").workers
    rig.drop(worker)
    rig.after(0.5)
    assert why(rig, "a") == "worker 'w' has had it for 2.5 s, and is away; it is waited for, 1.5 s more (STREAM_GRACE)"
    rig.attach("w", incarnation=worker.incarnation)
    rig.fail("a")
    rig.now_us += SECOND // 10
    assert re.fullmatch(r"attempt 1 failed; the next one is due in \d+ ms", why(rig, "a"))
    rig.after(2)
    rig.finish("a")
    assert why(rig, "a") == "it has ended: SUCCEEDED"


def test_a_map_tells_how_far_it_is_and_its_instances_why_they_wait() -> None:
    rig = Rig()
    rig.attach("w", slots=5)
    rig.submit(wide)
    rig.finish("list", [1, 2, 3, 4])
    assert why(rig, "each") == "0 of 4 instances have ended, 2 are with workers"
    assert why(rig, "each", 3) == "2 instances are running, as many as `max_parallel` allows"
    assert why(rig, "each", 0) == "attempt 1 has been with worker 'w' for 0.0 s"
    assert not explain(rig, "each", 9).nodes
    rig.finish("each", instance=0)
    assert why(rig, "each", 0) == "it has ended: SUCCEEDED"


def test_a_map_that_waits_for_workers_has_a_reason_for_each() -> None:
    rig = Rig()
    rig.attach("w", slots=1)
    rig.submit(wide)
    rig.finish("list", [1, 2, 3])
    assert why(rig, "each") == (
        "0 of 3 instances have ended, 1 are with workers; the next one: "
        "all slots of the one worker that runs executor 'work' are taken"
    )
    assert verdicts(rig, "each")["w"][0] is Verdict.FULL


def test_a_node_that_must_run_alone_waits_for_a_worker_that_has_nothing() -> None:
    rig = Rig()
    rig.submit(one)
    for number in range(2):
        victim = rig.attach(f"early{number}")
        rig.drop(victim)
        rig.after(2)
    rig.submit(define([{"id": "n", "executor": "work"}]), "other")
    rig.attach("busy")
    assert why(rig, "a") == "waits for a worker of its own, because 2 workers died while they ran it"
    assert verdicts(rig)["busy"] == (Verdict.ALONE, "is kept free for a node that must run alone")


def test_a_node_that_must_run_alone_tells_of_its_limit_and_its_rate_too() -> None:
    def bitten(node: Mapping[str, object], **config: object) -> Rig:
        rig = Rig(config=with_config(**config))
        rig.submit(define([{"id": "a", "executor": "work", **node}]))
        for number in range(2):
            victim = rig.attach(f"early{number}", slots=1)
            rig.drop(victim)
            rig.after(2)
            rig.after(60)
        return rig

    limited = {"concurrency": {"key": "db", "limit": 1}}
    rig = bitten(limited)
    rig.submit(define([{"id": "n", "executor": "other", **limited}]), "other")
    rig.attach("holds", executors=("other",))
    rig.attach("idle")
    assert why(rig, "a") == "limit 'db': 1 of 1 permits are out"
    assert verdicts(rig)["idle"][0] is Verdict.LIMIT

    rig = bitten({}, rates=parse_rates("work=1/m"))
    rig.submit(define([{"id": "n", "executor": "work"}]), "other")
    rig.attach("taken")
    rig.attach("idle")
    assert why(rig, "a").startswith("executor 'work' is started 1/m at most")


def test_of_a_workflow_what_is_ready_comes_first_and_the_rest_is_counted() -> None:
    nodes = [{"id": f"n{at}", "executor": "work"} for at in range(150)]
    last = {"id": "sum", "executor": "work", "depends_on": [f"n{at}" for at in range(150)]}
    rig = Rig()
    rig.attach("w", slots=3)
    rig.submit(define([last, *nodes]))
    told = explain(rig)
    assert told.status is WorkflowStatus.RUNNING
    assert [one.status for one in told.nodes] == [NodeStatus.READY] * 100
    assert told.left_out == 51
    assert not told.workers
    assert {one.reason for one in told.nodes} == {"all slots of the one worker that runs executor 'work' are taken"}


def test_of_a_workflow_that_is_being_cancelled_nothing_is_started() -> None:
    rig = Rig()
    rig.attach("w", slots=1)
    rig.submit(pair)
    rig.now_us += SECOND
    rig.cancel()
    assert why(rig, "a") == "worker 'w', which has had it for 1.0 s, is told to stop it"
    assert "SKIPPED" in why(rig, "b")


@pytest.mark.parametrize("node", ["nothing", "A"])
def test_a_node_that_is_not_there_has_no_reason(node: str) -> None:
    rig = Rig()
    rig.submit(one)
    assert explain(rig, node).nodes == ()
