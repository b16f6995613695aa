"""The commands that look at the cluster itself: workers, coordinators, shards, failovers."""

from typing import Annotated

import typer

from mainspring.durations import span
from mainspring.failovers import Failover
from mainspring_client.cli.app import AddressOption, JsonOption, app, ask, examples, session_of
from mainspring_client.cli.output import Output, moment
from mainspring_client.client import Client
from mainspring_client.cluster_nouns import CoordinatorInfo

workers = typer.Typer(rich_markup_mode=None)
app.add_typer(workers, name="workers")
coordinators = typer.Typer(rich_markup_mode=None)
app.add_typer(coordinators, name="coordinators")


@workers.callback(
    invoke_without_command=True,
    epilog=examples("mainspring workers --json", "mainspring workers drain worker-3 --reason 'a new kernel'"),
)
def list_workers(ctx: typer.Context, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List the workers: what they run, how loaded they are; or act on one."""
    session = session_of(ctx, address, as_json=as_json)
    if ctx.invoked_subcommand is not None:
        return
    found = ask(session, lambda client: client.workers())
    if session.out.as_json:
        session.out.document(found)
        return
    rows = [
        [
            worker.name,
            "DRAINED" if worker.drained else worker.status,
            worker.host,
            f"{worker.busy}/{worker.slots}",
            f"{worker.cpu_percent:.0f} %",
            f"{worker.memory_percent:.0f} %",
            span(worker.round_trip_us),
            ",".join(f"{key}={value}" for key, value in sorted(worker.labels.items())),
            ",".join(worker.executors),
        ]
        for worker in found
    ]
    session.out.table(["worker", "state", "host", "busy", "cpu", "memory", "trip", "labels", "executors"], rows)
    if not found:
        session.out.hint("no worker is attached; start one with: mainspring worker --import MODULE")


@coordinators.callback(
    invoke_without_command=True,
    epilog=examples(
        "mainspring coordinators",
        "mainspring coordinators release 5c1f0a9e8d7b6c5a4f3e2d1c0b9a8f7e --name engine-2 --reason 'its host burned'",
    ),
)
def list_coordinators(ctx: typer.Context, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List the coordinators and how much each owns; or free the shards of a dead one."""
    session = session_of(ctx, address, as_json=as_json)
    if ctx.invoked_subcommand is not None:
        return
    found = ask(session, lambda client: client.coordinators())
    if session.out.as_json:
        session.out.document(found)
        return
    rows = [[one.name, _state(one), one.address, one.http_address, str(one.shards), str(one.workers)] for one in found]
    session.out.table(["coordinator", "state", "address", "probes", "shards", "workers"], rows)


def _state(one: CoordinatorInfo) -> str:
    if not one.live:
        return "gone"
    if one.stepped_down_until_us:
        return f"stepped down until {moment(one.stepped_down_until_us)}"
    return "live" if one.shards else "stands by"


@app.command(epilog=examples("mainspring shards"))
def shards(ctx: typer.Context, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List the shards with their owners and epochs."""
    session = session_of(ctx, address, as_json=as_json)
    found = ask(session, lambda client: client.shards())
    if session.out.as_json:
        session.out.document(found)
        return
    rows = [
        [str(one.shard), one.holder_name or one.holder or "nobody", str(one.epoch), str(one.batch_seq)] for one in found
    ]
    session.out.table(["shard", "owner", "epoch", "commits"], rows)


@app.command(
    epilog=examples(
        "mainspring failovers",
        "mainspring failovers --limit 200 --json",
        "mainspring failovers 5c1f0a9e8d7b6c5a4f3e2d1c0b9a8f7e",
    )
)
def failovers(
    ctx: typer.Context,
    event_id: Annotated[
        str | None, typer.Argument(metavar="[EVENT]", help="One event, with all workflows and nodes that it affected.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who died and who took over, newest first, or show one event.

    With --json each event has the names of the alert that FAILOVER_WEBHOOK_URL gets; in a list it holds at most
    1,000 workflows and nodes.
    """
    session = session_of(ctx, address, as_json=as_json)
    if event_id is not None:
        event = ask(session, lambda client: client.failover(event_id))
        if session.out.as_json:
            session.out.document(event.document())
        else:
            _show_failover(session.out, event)
        return

    async def work(client: Client) -> list[Failover]:
        return [event async for event in client.failovers(limit=limit)]

    found = ask(session, work)
    if session.out.as_json:
        session.out.document([event.document() for event in found])
        return
    rows = [
        [
            moment(event.detected_at_us),
            event.kind,
            event.failed_engine_id,
            event.takeover_engine_id or "nobody",
            str(event.affected_workflows_count),
            str(event.affected_nodes_count),
            span(event.recovered_at_us - event.detected_at_us),
            event.event_id,
        ]
        for event in found
    ]
    session.out.table(["detected", "kind", "failed", "taken over by", "workflows", "nodes", "took", "event"], rows)
    if found:
        session.out.hint("see all that an event affected with: mainspring failovers EVENT")


def _show_failover(out: Output, event: Failover) -> None:
    out.fields(
        [
            ("event", event.event_id),
            ("kind", event.kind),
            ("failed", f"{event.failed_engine_id} ({event.failed_incarnation})"),
            ("taken over by", f"{event.takeover_engine_id} ({event.takeover_incarnation})"),
            ("detected", moment(event.detected_at_us)),
            ("recovered", moment(event.recovered_at_us)),
            ("took", span(event.recovered_at_us - event.detected_at_us)),
            ("alerted", moment(event.alerted_at_us)),
            ("workflows", f"{event.affected_workflows_count:,}"),
            ("", "\n".join(event.affected_workflows)),
            ("nodes", f"{event.affected_nodes_count:,}"),
            ("", "\n".join(event.affected_nodes)),
        ]
    )
