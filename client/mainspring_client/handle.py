"""A workflow as the client that submitted it, or looked it up, holds it."""

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from mainspring.workflow import Json
from mainspring_client.nouns import (
    Explanation,
    HistoryEvent,
    NodeDetail,
    NodeInfo,
    NodeStatus,
    Result,
    WatchUpdate,
    WorkflowInfo,
    WorkflowStatus,
)

if TYPE_CHECKING:
    from mainspring_client.client import Client


class Handle:
    """A workflow, by its id."""

    def __init__(self, client: "Client", workflow_id: str, *, created: bool | None = None) -> None:
        self._client = client
        self.workflow_id = workflow_id
        """Its id."""
        self.created = created
        """Whether the submit made it (False: it was there already); None when it was not submitted here."""

    def __repr__(self) -> str:
        return f"Handle({self.workflow_id!r})"

    async def result(self, timeout: float | None = None) -> Json:  # noqa: ASYNC109  (a caller's deadline, sent along)
        """Wait for the end and return the output; `WorkflowFailedError` or `WorkflowCancelledError` if there is none.

        After `timeout` seconds it is a `DeadlineError`. Without one it waits as long as the cluster answers: an
        outage longer than the client's own timeout is an `UnavailableError`.
        """
        return (await self._client.wait(self.workflow_id, timeout)).value()

    async def wait(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109  (a caller's deadline, sent along)
        """Wait for the end, as `result`, and return how it ended without raising for it."""
        return await self._client.wait(self.workflow_id, timeout)

    def watch(self, *, after_version: int = 0) -> AsyncGenerator[WatchUpdate]:
        """Follow it until it ends: a snapshot, then changes."""
        return self._client.watch(self.workflow_id, after_version=after_version)

    async def cancel(self, reason: str = "") -> WorkflowStatus:
        """Ask it to stop, and return its state: CANCELLING, CANCELLED, or how it had ended before."""
        return await self._client.cancel(self.workflow_id, reason)

    async def get(self) -> WorkflowInfo:
        """Read it, current as of the call."""
        return await self._client.get(self.workflow_id)

    def nodes(self, statuses: Sequence[NodeStatus] = ()) -> AsyncGenerator[NodeInfo]:
        """Read its nodes in the order of the definition, only those in `statuses` if any are given."""
        return self._client.nodes(self.workflow_id, statuses)

    async def node(self, node_id: str, instance: int = -1) -> NodeDetail:
        """Read one node, or one instance of a `map` node, with its payloads and attempts."""
        return await self._client.node(self.workflow_id, node_id, instance)

    async def explain(self, node_id: str = "", instance: int = -1) -> Explanation:
        """Tell why a node does not run, or, without one, why its nodes do not."""
        return await self._client.explain(self.workflow_id, node_id, instance)

    def history(self) -> AsyncGenerator[HistoryEvent]:
        """Read what happened, in the order of time."""
        return self._client.history(self.workflow_id)
