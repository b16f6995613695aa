"""Servers whose global settings are not the usual ones: each session sets what our statements rest on."""

import contextlib
from collections.abc import Iterator

import pytest

from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import Store
from mainspring_coordinator.store.schema import upgrade
from tests.servers.process import PrivateServer
from tests.store.members import join, me, shards_total, workflow


@pytest.fixture
def cutting(each_server: PrivateServer) -> Iterator[Store]:
    """A store on a server that lets a read have one row, unless it has a LIMIT of its own."""
    before = each_server.execute("SELECT @@global.sql_select_limit")[0][0]
    each_server.execute("SET GLOBAL sql_select_limit=1")
    try:
        url = each_server.url(each_server.new_database())
        upgrade(url)
        with contextlib.closing(open_store(url)) as store:
            yield store
    finally:
        each_server.execute(f"SET GLOBAL sql_select_limit={before}")


def test_a_global_limit_cuts_no_read(cutting: Store) -> None:
    member = join(cutting, me, 0, 1, 2)
    assert [row.shard for row in member.lock.poll().shards] == list(range(shards_total))
    names = ["wf0", "wf1", "wf2"]
    member.commit(*(workflow(name, shard) for shard, name in enumerate(names)))
    again = member.commit(*(workflow(name, shard) for shard, name in enumerate(names)))
    assert sorted(again.existing) == names
