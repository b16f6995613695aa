"""What a look at the database found to be old goes, but for what has come into memory since."""

from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import ResultItem, Results, ShardLost, ShardReady, ShardTaken, WorkflowEvicted
from mainspring_coordinator.engine.operator_events import RetentionDue
from mainspring_coordinator.engine.rows import (
    DeleteRow,
    DeletionBegun,
    NodesDeleted,
    PlanDeleted,
    PlanSaved,
    WorkflowDeleted,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import NodeStatus
from tests.engine.rig import Rig, define, only, rows_of

PLAN = define([{"id": "a", "executor": "work"}])


def due(rig: Rig, *rows: DeleteRow, epoch: int = 1) -> Answer:
    return only(rig.step(RetentionDue(7, 0, epoch, rows)), Answer)


def test_what_is_due_is_stored_and_answered() -> None:
    rig = Rig()
    rows: list[DeleteRow] = [
        DeletionBegun(0, "v"),
        NodesDeleted(0, "v", 3, -1),
        WorkflowDeleted(0, "w"),
        PlanDeleted(0, "", b"h" * 32),
    ]
    answer = due(rig, *rows)
    assert (answer.token, answer.code) == (7, AnswerCode.OK)
    assert rig.rows == rows


def test_what_was_found_under_an_earlier_epoch_stays() -> None:
    rig = Rig()
    for event in (ShardLost(0), ShardTaken(0, 3, rig.now_us, "e" * 32), ShardReady(0)):
        rig.step(event)
    assert due(rig, WorkflowDeleted(0, "w")).code is AnswerCode.NOT_OWNER
    assert rig.rows == []
    rig.step(ShardLost(0))
    assert due(rig, WorkflowDeleted(0, "w"), epoch=3).code is AnswerCode.NOT_OWNER


def test_a_workflow_whose_id_was_submitted_since_stays() -> None:
    rig = Rig()
    rig.submit(PLAN, "w")
    assert due(rig, WorkflowDeleted(0, "w"), DeletionBegun(0, "w"), WorkflowDeleted(0, "v")).code is AnswerCode.OK
    assert [row for row in rig.rows if isinstance(row, DeleteRow)] == [WorkflowDeleted(0, "v")]


def test_a_workflow_whose_end_is_not_stored_yet_stays() -> None:
    rig = Rig()
    rig.submit(PLAN, "w")
    rig.attach()
    (worker, assign), found = rig.running()[0], RetentionDue(7, 0, 1, [WorkflowDeleted(0, "w")])
    item = ResultItem(0, assign.assignment, NodeStatus.SUCCEEDED, b"1", None, 5)
    ended = rig.engine.step(Results(worker.session, [item]), rig.now_us)
    assert len(rows_of(ended, WorkflowUpdated)) == 1
    assert rows_of(rig.engine.step(found, rig.now_us), WorkflowDeleted) == []
    rig.engine.cut()
    assert rows_of(rig.engine.step(found, rig.now_us), WorkflowDeleted) == [WorkflowDeleted(0, "w")]


def test_a_workflow_that_is_being_loaded_anew_stays() -> None:
    rig = Rig()
    rig.submit(PLAN, "w")
    rig.step(WorkflowEvicted(0, "w"))
    due(rig, WorkflowDeleted(0, "w"))
    assert rows_of(rig.effects, WorkflowDeleted) == []


def test_a_definition_that_may_be_gone_is_brought_again_by_the_next_who_uses_it() -> None:
    rig = Rig()
    rig.submit(PLAN, "w1")
    rig.submit(PLAN, "w2")
    assert len(rows_of(rig.effects, PlanSaved)) == 1
    due(rig, PlanDeleted(0, "", PLAN.hash))
    rig.submit(PLAN, "w3")
    rig.submit(PLAN, "w4")
    assert [row.workflow_id for row in rows_of(rig.effects, PlanSaved)] == ["w1", "w3"]
