"""Servers for all tests: private ones, started when the first test asks, stopped at the end."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers.mariadb import MariadbServer
from tests.servers.mysql import MysqlServer
from tests.servers.process import PrivateServer

settings.register_profile("untimed", deadline=None, print_blob=True)
settings.load_profile("untimed")  # a busy machine is no failure; what fails prints what replays it

_chosen = frozenset({"chosen_server", "own_server"})
"""Fixtures that give a server of the kind that the run is for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database-server",
        choices=("mariadb", "mysql"),
        default="mariadb",
        help="the server for all tests that need one of either kind; `make test-mysql` runs those on MySQL",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes a minute or more, and so begins first where tests run side by side")
    config.addinivalue_line("markers", "mysql: needs a real MySQL server; skipped with one line where none can be had")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So is it in the background of a shell script, and all processes would inherit it: those that a test interrupts, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--database-server") == "mysql":
        for item in items:
            if isinstance(item, pytest.Function) and _chosen & set(item.fixturenames):
                item.add_marker("mysql")
    _put_long_ones_first(items)


def _put_long_ones_first(items: list[pytest.Item]) -> None:
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
    with _mysql() as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb_server: MariadbServer) -> str:
    """An empty database of its own on MariaDB."""
    return mariadb_server.url(mariadb_server.new_database())


@pytest.fixture(scope="session")
def chosen_server(request: pytest.FixtureRequest) -> PrivateServer:
    """A private server of the kind that this run is for."""
    server: PrivateServer = request.getfixturevalue(f"{request.config.getoption('--database-server')}_server")
    return server


@pytest.fixture
def chosen_url(chosen_server: PrivateServer) -> str:
    """An empty database of its own on that server."""
    return chosen_server.url(chosen_server.new_database())


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """A server of that kind for one test alone, which may kill it."""
    if request.config.getoption("--database-server") == "mysql":
        server: PrivateServer = _mysql()
    else:
        if reason := MariadbServer.missing():
            pytest.fail(reason)
        server = MariadbServer()
    with server:
        yield server


def _mysql() -> MysqlServer:
    if reason := MysqlServer.missing():
        pytest.skip(reason)
    return MysqlServer()
