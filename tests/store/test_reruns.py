"""What a workflow that is run again takes over is copied within the database, part by part, as often as anybody likes."""

from dataclasses import replace
from typing import Any

import pytest

from mainspring.errors import FencedError
from mainspring_coordinator.engine.rows import MapExpanded, NodeChanged, NodesCopied, ProgressSaved, RetryDue
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.store.protocol import Store
from tests.store.members import assigned, join, me, rival, succeeded, workflow

everything = bytes(range(256)) * 4
ALL = NodesCopied(0, "new", "old", (0, 1, 2), (-1, 0), (9, 9))


def old(store: Store) -> Any:
    """A workflow of a node that ran twice, one that failed, and a map of three instances."""
    member = join(store, me, 0)
    member.commit(
        workflow("old"),
        assigned("old", 0, attempt=2),
        assigned("old", 1),
        MapExpanded(0, "old", 2, 2, 3, 12),
        *(assigned("old", 2, instance=instance) for instance in range(3)),
    )
    member.commit(
        ProgressSaved(0, "old", 0, -1, 3, b"half"),
        succeeded("old", 0, everything, version=7, attempt=2),
        NodeChanged(0, "old", 1, -1, 7, NodeStatus.FAILED, 1, None, b"{}", 20, 9),
        *(succeeded("old", 2, b"%d" % instance, instance=instance) for instance in range(3)),
        succeeded("old", 2, version=9, attempt=0),
    )
    return member


def test_a_copy_is_what_the_row_was_but_for_what_belongs_to_the_old_workflow(store: Store) -> None:
    member = old(store)
    member.commit(replace(ALL, nodes=(0, 2)), replace(workflow("new", submitted_at_us=50), rerun_of="old"))
    reader = store.reader()
    was = {(row.node, row.instance): row for row in reader.outputs("old", [0, 2])}
    copied = {(row.node, row.instance): row for row in reader.outputs("new", [0, 1, 2])}
    assert copied == {
        key: replace(row, workflow_id="new", version=1, assignment=0, redeliveries=0, retry_at_us=0)
        for key, row in was.items()
    }
    assert (copied[0, -1].output, copied[0, -1].attempt, copied[2, -1].width) == (everything, 2, 3)
    node, stored = reader.node("new", 0, -1), reader.workflow("new")
    assert node is not None
    assert node.progress is None
    assert stored is not None
    assert (stored.rerun_of, stored.version) == ("old", 1)
    (of_old,) = reader.workflows_named(["old"])
    assert of_old.rerun_of == ""
    assert [row.rerun_of for row in reader.open_workflows(0, (-1, ""), 9)] == ["", "old"]


@pytest.mark.parametrize(
    ("after", "until", "wanted"),
    [
        ((-1, 0), (0, -1), [(0, -1)]),
        ((0, -1), (2, 0), [(1, -1), (2, -1), (2, 0)]),
        ((2, 0), (2, 1), [(2, 1)]),
        ((2, -1), (2, 9), [(2, 0), (2, 1), (2, 2)]),
        ((2, 2), (9, 9), []),
    ],
)
def test_a_part_is_what_lies_between_its_ends(
    store: Store, after: tuple[int, int], until: tuple[int, int], wanted: list[tuple[int, int]]
) -> None:
    member = old(store)
    member.commit(replace(ALL, after=after, until=until))
    assert [(row.node, row.instance) for row in store.reader().nodes_of(["new"])] == wanted


def test_what_is_copied_twice_is_there_once_and_what_is_there_stays(store: Store) -> None:
    member = old(store)
    member.commit(assigned("new", 1, version=4))
    member.commit(ALL, replace(ALL, until=(1, 9)))
    member.commit(ALL)
    rows = store.reader().nodes_of(["new"])
    assert [(row.node, row.instance, row.version) for row in rows] == [
        (0, -1, 1), (1, -1, 4), (2, -1, 1), (2, 0, 1), (2, 1, 1), (2, 2, 1)
    ]  # fmt: skip


def test_who_does_not_own_the_shard_copies_nothing(store: Store) -> None:
    member = old(store)
    join(store, rival).take(0)
    with pytest.raises(FencedError):
        member.commit(ALL)
    assert store.reader().nodes_of(["new"]) == []


def test_sizes_of_outputs_are_read_by_page(store: Store) -> None:
    old(store)
    reader = store.reader()
    first = reader.row_sizes("old", (-1, 0), 4)
    assert first == [(0, -1, 1024), (1, -1, 0), (2, -1, 1), (2, 0, 1)]
    assert reader.row_sizes("old", (2, 0), 9) == [(2, 1, 1), (2, 2, 1)]


def test_a_retry_that_is_due_sooner_leaves_what_the_attempt_left(store: Store) -> None:
    member = join(store, me, 0)
    member.commit(workflow("w"), assigned("w", 0))
    member.commit(NodeChanged(0, "w", 0, -1, 3, NodeStatus.BACKOFF, 1, None, b"{}", 20, 9, 90, 0))
    member.commit(RetryDue(0, "w", 0, -1, 4, 30), RetryDue(0, "w", 1, -1, 4, 30))
    (row,) = store.reader().nodes_of(["w"])
    assert (row.status, row.retry_at_us, row.failure, row.version) == (NodeStatus.BACKOFF, 30, b"{}", 4)
