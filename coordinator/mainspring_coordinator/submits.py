"""New workflows: one, many, or one whose definition does not fit into a message.

A workflow's id decides its shard, so it is made here, before the first try, when the client has chosen none. The same id with the
same definition and input is the same workflow; that is told by a digest, SHA-256 over the plan's hash and the input's hash.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc.aio

from mainspring import limits
from mainspring.errors import (
    AlreadyExistsError,
    BadRequestError,
    BusyError,
    DeadlineError,
    MainspringError,
    NotOwnerError,
)
from mainspring.naming import new_workflow_id
from mainspring.rpc_errors import code_and_reason, error_from
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring.wire import check_payload, clip, json_encoding
from mainspring_coordinator.answering import Context
from mainspring_coordinator.engine.effects import AnswerCode
from mainspring_coordinator.engine.events import Submit
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.forward import Forwarder, Patience, Peer, is_forwarded, moved
from mainspring_coordinator.plans import PlanCache
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.views import workflow_status
from mainspring_coordinator.workflow_reads import check_answer, shard_of_workflow

_message_bytes_max: Final = 8 * limits.KIB
_reason_bytes_max: Final = 64
_chunk_bytes: Final = 1 * limits.MIB


@dataclass(slots=True)
class _Item:
    """One item of SubmitMany that has no outcome yet."""

    index: int
    workflow_id: str
    shard: int
    definition: int
    input: workflow_pb2.Payload


def digest_of(plan: Plan, workflow_input: bytes) -> bytes:
    """Return what tells the same submit from another one: 32 bytes."""
    return hashlib.sha256(plan.hash + hashlib.sha256(workflow_input).digest()).digest()


def checked_definition(payload: workflow_pb2.Payload, field: str, bytes_max: int) -> bytes:
    """Return the bytes of a definition that came from outside; whether they are one is found when they are compiled."""
    if payload.encoding not in ("", json_encoding):
        raise BadRequestError(
            f"{field}: encoding {payload.encoding[:32]!r} is not known; send UTF-8 JSON with encoding {json_encoding!r}",
            field=field,
            reason="UNKNOWN_ENCODING",
        )
    if not payload.data:
        raise BadRequestError(
            f"{field}: empty; send the definition as JSON (docs/definition.md)", field=field, reason="EMPTY"
        )
    if len(payload.data) > bytes_max:
        raise BadRequestError(
            f"{field}: {len(payload.data)} bytes are over the bound of {bytes_max} of one message; use SubmitStream",
            field=field,
            reason="DEFINITION_TOO_LARGE",
        )
    return payload.data


def _check_request_id(request_id: str) -> None:
    if len(request_id.encode()) > limits.request_id_bytes_max:
        raise BadRequestError(
            f"request_id: longer than {limits.request_id_bytes_max} bytes", field="request_id", reason="TOO_LONG"
        )


class Submits:
    """Starts workflows on behalf of clients."""

    def __init__(self, loop: Loop, plans: PlanCache, forwarder: Forwarder, strategy: Callable[[], str]) -> None:
        self._loop = loop
        self._plans = plans
        self._forwarder = forwarder
        self._strategy = strategy
        self._streams = 0

    async def one(self, request: client_pb2.SubmitRequest, context: Context) -> client_pb2.SubmitResponse:
        """Answer Submit."""
        _check_request_id(request.request_id)
        workflow_id = request.workflow_id or new_workflow_id()
        shard = shard_of_workflow(workflow_id, self._loop.shards_total)
        definition = checked_definition(request.definition, "definition", limits.definition_inline_bytes_max)
        workflow_input = check_payload(request.input, "input")
        # Compiled here even when the workflow goes elsewhere: a bad definition gets its answer at once.
        plan = await self._plans.compile(definition)

        async def here() -> client_pb2.SubmitResponse:
            return await self._submit(shard, workflow_id, plan, workflow_input)

        async def there(peer: Peer, time_left_s: float | None) -> client_pb2.SubmitResponse:
            asked = client_pb2.SubmitRequest()
            asked.CopyFrom(request)
            asked.workflow_id = workflow_id
            return await peer.stub.Submit(asked, timeout=time_left_s, metadata=peer.metadata)

        return await self._forwarder.call(shard, context, here, there)

    async def stream(
        self, requests: AsyncIterator[client_pb2.SubmitStreamRequest], context: Context
    ) -> client_pb2.SubmitStreamResponse:
        """Answer SubmitStream."""
        if self._streams >= limits.submit_streams_max:
            raise BusyError(f"{self._streams} large submits are under way; try again", retry_after_ms=1_000)
        self._streams += 1
        try:
            return await self._stream(requests, context)
        finally:
            self._streams -= 1

    async def _stream(
        self, requests: AsyncIterator[client_pb2.SubmitStreamRequest], context: Context
    ) -> client_pb2.SubmitStreamResponse:
        header, definition = await _received(requests)
        _check_request_id(header.request_id)
        workflow_id = header.workflow_id or new_workflow_id()
        shard = shard_of_workflow(workflow_id, self._loop.shards_total, "header.workflow_id")
        workflow_input = check_payload(header.input, "header.input")
        plan = await self._plans.compile(definition)

        async def here() -> client_pb2.SubmitStreamResponse:
            submitted = await self._submit(shard, workflow_id, plan, workflow_input)
            return client_pb2.SubmitStreamResponse(submitted=submitted)

        async def there(peer: Peer, time_left_s: float | None) -> client_pb2.SubmitStreamResponse:
            named = client_pb2.SubmitRequest()
            named.CopyFrom(header)
            named.workflow_id = workflow_id
            chunks = (definition[start : start + _chunk_bytes] for start in range(0, len(definition), _chunk_bytes))
            parts = [client_pb2.SubmitStreamRequest(header=named)]
            parts += [client_pb2.SubmitStreamRequest(chunk=chunk) for chunk in chunks]
            return await peer.stub.SubmitStream(iter(parts), timeout=time_left_s, metadata=peer.metadata)

        return await self._forwarder.call(shard, context, here, there)

    async def many(self, request: client_pb2.SubmitManyRequest, context: Context) -> client_pb2.SubmitManyResponse:
        """Answer SubmitMany."""
        self._forwarder.demand_addressee(context)
        _check_request_id(request.request_id)
        items_max = limits.submit_many_items_max
        if not 1 <= len(request.items) <= items_max:
            raise BadRequestError(f"items: {len(request.items)} items; send 1 to {items_max} in a call", field="items")
        if len(request.definitions) > items_max:
            raise BadRequestError(
                f"definitions: {len(request.definitions)} are over the bound of {items_max}", field="definitions"
            )
        if request.ByteSize() > limits.definition_inline_bytes_max:
            raise BadRequestError(
                f"the request has {request.ByteSize()} bytes, more than {limits.definition_inline_bytes_max}; send fewer items in a call",
                field="items",
                reason="REQUEST_TOO_LARGE",
            )
        plans = [await self._compiled(index, payload) for index, payload in enumerate(request.definitions)]
        outcomes: list[client_pb2.SubmitManyOutcome | None] = [None] * len(request.items)
        waiting: list[_Item] = []
        for index, item in enumerate(request.items):
            taken = self._item(index, item, plans)
            if isinstance(taken, MainspringError):
                outcomes[index] = _refused(item.workflow_id, taken)
            else:
                waiting.append(taken)
        patience = Patience(context)
        while waiting:
            waiting = await self._round(request, waiting, plans, outcomes, context)
            if waiting:
                try:
                    await patience.pause(waiting[0].shard)
                except MainspringError as error:
                    for left in waiting:
                        outcomes[left.index] = _refused(left.workflow_id, error)
                    break
        return client_pb2.SubmitManyResponse(outcomes=[outcome for outcome in outcomes if outcome is not None])

    async def _compiled(self, index: int, payload: workflow_pb2.Payload) -> Plan | MainspringError:
        try:
            data = checked_definition(payload, f"definitions[{index}]", limits.definition_inline_bytes_max)
            return await self._plans.compile(data)
        except MainspringError as error:
            return error

    def _item(
        self, index: int, item: client_pb2.SubmitManyItem, plans: Sequence[Plan | MainspringError]
    ) -> _Item | MainspringError:
        """Check an item of SubmitMany."""
        if item.definition_index >= len(plans):
            field = f"items[{index}].definition_index"
            return BadRequestError(
                f"{field}: {item.definition_index}, but there are {len(plans)} definitions", field=field
            )
        plan = plans[item.definition_index]
        if isinstance(plan, MainspringError):
            return plan
        workflow_id = item.workflow_id or new_workflow_id()
        try:
            shard = shard_of_workflow(workflow_id, self._loop.shards_total, f"items[{index}].workflow_id")
            check_payload(item.input, f"items[{index}].input")
        except BadRequestError as error:
            return error
        return _Item(index, workflow_id, shard, item.definition_index, item.input)

    async def _round(
        self,
        request: client_pb2.SubmitManyRequest,
        waiting: list[_Item],
        plans: Sequence[Plan | MainspringError],
        outcomes: list[client_pb2.SubmitManyOutcome | None],
        context: Context,
    ) -> list[_Item]:
        """Try all items that have no outcome, each where its shard is owned; return those whose shard has no owner at the moment."""
        forwarded = is_forwarded(context)
        ours: list[_Item] = []
        theirs: dict[str, tuple[Peer, list[_Item]]] = {}
        again: list[_Item] = []
        for item in waiting:
            owner = self._forwarder.find(item.shard)
            if owner is True or forwarded:
                ours.append(item)
            elif owner is False:
                again.append(item)
            else:
                theirs.setdefault(owner.address, (owner, []))[1].append(item)
        # All at once, so that they share commits.
        here = [self._try_here(item, plans, forwarded=forwarded) for item in ours]
        there = [self._try_there(request, peer, items, context) for peer, items in theirs.values()]
        for item, outcome in zip(ours, await asyncio.gather(*here), strict=True) if here else ():
            outcomes[item.index] = outcome
            if outcome is None:
                again.append(item)
        for (_, items), answered in zip(theirs.values(), await asyncio.gather(*there), strict=True) if there else ():
            for item, outcome in zip(items, answered, strict=True):
                outcomes[item.index] = outcome
                if outcome is None:
                    again.append(item)
        return again

    async def _try_here(
        self, item: _Item, plans: Sequence[Plan | MainspringError], *, forwarded: bool
    ) -> client_pb2.SubmitManyOutcome | None:
        """Submit an item to our loop; None when the shard turns out not to be ours."""
        plan = plans[item.definition]
        assert isinstance(plan, Plan), "an item of a bad definition has its outcome already"
        try:
            if forwarded:
                self._forwarder.demand_ours(item.shard)
            submitted = await self._submit(item.shard, item.workflow_id, plan, item.input.data or b"null")
        except NotOwnerError as error:
            return _refused(item.workflow_id, error) if forwarded else None
        except MainspringError as error:
            return _refused(item.workflow_id, error)
        return client_pb2.SubmitManyOutcome(workflow_id=item.workflow_id, created=submitted.created)

    async def _try_there(
        self, request: client_pb2.SubmitManyRequest, peer: Peer, items: Sequence[_Item], context: Context
    ) -> list[client_pb2.SubmitManyOutcome | None]:
        """Send items on to their owner; None for those that it does not own."""
        used = sorted({item.definition for item in items})
        place = {definition: index for index, definition in enumerate(used)}
        asked = client_pb2.SubmitManyRequest(
            definitions=[request.definitions[definition] for definition in used],
            items=[
                client_pb2.SubmitManyItem(
                    workflow_id=item.workflow_id, definition_index=place[item.definition], input=item.input
                )
                for item in items
            ],
            request_id=request.request_id,
        )
        try:
            answer = await peer.stub.SubmitMany(asked, timeout=context.time_remaining(), metadata=peer.metadata)
        except grpc.aio.AioRpcError as error:
            if moved(error):
                return [None] * len(items)
            refused = error_from(error)
            return [_refused(item.workflow_id, refused) for item in items]
        return [None if outcome.reason == "NOT_OWNER" else outcome for outcome in answer.outcomes]

    async def _submit(
        self, shard: int, workflow_id: str, plan: Plan, workflow_input: bytes
    ) -> client_pb2.SubmitResponse:
        digest, strategy = digest_of(plan, workflow_input), plan.strategy or self._strategy()
        answer = check_answer(
            await self._loop.ask(
                shard, lambda token: Submit(token, shard, workflow_id, plan, workflow_input, digest, strategy)
            )
        )
        if answer.code is AnswerCode.ALREADY_EXISTS:
            raise AlreadyExistsError(
                f"workflow {workflow_id!r} exists with another definition or input; choose another id, "
                f"or look at it with: mainspring get {workflow_id}"
            )
        assert answer.status is not None, answer
        return client_pb2.SubmitResponse(
            workflow_id=workflow_id, created=answer.created, status=workflow_status(answer.status)
        )


async def _received(requests: AsyncIterator[client_pb2.SubmitStreamRequest]) -> tuple[client_pb2.SubmitRequest, bytes]:
    """Read a whole SubmitStream: its header, and the definition put together."""
    header: client_pb2.SubmitRequest | None = None
    chunks: list[bytes] = []
    size = 0
    while (request := await _next_part(requests)) is not None:
        if header is None:
            if not request.HasField("header"):
                raise BadRequestError("header: missing in the first message", field="header", reason="MISSING")
            header = request.header
            if header.HasField("definition"):
                raise BadRequestError(
                    "header.definition: the definition comes in the chunks",
                    field="header.definition",
                    reason="MISPLACED",
                )
        elif request.HasField("header"):
            raise BadRequestError("header: only in the first message", field="header", reason="MISPLACED")
        if len(request.chunk) > limits.message_split_bytes:
            raise BadRequestError(
                f"chunk: {len(request.chunk)} bytes are over the bound of {limits.message_split_bytes}; send smaller ones",
                field="chunk",
            )
        size += len(request.chunk)
        if size > limits.definition_bytes_max:
            raise BadRequestError(
                f"chunk: the definition is over the bound of {limits.definition_bytes_max} bytes",
                field="chunk",
                reason="DEFINITION_TOO_LARGE",
            )
        chunks.append(request.chunk)
    if header is None:
        raise BadRequestError("header: the stream ended without a message", field="header", reason="MISSING")
    if not size:
        raise BadRequestError("chunk: the stream ended without a definition", field="chunk", reason="EMPTY")
    return header, b"".join(chunks)


async def _next_part(
    requests: AsyncIterator[client_pb2.SubmitStreamRequest],
) -> client_pb2.SubmitStreamRequest | None:
    """Return the next message, None after the last; who sends nothing must not keep others from large submits."""
    try:
        async with asyncio.timeout(limits.chunk_wait_ms_max / 1_000):
            return await anext(requests, None)
    except TimeoutError as error:
        raise DeadlineError(
            f"nothing came of the definition for {limits.chunk_wait_ms_max} ms; nothing was accepted, submit again"
        ) from error


def _refused(workflow_id: str, error: MainspringError) -> client_pb2.SubmitManyOutcome:
    code, reason = code_and_reason(error)
    return client_pb2.SubmitManyOutcome(
        workflow_id=workflow_id,
        code=code.value[0],
        message=clip(str(error), _message_bytes_max),
        reason=clip(reason, _reason_bytes_max),
    )
