"""`GET /`: one plain page for whoever opens the port first. It waits for nothing, reads no database, and needs no script.

It shows what this coordinator knows at the moment; the command and the dashboard show more.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from mainspring.v1 import admin_pb2
from mainspring_coordinator.engine.pauses import ClusterPauses

_rows_max: Final = 200
"""Of workers; of more of them the page says how many there are."""
_worker_states: Final = {
    admin_pb2.WORKER_STATUS_ACTIVE: "active",
    admin_pb2.WORKER_STATUS_DRAINING: "draining",
    admin_pb2.WORKER_STATUS_ABSENT: "absent",
}
_style: Final = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}body{margin:2rem auto;max-width:64rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884}td.n,th.n{text-align:right}
.bad{color:#c22}.good{color:#282}small{opacity:.7}
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """A live coordinator."""

    name: str
    incarnation: str
    grpc_address: str
    http_address: str
    workers: int


@dataclass(frozen=True, slots=True)
class Status:
    """What a coordinator knows of its cluster."""

    name: str
    version: str
    cluster: str
    database: str
    unready: Sequence[str]
    """What keeps it from being ready."""
    open_workflows: int
    """Those that it owns."""
    strategy: str
    owners: Sequence[Owner]
    shards: Sequence[str]
    """By shard: the incarnation of its owner, empty if there is none."""
    serving: int
    workers: Sequence[admin_pb2.Worker]
    pauses: ClusterPauses = field(default_factory=ClusterPauses)
    paused_workflows: int = 0
    """Of those that it owns."""


def page(status: Status) -> str:
    """Return the page as HTML."""
    ready = "".join(f'<p class="bad">not ready: {escape(reason)}</p>' for reason in status.unready)
    name, cluster = escape(status.name), escape(status.cluster or "not joined yet")
    facts = (
        ("workflows that it owns and that have not ended", str(status.open_workflows)),
        ("shards that it serves", f"{status.serving} of {len(status.shards)}"),
        ("strategy", status.strategy),
        ("database", status.database),
        ("version", status.version),
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}: Mainspring</title><style>{_style}</style>'
        f"<h1>{name} <small>a coordinator of cluster {cluster}</small></h1>"
        f"{ready or '<p class=good>ready</p>'}"
        f"{_table((), facts)}"
        f"{_pauses(status)}"
        f"<h2>Coordinators and their shards</h2>{_owners(status)}"
        f"<h2>Workers attached here</h2>{_workers(status.workers)}"
        "<h2>More</h2><p>"
        '<a href="/health">/health</a> <a href="/ready">/ready</a> <a href="/metrics">/metrics</a></p>'
        "<p><small>On a command line: mainspring list, mainspring explain WORKFLOW, mainspring coordinators, mainspring shards, "
        "mainspring workers, mainspring failovers.</small></p></html>"
    )


def _pauses(status: Status) -> str:
    everything, executors = status.pauses.everything, sorted(status.pauses.executors.items())
    rows = [("the whole cluster", everything.who, everything.reason)] if everything is not None else []
    rows += [(f"executor {name}", pause.who, pause.reason) for name, pause in executors[:_rows_max]]
    left_out = len(executors) - _rows_max
    if left_out > 0:
        rows.append((f"{left_out} executors more", "", ""))
    if status.paused_workflows:
        rows.append((f"{status.paused_workflows} of the workflows that it owns", "", ""))
    told = f'<h2 class="bad">Paused</h2>{_table(("what", "by", "why"), rows)}' if rows else ""
    if len(status.owners) > 1:
        told += "<p><small>workflows of other coordinators that are paused: mainspring pauses</small></p>"
    elif rows:
        told += "<p><small>mainspring pauses</small></p>"
    return told


def _owners(status: Status) -> str:
    held = Counter(status.shards)
    rows = [
        (owner.name, owner.grpc_address, owner.http_address, str(held[owner.incarnation]), str(owner.workers))
        for owner in sorted(status.owners, key=lambda owner: owner.name)
    ]
    told = _table(("coordinator", "gRPC", "HTTP", "shards", "workers"), rows)
    free = held[""]
    return told + (f'<p class="bad">{free} shards have no owner</p>' if free else "")


def _workers(workers: Sequence[admin_pb2.Worker]) -> str:
    if not workers:
        return "<p>None. Start one: mainspring worker --import MODULE</p>"
    rows = [
        (
            worker.name,
            "drained" if worker.stays and not worker.busy else _worker_states.get(worker.status, "?"),
            worker.host,
            f"{worker.busy} of {worker.slots}",
            f"{worker.cpu_percent:.0f} %",
            ", ".join(worker.executors[:5]) + (f" and {len(worker.executors) - 5} more" * (len(worker.executors) > 5)),
        )
        for worker in workers[:_rows_max]
    ]
    left_out = len(workers) - len(rows)
    more = f"<p>and {left_out} more: mainspring workers</p>" if left_out else ""
    return _table(("worker", "state", "host", "nodes", "cpu", "executors"), rows) + more


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{f'<tr>{titles}</tr>' if head else ''}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
