"""How a database gets its schema, and what happens when it has another one."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, LargeBinary, inspect, text

from mainspring.errors import SchemaError, StoreUnavailableError
from mainspring_coordinator.store import revision, schema, tables
from mainspring_coordinator.store.engine_pool import open_engine
from mainspring_coordinator.store.migrations import versions
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.url import parse_url
from tests.store.members import join, me, workflow


def test_a_database_without_a_schema_is_refused_with_the_command_to_type(database_url: str) -> None:
    with contextlib.closing(open_store(database_url)) as store:
        with pytest.raises(SchemaError, match=r"run: mainspring db upgrade$"):
            store.check()
        assert schema.upgrade(database_url) == (None, revision.revision_wanted)
        store.check()
        assert store.description.split(" ")[0] in {"SQLite", "MariaDB", "MySQL"}


def test_reading_without_a_schema_says_the_same(database_url: str) -> None:
    with (
        contextlib.closing(open_store(database_url)) as store,
        pytest.raises(SchemaError, match="mainspring db upgrade"),
    ):
        store.reader().shards()


def at_revision(database_url: str, found: str, readable_since: str) -> None:
    """Make a schema look like a later one's."""
    engine = open_engine(parse_url(database_url))
    with engine.connect() as connection:
        connection.execute(text(f"UPDATE {revision.version_table} SET version_num='{found}'"))
        connection.execute(text(f"UPDATE schema_readers SET readable_from='{readable_since}'"))
        connection.commit()
    engine.dispose()


def test_a_newer_schema_is_refused(database_url: str) -> None:
    schema.upgrade(database_url)
    at_revision(database_url, "9999", "9998")
    with contextlib.closing(open_store(database_url)) as store, pytest.raises(SchemaError, match="newer"):
        store.check()
    with pytest.raises(SchemaError, match="newer"):
        schema.upgrade(database_url)


def test_the_schema_of_the_next_version_serves_the_builds_that_it_names(database_url: str) -> None:
    schema.upgrade(database_url)
    engine = open_engine(parse_url(database_url))
    with engine.connect() as connection:
        # What the next version may do: add columns with a default, and tables.
        connection.execute(text("ALTER TABLE workflows ADD COLUMN later INTEGER NOT NULL DEFAULT 7"))
        connection.execute(text("ALTER TABLE shards ADD COLUMN later INTEGER NOT NULL DEFAULT 7"))
        connection.execute(text("ALTER TABLE coordinators ADD COLUMN later INTEGER NOT NULL DEFAULT 7"))
        connection.execute(text("CREATE TABLE later (id INTEGER PRIMARY KEY)"))
        connection.commit()
    engine.dispose()
    at_revision(database_url, "9999", revision.revision_wanted)
    assert schema.upgrade(database_url) == ("9999", "9999")
    with contextlib.closing(open_store(database_url)) as store:
        store.check()
        one = join(store, me, 0)
        one.commit(workflow("w"))
        assert one.lock.poll().shards[0].holder == me
        assert [row.workflow_id for row in store.reader().open_workflows(0, (-1, ""), 9)] == ["w"]
    at_revision(database_url, "9999", "9998")
    with contextlib.closing(open_store(database_url)) as store, pytest.raises(SchemaError, match="cannot use it"):
        store.check()


def test_a_version_can_be_used_by_the_builds_of_the_one_before() -> None:
    revisions = sorted(path.name[1:5] for path in Path(versions.__file__).parent.glob("r*.py"))
    assert revisions[-1] == revision.revision_wanted
    assert revision.readable_from in revisions
    assert revision.readable_from < revision.revision_wanted


def padded(_context: Any, _found: Any, column: "Column[Any]", *_: Any) -> bool | None:
    """Leave the comparison to Alembic but for binary columns, whose default the server pads with zeros."""
    return False if isinstance(column.type, LargeBinary) else None


def test_the_revisions_make_the_tables_of_this_build(database_url: str) -> None:
    schema.upgrade(database_url)
    engine = open_engine(parse_url(database_url))
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": padded, "version_table": revision.version_table}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)
        collations = {
            (table, column["name"]): getattr(column["type"], "collation", None)
            for table in tables.metadata.tables
            for column in inspect(connection).get_columns(table)
        }
        wanted = {
            (table.name, column.name): getattr(column.type.dialect_impl(engine.dialect), "collation", None)
            for table in tables.metadata.tables.values()
            for column in table.columns
        }
    engine.dispose()
    assert differences == []
    if not database_url.startswith("sqlite"):
        assert {key: collations[key] for key, collation in wanted.items() if collation} == {
            key: collation for key, collation in wanted.items() if collation
        }


def test_an_upgrade_that_was_interrupted_is_finished_by_the_next(database_url: str) -> None:
    engine = open_engine(parse_url(database_url))
    with engine.connect() as connection:
        tables.shards.create(connection)
        tables.workflows.create(connection)
    engine.dispose()
    schema.upgrade(database_url)
    schema.upgrade(database_url)
    with contextlib.closing(open_store(database_url)) as store:
        member = join(store, me, 0)
        member.commit(workflow("w"))


def test_a_database_of_the_first_revision_keeps_its_data(database_url: str) -> None:
    engine = open_engine(parse_url(database_url))
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO cluster (id,name,shards_total) VALUES (1,'test',2)"))
        connection.execute(
            text("INSERT INTO shards (shard_id,epoch,holder,batch_seq) VALUES (0,7,'old',9),(1,3,NULL,2)")
        )
        connection.execute(
            text(
                "INSERT INTO workflows (workflow_id,shard_id,digest,plan_hash,status,is_open,input) VALUES ('w',0,'','',1,1,'{}')"
            )
        )
        connection.commit()
    engine.dispose()
    with contextlib.closing(open_store(database_url)) as store:
        with pytest.raises(SchemaError, match=r"revision 0001.*run: mainspring db upgrade$"):
            store.check()
        assert schema.upgrade(database_url) == ("0001", revision.revision_wanted)
        store.check()
        rows = [(row.shard, row.epoch, row.holder, row.batch_seq, row.deaths) for row in store.reader().shards()]
        assert rows == [(0, 7, "old", 9, ""), (1, 3, None, 2, "")]
        assert [row.workflow_id for row in store.reader().open_workflows(0, (-1, ""), 10)] == ["w"]
        assert store.reader().failovers(None, 10) == []
        join(store, me, 0).commit(workflow("v"))


def test_two_upgrades_at_once_are_one(server_url: str, mariadb_url: str) -> None:
    del server_url
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(schema.upgrade, [mariadb_url, mariadb_url]))
    assert {after for _, after in results} == {revision.revision_wanted}


def test_the_wanted_revision_is_the_last_one() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_current_head() == revision.revision_wanted


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with contextlib.closing(open_store("mysql://u:p@127.0.0.1:1/d")) as store:
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1"):
            store.check()
        with pytest.raises(StoreUnavailableError):
            schema.upgrade("mysql://u:p@127.0.0.1:1/d")
