"""What a store does when another server takes the place of its own: the rows are there, the locks are not; the old one still answers."""

import contextlib
from urllib.parse import urlsplit

import pytest

from mainspring.errors import FencedError, StoreUnavailableError
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.schema import upgrade
from tests.servers.process import PrivateServer
from tests.servers.proxy import SwallowingProxy
from tests.store.members import join, me, rival, workflow


def test_a_new_term_locks_writes_and_reads_on_the_server_that_is_primary_now(own_server: PrivateServer) -> None:
    url = own_server.plain_url(own_server.new_database())
    upgrade(url)
    port = urlsplit(url).port or 0
    with (
        SwallowingProxy(port) as proxy,
        contextlib.closing(open_store(url.replace(f":{port}/", f":{proxy.port}/"))) as store,
    ):
        member = join(store, me, 0)
        member.commit(workflow("before"))
        assert store.reader().workflow("before") is not None
        own_server.execute("SET GLOBAL read_only=1")
        with own_server.copy() as promoted:
            proxy.point_to(promoted.port)
            with pytest.raises(StoreUnavailableError, match="read-only"):
                member.lock.renew(me, 0)
            with pytest.raises(StoreUnavailableError, match="closed"):
                member.lock.poll()
            member.commit(workflow("by a writer whose epoch still holds"))
            heir = join(store, rival)
            (peer,) = [peer for peer in heir.lock.poll().peers if peer.row.incarnation == me]
            assert peer.locked_by is None
            heir.take(0)
            heir.commit(workflow("by the heir"))
            with pytest.raises(FencedError):
                member.commit(workflow("late"))
            reader = store.reader()
            found = [
                name
                for name in ("before", "by a writer whose epoch still holds", "by the heir", "late")
                if reader.workflow(name)
            ]
            assert found == ["before", "by a writer whose epoch still holds", "by the heir"]
