"""The progress of one workflow: what has been heard of it, and how that is shown while it goes on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, Protocol

from rich.console import Group
from rich.live import Live
from rich.text import Text

from mainspring.printable import printable
from mainspring_client.cli.output import Output, first_line, rich_table, since
from mainspring_client.nouns import NodeInfo, NodeStatus, WatchUpdate, WorkflowInfo

_frame_s: Final = 0.125
_rows_max: Final = 40
_lines_nodes_max: Final = 200
"""In more than so many nodes, a pipe gets counts and failures instead of a line a change."""
_order: Final = {
    NodeStatus.FAILED: 0,
    NodeStatus.BACKOFF: 1,
    NodeStatus.CANCELLING: 2,
    NodeStatus.RUNNING: 3,
    NodeStatus.READY: 4,
    NodeStatus.CANCELLED: 5,
    NodeStatus.WAITING: 6,
    NodeStatus.SKIPPED: 7,
    NodeStatus.SUCCEEDED: 8,
}


class Progress:
    """What is known of a workflow that is being watched."""

    def __init__(self) -> None:
        self.workflow: WorkflowInfo | None = None
        """The workflow, None before the first update."""
        self._nodes: dict[tuple[str, int], NodeInfo] = {}

    def apply(self, update: WatchUpdate) -> list[NodeInfo]:
        """Take an update; return the nodes whose state or attempt it changed."""
        self.workflow = update.workflow
        before = self._nodes
        if update.snapshot:
            self._nodes = {}
        changed: list[NodeInfo] = []
        for node in update.nodes:
            key = (node.node_id, node.instance)
            known = before.get(key)
            if known is None or (known.status, known.attempt) != (node.status, node.attempt):
                changed.append(node)
            self._nodes[key] = node
        return changed

    @property
    def nodes(self) -> Iterable[NodeInfo]:
        """All nodes, in the order in which they were heard of."""
        return self._nodes.values()

    def __len__(self) -> int:
        return len(self._nodes)

    def counts(self) -> str:
        """Return how many nodes stand in each state, in words."""
        told = self.workflow.node_counts if self.workflow is not None else {}
        counts = dict(told) or Counter(node.status for node in self._nodes.values())
        return ", ".join(f"{counts[status]:,} {status.lower()}" for status in NodeStatus if counts.get(status))

    def foremost(self, limit: int) -> list[NodeInfo]:
        """Return all nodes if they fit into `limit`, otherwise those that matter most at the moment."""
        if len(self._nodes) <= limit:
            return list(self._nodes.values())
        # Instances follow their `map` node, which says how many of them have ended.
        return sorted(self._nodes.values(), key=lambda node: (_order[node.status], node.instance))[:limit]


class Show(Protocol):
    """A way to show progress."""

    def heard(self, update: WatchUpdate) -> None:
        """Take an update and show what it brings."""
        ...


@asynccontextmanager
async def showing(out: Output) -> AsyncIterator[Show]:
    """Show progress as fits the reader: JSON lines, a live table, or plain lines."""
    if out.as_json:
        yield _Records(out)
    elif out.live:
        screen = _Screen(out)
        with Live(screen.render(), console=out.console, auto_refresh=False) as live:
            frames = asyncio.create_task(screen.draw(live))
            try:
                yield screen
            finally:
                frames.cancel()
                live.update(screen.render(), refresh=True)
    else:
        yield _Lines(out)


class _Records:
    def __init__(self, out: Output) -> None:
        self._out = out

    def heard(self, update: WatchUpdate) -> None:
        self._out.record(update)


class _Lines:
    """A line a change, for pipes and logs."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._progress = Progress()
        self._status = ""
        self._counts = ""

    def heard(self, update: WatchUpdate) -> None:
        changed = self._progress.apply(update)
        workflow = update.workflow
        if len(self._progress) > _lines_nodes_max:
            changed = [node for node in changed if node.status in (NodeStatus.FAILED, NodeStatus.BACKOFF)]
            counts = self._progress.counts()
            if counts != self._counts:
                self._counts = counts
                self._out.line(f"{workflow.workflow_id}  {counts}")
        for node in changed:
            if node.status is not NodeStatus.WAITING:
                self._out.line("  ".join(part for part in (node.label, node.status, *_story(node)) if part))
        if workflow.status != self._status:
            self._status = workflow.status
            ended = f" after {since(workflow.submitted_at_us, workflow.ended_at_us)}" if workflow.ended_at_us else ""
            self._out.line(f"{workflow.workflow_id}  {workflow.status}{ended}")


class _Screen:
    """A table that redraws itself."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._progress = Progress()

    def heard(self, update: WatchUpdate) -> None:
        self._progress.apply(update)

    async def draw(self, live: Live) -> None:
        """Redraw until cancelled; the time that passes is a reason too."""
        while True:
            live.update(self.render(), refresh=True)
            await asyncio.sleep(_frame_s)

    def render(self) -> Group:
        """Return the present picture."""
        workflow = self._progress.workflow
        if workflow is None:
            return Group(Text("waiting for the first news", style="dim"))
        title = Text.assemble(
            (printable(workflow.name), "bold"),
            f"  {printable(workflow.workflow_id)}  ",
            (workflow.status, "bold"),
            f"  {since(workflow.submitted_at_us, workflow.ended_at_us)}",
        )
        shown = self._progress.foremost(max(5, min(_rows_max, self._out.console.height - 6)))
        rows = [[node.label, node.status, *_columns(node)] for node in shown]
        table = rich_table(["node", "state", "attempt", "worker", "time", "last error or reason"], rows)
        left = len(self._progress) - len(shown)
        more = [Text(f"and {left:,} more", style="dim")] if left else []
        return Group(title, table, *more, Text(self._progress.counts(), style="dim"))


def _columns(node: NodeInfo) -> list[str]:
    return [attempts(node), node.worker, duration(node), trouble(node)]


def _story(node: NodeInfo) -> list[str]:
    attempt = f"attempt {node.attempt}" if node.attempt > 1 else "cached" if node.cached else ""
    width = f"{node.instances_ended}/{node.width} instances" if node.width else ""
    return [attempt, width, node.worker, duration(node) if node.status.terminal else "", trouble(node)]


def attempts(node: NodeInfo) -> str:
    """Return how far a node's instances or attempts are: how many have ended, the latest one, or that it was not tried at all."""
    if node.width:
        return f"{node.instances_ended}/{node.width}"
    return "cached" if node.cached else str(node.attempt or "")


def duration(node: NodeInfo) -> str:
    """Return how long a node's latest attempt took, or has taken so far."""
    if node.status in (NodeStatus.RUNNING, NodeStatus.CANCELLING) or node.ended_at_us:
        return since(node.started_at_us, node.ended_at_us)
    return ""


def trouble(node: NodeInfo) -> str:
    """Return why a node is not well: its last error, or what it waits for."""
    if node.failure is not None:
        return f"{node.failure.type}: {first_line(node.failure.message)}"
    return node.waiting_reason
