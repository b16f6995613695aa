"""The executors of the calendar clean-up: `mainspring worker --import examples.calendar_cleanup.tasks`.

Where the mappings, the calendars and the mail server are comes from the worker's environment, never from the workflow:

    CALENDAR_DB_URL     SQLAlchemy URL of the database with the table `calendar_mappings`
    CALDAV_URL          the folder of the calendars, such as http://127.0.0.1:5232/team
    CALDAV_USER, CALDAV_PASSWORD
    SMTP_HOST, SMTP_PORT

Each of them may run more than once for the same node (a worker can die after its work and before its report), so the
second time does no harm: a calendar that is gone is done, a mail carries an id by which its second copy is recognised.
"""

import os
import re
import smtplib
import ssl
from email.message import EmailMessage
from http import HTTPStatus
from typing import TypedDict

import httpx
import sqlalchemy as sa

from mainspring_worker import Context, NonRetryable, executor

request_timeout_s = 10
tls = ssl.create_default_context()
"""Read from files once, not once a calendar."""

mappings_table = sa.Table(
    "calendar_mappings",
    sa.MetaData(),
    sa.Column("old_id", sa.String(200), primary_key=True),
    sa.Column("new_id", sa.String(200), nullable=False),
    sa.Column("owner", sa.String(200), nullable=False),
)


class Mapping(TypedDict):
    """An old calendar, and the one that took its place."""

    old_id: str
    new_id: str
    owner: str


class FetchInput(TypedDict):
    """What `fetchOldCalendarMappings` gets."""

    limit: int


class Fetched(TypedDict):
    """What it returns."""

    mappings: list[Mapping]


class Deleted(TypedDict):
    """What `deleteSingleCalendar` returns."""

    calendar: str
    outcome: str


class MailInput(TypedDict):
    """What `sendEmailNotification` gets."""

    to: str
    mappings: list[Mapping]
    deleted: list[Deleted]


class Mailed(TypedDict):
    """What it returns."""

    message_id: str
    subject: str


def open_database(text: str) -> sa.Engine:
    """Return an engine for a URL; a plain `mysql://` one would else name a driver that is not installed."""
    url = sa.make_url(re.sub(r"^(mysql|mariadb)://", r"\1+pymysql://", text))
    if url.get_backend_name() == "sqlite" or url.password is None:
        return sa.create_engine(url)
    # The driver would send a password that is text as Latin-1, the server expects UTF-8.
    return sa.create_engine(url, connect_args={"password": str(url.password).encode()})


@executor("fetchOldCalendarMappings")
def fetch_old_calendar_mappings(request: FetchInput) -> Fetched:
    """Read which calendars were replaced, in the order of their names."""
    engine = open_database(os.environ["CALENDAR_DB_URL"])
    query = sa.select(mappings_table).order_by(mappings_table.c.old_id).limit(request["limit"])
    try:
        with engine.connect() as connection:
            rows = connection.execute(query).all()
    finally:
        engine.dispose()
    return {"mappings": [{"old_id": row.old_id, "new_id": row.new_id, "owner": row.owner} for row in rows]}


@executor("deleteSingleCalendar")
async def delete_single_calendar(mapping: Mapping) -> Deleted:
    """Delete one old calendar; one that is gone already is done, and a server in trouble is tried again."""
    calendar = mapping["old_id"]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", calendar):
        # Joined to the address, such a name could delete something else; no retry makes it better.
        raise NonRetryable(f"calendar id {calendar!r} is not a name; correct it in the table calendar_mappings")
    login = (os.environ["CALDAV_USER"], os.environ["CALDAV_PASSWORD"])
    async with httpx.AsyncClient(auth=login, verify=tls, timeout=request_timeout_s) as client:
        response = await client.delete(f"{os.environ['CALDAV_URL'].rstrip('/')}/{calendar}/")
    if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return {"calendar": calendar, "outcome": "already gone"}
    if response.is_client_error and response.status_code != HTTPStatus.TOO_MANY_REQUESTS:
        raise NonRetryable(
            f"the server refused to delete {calendar!r}: {response.status_code} {response.reason_phrase}"
        )
    response.raise_for_status()
    return {"calendar": calendar, "outcome": "deleted"}


@executor("sendEmailNotification")
def send_email_notification(request: MailInput, context: Context) -> Mailed:
    """Mail the report."""
    replaced_by = {mapping["old_id"]: mapping["new_id"] for mapping in request["mappings"]}
    message = EmailMessage()
    message["From"] = "calendar-cleanup@example.org"
    message["To"] = request["to"]
    message["Subject"] = f"{len(request['deleted'])} old calendars cleaned up"
    # The same in each attempt, so that a mailbox keeps one copy of a report that was sent twice.
    message["Message-ID"] = f"<{re.sub(r'[^A-Za-z0-9_.-]', '.', context.idempotency_key)}@example.org>"
    lines = [
        f"{d['calendar']:<24} {d['outcome']:<14} replaced by {replaced_by[d['calendar']]}" for d in request["deleted"]
    ]
    message.set_content("\n".join(["Old calendars:", "", *lines]))
    with smtplib.SMTP(os.environ["SMTP_HOST"], int(os.environ["SMTP_PORT"]), timeout=request_timeout_s) as smtp:
        smtp.send_message(message)
    return {"message_id": str(message["Message-ID"]), "subject": str(message["Subject"])}
