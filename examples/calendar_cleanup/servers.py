"""What the demo runs against, on free ports of loopback: CalDAV (its own process), SMTP, and the table of mappings."""

import asyncio
import json
import secrets
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import httpx
import sqlalchemy as sa
from aiosmtpd.smtp import SMTP, Envelope, Session

from examples.calendar_cleanup import calendars
from examples.calendar_cleanup.tasks import mappings_table, open_database

user = "team"
start_timeout_s = 20
stop_timeout_s = 10


@dataclass(frozen=True)
class CalendarServer:
    """A running CalDAV server."""

    url: str
    """The folder of the calendars."""
    password: str
    """Of the user `team`."""
    _log: Path
    _errors: Path

    def fill(self) -> None:
        """Put the demo's calendars on it."""
        try:
            with httpx.Client(auth=(user, self.password), timeout=start_timeout_s) as client:
                for name, text in calendars.on_server().items():
                    headers = {"Content-Type": "text/calendar"}
                    client.put(f"{self.url}/{name}/", content=text, headers=headers).raise_for_status()
        except httpx.HTTPError as error:
            said = self._errors.read_text()
            raise RuntimeError(f"the CalDAV server did not take the calendars: {error}\n{said}") from error

    def names(self) -> list[str]:
        """Ask the server which calendars it has."""
        response = httpx.request("PROPFIND", f"{self.url}/", headers={"Depth": "1"}, auth=(user, self.password))
        response.raise_for_status()
        found = ET.fromstring(response.content).iterfind("{DAV:}response/{DAV:}href")  # noqa: S314  (our own server's)
        paths = [(element.text or "").rstrip("/") for element in found]
        return sorted(path.rpartition("/")[2] for path in paths if path != f"/{user}")

    def deletes(self) -> dict[str, list[int]]:
        """Return how the server answered the deletes of each calendar, in the order of their coming."""
        answers: dict[str, list[int]] = {}
        for line in self._log.read_text().splitlines():
            event = json.loads(line)
            answers.setdefault(event["calendar"], []).append(event["status"])
        return answers


@contextmanager
def calendar_server(folder: Path) -> Iterator[CalendarServer]:
    """Run an empty CalDAV server that keeps its files in `folder`."""
    log, errors = folder / "caldav.out", folder / "caldav.err"
    password = secrets.token_hex(8)
    command = [sys.executable, "-m", "examples.calendar_cleanup.caldav", "--folder", str(folder), "--user", user]
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as listening,
        log.open("wb") as out,
        errors.open("wb") as err,
    ):
        port = listening.getsockname()[1]
        process = subprocess.Popen(  # noqa: S603  (our own module)
            [*command, "--password", password, "--stumble", calendars.stumbling, "--socket", str(listening.fileno())],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            pass_fds=[listening.fileno()],
        )
    # The socket is the server's alone from here: requests wait in its queue until it serves, and fail once it has died.
    try:
        yield CalendarServer(f"http://127.0.0.1:{port}/{user}", password, log, errors)
    finally:
        try:
            process.communicate(timeout=stop_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@dataclass
class Mailbox:
    """What the SMTP server received."""

    port: int = 0
    messages: list[EmailMessage] = field(default_factory=list[EmailMessage])

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  (named by aiosmtpd)
        """Keep a message."""
        content = envelope.content
        assert isinstance(content, bytes)
        self.messages.append(message_from_bytes(content, policy=policy.default))
        return "250 OK"


@asynccontextmanager
async def mail_server() -> AsyncIterator[Mailbox]:
    """Run an SMTP server that keeps what it gets."""
    mailbox = Mailbox()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(mailbox, hostname="localhost"), "127.0.0.1", 0)
    async with server:
        mailbox.port = server.sockets[0].getsockname()[1]
        yield mailbox


def fill_mappings(url: str) -> None:
    """Make the table of mappings and fill it; what an earlier run left there is replaced."""
    engine = open_database(url)
    rows = [
        {"old_id": mapping.old_id, "new_id": mapping.new_id, "owner": mapping.owner} for mapping in calendars.replaced
    ]
    try:
        with engine.begin() as connection:
            mappings_table.metadata.create_all(connection)
            connection.execute(sa.delete(mappings_table))
            connection.execute(sa.insert(mappings_table), rows)
    finally:
        engine.dispose()
