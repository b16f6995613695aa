"""The executors of the calendar clean-up against a real Radicale, a real SMTP server and a real table."""

import asyncio
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest

from examples.calendar_cleanup import calendars, tasks
from examples.calendar_cleanup.servers import CalendarServer, calendar_server, fill_mappings, mail_server, user
from mainspring_worker import Context, NonRetryable


@pytest.fixture(scope="module")
def caldav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CalendarServer]:
    with calendar_server(tmp_path_factory.mktemp("caldav")) as server:
        server.fill()
        yield server


@pytest.fixture
def as_worker(caldav: CalendarServer, monkeypatch: pytest.MonkeyPatch) -> CalendarServer:
    """The environment that a worker of the demo has."""
    monkeypatch.setenv("CALDAV_URL", caldav.url)
    monkeypatch.setenv("CALDAV_USER", user)
    monkeypatch.setenv("CALDAV_PASSWORD", caldav.password)
    return caldav


def mapping_of(calendar: str) -> tasks.Mapping:
    return {"old_id": calendar, "new_id": "team-atlas", "owner": "someone"}


def delete(calendar: str) -> tasks.Deleted:
    return asyncio.run(tasks.delete_single_calendar(mapping_of(calendar)))


def test_the_server_begins_with_dozens_of_calendars_of_real_events(caldav: CalendarServer) -> None:
    assert len(calendars.on_server()) >= 30
    name = calendars.left_at_the_end()[0]
    response = httpx.get(f"{caldav.url}/{name}/", auth=(user, caldav.password))
    assert response.text.count("BEGIN:VEVENT") >= 3
    assert "RRULE:FREQ=WEEKLY" in response.text


def test_the_mappings_are_read_in_order_and_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'calendars.db'}"
    monkeypatch.setenv("CALENDAR_DB_URL", url)
    fill_mappings(url)
    fill_mappings(url)  # a second demo on the same database finds its own rows only
    fetched = tasks.fetch_old_calendar_mappings({"limit": 3})["mappings"]
    first = calendars.replaced[0]
    assert fetched[0] == {"old_id": first.old_id, "new_id": first.new_id, "owner": first.owner}
    assert [mapping["old_id"] for mapping in fetched] == [mapping.old_id for mapping in calendars.replaced[:3]]


def test_a_plain_mysql_url_gets_the_driver_that_is_installed() -> None:
    for given in ("mysql://u:p@h:3306/db", "mariadb://u@h/db", "mysql+pymysql://u:p@h/db"):
        assert tasks.open_database(given).driver == "pymysql"
    assert tasks.open_database("sqlite:///x.db").driver == "pysqlite"


def test_a_calendar_is_deleted_once_and_then_it_is_already_gone(as_worker: CalendarServer) -> None:
    calendar = calendars.replaced[0].old_id
    assert calendar in as_worker.names()
    assert delete(calendar) == {"calendar": calendar, "outcome": "deleted"}
    assert calendar not in as_worker.names()
    assert delete(calendar) == {"calendar": calendar, "outcome": "already gone"}
    assert as_worker.deletes()[calendar] == [200, 404]


def test_a_server_in_trouble_is_an_error_that_is_retried(as_worker: CalendarServer) -> None:
    for _ in range(2):
        with pytest.raises(httpx.HTTPStatusError, match="503"):
            delete(calendars.stumbling)
    assert delete(calendars.stumbling)["outcome"] == "deleted"
    assert as_worker.deletes()[calendars.stumbling] == [503, 503, 200]


def test_a_refused_login_is_not_retried(as_worker: CalendarServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALDAV_PASSWORD", "wrong")
    with pytest.raises(NonRetryable, match="refused to delete 'rooms': 401"):
        delete("rooms")
    assert "rooms" in as_worker.names()


@pytest.mark.parametrize("calendar", ["", "..", "a/b", "../other", "x?y"])
def test_a_name_that_could_delete_something_else_is_refused(as_worker: CalendarServer, calendar: str) -> None:
    before = as_worker.deletes()
    with pytest.raises(NonRetryable, match="is not a name"):
        delete(calendar)
    assert as_worker.deletes() == before


def test_the_report_is_mailed_with_an_id_that_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    request: tasks.MailInput = {
        "to": "lead@example.org",
        "mappings": [mapping_of("old-ada"), mapping_of("old-alan")],
        "deleted": [
            {"calendar": "old-ada", "outcome": "deleted"},
            {"calendar": "old-alan", "outcome": "already gone"},
        ],
    }
    context = cast("Context", SimpleNamespace(idempotency_key="wf:1/mail/-1"))

    async def send_twice() -> list[EmailMessage]:
        async with mail_server() as mailbox:
            monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
            monkeypatch.setenv("SMTP_PORT", str(mailbox.port))
            for _ in range(2):
                returned = await asyncio.to_thread(tasks.send_email_notification, request, context)
                # A header's value is a kind of str that JSON does not take.
                assert {type(value) for value in returned.values()} == {str}
            return mailbox.messages

    first, second = asyncio.run(send_twice())
    assert first["To"] == "lead@example.org"
    assert first["Subject"] == "2 old calendars cleaned up"
    assert first["Message-ID"] == second["Message-ID"] == "<wf.1.mail.-1@example.org>"
    lines = first.get_content().splitlines()
    assert lines[2].split() == ["old-ada", "deleted", "replaced", "by", "team-atlas"]
    assert lines[3].split() == ["old-alan", "already", "gone", "replaced", "by", "team-atlas"]
