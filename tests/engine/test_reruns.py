"""A workflow is run again: what the new one takes over, when it exists, and from where it goes on."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.graph import Graph
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Assign, Ended, LoadOutputs, LoadWorkflow
from mainspring_coordinator.engine.events import (
    Cancel,
    LoadedNode,
    OutputsLoaded,
    ShardLost,
    Submit,
    SubmitExisted,
    WorkflowAbsent,
    WorkflowLoaded,
)
from mainspring_coordinator.engine.operator_events import CopyNodes, Rerun
from mainspring_coordinator.engine.reruns import kept_nodes
from mainspring_coordinator.engine.rows import NodesCopied, PlanSaved, WorkflowInserted
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.engine.rig import Rig, define, of, only, rows_of

plan = define(
    [
        {"id": "a", "executor": "work"},
        {"id": "b", "executor": "work", "input": "${a}"},
        {"id": "c", "executor": "work", "input": "${b}"},
    ],
    timeout="60s",
)
AGAIN = Rerun(7, 0, "new", plan, b"null", b"d" * 32, "load-balanced", "old")
PART = CopyNodes(8, 0, "new", "old", (0, 1), (-1, 0), (1, -1))


def loaded(rig: Rig) -> WorkflowLoaded:
    """What the database has of it: the first two nodes, from another worker's days."""
    nodes = [LoadedNode(node, -1, NodeStatus.SUCCEEDED, 2, 0, "w0", "f" * 32, 5, 0, 0, 0, None) for node in range(2)]
    now_us = rig.now_us
    return WorkflowLoaded(
        0,
        "new",
        plan,
        b"null",
        b"d" * 32,
        WorkflowStatus.RUNNING,
        1,
        now_us,
        now_us + 60_000_000,
        0,
        "",
        "",
        None,
        nodes,
    )


def test_a_part_is_stored_and_answered() -> None:
    effects = Rig().step(PART)
    assert rows_of(effects, NodesCopied) == [NodesCopied(0, "new", "old", (0, 1), (-1, 0), (1, -1))]
    assert only(effects, Answer).code is AnswerCode.OK


def test_nothing_is_copied_into_a_workflow_that_is_there() -> None:
    rig = Rig()
    rig.submit(plan, "new")
    effects = rig.step(PART)
    assert not rows_of(effects, NodesCopied)
    assert only(effects, Answer).code is AnswerCode.OK


def test_a_rerun_is_stored_read_and_goes_on_from_what_it_took_over() -> None:
    rig = Rig()
    rig.attach()
    effects = rig.step(AGAIN)
    (row,) = rows_of(effects, WorkflowInserted)
    assert (row.rerun_of, row.digest, row.deadline_at_us) == ("old", b"d" * 32, rig.now_us + 60_000_000)
    assert rows_of(effects, PlanSaved)[0].plan_hash == plan.hash
    assert (only(effects, Answer).created, only(effects, Answer).code) == (True, AnswerCode.OK)
    assert only(effects, LoadWorkflow) == LoadWorkflow(0, "new")
    rig.step(loaded(rig))
    wanted = only(rig.effects, LoadOutputs)
    assert list(wanted.nodes) == [1]
    assign = only(rig.step(OutputsLoaded(0, "new", {1: b'"of b"'})), Assign)
    assert (assign.node_id, assign.input, assign.attempt) == ("c", b'"of b"', 1)
    rig.finish("c", 3)
    assert only(rig.effects, Ended).output == b'{"c":3}'


def test_calls_wait_until_it_is_read() -> None:
    rig = Rig()
    rig.step(AGAIN)
    assert not of(rig.step(Cancel(9, 0, "new", "why")), Answer)
    assert not of(rig.step(Submit(10, 0, "new", plan, b"null", b"e" * 32, "")), Answer)
    answers = {answer.token: answer.code for answer in of(rig.step(loaded(rig)), Answer)}
    assert answers == {9: AnswerCode.OK, 10: AnswerCode.ALREADY_EXISTS}


def test_the_same_call_again_finds_it_there() -> None:
    rig = Rig()
    rig.step(AGAIN)
    rig.step(loaded(rig))
    for digest, code in ((b"d" * 32, AnswerCode.OK), (b"e" * 32, AnswerCode.ALREADY_EXISTS)):
        effects = rig.step(replace(AGAIN, digest=digest))
        assert not rows_of(effects, WorkflowInserted)
        assert (only(effects, Answer).code, only(effects, Answer).created) == (code, False)


def test_one_that_the_database_has_already_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.step(AGAIN)
    rig.step(Cancel(9, 0, "new", "why"))
    effects = rig.step(SubmitExisted(0, "new", b"d" * 32, WorkflowStatus.SUCCEEDED))
    assert only(effects, Answer).code is AnswerCode.NOT_FOUND, "what waited for it is answered"
    assert not rig.engine.state.shards[0].reloading


def test_one_that_is_gone_when_it_is_to_be_read_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.step(AGAIN)
    rig.step(WorkflowAbsent(0, "new"))
    assert not rig.engine.state.shards[0].reloading


def test_who_does_not_own_the_shard_or_loses_it_says_so() -> None:
    rig = Rig(own=False)
    assert [only(rig.step(event), Answer).code for event in (AGAIN, PART)] == [AnswerCode.NOT_OWNER] * 2
    rig = Rig()
    rig.step(AGAIN)
    rig.step(replace(AGAIN, token=9))
    answers = of(rig.step(ShardLost(0)), Answer)
    assert [(answer.token, answer.code) for answer in answers] == [(9, AnswerCode.NOT_OWNER)]


# -- what is kept ------------------------------------------------------------------------------------------------------------


def test_what_ended_well_is_kept_unless_it_or_what_it_depends_on_is_run_again() -> None:
    graph = define(
        [
            {"id": "a", "executor": "x"},
            {"id": "b", "executor": "x", "depends_on": ["a"]},
            {"id": "c", "executor": "x", "depends_on": ["b"]},
            {"id": "d", "executor": "x", "depends_on": ["a"]},
        ]
    ).graph
    assert kept_nodes(graph, [0, 1, 2, 3], ()) == [0, 1, 2, 3]
    assert kept_nodes(graph, [0, 1, 2, 3], {1}) == [0, 3]
    assert kept_nodes(graph, [0, 2, 3], ()) == [0, 3], "c ended well, but b is run again"
    assert kept_nodes(graph, [0, 1, 2, 3], {0}) == []
    assert kept_nodes(graph, [], ()) == []


@settings(max_examples=60)
@given(st.data())
def test_whatever_is_kept_depends_on_nothing_that_is_not(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 12))
    parents = [data.draw(st.sets(st.integers(0, at - 1), max_size=3)) if at else set[int]() for at in range(size)]
    order = data.draw(
        st.permutations(range(size))
    )  # the definition need not name a node after those that it depends on
    nodes = [{"id": f"n{at}", "executor": "x", "depends_on": sorted(f"n{one}" for one in parents[at])} for at in order]
    graph: Graph = define(nodes).graph
    ended = data.draw(st.sets(st.integers(0, size - 1)))
    again = data.draw(st.sets(st.integers(0, size - 1)))
    kept = set(kept_nodes(graph, ended, again))
    assert kept <= ended - again
    for node in range(size):
        whole = set(graph.parents_of(node)) <= kept
        assert (node in kept) == (whole and node in ended and node not in again)
