"""Servers for all tests: private ones, started when the first test asks, stopped at the end."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers.mariadb import MariadbServer
from tests.servers.mysql import MysqlServer
from tests.servers.process import ServerError

settings.register_profile("untimed", deadline=None, print_blob=True)
settings.load_profile("untimed")  # a busy machine is no failure; what fails prints what replays it


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: random deaths of all parts; `make test-chaos`, see docs/testing.md")
    config.addinivalue_line("markers", "long: takes a minute or more, and so begins first where tests run side by side")
    config.addinivalue_line("markers", "mysql: needs a real MySQL server; skipped with one line where none can be had")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So is it in the background of a shell script, and all processes would inherit it: those that a test interrupts, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first into the share that each process begins with, or the others would wait for the last of them."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not processes:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    share = len(items) // processes
    ordered: list[pytest.Item] = []
    for process in range(processes):
        first = long[process::processes]
        filled = max(0, share - len(first))
        ordered += [*first, *rest[:filled]]
        rest = rest[filled:]
    items[:] = [*ordered, *rest]


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariadbServer]:
    """A private MariaDB."""
    if reason := MariadbServer.missing():
        pytest.fail(reason)
    with MariadbServer() as server:
        yield server


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MysqlServer]:
    """A private MySQL."""
    if reason := MysqlServer.missing():
        pytest.skip(reason)
    try:
        server = MysqlServer().start()
    except ServerError as error:
        pytest.skip(str(error).splitlines()[0])
    yield server
    server.stop()


@pytest.fixture
def mariadb_url(mariadb_server: MariadbServer) -> str:
    """An empty database of its own on MariaDB."""
    return mariadb_server.url(mariadb_server.new_database())
