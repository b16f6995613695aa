"""Where the stories take place."""

from pathlib import Path

import pytest


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """An empty database in a file, where the kind of database is not the point."""
    return f"sqlite:///{tmp_path / 'mainspring.db'}"


@pytest.fixture(params=["sqlite", "server"])
def any_url(request: pytest.FixtureRequest, file_url: str) -> str:
    """An empty database, for a coordinator that is alone, in a file and on a server."""
    if request.param == "sqlite":
        return file_url
    return str(request.getfixturevalue("chosen_url"))
