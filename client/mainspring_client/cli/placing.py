"""The command that looks at and sets the strategy of the whole cluster."""

from typing import Annotated, Final

import typer

from mainspring_client.cli.app import AddressOption, JsonOption, Session, app, ask, examples, session_of
from mainspring_client.cli.output import moment
from mainspring_client.client import Client
from mainspring_client.cluster_nouns import StrategyChange, StrategyInfo

_own: Final = "own"
_changes_shown: Final = 5


@app.command(
    epilog=examples(
        "mainspring strategy",
        "mainspring strategy dynamic --reason 'let the signals decide'",
        "mainspring strategy locality --reason 'the network is slow tonight'",
        "mainspring strategy own",
        "mainspring strategy --history 100 --json",
    )
)
def strategy(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[STRATEGY]", help="Set this one for the whole cluster; own: each coordinator's own again."
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.")] = "",
    history: Annotated[
        int | None, typer.Option("--history", min=1, metavar="N", help="List the last N changes instead.")
    ] = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show by which strategy the cluster places nodes, or set it.

    It holds where neither the node nor the definition names one. Each coordinator has its own, ASSIGNMENT_STRATEGY; what is set
    here holds for all of them instead: load-balanced, round-robin, capability, locality, affinity, or dynamic, which chooses
    among them by what it measures.
    """
    if name is not None and history is not None:
        raise typer.BadParameter("set a strategy or list the history, not both", param_hint="--history")
    if reason and name is None:
        raise typer.BadParameter("a reason goes with a strategy to set", param_hint="--reason")
    if name == "":
        raise typer.BadParameter("it is empty; own leaves it to each coordinator", param_hint="STRATEGY")
    session = session_of(ctx, address, as_json=as_json)
    if history is not None:
        _list(session, ask(session, lambda client: _changes(client, history)))
    elif name is not None:
        _set(session, name, reason)
    else:
        _show(session)


async def _changes(client: Client, limit: int) -> list[StrategyChange]:
    return [change async for change in client.strategy_changes(limit=limit)]


def _set(session: Session, name: str, reason: str) -> None:
    changed = ask(session, lambda client: client.set_strategy("" if name == _own else name, reason))
    if session.out.as_json:
        session.out.document({"strategy": name, "changed": changed})
        return
    what = "each coordinator places by its own strategy" if name == _own else f"the cluster places by {name}"
    session.out.line(what if changed else f"{what}; it did already")


def _show(session: Session) -> None:
    async def work(client: Client) -> tuple[StrategyInfo, list[StrategyChange]]:
        return await client.strategy(), await _changes(client, _changes_shown)

    found, changes = ask(session, work)
    if session.out.as_json:
        session.out.document(found)
        return
    session.out.fields(
        [
            ("cluster", found.wanted or "each coordinator's own"),
            ("dynamic chose", found.chosen),
            ("changed", moment(found.changed_at_us)),
        ]
    )
    rows = [[one.name, one.own, one.in_force] for one in found.coordinators]
    session.out.table(["coordinator", "its own", "in force"], rows)
    if changes:
        _table(session, changes)


def _list(session: Session, changes: list[StrategyChange]) -> None:
    if session.out.as_json:
        session.out.document(changes)
        return
    _table(session, changes)


def _table(session: Session, changes: list[StrategyChange]) -> None:
    rows = [
        [moment(change.changed_at_us), change.before or _own, change.after or _own, change.by, change.reason]
        for change in changes
    ]
    session.out.table(["changed", "from", "to", "by", "reason"], rows)
