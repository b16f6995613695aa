"""The commands that look at the cluster itself: workers, coordinators, shards."""

import typer

from mainspring_client.cli.app import AddressOption, JsonOption, app, ask, examples, session_of
from mainspring_client.cli.output import span
from mainspring_client.nouns import CoordinatorInfo


@app.command(epilog=examples("mainspring workers --json"))
def workers(ctx: typer.Context, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List the workers: what they run, how loaded they are."""
    session = session_of(ctx, address, as_json=as_json)
    found = ask(session, lambda client: client.workers())
    if session.out.as_json:
        session.out.document(found)
        return
    rows = [
        [
            worker.name,
            worker.status,
            worker.host,
            f"{worker.assigned}/{worker.slots}",
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


@app.command(epilog=examples("mainspring coordinators"))
def coordinators(ctx: typer.Context, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List the coordinators and how much each owns."""
    session = session_of(ctx, address, as_json=as_json)
    found = ask(session, lambda client: client.coordinators())
    if session.out.as_json:
        session.out.document(found)
        return
    rows = [[one.name, _state(one), one.address, one.http_address, str(one.shards), str(one.workers)] for one in found]
    session.out.table(["coordinator", "state", "address", "probes", "shards", "workers"], rows)


def _state(one: CoordinatorInfo) -> str:
    if not one.live:
        return "gone"
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
