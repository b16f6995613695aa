"""Watch: a snapshot, then each change, until the workflow ends.

Changes that come while a message is being made are gathered and told together, so a slow client gets fewer messages, never a longer
queue; past a bound they become a new snapshot. A version is never followed by a lower one, wherever the shard goes.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import grpc.aio

from mainspring import limits
from mainspring.errors import NotOwnerError
from mainspring.v1 import client_pb2
from mainspring_coordinator import views
from mainspring_coordinator.answering import Context
from mainspring_coordinator.engine.effects import Changed, Ended
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.ports import Loop, WorkflowEffect
from mainspring_coordinator.views import Sight
from mainspring_coordinator.workflow_reads import WorkflowReads, shard_of_workflow

_nodes_a_ms: Final = 20
"""A message of many nodes is followed by a longer pause, so that watching a wide workflow does not slow it down."""


class Watching:
    """Follows workflows on behalf of clients."""

    def __init__(self, loop: Loop, workflow_reads: WorkflowReads, forwarder: Forwarder) -> None:
        self._loop = loop
        self._reads = workflow_reads
        self._forwarder = forwarder

    async def watch(
        self, request: client_pb2.WatchRequest, context: Context
    ) -> AsyncGenerator[client_pb2.WatchResponse, None]:
        """Answer Watch."""
        workflow_id = request.workflow_id
        shard = shard_of_workflow(workflow_id, self._loop.shards_total)
        whole = shown = request.after_version
        """The version that the client has seen in whole, and the highest that it has seen a part of."""

        def here() -> AsyncGenerator[client_pb2.WatchResponse, None]:
            return self._here(shard, workflow_id, whole)

        def there(peer: Peer, time_left_s: float | None) -> "grpc.aio.UnaryStreamCall[Any, client_pb2.WatchResponse]":
            asked = client_pb2.WatchRequest(workflow_id=workflow_id, after_version=whole)
            return peer.stub.Watch(asked, timeout=time_left_s, metadata=peer.metadata)

        async with aclosing(self._forwarder.stream(shard, context, here, there)) as responses:
            async for response in responses:
                version = response.workflow.version
                if version < shown:
                    continue
                shown = version
                if not response.more:
                    whole = version
                yield response

    async def _here(self, shard: int, workflow_id: str, after: int) -> AsyncGenerator[client_pb2.WatchResponse, None]:
        feed = _Feed(shard)
        unsubscribe = self._loop.subscribe(workflow_id, feed.notify)
        forget = self._loop.on_shard_lost(feed.lost)
        try:
            sight: Sight | None = None
            told = False
            while True:
                # Taken before the look, so that what changes after it is told next time.
                changed = feed.take()
                sight = await self._reads.look(shard, workflow_id, sight)
                ended = sight.view is None
                nodes = 0
                if sight.version > after or (told and changed != set()):
                    after = sight.version
                    # A workflow that did not succeed has skipped nodes, which no change names.
                    skipped = ended and sight.status is not WorkflowStatus.SUCCEEDED
                    source = (
                        self._change(sight, changed)
                        if told and changed is not None and not skipped
                        else self._snapshot(sight)
                    )
                    async with aclosing(source) as responses:
                        async for response in responses:
                            nodes += len(response.nodes)
                            yield response
                    told = True
                if ended:
                    return
                await feed.wait(max(limits.watch_interval_ms_min, nodes // _nodes_a_ms) / 1_000)
        finally:
            forget()
            unsubscribe()

    async def _snapshot(self, sight: Sight) -> AsyncGenerator[client_pb2.WatchResponse, None]:
        workflow = await self._reads.message(sight)
        key: tuple[int, int] | None = views.first_key
        while key is not None:
            nodes, key = await self._reads.nodes(sight, key)
            yield client_pb2.WatchResponse(workflow=workflow, nodes=nodes, snapshot=True, more=key is not None)

    async def _change(
        self, sight: Sight, changed: set[tuple[int, int]]
    ) -> AsyncGenerator[client_pb2.WatchResponse, None]:
        workflow = await self._reads.message(sight)
        nodes = await self._reads.changed_nodes(sight, list(changed)) if changed else []
        yield client_pb2.WatchResponse(workflow=workflow, nodes=nodes)


class _Feed:
    """What has changed since the last message."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._changed: set[tuple[int, int]] | None = set()
        """None: too much to name."""
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self._is_lost = False

    def notify(self, effect: WorkflowEffect) -> None:
        """A commit changed the workflow."""
        if isinstance(effect, Ended):
            self._urgent.set()
        elif isinstance(effect, Changed) and self._changed is not None:
            self._changed.update(effect.nodes)
            if len(self._changed) > limits.watch_nodes_a_change_max:
                self._changed = None
        self._news.set()

    def lost(self, shard: int) -> None:
        """A shard is ours no more."""
        if shard == self._shard:
            self._is_lost = True
            self._news.set()
            self._urgent.set()

    def take(self) -> set[tuple[int, int]] | None:
        """Return the nodes that changed, None when they are too many."""
        changed, self._changed = self._changed, set()
        return changed

    async def wait(self, pause_s: float) -> None:
        """Return when there is something to tell, at the earliest after the pause unless the workflow has ended."""
        await self._news.wait()
        if not self._urgent.is_set():
            pausing = asyncio.ensure_future(self._urgent.wait())
            try:
                await asyncio.wait({pausing}, timeout=pause_s)
            finally:
                pausing.cancel()
        self._news.clear()
        self._urgent.clear()
        if self._is_lost:
            raise NotOwnerError(f"shard {self._shard} moved to another coordinator while the workflow was watched")
