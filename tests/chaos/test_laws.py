"""The checker of the chaos can fail: it is given the evidence of a sound run, doctored in one place, and names the law that was broken."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.chaos.books import Violation
from tests.chaos.evidence import Call, Evidence, Inflicted, NodeRow, ShardRow, WorkflowRow
from tests.chaos.faults import Kind
from tests.chaos.laws_of_runs import settle_ns
from tests.chaos.story import judge
from tests.cluster.effects import Effect

second = 1_000_000_000
flow = "u1-1-1"
epoch = 7
of_nodes = {"top": 1, "l": 2, "r": 3, "bottom": 6}
given_by = {"top": (), "l": ("top",), "r": ("top",), "bottom": ("l", "r")}
cancelled = "u1-1-2"


def run_of(node: str) -> str:
    return f"w1-100-{node}"


def effect(act: str, at_s: float, node: str, **more: Any) -> Effect:
    seen = tuple(map(run_of, given_by[node])) if act == "start" else ()
    facts = {"worker": "w1", "pid": 100, "run": run_of(node), "seen": seen, "attempt": 1, "workflow": flow}
    return Effect(act=act, at_ns=int(at_s * second), node=node, instance=-1, **{**facts, **more})


def call(op: str, at_s: float, outcome: str = "ok", error: str = "", workflow: str = flow, **answer: Any) -> Call:
    ended_ns = 0 if outcome == "unknown" else int((at_s + 0.1) * second)
    expect = {"kind": "diamond", "status": "SUCCEEDED", "value": 6} if op == "submit" else {}
    return Call("u1-1", op, workflow, int(at_s * second), ended_ns, outcome, error, answer, expect)


def output(node: str, value: int) -> dict[str, Any]:
    return {"value": value, "run": run_of(node)}


def sound() -> Evidence:
    """A diamond that ran well on two coordinators and a worker, and one that was cancelled before it began."""
    nodes = {
        (flow, node, -1): NodeRow(
            NodeStatus.SUCCEEDED, 1, epoch << 32 | number, "w1", number * 1_000_000, 0, output(node, value)
        )
        for number, (node, value) in enumerate(of_nodes.items(), 1)
    }
    effects = [
        effect(act, number + after, node)
        for number, node in enumerate(of_nodes, 1)
        for act, after in (("start", 0.0), ("end", 0.5))
    ]
    return Evidence(
        calls=[
            call("submit", 0.5, created=True),
            call("submit", 0.8, created=False),
            call("clash", 0.9, "refused", "AlreadyExistsError"),
            call("get", 1.0, status="RUNNING", version=2),
            call("get", 3.0, status="RUNNING", version=4),
            call("wait", 6.0, status="SUCCEEDED", output=output("bottom", 6)),
            call("submit", 0.5, workflow=cancelled, created=True),
            call("cancel", 0.7, workflow=cancelled, status="CANCELLED"),
        ],
        effects=effects,
        faults=[],
        workflows={
            flow: WorkflowRow(flow, 0, WorkflowStatus.SUCCEEDED, 9, output("bottom", 6)),
            cancelled: WorkflowRow(cancelled, 1, WorkflowStatus.CANCELLED, 2),
        },
        nodes=nodes,
        attempts={},
        shards={0: ShardRow(epoch, "a"), 1: ShardRow(3, "b")},
        live={"c1": "a", "c2": "b"},
        kinds={flow: "diamond", cancelled: "diamond"},
        slots=2,
    )


def with_calls(*more: Call) -> Evidence:
    evidence = sound()
    return replace(evidence, calls=sorted([*evidence.calls, *more], key=lambda one: one.invoked_ns))


def with_effects(*more: Effect) -> Evidence:
    evidence = sound()
    return replace(evidence, effects=sorted([*evidence.effects, *more], key=lambda one: one.at_ns))


def without_effects(act: str, node: str) -> Evidence:
    evidence = sound()
    return replace(evidence, effects=[one for one in evidence.effects if (one.act, one.node) != (act, node)])


def with_node(node: str, **changes: Any) -> Evidence:
    evidence = sound()
    key = (flow, node, -1)
    return replace(evidence, nodes={**evidence.nodes, key: replace(evidence.nodes[key], **changes)})


def with_workflow(name: str = flow, **changes: Any) -> Evidence:
    evidence = sound()
    return replace(evidence, workflows={**evidence.workflows, name: replace(evidence.workflows[name], **changes)})


def with_shard(shard: int, row: ShardRow) -> Evidence:
    evidence = sound()
    return replace(evidence, shards={**evidence.shards, shard: row})


def without_workflow() -> Evidence:
    evidence = sound()
    return replace(evidence, workflows={cancelled: evidence.workflows[cancelled]}, nodes={})


def moved(act: str, node: str, at_s: float) -> Evidence:
    evidence = without_effects(act, node)
    return replace(evidence, effects=sorted([*evidence.effects, effect(act, at_s, node)], key=lambda one: one.at_ns))


def found(evidence: Evidence) -> set[str]:
    return {violation.law for violation in judge(evidence)}


def test_a_sound_run_breaks_no_law() -> None:
    assert judge(sound()) == []


twice = effect("start", 3.9, "r", run="w2-200-1", worker="w2", pid=200)
end_of_twice = effect("end", 4.2, "r", run="w2-200-1", worker="w2", pid=200)

doctored: dict[str, tuple[Callable[[], Evidence], str]] = {
    "a workflow is gone": (without_workflow, "an acknowledged workflow is lost"),
    "a cancel is forgotten": (
        lambda: with_workflow(cancelled, status=WorkflowStatus.SUCCEEDED, output=output("bottom", 6)),
        "an acknowledged cancel is lost",
    ),
    "a workflow goes on for ever": (
        lambda: with_workflow(status=WorkflowStatus.RUNNING, output=None),
        "a workflow is unfinished",
    ),
    "a node waits for ever": (lambda: with_node("l", status=NodeStatus.BACKOFF), "a node is unfinished"),
    "a node runs for ever": (lambda: with_node("l", status=NodeStatus.RUNNING), "a node is unfinished"),
    "a workflow fails that should not": (
        lambda: with_workflow(status=WorkflowStatus.FAILED, output=None),
        "a workflow ended otherwise than it should",
    ),
    "a workflow miscounts": (
        lambda: with_workflow(output=output("bottom", 7)),
        "a workflow gave another value than it should",
    ),
    "an end is taken back": (
        lambda: with_calls(call("get", 7.0, status="FAILED", version=9)),
        "a state that was told was taken back",
    ),
    "a result is replaced": (
        lambda: with_calls(call("wait", 7.0, status="SUCCEEDED", output={"value": 6, "run": "w9-9-9"})),
        "a result that was told was taken back",
    ),
    "another input is taken under the id": (
        lambda: with_calls(call("clash", 2.0)),
        "an id was given to two workflows",
    ),
    "the same input is refused": (
        lambda: with_calls(call("submit", 2.0, "refused", "AlreadyExistsError")),
        "a submit was refused that should not be",
    ),
    "a workflow is made again": (
        lambda: with_calls(call("submit", 2.0, created=True)),
        "a workflow was made twice",
    ),
    "a read shows the past": (
        lambda: with_calls(call("get", 4.0, status="RUNNING", version=3)),
        "a read went back",
    ),
    "what is acknowledged is not found": (
        lambda: with_calls(call("get", 4.0, "refused", "NotFoundError")),
        "an acknowledged workflow was not found",
    ),
    "a call fails as it should not": (
        lambda: with_calls(call("get", 4.0, "refused", "MainspringError")),
        "a call failed with an error that no fault explains",
    ),
    "a node is assigned after a cancel": (
        lambda: with_calls(call("cancel", 0.6, "ok", status="SUCCEEDED")),
        "assigned after a cancel",
    ),
    "a success out of nowhere": (lambda: without_effects("end", "l"), "a success that nobody did"),
    "a result of an attempt before": (
        lambda: with_node("l", attempt=2),
        "a result of another attempt than the current one",
    ),
    "a result of another worker": (
        lambda: with_node("l", worker="w2"),
        "a result of another attempt than the current one",
    ),
    "two successes of one node, and the second is recorded after the first was used": (
        lambda: replace(
            with_node("r", output={"value": 3, "run": "w2-200-1"}, worker="w2"),
            effects=with_effects(twice, end_of_twice).effects,
        ),
        "a result that is not recorded was used",
    ),
    "a workflow gives what was refused": (
        lambda: with_workflow(output={"value": 6, "run": "w2-200-1"}),
        "a result that is not recorded was used",
    ),
    "a child starts too soon": (lambda: moved("start", "l", 1.2), "a node was started before its parent had ended"),
    "a child starts though its parent failed": (
        lambda: with_node("top", status=NodeStatus.FAILED, output=None),
        "a node was started before its parent had ended",
    ),
    "an attempt is counted twice": (
        lambda: replace(sound(), attempts={(flow, "l", -1): [1]}),
        "the failed attempts do not add up",
    ),
    "an attempt fails that did not": (
        lambda: replace(sound(), attempts={(flow, "l", -1): [1]}),
        "an attempt is recorded as failed that did not fail",
    ),
    "an assignment id is used twice": (
        lambda: with_node("l", assignment=epoch << 32 | 3),
        "an assignment id was minted twice",
    ),
    "an assignment is of a stale epoch's future": (
        lambda: with_node("l", assignment=(epoch + 1) << 32 | 2),
        "an assignment of an epoch that nobody had",
    ),
    "a shard is nobody's": (lambda: with_shard(1, ShardRow(3, "")), "a shard without a live owner"),
    "a shard is a dead one's": (lambda: with_shard(1, ShardRow(3, "dead")), "a shard without a live owner"),
    "the shards are not shared": (
        lambda: replace(with_shard(1, ShardRow(3, "a")), live={"c1": "a", "c2": "b"}),
        "the shards are not shared fairly",
    ),
    "a node is started again for nothing": (lambda: with_effects(twice), "a node ran twice without a reason"),
    "a worker takes too much": (
        lambda: with_effects(*(effect("start", 2.1, "l", run=f"w1-100-{n}") for n in range(2))),
        "a worker ran more than its slots",
    ),
}


@pytest.mark.parametrize("what", doctored)
def test_doctored_evidence_is_seen(what: str) -> None:
    doctor, law = doctored[what]
    assert law in found(doctor())


@pytest.mark.parametrize(
    ("kind", "target", "ended_s", "explained"),
    [
        (Kind.KILL_WORKER, "w1", 3.5, True),
        (Kind.CUT_WORKER, "w1", 3.5, True),
        (Kind.CUT_FROM_WORKERS, "c1", 3.5, True),
        (Kind.HANG_WORKER, "w2", 3.5, True),
        (Kind.KILL_WORKER, "w3", 3.5, False),
        (Kind.KILL_COORDINATOR, "c1", 3.5, False),
        (Kind.KILL_DATABASE, "db", 3.5, False),
        (Kind.KILL_WORKER, "w1", -1.0 - settle_ns / second, False),
    ],
)
def test_only_what_parts_a_worker_from_the_cluster_explains_a_second_start(
    kind: Kind, target: str, ended_s: float, explained: bool
) -> None:
    fault = Inflicted("f1", kind, target, int((ended_s - 0.2) * second), int(ended_s * second))
    evidence = replace(with_effects(twice), faults=[fault])
    assert ("a node ran twice without a reason" not in found(evidence)) is explained


def test_a_failed_attempt_explains_the_next_one() -> None:
    evidence = with_effects(
        effect("start", 2.6, "r", run="w1-100-first"),
        effect("failed", 2.7, "r", run="w1-100-first"),
    )
    again = [replace(one, attempt=2) if one.run == run_of("r") else one for one in evidence.effects]
    evidence = replace(evidence, effects=again, attempts={(flow, "r", -1): [1]})
    row = replace(evidence.nodes[flow, "r", -1], attempt=2)
    assert judge(replace(evidence, nodes={**evidence.nodes, (flow, "r", -1): row})) == []


def test_a_violation_says_who_and_what() -> None:
    (violation,) = [one for one in judge(with_effects(twice)) if one.law == "a node ran twice without a reason"]
    assert isinstance(violation, Violation)
    assert flow in str(violation)
    assert "w2-200-1" in str(violation)
