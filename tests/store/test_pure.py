"""The parts of the store that touch no database."""

import sqlite3

import pymysql
import pytest

from mainspring.errors import SettingsError, StoreUnavailableError
from mainspring.limits import statement_bytes_max, statement_rows_max
from mainspring_coordinator.engine.rows import (
    MapExpanded,
    NodeChanged,
    PermitsHeld,
    PlanSaved,
    ProgressSaved,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.store.coalesce import coalesce
from mainspring_coordinator.store.errors import Trouble, errors_met, message_of, translate, trouble_of
from mainspring_coordinator.store.link import Claim
from mainspring_coordinator.store.mysql_lock import lock_prefix
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import ShardRow
from mainspring_coordinator.store.settle import Outcome, decide
from mainspring_coordinator.store.shapes import (
    Mode,
    assigned_shape,
    changed_shape,
    inserted_shape,
    no_permits_shape,
    permits_shape,
    plan_shape,
)
from mainspring_coordinator.store.sql_words import RowTooLargeError, bytes_literal, mysql_words, text_literal
from mainspring_coordinator.store.url import FileAddress, ServerAddress, parse_url
from tests.store.members import assigned, succeeded, workflow

# -- folding ---------------------------------------------------------------------------------------------------------------------


def test_a_hop_is_two_writes_of_the_columns_that_change() -> None:
    writes = coalesce([succeeded("w", 0), assigned("w", 1)])
    assert [write.shape for write in writes] == [changed_shape, assigned_shape]
    assert "assignment" not in changed_shape.columns
    assert "width" not in assigned_shape.columns


def test_rows_are_sorted_by_primary_key() -> None:
    (write,) = coalesce([assigned(name, node) for name in "cab" for node in (2, 0)])
    assert [row[:3] for row in write.rows] == [(name, node, -1) for name in "abc" for node in (0, 2)]


def test_an_assignment_after_a_change_replaces_it() -> None:
    (write,) = coalesce(
        [NodeChanged(0, "w", 0, -1, 3, NodeStatus.BACKOFF, 1, retry_at_us=9), assigned("w", 0, version=4, attempt=2)]
    )
    assert write.shape == assigned_shape
    assert set(changed_shape.columns) <= {*assigned_shape.columns, *assigned_shape.resets}


def test_a_change_after_an_assignment_keeps_what_it_does_not_say() -> None:
    (write,) = coalesce([assigned("w", 0), succeeded("w", 0, b"7")])
    values = dict(zip((*write.shape.keys, *write.shape.columns), write.rows[0], strict=True))
    assert (values["output"], values["status"], values["worker"]) == (b"7", NodeStatus.SUCCEEDED, "wörker'\\")


def test_progress_joins_the_row_that_is_written_anyway() -> None:
    (alone,) = coalesce([ProgressSaved(0, "w", 0, -1, 1, b"1")])
    assert (alone.shape.mode, alone.shape.columns) == (Mode.UPDATE_IF_THERE, ("progress", "version"))
    (joined,) = coalesce([ProgressSaved(0, "w", 0, -1, 1, b"1"), MapExpanded(0, "w", 0, 2, 3, 4)])
    values = dict(zip((*joined.shape.keys, *joined.shape.columns), joined.rows[0], strict=True))
    assert (values["progress"], values["width"]) == (b"1", 3)


def test_an_update_of_a_new_workflow_is_part_of_its_insert() -> None:
    (write,) = coalesce([workflow("w"), WorkflowUpdated(0, "w", 2, WorkflowStatus.FAILED, ended_at_us=9)])
    assert write.shape == inserted_shape
    values = dict(zip((*write.shape.keys, *write.shape.columns), write.rows[0], strict=True))
    assert (values["status"], values["is_open"], values["ended_at_us"], values["input"]) == (
        WorkflowStatus.FAILED,
        0,
        9,
        b"{}",
    )


def test_permits_are_written_or_taken_away_as_the_last_row_of_each_says() -> None:
    rows = [PermitsHeld(0, "", key, 1, 2, count) for key, count in (("b", 1), ("a", 0), ("b", 0), ("a", 3), ("c", 0))]
    written, gone = coalesce(rows)
    assert (written.shape, list(written.rows)) == (permits_shape, [(0, b"a", 1, 2, 3)])
    assert (gone.shape, list(gone.rows)) == (no_permits_shape, [(0, b"b", 1), (0, b"c", 1)])
    ((statement, count),) = mysql_words(gone.shape).statements(gone.rows, 1 << 20)
    assert count == 2
    assert statement == (
        b"DELETE FROM permits WHERE (shard_id=0 AND concurrency_key=_binary'b' AND holder=1)"
        b" OR (shard_id=0 AND concurrency_key=_binary'c' AND holder=1)"
    )


def test_a_definition_is_cut_into_chunks_and_an_empty_one_is_one() -> None:
    (write,) = coalesce(
        [PlanSaved(0, "w", b"h" * 32, b"x" * (statement_bytes_max + 1)), PlanSaved(0, "v", b"i" * 32, b"")]
    )
    assert write.shape == plan_shape
    assert [(row[2], len(row[3])) for row in write.rows] == [(0, statement_bytes_max), (1, 1), (0, 0)]


# -- words -----------------------------------------------------------------------------------------------------------------------


def test_statements_are_split_by_rows_and_by_bytes() -> None:
    words = mysql_words(changed_shape)
    (write,) = coalesce([succeeded("w", node) for node in range(statement_rows_max + 1)])
    assert [count for _, count in words.statements(write.rows, 1 << 24)] == [statement_rows_max, 1]
    (large,) = coalesce([succeeded("w", node, b"x" * (1 << 20)) for node in range(4)])
    sizes = [(len(text), count) for text, count in words.statements(large.rows, 1 << 24)]
    assert [count for _, count in sizes] == [1, 1, 1, 1]
    assert all(size <= statement_bytes_max for size, _ in sizes)


def test_a_row_over_the_largest_packet_is_refused_before_it_is_sent() -> None:
    (write,) = coalesce([succeeded("w", 0, b"'" * 600_000)])
    with pytest.raises(RowTooLargeError, match="max_allowed_packet"):
        list(mysql_words(changed_shape).statements(write.rows, 1 << 20))


def test_quotes_and_backslashes_are_escaped() -> None:
    assert text_literal("a'b\\c") == b"'a\\'b\\\\c'"
    assert bytes_literal(b"\\'") == b"_binary'\\\\\\''"
    assert bytes_literal(None) == b"NULL"


# -- settling --------------------------------------------------------------------------------------------------------------------

mine, other = b"m" * 16, b"o" * 16


def fence(batch_seq: int, batch_id: bytes, shard: int = 0) -> dict[int, ShardRow]:
    return {shard: ShardRow(shard, 5, None, batch_seq, batch_id, 0)}


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (fence(8, mine), Outcome.COMMITTED),
        (fence(7, other), Outcome.NOT_COMMITTED),
        (fence(8, other), Outcome.NOT_COMMITTED),
        (fence(9, other), Outcome.UNKNOWN),
        ({}, Outcome.UNKNOWN),
        (fence(9, other) | fence(4, mine, 1), Outcome.COMMITTED),
        (fence(9, other) | fence(3, other, 1), Outcome.NOT_COMMITTED),
    ],
)
def test_one_fence_row_decides_for_the_batch(rows: dict[int, ShardRow], outcome: Outcome) -> None:
    assert decide(mine, {0: Claim(5, 7), 1: Claim(2, 3)}, rows) is outcome


# -- URLs ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql", "mariadb"])
def test_a_server_is_read_from_its_url(scheme: str) -> None:
    address = parse_url(
        f"{scheme}://root:p%40s%2Fs@db.example:3307/workflow_db?ssl_ca=/ca.pem&ssl_verify_identity=false"
    )
    assert address == ServerAddress(
        "db.example", 3307, "root", "p@s/s", "workflow_db", ssl_ca="/ca.pem", ssl_verify_identity=False
    )
    assert "p@s" not in f"{address} {address!r}"
    assert parse_url("mysql://u@h/d") == ServerAddress("h", 3306, "u", "", "d")


@pytest.mark.parametrize(("url", "path"), [("sqlite:///a/b.db", "a/b.db"), ("sqlite:////a/b.db", "/a/b.db")])
def test_a_file_is_read_from_its_url(url: str, path: str) -> None:
    address = parse_url(url)
    assert isinstance(address, FileAddress)
    assert str(address.path) == path


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres://u:secret@h/d", "postgres"),
        ("mysql://u:secret@h", "database"),
        ("mysql://u:secret@/d", "host"),
        ("mysql://h/d", "user"),
        ("mysql://u:sec/ret@h/d", "%2F"),
        ("mysql://u:secret@h/d?chraset=utf8", "chraset"),
        ("mysql://u:secret@h/d?ssl=maybe", "maybe"),
        ("mysql://u:secret@h:port/d", "cannot be read"),
        ("sqlite://", "no file"),
        ("sqlite:///:memory:", "no file"),
        ("sqlite://host/x", "three slashes"),
        ("nonsense", "scheme"),
    ],
)
def test_a_url_that_is_wrong_is_refused_by_name_and_without_its_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as refused:
        open_store(url)
    assert said in str(refused.value)
    assert "sec" not in str(refused.value)


def test_names_of_locks_fit_every_server() -> None:
    name = lock_prefix("Ä" * 60, "c" * 64) + "f" * 32
    assert len(name) <= 64
    assert name == name.lower()
    assert name.isascii()
    assert lock_prefix("a", "b/c") != lock_prefix("b", "b/c")


# -- errors ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (pymysql.err.OperationalError(1213, "Deadlock found"), Trouble.RETRY),
        (pymysql.err.OperationalError(1205, "Lock wait timeout"), Trouble.RETRY),
        (pymysql.err.OperationalError(1020, "Record has changed"), Trouble.RETRY),
        (pymysql.err.OperationalError(2013, "Lost connection"), Trouble.DISCONNECTED),
        (pymysql.err.InterfaceError(0, ""), Trouble.DISCONNECTED),
        (pymysql.err.InternalError("Packet sequence number wrong"), Trouble.DISCONNECTED),
        (ConnectionResetError(), Trouble.DISCONNECTED),
        (pymysql.err.OperationalError(1290, "--read-only"), Trouble.UNAVAILABLE),
        (pymysql.err.OperationalError(1040, "Too many connections"), Trouble.UNAVAILABLE),
        (pymysql.err.OperationalError(1114, "The table is full"), Trouble.UNAVAILABLE),
        (pymysql.err.InternalError(3, "Error writing file (OS errno 28)"), Trouble.UNAVAILABLE),
        (pymysql.err.OperationalError(1030, "Got error 28 from storage engine"), Trouble.UNAVAILABLE),
        (pymysql.err.OperationalError(1180, "Got error 28 during COMMIT"), Trouble.UNAVAILABLE),
        (pymysql.err.OperationalError(1047, "WSREP has not yet prepared node"), Trouble.UNAVAILABLE),
        (pymysql.err.OperationalError(1969, "max_statement_time exceeded"), Trouble.DISCONNECTED),
        (pymysql.err.OperationalError(3024, "maximum statement execution time exceeded"), Trouble.DISCONNECTED),
        (pymysql.err.DataError(1406, "Data too long"), Trouble.DATA),
        (pymysql.err.ProgrammingError(1146, "no table"), Trouble.SCHEMA),
        (pymysql.err.OperationalError(1142, "command denied"), Trouble.BUG),
        (sqlite3.OperationalError("unknown"), Trouble.BUG),
        (OverflowError("int too large"), Trouble.DATA),
    ],
)
def test_an_error_says_what_to_do(error: Exception, trouble: Trouble) -> None:
    assert trouble_of(error) is trouble


def test_an_error_that_is_told_is_counted_by_its_kind() -> None:
    before = errors_met()
    translate(pymysql.OperationalError(2013, "Lost connection"), "mysql://u@h/d")
    trouble_of(pymysql.OperationalError(2013, "Lost connection"))
    assert {kind: count - before[kind] for kind, count in errors_met().items() if count != before[kind]} == {
        Trouble.DISCONNECTED: 1
    }


def test_the_words_of_an_error_are_one_line() -> None:
    assert message_of(pymysql.err.OperationalError(1205, "Lock\n  wait")) == "Lock wait (1205)"
    assert isinstance(translate(ConnectionResetError("gone"), "mysql://u@h/d"), StoreUnavailableError)
