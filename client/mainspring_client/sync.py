"""The synchronous client: the asynchronous one, run by a background thread.

    with SyncClient() as client:
        print(client.submit(definition).result())

All synchronous clients of a process share one thread and one event loop, because gRPC's asynchronous side wants one loop a
process; it starts with the first client and ends with the last. Every method may be called from any thread.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Self, TypeVar

from mainspring.access import Access
from mainspring.errors import MainspringError, UnavailableError
from mainspring.failovers import Failover
from mainspring.limits import call_timeout_ms_default, first_contact_ms_default
from mainspring.v1 import admin_pb2
from mainspring.workflow import Json
from mainspring_client.client import Client
from mainspring_client.cluster_nouns import (
    AuditEntry,
    CancelledPage,
    CoordinatorInfo,
    DrainedWorker,
    EvictedWorker,
    PausedDispatch,
    PauseOutcome,
    ReleasedInstance,
    RerunInfo,
    ShardInfo,
    SteppedDown,
    StrategyChange,
    StrategyInfo,
    UndrainedWorker,
    WorkerInfo,
)
from mainspring_client.handle import Handle
from mainspring_client.nouns import (
    Explanation,
    HistoryEvent,
    NodeDetail,
    NodeInfo,
    NodeStatus,
    Result,
    Submission,
    WatchUpdate,
    WorkflowFilter,
    WorkflowInfo,
    WorkflowStatus,
)

_T = TypeVar("_T")


class _LoopThread:
    """An event loop in a thread of its own, for as long as someone holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def hold(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="mainspring-sync-client", daemon=True
                )
                self._thread.start()
            self._holders += 1
            return self._loop

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders or self._loop is None or self._thread is None:
                return
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(_settle(asyncio.all_tasks(self._loop)))
            self._loop.close()
            self._loop = self._thread = None


async def _settle(tasks: set[asyncio.Task[Any]]) -> None:
    """End what a closed client left behind, so that closing the loop finds nothing."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class _End:
    """What follows the last item."""


_END: Final = _End()
_shared: Final = _LoopThread()


class SyncHandle:
    """A workflow, by its id."""

    def __init__(self, client: "SyncClient", workflow_id: str, *, created: bool | None = None) -> None:
        self._client = client
        self.workflow_id = workflow_id
        """Its id."""
        self.created = created
        """Whether the submit made it (False: it was there already); None when it was not submitted here."""

    def __repr__(self) -> str:
        return f"SyncHandle({self.workflow_id!r})"

    def result(self, timeout: float | None = None) -> Json:
        """Wait for the end and return the output, as `Handle.result`."""
        return self.wait(timeout).value()

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the end, as `result`, and return how it ended without raising for it."""
        return self._client.wait(self.workflow_id, timeout)

    def watch(self, *, after_version: int = 0) -> Iterator[WatchUpdate]:
        """Follow it until it ends: a snapshot, then changes."""
        return self._client.watch(self.workflow_id, after_version=after_version)

    def cancel(self, reason: str = "") -> WorkflowStatus:
        """Ask it to stop, and return its state."""
        return self._client.cancel(self.workflow_id, reason)

    def get(self) -> WorkflowInfo:
        """Read it, current as of the call."""
        return self._client.get(self.workflow_id)

    def nodes(self, statuses: Sequence[NodeStatus] = ()) -> Iterator[NodeInfo]:
        """Read its nodes in the order of the definition."""
        return self._client.nodes(self.workflow_id, statuses)

    def node(self, node_id: str, instance: int = -1) -> NodeDetail:
        """Read one node with its payloads and attempts."""
        return self._client.node(self.workflow_id, node_id, instance)

    def explain(self, node_id: str = "", instance: int = -1) -> Explanation:
        """Tell why a node does not run, or, without one, why its nodes do not."""
        return self._client.explain(self.workflow_id, node_id, instance)

    def history(self) -> Iterator[HistoryEvent]:
        """Read what happened, in the order of time."""
        return self._client.history(self.workflow_id)


class SyncClient:
    """A connection to a cluster for code without an event loop. A context manager; may be used by several threads."""

    def __init__(
        self,
        address: str | None = None,
        *,
        access: Access | None = None,
        timeout: float = call_timeout_ms_default / 1000,
        connect_timeout: float = first_contact_ms_default / 1000,
    ) -> None:
        """Take what `Client` takes."""
        self._client = Client(address, access=access, timeout=timeout, connect_timeout=connect_timeout)
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = _shared.hold()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls of other threads end with `UnavailableError`. Closing twice is fine."""
        with self._lock:
            loop, self._loop = self._loop, None
            under_way = list(self._under_way)
        if loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
        for future in under_way:
            future.cancel()
        _shared.release()

    def handle(self, workflow_id: str) -> SyncHandle:
        """Return a handle on a workflow that was submitted elsewhere; asks nothing."""
        return SyncHandle(self, workflow_id)

    def submit(self, definition: object, input: object = None, *, workflow_id: str | None = None) -> SyncHandle:  # noqa: A002  (the contract's word)
        """Start a workflow, as `Client.submit`."""
        handle = self._run(self._client.submit(definition, input, workflow_id=workflow_id))
        return SyncHandle(self, handle.workflow_id, created=handle.created)

    def submit_many(self, submissions: Iterable[Submission]) -> Sequence[SyncHandle | MainspringError]:
        """Start many workflows, as `Client.submit_many`."""
        return [
            SyncHandle(self, outcome.workflow_id, created=outcome.created) if isinstance(outcome, Handle) else outcome
            for outcome in self._run(self._client.submit_many(submissions))
        ]

    def get(self, workflow_id: str) -> WorkflowInfo:
        """Read a workflow, current as of the call."""
        return self._run(self._client.get(workflow_id))

    def nodes(self, workflow_id: str, statuses: Sequence[NodeStatus] = ()) -> Iterator[NodeInfo]:
        """Read a workflow's nodes in the order of the definition."""
        return self._each(self._client.nodes(workflow_id, statuses))

    def node(self, workflow_id: str, node_id: str, instance: int = -1) -> NodeDetail:
        """Read one node with its payloads and attempts."""
        return self._run(self._client.node(workflow_id, node_id, instance))

    def explain(self, workflow_id: str, node_id: str = "", instance: int = -1) -> Explanation:
        """Tell why a node does not run, with a reason for each worker; without `node_id`, why the nodes of a workflow do not."""
        return self._run(self._client.explain(workflow_id, node_id, instance))

    def history(self, workflow_id: str) -> Iterator[HistoryEvent]:
        """Read what happened to a workflow, in the order of time."""
        return self._each(self._client.history(workflow_id))

    def wait(self, workflow_id: str, timeout: float | None = None) -> Result:
        """Wait for a workflow's end and return how it ended."""
        return self._run(self._client.wait(workflow_id, timeout))

    def peek(self, workflow_id: str) -> Result:
        """Return a workflow's result, or its state so far, without waiting."""
        return self._run(self._client.peek(workflow_id))

    def wait_many(self, workflows: "Iterable[str | SyncHandle]", *, without_output: bool = False) -> Iterator[Result]:
        """Wait for many workflows; each is given once, in the order in which they end."""
        ids = [one if isinstance(one, str) else one.workflow_id for one in workflows]
        return self._each(self._client.wait_many(ids, without_output=without_output))

    def watch(self, workflow_id: str, *, after_version: int = 0) -> Iterator[WatchUpdate]:
        """Follow a workflow until it ends."""
        return self._each(self._client.watch(workflow_id, after_version=after_version))

    def list(self, only: WorkflowFilter | None = None, *, limit: int | None = None) -> Iterator[WorkflowInfo]:
        """List workflows, newest first."""
        return self._each(self._client.list(only, limit=limit))

    def cancel(self, workflow_id: str, reason: str = "") -> WorkflowStatus:
        """Ask a workflow to stop, and return its state."""
        return self._run(self._client.cancel(workflow_id, reason))

    def cluster(self) -> admin_pb2.GetClusterResponse:
        """Read what the cluster is."""
        return self._run(self._client.cluster())

    def workers(self) -> Sequence[WorkerInfo]:
        """List the workers attached to the coordinator that answers."""
        return self._run(self._client.workers())

    def coordinators(self) -> Sequence[CoordinatorInfo]:
        """List the coordinators that the database knows."""
        return self._run(self._client.coordinators())

    def shards(self) -> Sequence[ShardInfo]:
        """List the shards with their owners and epochs."""
        return self._run(self._client.shards())

    def strategy(self) -> StrategyInfo:
        """Read by which strategy the cluster, and each of its coordinators, places."""
        return self._run(self._client.strategy())

    def set_strategy(self, strategy: str, reason: str = "") -> bool:
        """Set the strategy of the whole cluster; return whether it was another one before."""
        return self._run(self._client.set_strategy(strategy, reason))

    def cancel_many(
        self, only: WorkflowFilter | None = None, reason: str = "", *, everything: bool = False, dry_run: bool = False
    ) -> Iterator[CancelledPage]:
        """Ask all unfinished workflows that fit a filter to stop; gives page by page what became of them."""
        return self._each(self._client.cancel_many(only, reason, everything=everything, dry_run=dry_run))

    def step_down(self, coordinator: str = "", *, seconds: int = 600, reason: str = "") -> SteppedDown:
        """Have a coordinator give its shards to the others for a while."""
        return self._run(self._client.step_down(coordinator, seconds=seconds, reason=reason))

    def drain_worker(self, name: str, *, incarnation: str = "", reason: str = "") -> DrainedWorker:
        """Have a worker take no more work of any coordinator; it finishes what it runs, and stays."""
        return self._run(self._client.drain_worker(name, incarnation=incarnation, reason=reason))

    def undrain_worker(self, name: str, *, incarnation: str = "", reason: str = "") -> UndrainedWorker:
        """Have a worker take work again."""
        return self._run(self._client.undrain_worker(name, incarnation=incarnation, reason=reason))

    def evict_worker(self, name: str, reason: str, *, incarnation: str = "") -> EvictedWorker:
        """Treat an incarnation of a worker as gone: its work goes elsewhere at once, and it may not come back."""
        return self._run(self._client.evict_worker(name, reason, incarnation=incarnation))

    def release_instance(self, incarnation: str, name: str, reason: str, *, force: bool = False) -> ReleasedInstance:
        """Free the shards of a dead coordinator's incarnation, so that the live ones take them."""
        return self._run(self._client.release_instance(incarnation, name, reason, force=force))

    def retry_node(self, workflow_id: str, node_id: str, instance: int = -1, *, reason: str = "") -> bool:
        """Have a node tried now; return whether anything was done."""
        return self._run(self._client.retry_node(workflow_id, node_id, instance, reason=reason))

    def skip_node(self, workflow_id: str, node_id: str, instance: int = -1, *, reason: str = "") -> bool:
        """Have a node not run; return whether anything was done."""
        return self._run(self._client.skip_node(workflow_id, node_id, instance, reason=reason))

    def complete_node(
        self, workflow_id: str, node_id: str, output: Json = None, instance: int = -1, *, reason: str = ""
    ) -> bool:
        """Have a node end well with this output; return whether anything was done."""
        return self._run(self._client.complete_node(workflow_id, node_id, output, instance, reason=reason))

    def rerun(
        self, workflow_id: str, *, from_failed: bool = False, from_nodes: Sequence[str] = (), reason: str = ""
    ) -> RerunInfo:
        """Run an ended workflow again, as `Client.rerun`."""
        work = self._client.rerun(workflow_id, from_failed=from_failed, from_nodes=from_nodes, reason=reason)
        return self._run(work)

    def audit(self, *, limit: int | None = None) -> Iterator[AuditEntry]:
        """List what operators did, newest first."""
        return self._each(self._client.audit(limit=limit))

    def pause(
        self, *, executor: str = "", workflow_id: str = "", everything: bool = False, reason: str = ""
    ) -> PauseOutcome:
        """Let nothing of an executor, of a workflow or of the whole cluster be given to workers until `resume`."""
        return self._run(
            self._client.pause(executor=executor, workflow_id=workflow_id, everything=everything, reason=reason)
        )

    def resume(
        self, *, executor: str = "", workflow_id: str = "", everything: bool = False, reason: str = ""
    ) -> PauseOutcome:
        """Let it go on, in its order."""
        return self._run(
            self._client.resume(executor=executor, workflow_id=workflow_id, everything=everything, reason=reason)
        )

    def pauses(self) -> Iterator[PausedDispatch]:
        """List what is paused."""
        return self._each(self._client.pauses())

    def strategy_changes(self, *, limit: int | None = None) -> Iterator[StrategyChange]:
        """List the changes of that strategy, newest first."""
        return self._each(self._client.strategy_changes(limit=limit))

    def failovers(self, *, limit: int | None = None) -> Iterator[Failover]:
        """List the record of failovers, newest first."""
        return self._each(self._client.failovers(limit=limit))

    def failover(self, event_id: str) -> Failover:
        """Read one failover with all that it affected."""
        return self._run(self._client.failover(event_id))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        with self._lock:
            if self._loop is None:
                work.close()
                raise UnavailableError("the client is closed; open a new one")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._under_way.add(future)
        try:
            return future.result()
        except CancelledError:
            raise UnavailableError("the client was closed while the call was under way") from None
        finally:
            # On Ctrl-C the waiting thread leaves first: the call must not go on without it.
            future.cancel()
            with self._lock:
                self._under_way.discard(future)

    def _each(self, items: AsyncGenerator[_T]) -> Iterator[_T]:
        async def following() -> _T | _End:
            return await anext(items, _END)

        try:
            while not isinstance(found := self._run(following()), _End):
                yield found
        finally:
            if self._loop is not None:
                self._run(items.aclose())
