"""The command explain, for whoever asks why a node does not run."""

from typing import Annotated, Final

import typer

from mainspring_client.cli.app import AddressOption, JsonOption, app, ask, examples, session_of
from mainspring_client.cli.output import Output
from mainspring_client.cli.pages import paused
from mainspring_client.cli.reading import read_node
from mainspring_client.cli.workflows import WorkflowArgument
from mainspring_client.nouns import Explanation, NodeExplanation

_names_shown_max: Final = 8


@app.command(
    epilog=examples(
        "mainspring explain cleanup-2024",
        "mainspring explain cleanup-2024 delete",
        "mainspring explain cleanup-2024 'delete[7]'",
    )
)
def explain(
    ctx: typer.Context,
    workflow_id: WorkflowArgument,
    node_id: Annotated[
        str | None,
        typer.Argument(metavar="[NODE]", help="One node, or NODE[INDEX] of a map: with a reason for each worker."),
    ] = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell why nodes do not run: what they wait for, and why each worker has not got the one that is asked about."""
    session = session_of(ctx, address, as_json=as_json)
    node, instance = read_node(node_id, -1) if node_id is not None else ("", -1)
    told = ask(session, lambda client: client.explain(workflow_id, node, instance))
    if session.out.as_json:
        session.out.document(told)
        return
    if node:
        _show_node(session.out, told)
        return
    session.out.fields([("workflow", workflow_id), ("state", told.status), ("paused", paused(told.pause))])
    if told.nodes:
        session.out.line("")
        session.out.table(["node", "state", "why"], [[_label(one), one.status, one.reason] for one in told.nodes])
    if told.nodes_left_out:
        session.out.hint(f"{told.nodes_left_out} more have not ended; see all with: mainspring get {workflow_id} --all")
    if told.nodes:
        session.out.hint(f"see what each worker says with: mainspring explain {workflow_id} {told.nodes[0].node_id}")


def _show_node(out: Output, told: Explanation) -> None:
    (node,) = told.nodes
    placed_by = told.strategy if told.workers else ""
    out.fields([("node", _label(node)), ("state", node.status), ("why", node.reason), ("placed by", placed_by)])
    if told.workers:
        out.line("")
        rows = [
            [str(one.count), one.verdict.lower(), one.reason, _names(one.workers, one.count)] for one in told.workers
        ]
        out.table(["workers", "verdict", "each of them", "names"], rows)


def _names(workers: tuple[str, ...], count: int) -> str:
    shown = ", ".join(workers[:_names_shown_max])
    more = count - min(len(workers), _names_shown_max)
    return f"{shown} and {more} more" if more else shown


def _label(node: NodeExplanation) -> str:
    return node.node_id if node.instance < 0 else f"{node.node_id}[{node.instance}]"
