"""The commands by which operators act on single nodes of a workflow that goes on, and run one that has ended again."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from mainspring.errors import BadRequestError
from mainspring_client.cli.acting import ReasonOption
from mainspring_client.cli.app import AddressOption, JsonOption, app, ask, examples, session_of
from mainspring_client.cli.output import counted
from mainspring_client.cli.reading import read_json, read_node
from mainspring_client.client import Client

node = typer.Typer(help="Act on a node of a workflow that goes on.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(node, name="node")
_Work = Callable[[Client, str, int], Coroutine[Any, Any, bool]]

WorkflowArgument = Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's id.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node, or NODE[INDEX] of a map.")]


@node.callback(
    epilog=examples(
        "mainspring node retry order-17 charge --reason 'the bank is back'",
        "mainspring node skip order-17 send-letter --reason 'the customer called'",
        "mainspring node complete order-17 charge --output '{\"receipt\": 4711}'",
    )
)
def nodes() -> None:
    """Act on a node of a workflow that goes on (docs/operating.md)."""


@node.command(
    epilog=examples(
        "mainspring node retry order-17 charge --reason 'the bank is back'",
        "mainspring node retry import-9 'fetch[7]' --reason 'it hangs'",
    )
)
def retry(
    ctx: typer.Context,
    workflow_id: WorkflowArgument,
    label: NodeArgument,
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a node that waits for its next attempt, or runs, be tried now.

    What runs is stopped where it runs, and whatever it still gives is dropped. The new attempt counts as any other.
    """

    async def work(client: Client, node_id: str, instance: int) -> bool:
        return await client.retry_node(workflow_id, node_id, instance, reason=reason)

    _act(
        ctx,
        workflow_id,
        label,
        work,
        address,
        ("is tried now", "waits for a worker already, or is at a later attempt"),
        as_json=as_json,
    )


@node.command(
    epilog=examples(
        "mainspring node skip order-17 send-letter --reason 'the customer called'",
        "mainspring node skip import-9 'fetch[7]'",
    )
)
def skip(
    ctx: typer.Context,
    workflow_id: WorkflowArgument,
    label: NodeArgument,
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do without a node that has not ended: what depends on it goes on, and gets null.

    If it runs, it is stopped. A map as a whole can be skipped before it is expanded, then its instances one by one.
    """

    async def work(client: Client, node_id: str, instance: int) -> bool:
        return await client.skip_node(workflow_id, node_id, instance, reason=reason)

    _act(ctx, workflow_id, label, work, address, ("is skipped", "was skipped already"), as_json=as_json)


@node.command(
    epilog=examples(
        "mainspring node complete order-17 charge --output '{\"receipt\": 4711}' --reason 'charged by hand'",
        "mainspring node complete import-9 'fetch[7]' --output @page7.json",
    )
)
def complete(
    ctx: typer.Context,
    workflow_id: WorkflowArgument,
    label: NodeArgument,
    output: Annotated[
        str, typer.Option("--output", metavar="JSON|@FILE", help="What it gives, or the file that holds it.")
    ] = "null",
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a node that has not ended count as done: what depends on it goes on, and gets this output.

    If it runs, it is stopped.
    """
    value = read_json(output, "--output")

    async def work(client: Client, node_id: str, instance: int) -> bool:
        return await client.complete_node(workflow_id, node_id, value, instance, reason=reason)

    _act(ctx, workflow_id, label, work, address, ("is completed", "was completed so already"), as_json=as_json)


def _act(
    ctx: typer.Context,
    workflow_id: str,
    label: str,
    work: _Work,
    address: str | None,
    said: tuple[str, str],
    *,
    as_json: bool,
) -> None:
    """Do it, and say so; `said`: what was done, and what was so already."""
    session = session_of(ctx, address, as_json=as_json)
    node_id, instance = read_node(label, -1)
    changed = ask(session, lambda client: work(client, node_id, instance))
    if session.out.as_json:
        session.out.document({"workflow_id": workflow_id, "node_id": node_id, "instance": instance, "changed": changed})
        return
    session.out.line(f"{label} {said[0] if changed else said[1]}")
    session.out.hint(f"look at it with: mainspring get {workflow_id}")


@app.command(
    epilog=examples(
        "mainspring rerun order-17 --from-failed --reason 'the bank is back'",
        "mainspring rerun report-2026-10 --from render --from send",
        "mainspring rerun report-2026-10",
    )
)
def rerun(
    ctx: typer.Context,
    workflow_id: WorkflowArgument,
    from_failed: Annotated[
        bool, typer.Option("--from-failed", help="Only what did not succeed, with all that depends on it.")
    ] = False,
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="NODE",
            help="Only this node, with all that depends on it, and what did not succeed; may be repeated.",
        ),
    ] = None,
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a workflow that has ended again, all of it or a part.

    It stays as it ended. A new workflow of the same definition and input takes over what is not run again, outputs included.
    """
    if from_failed and from_:
        raise BadRequestError("--from-failed and --from do not go together; choose one of them", field="from")
    session = session_of(ctx, address, as_json=as_json)
    made = ask(
        session,
        lambda client: client.rerun(workflow_id, from_failed=from_failed, from_nodes=from_ or (), reason=reason),
    )
    if session.out.as_json:
        session.out.document(made)
        return
    kept = f", {made.nodes_kept:,} taken over" if made.nodes_kept else ""
    again = f"{counted(made.nodes_anew, 'node')} {'is' if made.nodes_anew == 1 else 'are'} run again"
    session.out.line(f"{made.workflow_id} started: {again}{kept}")
    session.out.hint(f"follow it with: mainspring watch {made.workflow_id}")
