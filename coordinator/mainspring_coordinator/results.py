"""Waiting for the ends of workflows: GetResult for one, WaitMany for many.

No end is missed: we first subscribe, then look. An end before the look is seen by the look, an end after it by the subscription, and
one that both see is told once. Ends that are committed together leave in one message.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from mainspring import limits
from mainspring.errors import BadRequestError, NotOwnerError
from mainspring.v1 import client_pb2
from mainspring_coordinator import views
from mainspring_coordinator.answering import Context
from mainspring_coordinator.engine.effects import AnswerCode, Ended
from mainspring_coordinator.engine.events import Read
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.ports import Loop, WorkflowEffect
from mainspring_coordinator.store.protocol import StoredWorkflow
from mainspring_coordinator.workflow_reads import WorkflowReads, check_answer, shard_of_workflow

_looks_together: Final = 500
"""How many workflows are looked at in one go."""


def _result_of(ended: Ended) -> client_pb2.WorkflowResult:
    return views.result_message(
        ended.workflow_id, ended.status, ended.output, ended.failure, ended.submitted_at_us, ended.ended_at_us
    )


def _brief_read(shard: int, workflow_id: str, token: int) -> Read:
    return Read(token, shard, workflow_id, brief=True)


def _lost(shard: int) -> NotOwnerError:
    return NotOwnerError(f"shard {shard} moved to another coordinator while the call waited; ask again")


class Results:
    """Waits for ends on behalf of clients."""

    def __init__(self, loop: Loop, workflow_reads: WorkflowReads, forwarder: Forwarder) -> None:
        self._loop = loop
        self._reads = workflow_reads
        self._forwarder = forwarder

    async def get(self, request: client_pb2.GetResultRequest, context: Context) -> client_pb2.GetResultResponse:
        """Answer GetResult."""
        if request.wait_ms > limits.result_wait_ms_max:
            raise BadRequestError(
                f"wait_ms: {request.wait_ms} is over the bound of {limits.result_wait_ms_max}; ask again when it has passed",
                field="wait_ms",
            )
        shard = shard_of_workflow(request.workflow_id, self._loop.shards_total)
        clock = asyncio.get_running_loop()
        until = clock.time() + request.wait_ms / 1_000

        async def here() -> client_pb2.GetResultResponse:
            result = await self._one(shard, request.workflow_id, until)
            return client_pb2.GetResultResponse(result=result)

        async def there(peer: Peer, time_left_s: float | None) -> client_pb2.GetResultResponse:
            left_ms = max(0, int((until - clock.time()) * 1_000))
            asked = client_pb2.GetResultRequest(workflow_id=request.workflow_id, wait_ms=left_ms)
            return await peer.stub.GetResult(asked, timeout=time_left_s, metadata=peer.metadata)

        return await self._forwarder.call(shard, context, here, there)

    async def many(
        self, request: client_pb2.WaitManyRequest, context: Context
    ) -> AsyncGenerator[client_pb2.WaitManyResponse, None]:
        """Answer WaitMany."""
        if not 1 <= len(request.workflow_ids) <= limits.wait_many_ids_max:
            raise BadRequestError(
                f"workflow_ids: {len(request.workflow_ids)} ids; send 1 to {limits.wait_many_ids_max} in a call",
                field="workflow_ids",
            )
        shards: dict[int, dict[str, None]] = {}
        for index, workflow_id in enumerate(request.workflow_ids):
            shard = shard_of_workflow(workflow_id, self._loop.shards_total, f"workflow_ids[{index}]")
            shards.setdefault(shard, {})[workflow_id] = None
        gathered = _Gathered(without_output=request.without_output)
        tasks = [asyncio.create_task(self._follow(shard, ids, context, gathered)) for shard, ids in shards.items()]
        try:
            for task in tasks:
                task.add_done_callback(gathered.ended)
            while any(not task.done() for task in tasks) or gathered:
                await gathered.wait()
                for task in tasks:
                    if task.done():
                        task.result()  # raises what ended it
                for message in gathered.take():
                    yield message
            for task in tasks:
                task.result()  # one may have failed while the last message was sent
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, shard: int, workflow_id: str, until: float) -> client_pb2.WorkflowResult:
        clock = asyncio.get_running_loop()
        if until <= clock.time():
            return await self._as_it_stands(shard, workflow_id)
        end: asyncio.Future[client_pb2.WorkflowResult] = clock.create_future()

        def notify(effect: WorkflowEffect) -> None:
            if isinstance(effect, Ended) and not end.done():
                end.set_result(_result_of(effect))

        with self._lost_shard(shard, end) as watching:
            watching.callback(self._loop.subscribe(workflow_id, notify))
            stored = await self._reads.ended(shard, workflow_id)
            if stored is not None:
                return views.stored_result(stored)
            # Not wait_for: what ends it may come in the same moment as the timeout, and must then win.
            await asyncio.wait({end}, timeout=max(0.0, until - clock.time()))
            if end.done():
                return end.result()
        return await self._as_it_stands(shard, workflow_id)

    async def _as_it_stands(self, shard: int, workflow_id: str) -> client_pb2.WorkflowResult:
        sight = await self._reads.glance(shard, workflow_id)
        stored = sight if isinstance(sight, StoredWorkflow) else await self._reads.row(shard, workflow_id)
        assert stored is not None, f"workflow {workflow_id} is in memory and has no row"
        if views.has_ended(stored.status):
            return views.stored_result(stored)
        return views.result_message(workflow_id, stored.status, None, None, stored.submitted_at_us, 0)

    def _lost_shard(self, shard: int, end: "asyncio.Future[client_pb2.WorkflowResult]") -> ExitStack:
        """Let `end` fail when the shard is lost; the stack undoes it, and whatever else is put on it."""

        def lost(gone: int) -> None:
            if gone == shard and not end.done():
                end.set_exception(_lost(shard))
                end.exception()  # taken, so that asyncio does not report one that nobody waits for any more

        stack = ExitStack()
        stack.callback(self._loop.on_shard_lost(lost))
        return stack

    async def _follow(self, shard: int, remaining: dict[str, None], context: Context, gathered: "_Gathered") -> None:
        """Report the ends of a shard's workflows, wherever the shard is and goes."""

        async def here() -> None:
            await self._follow_here(shard, remaining, gathered)

        async def there(peer: Peer, time_left_s: float | None) -> None:
            asked = client_pb2.WaitManyRequest(workflow_ids=list(remaining), without_output=gathered.without_output)
            async for response in peer.stub.WaitMany(asked, timeout=time_left_s, metadata=peer.metadata):
                for result in response.results:
                    if result.workflow_id in remaining:
                        del remaining[result.workflow_id]
                        gathered.add(result)
                for workflow_id in response.not_found:
                    if workflow_id in remaining:
                        del remaining[workflow_id]
                        gathered.add_missing(workflow_id)

        await self._forwarder.call(shard, context, here, there)

    async def _follow_here(self, shard: int, remaining: dict[str, None], gathered: "_Gathered") -> None:
        done: asyncio.Future[client_pb2.WorkflowResult | None] = asyncio.get_running_loop().create_future()

        def tell(workflow_id: str, make: Callable[[], client_pb2.WorkflowResult]) -> None:
            if workflow_id in remaining:
                del remaining[workflow_id]
                gathered.add(make())
                if not remaining and not done.done():
                    done.set_result(None)

        def notify(effect: WorkflowEffect) -> None:
            if isinstance(effect, Ended):
                tell(effect.workflow_id, lambda: _result_of(effect))

        def lost(gone: int) -> None:
            if gone == shard and not done.done():
                done.set_exception(_lost(shard))
                done.exception()  # taken, so that asyncio does not report one that nobody waits for any more

        with ExitStack() as watching:
            watching.callback(self._loop.on_shard_lost(lost))
            for workflow_id in remaining:
                watching.callback(self._loop.subscribe(workflow_id, notify, end_only=True))
            wanted = list(remaining)
            for start in range(0, len(wanted), _looks_together):
                batch = [
                    workflow_id for workflow_id in wanted[start : start + _looks_together] if workflow_id in remaining
                ]
                await self._look_at(shard, batch, tell, remaining, gathered)
            if remaining:
                await done

    async def _look_at(
        self,
        shard: int,
        workflow_ids: Sequence[str],
        tell: Callable[[str, Callable[[], client_pb2.WorkflowResult]], None],
        remaining: dict[str, None],
        gathered: "_Gathered",
    ) -> None:
        """Report those that have ended already, and those that do not exist."""
        answers = await asyncio.gather(
            *(self._loop.ask(shard, partial(_brief_read, shard, name)) for name in workflow_ids)
        )
        gone = [
            name
            for name, answer in zip(workflow_ids, answers, strict=True)
            if check_answer(answer).code is not AnswerCode.OK
        ]
        gone = [name for name in gone if name in remaining]
        if not gone:
            return
        rows = await self._reads.rows(shard, gone)
        for workflow_id in gone:
            stored = rows.get(workflow_id)
            if stored is None:
                if workflow_id in remaining:
                    del remaining[workflow_id]
                    gathered.add_missing(workflow_id)
            elif views.has_ended(stored.status):
                tell(workflow_id, lambda stored=stored: views.stored_result(stored))  # type: ignore[misc]  # a default binds the loop's variable
            # One that is open was submitted between the two looks: its end comes by the subscription.


class _Gathered:
    """Ends that wait to be sent."""

    def __init__(self, *, without_output: bool) -> None:
        self.without_output = without_output
        self._results: list[client_pb2.WorkflowResult] = []
        self._missing: list[str] = []
        self._news = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._results or self._missing)

    def add(self, result: client_pb2.WorkflowResult) -> None:
        """Add an end."""
        if self.without_output:
            result.ClearField("output")
        self._results.append(result)
        self._news.set()

    def add_missing(self, workflow_id: str) -> None:
        """Add an id that names no workflow."""
        self._missing.append(workflow_id)
        self._news.set()

    def ended(self, _task: "asyncio.Task[None]") -> None:
        """Wake who waits: a shard has nothing more to report, or failed."""
        self._news.set()

    async def wait(self) -> None:
        """Return when there is news."""
        await self._news.wait()
        self._news.clear()

    def take(self) -> list[client_pb2.WaitManyResponse]:
        """Return all that waits in as few messages as fit."""
        results, self._results = self._results, []
        missing, self._missing = self._missing, []
        messages: list[client_pb2.WaitManyResponse] = []
        size = limits.message_split_bytes
        for result in results:
            cost = (
                len(result.output.data) + 4 * limits.KIB
                if result.HasField("failure")
                else len(result.output.data) + 256
            )
            if size + cost > limits.message_split_bytes:
                messages.append(client_pb2.WaitManyResponse())
                size = 0
            messages[-1].results.append(result)
            size += cost
        if missing:
            if not messages:
                messages.append(client_pb2.WaitManyResponse())
            messages[-1].not_found.extend(missing)
        return messages
