"""What is sampled while a chaos runs may only go forward; each way back is seen."""

from dataclasses import replace
from typing import Any

import pytest

from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.chaos.books import NodeSeen, RowBook, ShardBook, ShardSeen, WorkflowSeen

shard = ShardSeen(0, 5, "a", 10)
workflow = WorkflowSeen("f", 0, WorkflowStatus.RUNNING, 3)
node = NodeSeen("f", 0, 0, -1, NodeStatus.RUNNING, 1, 5 << 32 | 1)
epochs = {0: 5}


@pytest.mark.parametrize(
    ("then", "law"),
    [
        ({"epoch": 6, "holder": "b"}, None),
        ({"batch_seq": 11}, None),
        ({"holder": ""}, None),
        ({"epoch": 4}, "an epoch went back"),
        ({"batch_seq": 9}, "a batch number went back"),
        ({"holder": "b"}, "a shard changed hands within one epoch"),
    ],
)
def test_a_shard_goes_forward(then: dict[str, Any], law: str | None) -> None:
    book = ShardBook()
    book.observe(1, [shard])
    book.observe(2, [replace(shard, **then)])
    assert [violation.law for violation in book.violations] == ([law] if law else [])


def test_takeovers_and_first_commits_are_kept_with_their_times() -> None:
    book = ShardBook()
    taken = replace(shard, epoch=6, holder="b")
    for at_ns, row in enumerate([shard, taken, replace(taken, batch_seq=11), replace(taken, batch_seq=12)], 1):
        book.observe(at_ns, [row])
    assert [(one.at_ns, one.shard, one.epoch, one.holder) for one in book.taken] == [(2, 0, 6, "b")]
    assert book.committed_ns == {(0, 6): 3}
    assert book.commits_ns == [3, 4]


def test_what_was_shown_right_before_the_server_died_does_not_count() -> None:
    book = ShardBook()
    second = 1_000_000_000
    book.observe(0, [replace(shard, batch_seq=9)])
    book.observe(1 * second, [shard])
    book.observe(4 * second, [replace(shard, batch_seq=11)])
    book.observe(5 * second, [replace(shard, batch_seq=12)])
    book.broke()
    book.observe(6 * second, [shard])
    assert book.violations == []
    book.broke()
    book.observe(7 * second, [replace(shard, batch_seq=9)])
    assert [violation.law for violation in book.violations] == ["a batch number went back"]


@pytest.mark.parametrize(
    ("then", "law"),
    [
        ({}, None),
        ({"version": 4}, None),
        ({"version": 4, "status": WorkflowStatus.CANCELLED}, None),
        ({"version": 2}, "a version did not go forward"),
        ({"status": WorkflowStatus.SUCCEEDED}, "a version did not go forward"),
    ],
)
def test_a_workflow_goes_forward(then: dict[str, Any], law: str | None) -> None:
    book = RowBook()
    book.observe(1, [workflow], [], epochs)
    book.observe(1, [replace(workflow, **then)], [], epochs)
    assert [violation.law for violation in book.violations] == ([law] if law else [])


def test_a_workflow_that_has_ended_stays_so() -> None:
    book = RowBook()
    book.observe(1, [replace(workflow, status=WorkflowStatus.FAILED)], [], epochs)
    book.observe(1, [replace(workflow, version=4)], [], epochs)
    assert [violation.law for violation in book.violations] == ["a workflow's state went back"]


@pytest.mark.parametrize(
    ("then", "law"),
    [
        ({"status": NodeStatus.READY}, None),
        ({"status": NodeStatus.SUCCEEDED}, None),
        ({"assignment": 5 << 32 | 2}, None),
        ({"status": NodeStatus.BACKOFF}, None),
        ({"status": NodeStatus.WAITING}, "a node's state went back"),
        ({"attempt": 0}, "an attempt or assignment went back"),
        ({"assignment": 4 << 32 | 9}, "an attempt or assignment went back"),
        ({"assignment": 6 << 32 | 1}, "an assignment of an epoch that nobody had"),
    ],
)
def test_a_node_goes_forward(then: dict[str, Any], law: str | None) -> None:
    book = RowBook()
    book.observe(1, [], [node], epochs)
    book.observe(1, [], [replace(node, **then)], epochs)
    assert [violation.law for violation in book.violations] == ([law] if law else [])


def test_a_node_that_has_ended_is_not_touched_again() -> None:
    book = RowBook()
    ended = replace(node, status=NodeStatus.SUCCEEDED)
    book.observe(1, [], [ended], epochs)
    book.observe(1, [], [replace(ended, assignment=5 << 32 | 2)], epochs)
    assert [violation.law for violation in book.violations] == ["a node that had ended was changed"]


def test_an_id_that_is_minted_twice_is_seen_even_after_its_first_node_has_another() -> None:
    book = RowBook()
    book.observe(1, [], [node], epochs)
    book.observe(1, [], [replace(node, assignment=5 << 32 | 2)], epochs)
    book.observe(1, [], [replace(node, node=1)], epochs)
    assert [violation.law for violation in book.violations] == ["an assignment id was minted twice"]
