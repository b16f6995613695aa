"""Reads that feed the engine: the unfinished workflows of a shard that was taken, and outputs that left memory.

Reads run in a small pool of threads, in pages, so that neither the event loop nor the memory is held by a large shard.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from itertools import groupby
from typing import Final, TypeVar

import structlog

from mainspring import limits
from mainspring.definition import parse_definition
from mainspring.errors import StoreError, StoreUnavailableError
from mainspring_coordinator.deaths import noted
from mainspring_coordinator.engine.effects import LoadOutputs, LoadWorkflow
from mainspring_coordinator.engine.events import (
    Death,
    DeathsFound,
    Event,
    LoadedNode,
    OutputsLoaded,
    PermitsLoaded,
    ShardReady,
    ShardTaken,
    WorkflowAbsent,
    WorkflowLoaded,
)
from mainspring_coordinator.engine.failovers import id_chunks, node_name
from mainspring_coordinator.engine.operator_events import PausesSeen, StrategySeen
from mainspring_coordinator.engine.plan import Plan, compile_plan
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.result_cache import DatabaseCache
from mainspring_coordinator.store.protocol import Reader, ShardRow, StoredNode, StoredWorkflow

_T = TypeVar("_T")
_log: Final = structlog.get_logger(__name__)
_before_all: Final = (-1, "")
"""Workflows are read in the order in which they were submitted, so that what waited before an outage goes on in that order."""


class _Affected:
    """What was unfinished in a shard, and which of its nodes were with workers."""

    def __init__(self) -> None:
        self._workflows: list[str] = []
        self._nodes: list[str] = []

    def add(self, event: WorkflowLoaded) -> None:
        """Take a workflow in."""
        self._workflows.append(event.workflow_id)
        self._nodes += [
            node_name(event.workflow_id, event.plan.nodes[row.node].id, row.instance)
            for row in event.nodes
            if row.status in (NodeStatus.RUNNING, NodeStatus.CANCELLING) and row.worker
        ]

    def of(self, fence: int, shard: int, deaths: Sequence[Death], *, taken: bool) -> DeathsFound:
        """Return it as the deaths of the shard's owners."""
        return DeathsFound(fence, shard, deaths, id_chunks(self._workflows), id_chunks(self._nodes), taken)


class ShardLoader:
    """Reads on behalf of the control loop."""

    def __init__(self, reader: Reader, threads: Executor) -> None:
        self._reader = reader
        self._threads = threads
        self._plans: dict[bytes, Plan] = {}

    def cache(self) -> DatabaseCache:
        """Return the result cache where it is a table."""
        return DatabaseCache(self._reader, self._threads)

    async def until_read(self, read: Callable[[], Awaitable[_T]], wanted: Callable[[], bool]) -> _T | None:
        """Read as often as it takes until the database answers; None once nobody wants it any more."""
        delay_s = 0.05
        while wanted():
            try:
                return await read()
            except StoreUnavailableError as error:
                _log.warning("read_waits", error=str(error))
            await asyncio.sleep(delay_s)
            delay_s = min(1.0, delay_s * 2)
        return None

    async def recover(
        self,
        row: ShardRow,
        post: Callable[[Event], None],
        taken_in: Callable[[], Awaitable[None]],
        stored: Callable[[], Awaitable[None]],
    ) -> int:
        """Post all that makes up a shard, from `ShardTaken` to `ShardReady`; return how many workflows it has.

        `taken_in` returns when what was posted is part of the state; so no more than a page of it is ever on its way. `stored`
        returns when the database has all that the state led to so far.

        Raises `StoreUnavailableError` when the database goes away; the same recovery can then begin again.
        """
        if row.strategy:
            post(StrategySeen(row.strategy))
        post(ShardTaken(row.shard, row.epoch, row.grace_until_us, row.holder or "", row.evicted))
        # A try before this one may have led to something, a deadline that was over say, which must be among what is read now.
        await taken_in()
        await stored()
        deaths = noted(row.deaths)
        affected = _Affected()
        after, count = _before_all, 0
        while True:
            before, page = await self._in_thread(lambda after=after: self._before_and_page(row.shard, after))  # type: ignore[misc]  # a default binds the loop's value
            for loaded in before:
                post(loaded)
            for event in page:
                post(event)
                if deaths:
                    affected.add(event)
            await taken_in()
            count += len(page)
            if len(page) < limits.recovery_page_workflows:
                break
            after = _place(page[-1])
        post(ShardReady(row.shard))
        await taken_in()
        if deaths:
            # After the shard goes on, so that the record is never in the way of the takeover.
            post(affected.of(row.shard, row.shard, deaths, taken=True))
        return count

    async def affected(self, fence: int, shard: int, death: Death) -> DeathsFound:
        """Read what waits in a shard whose owner died and which nobody may take; to be recorded under the fence of `fence`."""
        affected, after = _Affected(), _before_all
        while page := await self._in_thread(lambda after=after: self._page(shard, after)):  # type: ignore[misc]  # as above
            for event in page:
                affected.add(event)
            after = _place(page[-1])
        return affected.of(fence, shard, [death], taken=False)

    async def load(self, wanted: LoadOutputs | LoadWorkflow) -> OutputsLoaded | WorkflowLoaded | WorkflowAbsent:
        """Read what the engine wants to have in memory."""
        return await (self.outputs(wanted) if isinstance(wanted, LoadOutputs) else self.workflow(wanted))

    async def workflow(self, wanted: LoadWorkflow) -> WorkflowLoaded | WorkflowAbsent:
        """Read one unfinished workflow anew, or that it has ended or never was."""

        def read() -> WorkflowLoaded | WorkflowAbsent:
            stored = self._reader.workflow(wanted.workflow_id)
            if stored is None or stored.shard != wanted.shard or stored.ended_at_us:
                return WorkflowAbsent(wanted.shard, wanted.workflow_id)
            return self._loaded(stored, self._reader.nodes_of([wanted.workflow_id]))

        return await self._in_thread(read)

    async def outputs(self, wanted: LoadOutputs) -> OutputsLoaded:
        """Read the outputs of nodes; those of a `map` node are collected into a list."""
        widths = wanted.widths

        def read() -> OutputsLoaded:
            rows = self._reader.outputs(wanted.workflow_id, wanted.nodes)
            outputs: dict[int, bytes] = {node: b"[]" if node in widths else b"null" for node in wanted.nodes}
            for node, group in groupby(rows, key=lambda row: row.node):
                outputs[node] = collect_output(list(group), widths.get(node))
            return OutputsLoaded(wanted.shard, wanted.workflow_id, outputs)

        return await self._in_thread(read)

    def _before_and_page(
        self, shard: int, after: tuple[int, str]
    ) -> tuple[Sequence[PausesSeen | PermitsLoaded], Sequence[WorkflowLoaded]]:
        """Read a page of workflows; before the first one what is paused, and the permits of the keys whose home the shard is.

        What is paused is read after the shard was taken: whatever was paused by then is known before anything of it is given out.
        """
        if after != _before_all:
            return (), self._page(shard, after)
        return (PausesSeen(self._reader.pauses()), *self._permits(shard)), self._page(shard, after)

    def _permits(self, shard: int) -> Sequence[PermitsLoaded]:
        found: list[PermitsLoaded] = []
        after = ("", -1)
        while page := self._reader.permits(shard, after, limits.page_size_max):
            found.append(PermitsLoaded(shard, page))
            after = (page[-1].key, page[-1].holder)
        return found

    def _page(self, shard: int, after: tuple[int, str]) -> Sequence[WorkflowLoaded]:
        stored = self._reader.open_workflows(shard, after, limits.recovery_page_workflows)
        rows = self._reader.nodes_of([workflow.workflow_id for workflow in stored])
        by_workflow = {name: list(group) for name, group in groupby(rows, key=lambda row: row.workflow_id)}
        return [self._loaded(workflow, by_workflow.get(workflow.workflow_id, [])) for workflow in stored]

    def _loaded(self, stored: StoredWorkflow, rows: Sequence[StoredNode]) -> WorkflowLoaded:
        assert stored.input is not None
        return WorkflowLoaded(
            shard=stored.shard,
            workflow_id=stored.workflow_id,
            plan=self._plan(stored.shard, stored.plan_hash),
            input=stored.input,
            digest=stored.digest,
            status=stored.status,
            version=stored.version,
            submitted_at_us=stored.submitted_at_us,
            deadline_at_us=stored.deadline_at_us,
            closing_until_us=stored.closing_until_us,
            strategy=stored.strategy,
            cancel_reason=stored.cancel_reason,
            failure=stored.failure,
            pause=stored.pause,
            nodes=[
                LoadedNode(
                    row.node,
                    row.instance,
                    row.status,
                    row.attempt,
                    row.assignment,
                    row.worker,
                    row.incarnation,
                    row.started_at_us,
                    row.retry_at_us,
                    row.width,
                    row.redeliveries,
                    row.progress,
                )
                for row in rows
            ],
        )

    def _plan(self, shard: int, plan_hash: bytes) -> Plan:
        plan = self._plans.get(plan_hash)
        if plan is None:
            data = self._reader.plan(shard, plan_hash)
            if data is None:
                raise StoreError(
                    f"shard {shard}: definition {plan_hash.hex()} is missing, though workflows use it; restore it from a backup"
                )
            plan = compile_plan(parse_definition(data, format="json"), data)
            if len(self._plans) >= limits.plans_in_memory_max:
                self._plans.clear()
            self._plans[plan_hash] = plan
        return plan

    async def _in_thread(self, read: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)


def _place(workflow: WorkflowLoaded) -> tuple[int, str]:
    return workflow.submitted_at_us, workflow.workflow_id


def collect_output(rows: Sequence[StoredNode], width: int | None) -> bytes:
    """Return a node's output from its rows: its own, or, for a `map` of this width, the list of its instances'."""
    if width is None:
        own = next((row.output for row in rows if row.instance < 0), None)
        return own if own is not None else b"null"
    parts = [b"null"] * width
    for row in rows:
        if row.instance >= 0 and row.status is NodeStatus.SUCCEEDED and row.output is not None:
            parts[row.instance] = row.output
    return b"[" + b",".join(parts) + b"]"
