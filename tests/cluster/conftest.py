"""Where the stories take place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.mariadb import MariadbServer


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """An empty database in a file, where the kind of database is not the point."""
    return f"sqlite:///{tmp_path / 'mainspring.db'}"


@pytest.fixture(params=["sqlite", "mariadb"])
def any_url(request: pytest.FixtureRequest, file_url: str) -> str:
    """An empty database, for a coordinator that is alone, on each kind in turn."""
    if request.param == "sqlite":
        return file_url
    return str(request.getfixturevalue("mariadb_url"))


@pytest.fixture
def own_mariadb() -> Iterator[MariadbServer]:
    """A MariaDB for one test alone, which may kill it."""
    if reason := MariadbServer.missing():
        pytest.fail(reason)
    with MariadbServer() as server:
        yield server
