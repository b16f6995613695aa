"""Logins to a real MySQL, whose accounts use caching_sha2_password."""

import contextlib

import pytest

from mainspring.errors import StoreUnavailableError
from mainspring_coordinator.store.mysql_connection import connect
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.schema import upgrade
from mainspring_coordinator.store.url import ServerAddress, parse_url
from tests.servers.mysql import MysqlServer

pytestmark = pytest.mark.mysql


def cipher(url: str) -> str:
    """Return the session's TLS cipher, empty without TLS."""
    address = parse_url(url)
    assert isinstance(address, ServerAddress)
    with contextlib.closing(connect(address, autocommit=True)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        row = cursor.fetchone()
    assert row is not None
    return str(row[1])


@pytest.fixture
def database(mysql_server: MysqlServer) -> str:
    # The server forgets who has logged in, so that each login is a full one.
    mysql_server.execute("FLUSH PRIVILEGES")
    ((plugin,),) = mysql_server.execute("SELECT plugin FROM mysql.user WHERE user='mainspring'")
    assert plugin == "caching_sha2_password"
    return mysql_server.new_database()


def test_a_login_without_tls(mysql_server: MysqlServer, database: str) -> None:
    assert cipher(mysql_server.url(database, query="?ssl=false")) == ""


def test_a_login_takes_tls_when_it_is_offered(mysql_server: MysqlServer, database: str) -> None:
    assert cipher(mysql_server.url(database)) != ""


def test_a_store_works_over_tls_with_a_known_authority(mysql_server: MysqlServer, database: str) -> None:
    url = mysql_server.url(database, query=f"?ssl_ca={mysql_server.ca_path}&ssl_verify_identity=false")
    assert cipher(url) != ""
    upgrade(url)
    with contextlib.closing(open_store(url)) as store:
        store.check()
        assert store.description.startswith("MySQL ")


def test_a_server_that_cannot_prove_its_name_is_refused(mysql_server: MysqlServer, database: str) -> None:
    url = mysql_server.url(database, query=f"?ssl_ca={mysql_server.ca_path}")
    with (
        contextlib.closing(open_store(url)) as store,
        pytest.raises(StoreUnavailableError, match=r"(?i)certificate|hostname"),
    ):
        store.check()
