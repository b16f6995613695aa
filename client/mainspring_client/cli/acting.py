"""The commands by which operators act on workflows and coordinators, and the log of what they did."""

from typing import Annotated, Final

import typer

from mainspring.errors import BadRequestError
from mainspring.limits import step_down_s_max
from mainspring_client.cli.app import AddressOption, JsonOption, Session, app, ask, examples, session_of
from mainspring_client.cli.output import counted, moment
from mainspring_client.cli.pages import filtered
from mainspring_client.client import Client
from mainspring_client.cluster_nouns import AuditEntry
from mainspring_client.nouns import WorkflowFilter, WorkflowStatus

_step_down_s: Final = 600
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept.", show_default=False)]


@app.command(
    epilog=examples(
        "mainspring cancel order-17 --reason 'the customer withdrew'",
        "mainspring cancel --name nightly-import --dry-run",
        "mainspring cancel --prefix import-2026-11- --reason 'bad source'",
        "mainspring cancel --all --reason 'the test is over'",
    )
)
def cancel(
    ctx: typer.Context,
    workflow_id: Annotated[str | None, typer.Argument(metavar="[WORKFLOW]", help="One workflow.")] = None,
    name: Annotated[str, typer.Option(help="All whose definition has this name.", show_default=False)] = "",
    prefix: Annotated[str, typer.Option(help="All whose id begins so.", show_default=False)] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="All that have not ended, without --name and --prefix.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list those that would be asked to stop.")] = False,
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a workflow to stop, or all unfinished ones that fit."""
    if everything and (name or prefix):
        raise BadRequestError("--all is every workflow; leave it out, or leave out --name and --prefix", field="all")
    many = bool(name or prefix or everything)
    if (workflow_id is not None) == many:
        raise BadRequestError(
            "name one WORKFLOW, or choose several by --name, --prefix or --all; not both", field="workflow_id"
        )
    session = session_of(ctx, address, as_json=as_json)
    if workflow_id is None:
        _cancel_many(
            session, WorkflowFilter(name=name, id_prefix=prefix), reason, everything=everything, dry_run=dry_run
        )
        return
    if dry_run:
        raise BadRequestError("--dry-run goes with --name, --prefix or --all", field="dry_run")
    status = ask(session, lambda client: client.cancel(workflow_id, reason))
    if session.out.as_json:
        session.out.document({"workflow_id": workflow_id, "status": status})
    elif status in (WorkflowStatus.SUCCEEDED, WorkflowStatus.FAILED):
        session.out.line(f"{workflow_id} had ended before: it is {status}")
        session.out.hint(f"look at it with: mainspring get {workflow_id}")
    else:
        session.out.line(f"{workflow_id} is {status}")


def _cancel_many(session: Session, only: WorkflowFilter, reason: str, *, everything: bool, dry_run: bool) -> None:
    async def work(client: Client) -> tuple[int, int]:
        asked = ended = 0
        async for page in client.cancel_many(only, reason, everything=everything, dry_run=dry_run):
            asked += len(page.asked)
            ended += len(page.ended)
            if session.out.as_json:
                for workflow_id in page.asked:
                    session.out.record({"workflow_id": workflow_id, "asked": not dry_run})
            elif dry_run:
                for workflow_id in page.asked:
                    session.out.line(workflow_id)
            elif asked > len(page.asked):
                session.out.hint(f"{asked:,} so far")
        return asked, ended

    asked, ended = ask(session, work)
    if session.out.as_json:
        return
    if not asked and not ended:
        session.out.line(f"no workflow{filtered(only)} goes on; see: mainspring list")
        return
    if dry_run:
        session.out.hint(f"{counted(asked, 'workflow')} would be asked to stop")
        return
    late = f"; {ended:,} had ended by {'itself' if ended == 1 else 'themselves'}" if ended else ""
    session.out.line(f"{counted(asked, 'workflow')} {'was' if asked == 1 else 'were'} asked to stop{late}")


@app.command(
    "step-down",
    epilog=examples(
        "mainspring step-down engine-2 --reason 'a new kernel'",
        "mainspring step-down engine-2 --seconds 1800",
        "mainspring step-down engine-2 --back",
    ),
)
def step_down(
    ctx: typer.Context,
    coordinator: Annotated[str, typer.Argument(metavar="COORDINATOR", help="Its name or its incarnation.")],
    seconds: Annotated[
        int | None,
        typer.Option("--seconds", min=1, max=step_down_s_max, help="For how long [default: 600].", show_default=False),
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="It is to come back now.")] = False,
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a coordinator give its shards to the others for a while.

    It stays, passes calls on, and gets its share back when the time is over. One that is started again is back at once.
    """
    if back and seconds is not None:
        raise BadRequestError("--back ends it now, --seconds says for how long it is to last; give one", field="back")
    session = session_of(ctx, address, as_json=as_json)
    wanted = 0 if back else _step_down_s if seconds is None else seconds
    told = ask(session, lambda client: client.step_down(coordinator, seconds=wanted, reason=reason))
    name = told.coordinator
    if session.out.as_json:
        session.out.document({"coordinator": name, "shards": told.shards, "seconds": wanted, "already": told.already})
    elif back:
        session.out.line(f"{name} had not stepped down" if told.already else f"{name} gets its share back")
    elif told.already:
        session.out.line(f"{name} has stepped down already; it takes no shards for {wanted} s from now on")
    else:
        session.out.line(
            f"{name} gives up {counted(told.shards, 'shard')}, and takes none for {wanted} s; see: mainspring shards"
        )


@app.command(epilog=examples("mainspring audit", "mainspring audit --limit 1000 --json"))
def audit(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what operators did, newest first: who, what, why, and what came of it."""
    session = session_of(ctx, address, as_json=as_json)

    async def work(client: Client) -> list[AuditEntry]:
        return [entry async for entry in client.audit(limit=limit)]

    found = ask(session, work)
    if session.out.as_json:
        session.out.document(found)
        return
    rows = [
        [moment(entry.began_at_us), entry.act, entry.subject, entry.who, entry.reason, entry.outcome or "not known"]
        for entry in found
    ]
    session.out.table(["when", "act", "on", "who", "why", "outcome"], rows)
