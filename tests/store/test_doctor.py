"""What `mainspring db check` finds."""

from pathlib import Path

from mainspring_coordinator.store.doctor import Finding, check_database
from mainspring_coordinator.store.schema import upgrade
from tests.servers.mariadb import MariadbServer


def by_name(url: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_database(url)}


def test_a_good_database_has_no_complaint(database_url: str) -> None:
    upgrade(database_url)
    found = by_name(database_url)
    assert [finding for finding in found.values() if not finding.ok] == []
    if not database_url.startswith("sqlite"):
        wanted = {
            "connect",
            "version",
            "read_only",
            "grants",
            "lock",
            "kill",
            "max_allowed_packet",
            "durability",
            "schema",
        }
        assert wanted <= set(found)


def test_a_missing_schema_is_named_with_the_command(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).touch()
    found = by_name(database_url)
    assert not found["schema"].ok
    assert found["schema"].next_step == "run: mainspring db upgrade"


def test_missing_rights_are_named(mariadb_server: MariadbServer) -> None:
    database = mariadb_server.new_database()
    mariadb_server.execute(
        "CREATE OR REPLACE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'x'",
        f"GRANT SELECT ON {database}.* TO 'reader'@'127.0.0.1'",
    )
    found = by_name(f"mysql://reader:x@127.0.0.1:{mariadb_server.port}/{database}")
    assert not found["grants"].ok
    assert "CREATE" in found["grants"].detail
    assert found["lock"].ok
    assert found["kill"].ok


def test_a_server_that_loses_or_refuses_work_is_named() -> None:
    with MariadbServer() as server:
        url = server.url(server.new_database())
        upgrade(url)
        server.execute(
            "SET GLOBAL innodb_flush_log_at_trx_commit=0",
            "SET GLOBAL max_allowed_packet=1048576",
            "SET GLOBAL read_only=1",
        )
        found = by_name(url)
        assert {name for name, finding in found.items() if not finding.ok} == {
            "durability",
            "max_allowed_packet",
            "read_only",
        }
        assert all(finding.next_step for finding in found.values() if not finding.ok)


def test_an_unreachable_server_is_one_finding() -> None:
    (finding,) = check_database("mysql://u:secret@127.0.0.1:1/d")
    assert (finding.name, finding.ok) == ("connect", False)
    assert "secret" not in f"{finding}"


def test_a_file_that_cannot_be_used_is_one_finding() -> None:
    (finding,) = check_database("sqlite:////proc/version")
    assert (finding.name, finding.ok) == ("connect", False)


def test_a_file_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "folder/mainspring.db"
    (finding,) = check_database(f"sqlite:///{path}")
    assert (finding.name, finding.ok, finding.detail) == ("connect", False, f"there is no file {path}")
    assert "DATABASE_URL" in finding.next_step
    assert list(tmp_path.iterdir()) == []
