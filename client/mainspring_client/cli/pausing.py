"""The commands by which operators pause dispatch, let it go on, and see what is paused."""

from typing import Annotated

import typer

from mainspring.errors import BadRequestError
from mainspring_client.cli.acting import ReasonOption
from mainspring_client.cli.app import AddressOption, JsonOption, Session, app, ask, examples, session_of
from mainspring_client.cli.output import moment
from mainspring_client.cli.pages import paused
from mainspring_client.client import Client
from mainspring_client.cluster_nouns import PausedDispatch, PauseOutcome

AllOption = Annotated[bool, typer.Option("--all", help="The whole cluster.")]
ExecutorOption = Annotated[
    str,
    typer.Option("--executor", metavar="NAME", help="What one executor runs, by its exact name.", show_default=False),
]
WorkflowOption = Annotated[str, typer.Option("--workflow", metavar="ID", help="One workflow.", show_default=False)]


@app.command(
    epilog=examples(
        "mainspring pause --executor chargeCard --reason 'the bank is down'",
        "mainspring pause --workflow import-2026-11-26 --reason 'looks wrong'",
        "mainspring pause --all --reason 'maintenance of the network'",
    )
)
def pause(
    ctx: typer.Context,
    everything: AllOption = False,
    executor: ExecutorOption = "",
    workflow: WorkflowOption = "",
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give nothing more of the cluster, an executor or a workflow to workers.

    What workers have runs on, its results count, and workflows are taken; deadlines run on, too. It lasts until `mainspring resume`,
    whatever is restarted.
    """
    what = _named(everything=everything, executor=executor, workflow=workflow)
    session = session_of(ctx, address, as_json=as_json)
    outcome = ask(
        session,
        lambda client: client.pause(executor=executor, workflow_id=workflow, everything=everything, reason=reason),
    )
    if session.out.as_json:
        session.out.document(outcome)
        return
    session.out.line(f"{what} is paused" if outcome.changed else f"{what} is paused already, {paused(outcome.pause)}")
    if executor and not outcome.workers:
        session.out.hint(f"no worker runs {executor} at the moment; it is paused should one come")
    _tell_unseen(session, outcome)


@app.command(
    epilog=examples(
        "mainspring resume --executor chargeCard",
        "mainspring resume --workflow import-2026-11-26",
        "mainspring resume --all --reason 'the network is back'",
    )
)
def resume(
    ctx: typer.Context,
    everything: AllOption = False,
    executor: ExecutorOption = "",
    workflow: WorkflowOption = "",
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let go on what was paused, in its order.

    Each pause is one by itself: --all ends that of the cluster, and leaves those of executors and workflows.
    """
    what = _named(everything=everything, executor=executor, workflow=workflow)
    session = session_of(ctx, address, as_json=as_json)
    outcome = ask(
        session,
        lambda client: client.resume(executor=executor, workflow_id=workflow, everything=everything, reason=reason),
    )
    if session.out.as_json:
        session.out.document(outcome)
        return
    session.out.line(
        f"{what} goes on; it was paused {paused(outcome.pause)}" if outcome.changed else f"{what} was not paused"
    )
    if not outcome.changed:
        session.out.hint("see what is paused with: mainspring pauses")
    _tell_unseen(session, outcome)


@app.command(epilog=examples("mainspring pauses", "mainspring pauses --json"))
def pauses(ctx: typer.Context, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List what is paused: the cluster, executors, then workflows, the longest first."""
    session = session_of(ctx, address, as_json=as_json)

    async def work(client: Client) -> list[PausedDispatch]:
        return [one async for one in client.pauses()]

    found = ask(session, work)
    if session.out.as_json:
        session.out.document(found)
        return
    if not found:
        session.out.line("nothing is paused")
        return
    rows = [[_label(one), moment(one.pause.since_us), one.pause.who, one.pause.reason] for one in found]
    session.out.table(["what", "since", "by", "why"], rows)


def _named(*, everything: bool, executor: str, workflow: str) -> str:
    if everything + bool(executor) + bool(workflow) != 1:
        raise BadRequestError("name one of --all, --executor NAME and --workflow ID", field="what")
    return "the whole cluster" if everything else f"executor {executor}" if executor else f"workflow {workflow}"


def _label(one: PausedDispatch) -> str:
    if one.workflow_id:
        return f"workflow {one.workflow_id}"
    return f"executor {one.executor}" if one.executor else "the whole cluster"


def _tell_unseen(session: Session, outcome: PauseOutcome) -> None:
    if outcome.unseen_by:
        session.out.hint(f"it takes a fraction of a second more at {', '.join(outcome.unseen_by)}")
