"""The commands about workflows: submit, get, history, result, list, watch, cancel."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Final

import typer

from mainspring.limits import priority_max
from mainspring_client.cli.app import (
    AddressOption,
    JsonOption,
    Session,
    app,
    ask,
    examples,
    exit_unavailable,
    session_of,
)
from mainspring_client.cli.failed import error_of, failed_instances
from mainspring_client.cli.output import first_line, json_text, moment, since
from mainspring_client.cli.pages import failed_shown_max, filtered, node_row, show_node, show_workflow
from mainspring_client.cli.progress import showing
from mainspring_client.cli.reading import naming, read_definition, read_json, read_node
from mainspring_client.client import Client
from mainspring_client.nouns import (
    NodeInfo,
    NodeStatus,
    Result,
    WorkflowFilter,
    WorkflowInfo,
    WorkflowStatus,
)

WorkflowArgument = Annotated[str, typer.Argument(metavar="WF", help="The workflow's id.")]
_nodes_shown_max: Final = 200
_unknown_in_lists: Final = ("nodes_total", "node_counts")


@app.command(
    epilog=examples(
        "mainspring submit workflow.yaml --watch",
        "mainspring submit workflow.yaml --input '{\"year\": 2024}' --id cleanup-2024",
        "mainspring submit workflow.yaml --input @input.json",
        "mainspring submit workflow.yaml --priority 8 --fairness-key acme",
    )
)
def submit(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The definition: .yaml, .yml or .json, or - for standard input.")],
    input_: Annotated[
        str, typer.Option("--input", metavar="JSON|@FILE", help="The workflow's input, or the file that holds it.")
    ] = "null",
    workflow_id: Annotated[
        str | None, typer.Option("--id", help="The workflow's id; submitting the same twice is one workflow.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority", min=0, max=priority_max, help="In place of the definition's; the higher goes first."
        ),
    ] = None,
    fairness_key: Annotated[
        str | None,
        typer.Option("--fairness-key", help="In place of the definition's; workflows with the same share their turns."),
    ] = None,
    watch_: Annotated[bool, typer.Option("--watch", help="Follow it until it ends, and print its output.")] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a workflow."""
    session = session_of(ctx, address, as_json=as_json)
    with naming(file):
        definition = read_definition(file)
    if priority is not None:
        definition = replace(definition, priority=priority)
    if fairness_key is not None:
        definition = replace(definition, fairness_key=fairness_key)
    value = read_json(input_, "--input")

    async def work(client: Client) -> None:
        with naming(file):
            handle = await client.submit(definition, value, workflow_id=workflow_id)
        said = {"workflow_id": handle.workflow_id, "created": handle.created}
        if session.out.as_json:
            (session.out.record if watch_ else session.out.document)(said)
        else:
            session.out.line(f"{handle.workflow_id} {'started' if handle.created else 'was there already'}")
        if watch_:
            await _follow(session, client, handle.workflow_id, submitted=True)
        else:
            session.out.hint(f"follow it with: mainspring watch {handle.workflow_id}")

    ask(session, work)


@app.command(epilog=examples("mainspring watch cleanup-2024"))
def watch(
    ctx: typer.Context, workflow_id: WorkflowArgument, address: AddressOption = None, as_json: JsonOption = False
) -> None:
    """Follow a workflow until it ends, and print its output."""
    session = session_of(ctx, address, as_json=as_json)
    ask(session, lambda client: _follow(session, client, workflow_id))


@app.command(
    epilog=examples(
        "mainspring get cleanup-2024",
        "mainspring get cleanup-2024 'delete[7]'",
        "mainspring get cleanup-2024 --state FAILED",
    )
)
def get(
    ctx: typer.Context,
    workflow_id: WorkflowArgument,
    node_id: Annotated[
        str | None,
        typer.Argument(metavar="[NODE]", help="One node, or NODE[INDEX] of a map: input, output, stack, attempts."),
    ] = None,
    instance: Annotated[
        int, typer.Option("--instance", min=-1, help="One instance of a map node.", show_default=False)
    ] = -1,
    state: Annotated[
        list[NodeStatus] | None, typer.Option("--state", case_sensitive=False, help="Only nodes in this state.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help=f"All nodes, not only the first {_nodes_shown_max}.")] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a workflow and its nodes, or one node.

    Of one node it shows all that is known: input, output, error, stack, progress, attempts.
    """
    session = session_of(ctx, address, as_json=as_json)
    if node_id is not None:
        node, index = read_node(node_id, instance)
        ask(session, lambda client: _get_node(session, client, workflow_id, node, index))
        return
    limit = None if every or as_json or session.out.as_json else _nodes_shown_max

    async def work(client: Client) -> tuple[WorkflowInfo, list[NodeInfo]]:
        workflow = await client.get(workflow_id)
        nodes: list[NodeInfo] = []
        async for node in client.nodes(workflow_id, state or ()):
            if limit is not None and len(nodes) > limit:
                break
            nodes.append(node)
        return workflow, nodes

    workflow, nodes = ask(session, work)
    if session.out.as_json:
        session.out.document({"workflow": workflow, "nodes": nodes})
        return
    show_workflow(session.out, workflow)
    session.out.table(
        ["node", "state", "attempt", "worker", "started", "time", "last error or reason"],
        [node_row(node) for node in nodes[:limit]],
    )
    if limit is not None and len(nodes) > limit:
        session.out.hint(f"these are the first {limit}; see all with: mainspring get {workflow_id} --all")


@app.command(epilog=examples("mainspring history cleanup-2024"))
def history(
    ctx: typer.Context, workflow_id: WorkflowArgument, address: AddressOption = None, as_json: JsonOption = False
) -> None:
    """List what happened to a workflow, in the order of time."""
    session = session_of(ctx, address, as_json=as_json)

    async def work(client: Client) -> None:
        async for event in client.history(workflow_id):
            if session.out.as_json:
                session.out.record(event)
                continue
            label = event.node_id if event.instance < 0 else f"{event.node_id}[{event.instance}]"
            attempt = f"attempt {event.attempt}" if event.attempt else ""
            error = f"{event.failure.type}: {first_line(event.failure.message)}" if event.failure is not None else ""
            parts = (moment(event.at_us), f"{event.type:<18}", label, attempt, event.worker, error, event.note)
            session.out.line("  ".join(part for part in parts if part).rstrip())

    ask(session, work)


@app.command(
    epilog=examples(
        "mainspring result cleanup-2024",
        "mainspring result cleanup-2024 --timeout 60",
        "mainspring result cleanup-2024 --no-wait",
    )
)
def result(
    ctx: typer.Context,
    workflow_id: WorkflowArgument,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Wait at most so many seconds.", show_default="no limit")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end, or take what there is.")] = True,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for a workflow's end and print its output as JSON."""
    session = session_of(ctx, address, as_json=as_json)

    async def work(client: Client) -> None:
        found = await (client.wait(workflow_id, timeout) if wait else client.peek(workflow_id))
        if session.out.as_json:
            session.out.document(found)
        if not found.status.terminal:
            if not session.out.as_json:
                session.out.line(f"{workflow_id} is {found.status}")
            raise typer.Exit(exit_unavailable)
        await _end(session, client, found)

    ask(session, work)


@app.command(
    "list",
    epilog=examples(
        "mainspring list --state FAILED",
        "mainspring list --name cleanup --limit 10",
        "mainspring list --prefix nightly-",
    ),
)
def list_(
    ctx: typer.Context,
    state: Annotated[
        list[WorkflowStatus] | None,
        typer.Option("--state", case_sensitive=False, help="Only workflows in this state; may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option(help="Only those whose definition has this name.", show_default=False)] = "",
    prefix: Annotated[str, typer.Option(help="Only those whose id begins so.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """List workflows, newest first."""
    session = session_of(ctx, address, as_json=as_json)
    only = WorkflowFilter(statuses=tuple(state or ()), name=name, id_prefix=prefix)

    async def work(client: Client) -> list[WorkflowInfo]:
        return [workflow async for workflow in client.list(only, limit=limit)]

    found = ask(session, work)
    if session.out.as_json:
        session.out.document([_listed(one) for one in found])
        return
    rows = [
        [
            one.workflow_id,
            one.name,
            one.status,
            moment(one.submitted_at_us),
            since(one.submitted_at_us, one.ended_at_us),
            f"{one.failure.type}: {first_line(one.failure.message)}" if one.failure is not None else "",
        ]
        for one in found
    ]
    session.out.table(["workflow", "name", "state", "submitted", "time", "error"], rows)
    if not found:
        words = filtered(only)
        then = "see all with: mainspring list" if words else "submit one with: mainspring submit FILE"
        session.out.hint(f"there is no workflow{words}; {then}")


def _listed(workflow: WorkflowInfo) -> dict[str, object]:
    """Return a workflow as a list's document, without what only a look at the one workflow knows."""
    return {name: value for name, value in asdict(workflow).items() if name not in _unknown_in_lists}


async def _follow(session: Session, client: Client, workflow_id: str, *, submitted: bool = False) -> None:
    goes_on = submitted
    try:
        async with showing(session.out) as show:
            async for update in client.watch(workflow_id):
                goes_on = True
                show.heard(update)
        goes_on = False
    finally:
        if goes_on:
            session.out.hint(f"what you no longer see goes on; follow it with: mainspring watch {workflow_id}")
    found = await client.wait(workflow_id)
    if session.out.as_json:
        session.out.record(found)
    await _end(session, client, found)


async def _end(session: Session, client: Client, found: Result) -> None:
    """Print the output for a person, or raise what tells why there is none."""
    error = await error_of(client, found)
    if error is not None:
        raise error
    if not session.out.as_json:
        session.out.line(json_text(found.output))


async def _get_node(session: Session, client: Client, workflow_id: str, node_id: str, instance: int) -> None:
    detail = await client.node(workflow_id, node_id, instance)
    if session.out.as_json:
        session.out.document(detail)
        return
    failed: list[NodeInfo] = []
    if detail.node.width:
        failed = await failed_instances(client, workflow_id, node_id, failed_shown_max + 1)
    show_node(session.out, workflow_id, detail, failed)
