"""What a workflow's watch tells, as a table that grows while one looks at it."""

from collections import Counter

from rich.table import Table

from mainspring_client import NodeInfo, NodeStatus, WatchUpdate

styles = {
    NodeStatus.SUCCEEDED: "green",
    NodeStatus.RUNNING: "cyan",
    NodeStatus.BACKOFF: "yellow",
    NodeStatus.FAILED: "red",
}


class Progress:
    """All that the updates have told so far."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[str, int], NodeInfo] = {}

    def take(self, update: WatchUpdate) -> None:
        """Add one update."""
        if update.snapshot:
            self._nodes.clear()
        self._nodes.update({(node.node_id, node.instance): node for node in update.nodes})

    def table(self) -> Table:
        """Return one line a node; a `map` node says how its instances stand."""
        table = Table("node", "state", "instances", "attempts", "workers")
        for (node_id, instance), node in self._nodes.items():
            if instance >= 0:
                continue
            own = [n for (i, k), n in self._nodes.items() if i == node_id and k >= 0] or [node]
            counts = Counter(n.status for n in own) if node.width else Counter[NodeStatus]()
            table.add_row(
                node_id,
                f"[{styles.get(node.status, 'dim')}]{node.status.lower()}[/]",
                "  ".join(f"[{styles.get(status, 'dim')}]{n} {status.lower()}[/]" for status, n in counts.items()),
                str(sum(n.attempt for n in own)),
                ", ".join(sorted({n.worker for n in own if n.worker})),
            )
        return table
