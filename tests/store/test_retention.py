"""What is deleted for its age goes with all that belongs to it, under its shard's fence; nobody sees a part of it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from sqlalchemy import event, text

from mainspring.errors import FencedError
from mainspring_coordinator.engine.rows import (
    AffectedDeleted,
    AttemptEnded,
    AuditDeleted,
    AuditEntry,
    DeletionBegun,
    FailoverAffected,
    FailoverDeleted,
    FailoverMarked,
    FailoverRecorded,
    NodesDeleted,
    PlanDeleted,
    PlanSaved,
    Row,
    StrategyChanged,
    StrategyChangeDeleted,
    WorkflowDeleted,
    WorkflowInserted,
    WorkflowPaused,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, Subject, WorkflowStatus
from mainspring_coordinator.store.deletes import writes_of
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.memory import MemoryStore
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import Store, WorkflowFilter
from mainspring_coordinator.store.schema import upgrade
from mainspring_coordinator.store.sql import SqlStore
from mainspring_coordinator.store.sql_words import mysql_words
from mainspring_coordinator.store.url import parse_url
from tests.store.conftest import databases
from tests.store.members import Member, assigned, join, me, rival, shard_row, succeeded, workflow

PLAN = b"h" * 32
EVENT = "e" * 32
UNUSED = b"u" * 32
_tables = (
    *("workflows", "nodes", "attempts", "plan_chunks"),
    *("failover_events", "failover_affected", "audit", "strategy_changes"),
)


@pytest.fixture(scope="module", params=["memory", *databases])
def url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """A database of each kind in turn, "" in memory; to make one takes longer than all of these tests."""
    if request.param == "memory":
        return ""
    made = new_url(request.param)
    upgrade(made)
    return made


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store on that database, with nothing in it."""
    if not url:
        yield MemoryStore()
        return
    made = open_store(url)
    yield made
    made.close()
    with open_engine(parse_url(url)).begin() as connection:
        for table in _tables:
            connection.execute(text(f"DELETE FROM {table}"))


def ended(name: str, shard: int = 0, at_us: int = 30) -> WorkflowUpdated:
    return WorkflowUpdated(shard, name, 9, WorkflowStatus.SUCCEEDED, output=b"1", ended_at_us=at_us)


def attempt(name: str, node: int, number: int = 1) -> AttemptEnded:
    return AttemptEnded(0, name, node, -1, number, "w1", 1, 2, 3, b"{}")


def run(member: Member, name: str, nodes: int = 2, at_us: int = 30, shard: int = 0) -> None:
    """Store a workflow that has ended, the first node at its second attempt."""
    rows = [succeeded(name, node, shard=shard) for node in range(nodes)]
    member.commit(workflow(name, shard), *rows, replace(attempt(name, 0), shard=shard), ended(name, shard, at_us))


def keys(store: Store, *names: str) -> Sequence[tuple[str, int, int]]:
    return store.reader().row_keys(names, 99)


def test_a_workflow_goes_with_all_its_rows_and_its_id_is_free(store: Store) -> None:
    one = join(store, me, 0)
    run(one, "w")
    run(one, "w-2")
    one.commit(WorkflowDeleted(0, "w"))
    reader = store.reader()
    assert reader.workflow("w") is None
    assert keys(store, "w", "w-2") == [("w-2", 0, -1), ("w-2", 0, -1), ("w-2", 1, -1)]
    assert not one.commit(workflow("w", payload=b"7")).existing
    stored = reader.workflow("w")
    assert stored is not None
    assert (stored.status, stored.input, reader.nodes_of(["w"])) == (WorkflowStatus.RUNNING, b"7", [])


def test_of_a_workflow_that_goes_part_by_part_nothing_is_shown_from_the_first_part_on(store: Store) -> None:
    one = join(store, me, 0)
    run(one, "w", nodes=5)
    one.commit(attempt("w", 3), attempt("w", 3, 2))
    submitted = store.reader().workflow("w")
    assert submitted is not None
    assert store.reader().is_kept("w", submitted.submitted_at_us)
    one.commit(DeletionBegun(0, "w"), NodesDeleted(0, "w", 2, -1))
    reader = store.reader()
    assert (reader.workflow("w"), reader.workflows_named(["w"])) == (None, [])
    assert reader.list_workflows(WorkflowFilter(), None, 9) == []
    assert not reader.is_kept("w", submitted.submitted_at_us)
    assert keys(store, "w") == [("w", 3, -1)] * 3 + [("w", 4, -1)]
    assert reader.deletions_begun(0, 9) == ["w"]
    assert (reader.deletions_begun(1, 9), reader.ended_workflows(0, 0, 9)) == ([], [])
    found = one.commit(workflow("w"), succeeded("w", 7)).existing["w"]
    assert found.deleting, "its id can be used once it is gone"
    one.commit(WorkflowDeleted(0, "w"))
    assert (keys(store, "w"), reader.deletions_begun(0, 9)) == ([], [])
    assert not one.commit(workflow("w")).existing


def test_instances_of_a_map_go_in_order(store: Store) -> None:
    one = join(store, me, 0)
    one.commit(workflow("w"), *(succeeded("w", 1, instance=at) for at in range(-1, 4)), succeeded("w", 2), ended("w"))
    one.commit(NodesDeleted(0, "w", 1, 1))
    assert keys(store, "w") == [("w", 1, 2), ("w", 1, 3), ("w", 2, -1)]


def test_a_workflow_that_is_later_of_its_id_is_another_one(store: Store) -> None:
    one = join(store, me, 0)
    one.commit(workflow("w", submitted_at_us=5))
    assert store.reader().is_kept("w", 5)
    assert not store.reader().is_kept("w", 6)
    assert not store.reader().is_kept("v", 5)


def test_a_definition_goes_once_no_workflow_of_its_shard_uses_it(store: Store) -> None:
    one = join(store, me, 0, 1)
    one.commit(PlanSaved(0, "w", PLAN, b"{}"), workflow("w"), ended("w"), workflow("v"), PlanSaved(1, "u", PLAN, b"{}"))
    reader = store.reader()
    assert reader.plans_used(0, b"", 9) == [(PLAN, True)]
    assert reader.plans_used(1, b"", 9) == [(PLAN, False)]
    assert reader.plans_used(0, PLAN, 9) == []
    one.commit(WorkflowDeleted(0, "w"), PlanDeleted(0, "", PLAN))
    assert reader.plan(0, PLAN) == b"{}", "another one uses it"
    one.commit(WorkflowDeleted(0, "v"), PlanDeleted(0, "", PLAN))
    assert (reader.plan(0, PLAN), reader.plan(1, PLAN)) == (None, b"{}")


def test_a_definition_stays_if_a_workflow_with_it_is_submitted_in_the_same_batch(store: Store) -> None:
    one = join(store, me, 0)
    one.commit(PlanSaved(0, "w", PLAN, b"{}"))
    one.commit(workflow("w"), PlanDeleted(0, "", PLAN))
    assert store.reader().plan(0, PLAN) == b"{}"


def test_a_definition_stays_if_its_own_batch_stores_it(store: Store) -> None:
    one = join(store, me, 0)
    other = b"o" * 32
    one.commit(workflow("w"), PlanSaved(0, "w", other, b"{}"))
    # A submit of an id that is taken brings it; the next one, in a later batch, counts on that.
    one.commit(PlanSaved(0, "w", other, b"{}"), workflow("w"), PlanDeleted(0, "", other))
    assert store.reader().plan(0, other) == b"{}"


def test_a_deletion_of_a_workflow_stands_back_for_a_submit_of_its_id_in_the_same_batch(store: Store) -> None:
    one = join(store, me, 0)
    run(one, "w")
    found = one.commit(WorkflowDeleted(0, "w"), workflow("w"))
    assert (found.existing["w"].status, found.existing["w"].deleting) == (WorkflowStatus.SUCCEEDED, False)
    assert store.reader().workflow("w") is not None, "its caller was told that it is there"


def test_the_record_is_deleted_with_what_failovers_affected(store: Store) -> None:
    one = join(store, me, 0)
    recorded = FailoverRecorded(0, "", EVENT, FailoverKind.WORKER_LOST, "w1", "a" * 32, "", "", 7, 8)
    one.commit(recorded, replace(recorded, event_id="f" * 32))
    for name in (EVENT, "f" * 32):
        one.commit(
            *(
                FailoverAffected(0, "", name, subject, part, chunk, orjson.dumps([f"{chunk}"]), 1, 9)
                for subject in Subject
                for part, chunk in ((0, -1), (0, 0), (1, 0))
            )
        )
    reader = store.reader()
    assert reader.failovers_told(8, 9) == [], "not told yet"
    one.commit(FailoverMarked(0, "", EVENT, FailoverStage.CLOSED, 9, 0))
    assert (reader.failovers_told(8, 9), reader.failovers_told(7, 9)) == ([EVENT], [])
    assert len(reader.affected_keys([EVENT], 9)) == 6
    one.commit(AffectedDeleted(0, "", EVENT, Subject.NODES, 0, -1))
    assert reader.affected_keys([EVENT], 9) == [(EVENT, 2, 0, 0), (EVENT, 2, 1, 0)]
    one.commit(FailoverDeleted(0, "", EVENT))
    assert (reader.failover(EVENT), reader.affected_keys([EVENT], 9)) == (None, [])
    assert len(reader.affected_keys([EVENT, "f" * 32], 9)) == 6
    assert reader.failover("f" * 32) is not None


def test_entries_of_the_logs_are_deleted_one_by_one(store: Store) -> None:
    one = join(store, me, 0)
    for at in (5, 6, 7):
        one.commit(
            AuditEntry(0, "", f"{at}" * 32, at, 0, "StepDown", "engine-2", "why", "me", "engine-1", ""),
            StrategyChanged(0, "", "now", "", "affinity", "operator", "", at),
        )
    reader = store.reader()
    assert reader.audit_before(7, 9) == ["5" * 32, "6" * 32]
    assert reader.audit_before(7, 1) == ["5" * 32]
    assert reader.strategy_changes_before(7, 9) == [5, 6]
    one.commit(AuditDeleted(0, "", "5" * 32), StrategyChangeDeleted(0, "", 6))
    assert [row.began_at_us for row in reader.audit(None, 9)] == [7, 6]
    assert [row.changed_at_us for row in reader.strategy_changes(0, 9)] == [7, 5]
    assert shard_row(one, 0).strategy == "now"


def test_who_lost_the_shard_deletes_nothing(store: Store) -> None:
    one = join(store, me, 0)
    run(one, "w")
    assert one.lock.take(shard_row(one, 0), rival, 0) is not None
    for row in (WorkflowDeleted(0, "w"), DeletionBegun(0, "w"), NodesDeleted(0, "w", 9, 9), PlanDeleted(0, "", PLAN)):
        with pytest.raises(FencedError):
            one.commit(row)
    assert store.reader().workflow("w") is not None
    assert len(keys(store, "w")) == 3


def test_ended_workflows_are_found_in_the_order_of_their_ends(store: Store) -> None:
    one = join(store, me, 0, 1)
    for name, at_us in (("c", 10), ("b", 20), ("a", 20), ("d", 30)):
        run(one, name, nodes=1, at_us=at_us)
    run(one, "elsewhere", nodes=1, at_us=1, shard=1)
    one.commit(workflow("open"))
    reader = store.reader()
    assert reader.ended_workflows(0, 0, 3) == [(10, "c"), (20, "a"), (20, "b")]
    assert reader.ended_workflows(0, 20, 9) == [(20, "a"), (20, "b"), (30, "d")]
    assert reader.row_keys(["a", "c"], 3) == [("a", 0, -1), ("a", 0, -1), ("c", 0, -1)]


# -- what it costs -----------------------------------------------------------------------------------------------------------


def _filled(member: Member) -> None:
    """Store so much that a server would rather not look at all of it."""
    member.commit(PlanSaved(0, "", UNUSED, b"{}"))
    for part in range(4):
        names = [f"w-{part}-{number:03}" for number in range(250)]
        rows: list[Any] = []
        for at, name in enumerate(names):
            plan = bytes([part, at % 5]) * 16
            inserted: WorkflowInserted = replace(workflow(name), plan_hash=plan)
            rows += [PlanSaved(0, name, plan, b"{}"), inserted]
            rows += [*(assigned(name, node) for node in range(4)), attempt(name, 0)]
            rows += [ended(name, at_us=part * 1_000 + at + 1)] if part < 3 else []
        member.commit(*rows)


def _explained(store: SqlStore, statements: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    explain = "EXPLAIN FORMAT=TRADITIONAL" if store.description.startswith("MySQL") else "EXPLAIN"
    with store._engine.connect() as connection:
        for table in ("workflows", "nodes", "attempts", "plan_chunks", "failover_events", "audit"):
            connection.execute(text(f"ANALYZE TABLE {table}")).all()
        return [
            dict(row._mapping)
            for statement, values in statements
            for row in connection.exec_driver_sql(f"{explain} {statement}", values).all()
        ]


def test_looks_and_deletes_go_by_an_index_and_sort_nothing(server_url: str) -> None:
    with contextlib.closing(open_store(server_url)) as store:
        assert isinstance(store, SqlStore)
        store.check()
        one = join(store, me, 0)
        _filled(one)
        one.commit(*(WorkflowPaused(0, f"w-1-{number:03}", 1, "", "") for number in range(50)))
        statements: list[tuple[str, Any]] = []

        @event.listens_for(store._engine, "before_cursor_execute")
        def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            statements.append((statement, values))

        reader = store.reader()
        names = [name for _, name in reader.ended_workflows(0, 1_100, 100)]
        reader.deletions_begun(0, 100)
        reader.row_keys(names, 401)
        reader.plans_used(0, b"", 100)
        reader.failovers_told(5, 100)
        reader.affected_keys([EVENT], 100)
        reader.audit_before(5, 100)
        reader.strategy_changes_before(5, 100)
        reader.is_kept("w-0-000", 5)
        event.remove(store._engine, "before_cursor_execute", note)
        found = _explained(store, statements)
        wrong = [row for row in found if row["table"] and (row["key"] is None or "filesort" in (row["Extra"] or ""))]
        assert wrong == []
        by_table = [(row["table"], row["key"]) for row in found]
        assert by_table[:2] == [("workflows", "workflows_ended")] * 2
        assert ("workflows", "workflows_plan") in by_table
        _check_deletes(store)


def _check_deletes(store: SqlStore) -> None:
    rows: list[Row] = [
        NodesDeleted(0, "w-0-000", 1, -1),
        *(WorkflowDeleted(0, f"w-1-{number:03}") for number in range(3)),
        PlanDeleted(0, "", UNUSED),
    ]
    words = [
        (words.decode("latin-1"), ())
        for write in writes_of(rows)
        for words, _ in mysql_words(write.shape).statements(write.rows, 1 << 20)
    ]
    found = [row for row in _explained(store, words) if row["table"]]
    used = {(row["table"], row["key"]) for row in found} - {("workflows", "workflows_plan")}
    assert used == {
        (table, "PRIMARY") for table in ("attempts", "nodes", "workflow_pauses", "workflows", "plan_chunks")
    }
    assert max(int(row["rows"] or 0) for row in found) <= 60, found
