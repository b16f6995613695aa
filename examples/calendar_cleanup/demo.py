"""Cleans up real calendars on an embedded cluster: `make demo`, or `python -m examples.calendar_cleanup.demo`.

Starts a CalDAV server with a few dozen calendars, an SMTP server, one coordinator and two workers as processes of their
own, all on free ports of loopback and with their files in a temporary folder; runs `workflow.yaml`; shows what it
did; stops everything. The exit code is 0 only if every calendar, delete and mail is as it must be.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from examples.calendar_cleanup import calendars
from examples.calendar_cleanup.progress import Progress
from examples.calendar_cleanup.servers import calendar_server, fill_mappings, mail_server, user
from mainspring.definition import parse_definition
from mainspring.errors import MainspringError
from mainspring_client import Client, Handle, NodeDetail, NodeInfo
from mainspring_client.dev import DevCluster

executors = "examples.calendar_cleanup.tasks"
report_to = "team-lead@example.org"
run_timeout_s = 60


@dataclass(frozen=True)
class Outcome:
    """What was left behind by the run."""

    output: Any
    """Of the workflow."""
    nodes: list[NodeInfo]
    """The nodes, instances included, in the order of the definition."""
    stumbled: NodeDetail
    """The instance whose first deletes were refused."""
    deletes: dict[str, list[int]]
    """How the CalDAV server answered the deletes of each calendar."""
    left: list[str]
    """The calendars that it has now."""
    mails: list[EmailMessage]
    """What the SMTP server received."""


def find_problems(outcome: Outcome) -> list[str]:
    """Return what is not as it must be."""
    old = [mapping.old_id for mapping in calendars.replaced]
    answers = {name: [200] for name in old} | {calendars.already_gone: [404], calendars.stumbling: [503, 503, 200]}
    mails = [(mail["To"], mail["Subject"]) for mail in outcome.mails]
    text = "".join(mail.get_content() for mail in outcome.mails)
    compared: list[tuple[str, object, object]] = [
        ("calendars reported as deleted", outcome.output["deleted"], [n for n in old if n != calendars.already_gone]),
        ("calendars reported as already gone", outcome.output["already_gone"], [calendars.already_gone]),
        ("answers to the deletes", outcome.deletes, answers),
        ("attempts of the delete that stumbled", outcome.stumbled.node.attempt, 3),
        ("calendars left", outcome.left, calendars.left_at_the_end()),
        ("mails", mails, [(report_to, f"{len(old)} old calendars cleaned up")]),
        ("calendars that the mail does not name", [name for name in old if name not in text], []),
    ]
    return [f"{what}: {found!r}, expected {wanted!r}" for what, found, wanted in compared if found != wanted]


def show(console: Console, outcome: Outcome) -> None:
    """Print what was done."""
    table = Table("node", "state", "attempts", "worker", "ran", title="What ran where")
    for node in outcome.nodes:
        if node.instance < 0 and node.width:
            continue
        label = node.label
        if node.node_id == "delete":
            label += f"  {calendars.replaced[node.instance].old_id}"
        table.add_row(label, node.status.lower(), str(node.attempt), node.worker, f"{node.run_us / 1000:.1f} ms")
    console.print(table)
    console.print(f"[bold]Retried:[/] the delete of {calendars.stumbling}")
    for attempt in outcome.stumbled.attempts:
        why = (
            "done" if attempt.failure is None else f"{attempt.failure.type}: {attempt.failure.message.splitlines()[0]}"
        )
        console.print(f"  attempt {attempt.attempt} on {attempt.worker}: {why}", highlight=False)
    console.print(f"[bold]Already gone, so done:[/] {', '.join(outcome.output['already_gone'])}")
    console.print(f"[bold]Calendars left on the server:[/] {', '.join(outcome.left)}")
    for mail in outcome.mails:
        console.print(f"[bold]Mail received by {mail['To']}:[/] {mail['Subject']}")
        for line in mail.get_content().splitlines():
            console.print(f"  {line}", highlight=False)


async def follow(console: Console, handle: Handle) -> Any:
    """Show the progress until the workflow ends, and return its output."""
    progress = Progress()
    with Live(progress.table(), console=console, refresh_per_second=12) as live:
        async for update in handle.watch():
            progress.take(update)
            live.update(progress.table())
    console.print()
    return await handle.result(timeout=run_timeout_s)


async def run(console: Console, database_url: str | None) -> Outcome:
    """Start everything, run the workflow, stop everything."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainspring-demo-")))
        caldav = stack.enter_context(calendar_server(folder))
        mailbox = await stack.enter_async_context(mail_server())
        mappings_url = database_url or f"sqlite:///{folder / 'calendars.db'}"
        fill_mappings(mappings_url)
        environment = {
            "CALENDAR_DB_URL": mappings_url,
            "CALDAV_URL": caldav.url,
            "CALDAV_USER": user,
            "CALDAV_PASSWORD": caldav.password,
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(mailbox.port),
        }
        embedded = DevCluster(
            imports=[executors],
            workers=2,
            slots=8,
            data=folder / "cluster",
            database_url=database_url,
            directory=Path(__file__).parents[2],
            environment=environment,
        )
        _, cluster = await asyncio.gather(asyncio.to_thread(caldav.fill), stack.enter_async_context(embedded))
        console.print(f"CalDAV server (Radicale) at {caldav.url}: {len(caldav.names())} calendars", highlight=False)
        console.print(f"SMTP server (aiosmtpd) at 127.0.0.1:{mailbox.port}", highlight=False)
        console.print(f"Mainspring at {cluster.address}: 1 coordinator, 2 workers", highlight=False)
        client = await stack.enter_async_context(Client(cluster.address))
        definition = parse_definition(Path(__file__).with_name("workflow.yaml").read_bytes(), format="yaml")
        handle = await client.submit(definition, input={"limit": 500, "report_to": report_to})
        output = await follow(console, handle)
        stumbled = [mapping.old_id for mapping in calendars.replaced].index(calendars.stumbling)
        # Kept in the order of their names by the query, which is the order of `replaced` too.
        return Outcome(
            output=output,
            nodes=[node async for node in handle.nodes()],
            stumbled=await handle.node("delete", stumbled),
            deletes=caldav.deletes(),
            left=caldav.names(),
            mails=list(mailbox.messages),
        )


def main() -> int:
    """Run the demo and judge it."""
    parser = argparse.ArgumentParser(description="Clean up real calendars on an embedded cluster.")
    parser.add_argument(
        "--database-url", help="a MySQL or MariaDB database instead of SQLite, for the cluster and the mappings"
    )
    options = parser.parse_args()
    console = Console()
    try:
        outcome = asyncio.run(run(console, options.database_url))
    except (MainspringError, RuntimeError) as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 1
    show(console, outcome)
    problems = find_problems(outcome)
    for problem in problems:
        console.print(f"[red]not as it must be: {problem}[/red]", highlight=False)
    if not problems:
        console.print("[green]Every calendar, delete and mail is as it must be.[/green]")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
