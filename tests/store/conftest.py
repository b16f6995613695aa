from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from mainspring_coordinator.store.memory import MemoryStore
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import Store
from mainspring_coordinator.store.schema import upgrade
from tests.servers.process import PrivateServer
from tests.servers.proxy import SwallowingProxy

servers = [pytest.param("mariadb"), pytest.param("mysql", marks=pytest.mark.mysql)]
databases = ["sqlite", *servers]


@pytest.fixture(scope="session")
def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Make an empty database of a kind and return its URL."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'mainspring.db'}"
        server = request.getfixturevalue(f"{kind}_server")
        return str(server.url(server.new_database()))

    return make


@pytest.fixture(scope="session")
def new_store(new_url: Callable[[str], str]) -> Callable[[str], Store]:
    """Make a store of a kind, its schema made."""

    def make(kind: str) -> Store:
        if kind == "memory":
            return MemoryStore()
        url = new_url(kind)
        upgrade(url)
        return open_store(url)

    return make


@pytest.fixture(params=["memory", *databases])
def store(request: pytest.FixtureRequest, new_store: Callable[[str], Store]) -> Iterator[Store]:
    """A new store of each kind in turn."""
    made = new_store(request.param)
    yield made
    made.close()


@pytest.fixture(params=servers)
def server_url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """A new database, its schema made, on each server in turn."""
    url = new_url(request.param)
    upgrade(url)
    return url


@pytest.fixture(params=databases)
def database_url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """An empty database of each kind in turn."""
    return new_url(request.param)


@pytest.fixture
def proxy(server_url: str) -> Iterator[SwallowingProxy]:
    """What stands between that server and the store `through`."""
    with SwallowingProxy(urlsplit(server_url).port or 0) as made:
        yield made


@pytest.fixture
def through(server_url: str, proxy: SwallowingProxy) -> Iterator[Store]:
    """A store whose connections go through the proxy, without TLS."""
    port = urlsplit(server_url).port
    made = open_store(server_url.replace(f":{port}/", f":{proxy.port}/") + "?ssl=false")
    yield made
    made.close()


@pytest.fixture
def direct(server_url: str) -> Iterator[Store]:
    """A store on that server, with nothing in between."""
    made = open_store(server_url)
    yield made
    made.close()


@pytest.fixture(params=servers)
def each_server(request: pytest.FixtureRequest) -> PrivateServer:
    """Each server in turn; other tests use it too."""
    server: PrivateServer = request.getfixturevalue(f"{request.param}_server")
    return server
