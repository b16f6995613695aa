"""How new workflows are packed and sent: what fits into one message, what goes by stream, what goes together."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from mainspring.errors import BadRequestError, MainspringError
from mainspring.ids import is_workflow_id
from mainspring.limits import (
    definition_bytes_max,
    definition_inline_bytes_max,
    message_split_bytes,
    submit_many_calls_max,
    submit_many_items_max,
)
from mainspring.naming import new_request_id, new_workflow_id
from mainspring.rpc_errors import error_of
from mainspring.v1 import client_pb2
from mainspring.wire import to_payload
from mainspring_client.nouns import Submission
from mainspring_client.payload import encode_definition, encode_json
from mainspring_client.transport import Transport

_item_overhead_bytes: Final = 64
_transient_codes: Final = frozenset({8, 14})  # RESOURCE_EXHAUSTED, UNAVAILABLE: an item may be sent again


@dataclass(frozen=True, slots=True)
class Packed:
    """A new workflow, ready to be sent."""

    workflow_id: str
    """Its id, ours if the caller chose none."""
    definition: bytes
    """Its definition, the same object for all workflows that share it."""
    input: bytes
    """Its input."""

    @property
    def inline(self) -> bool:
        """Whether it fits into one message."""
        return len(self.definition) <= definition_inline_bytes_max - len(self.input)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A workflow that is durable."""

    workflow_id: str
    """Its id."""
    created: bool
    """False when it was there already."""


@dataclass(slots=True)
class Pack:
    """Workflows that go in one call, with where their answers belong."""

    items: list[Packed] = field(default_factory=list[Packed])
    """The workflows."""
    places: list[int] = field(default_factory=list[int])
    """Of each, its index among all."""
    size: int = 0
    """Bytes, roughly and never too few."""

    def request(self) -> client_pb2.SubmitManyRequest:
        """Return the call's message."""
        request = client_pb2.SubmitManyRequest(request_id=new_request_id())
        indexes: dict[int, int] = {}
        for item in self.items:
            index = indexes.get(id(item.definition))
            if index is None:
                index = indexes[id(item.definition)] = len(indexes)
                request.definitions.append(to_payload(item.definition))
            request.items.append(
                client_pb2.SubmitManyItem(
                    workflow_id=item.workflow_id, definition_index=index, input=to_payload(item.input)
                )
            )
        return request


def pack(definition: object, input_: object, workflow_id: str | None) -> Packed:
    """Check and encode one workflow."""
    if workflow_id is None:
        workflow_id = new_workflow_id()
    elif not is_workflow_id(workflow_id):
        raise BadRequestError(
            f"workflow_id {workflow_id[:210]!r} is no id; use 1 to 200 letters, digits and '-_.:@+='",
            field="workflow_id",
        )
    data = encode_definition(definition)
    if len(data) > definition_bytes_max:
        raise BadRequestError(
            f"definition: {len(data)} bytes are over the bound of {definition_bytes_max}; split the workflow",
            field="definition",
            reason="DEFINITION_TOO_LARGE",
        )
    return Packed(workflow_id, data, encode_json(input_, "input"))


def pack_all(submissions: Sequence[Submission]) -> list[Packed | MainspringError]:
    """Check and encode many; what several share is encoded and kept once. Who is wrong gets an error in its place."""
    by_object: dict[int, bytes] = {}
    by_content: dict[bytes, bytes] = {}
    packed: list[Packed | MainspringError] = []
    for submission in submissions:
        key = id(submission.definition)
        try:
            if key not in by_object:
                data = encode_definition(submission.definition)
                by_object[key] = by_content.setdefault(data, data)
            packed.append(pack(by_object[key], submission.input, submission.workflow_id))
        except MainspringError as error:
            packed.append(error)
    return packed


def packs(items: Iterable[tuple[int, Packed]]) -> Iterator[Pack]:
    """Cut (place, workflow) pairs into calls that fit their bounds."""
    present = Pack()
    definitions: set[int] = set()
    for place, item in items:
        size = len(item.input) + len(item.workflow_id) + _item_overhead_bytes
        more = 0 if id(item.definition) in definitions else len(item.definition) + _item_overhead_bytes
        if present.items and (
            len(present.items) == submit_many_items_max or present.size + size + more > definition_inline_bytes_max
        ):
            yield present
            present, definitions = Pack(), set()
            more = len(item.definition) + _item_overhead_bytes
        present.items.append(item)
        present.places.append(place)
        present.size += size + more
        definitions.add(id(item.definition))
    if present.items:
        yield present


def stream_of(item: Packed, request_id: str) -> Iterator[client_pb2.SubmitStreamRequest]:
    """Return the messages that carry a workflow whose definition does not fit into one."""
    header = client_pb2.SubmitRequest(workflow_id=item.workflow_id, input=to_payload(item.input), request_id=request_id)
    yield client_pb2.SubmitStreamRequest(header=header)
    for start in range(0, len(item.definition), message_split_bytes):
        yield client_pb2.SubmitStreamRequest(chunk=item.definition[start : start + message_split_bytes])


async def submit(transport: Transport, item: Packed) -> bool:
    """Send one workflow; tell whether that made it."""
    request_id = new_request_id()
    if not item.inline:
        streamed: client_pb2.SubmitStreamResponse = await transport.call(
            lambda at: at.workflows.SubmitStream, lambda _: stream_of(item, request_id), try_ms=transport.timeout_ms
        )
        return streamed.submitted.created
    request = client_pb2.SubmitRequest(
        workflow_id=item.workflow_id,
        definition=to_payload(item.definition),
        input=to_payload(item.input),
        request_id=request_id,
    )
    answer: client_pb2.SubmitResponse = await transport.call(lambda at: at.workflows.Submit, request)
    return answer.created


async def submit_many(
    transport: Transport, items: Sequence[Packed | MainspringError]
) -> list[Submitted | MainspringError]:
    """Send many workflows, a few calls at a time; what became of each stands in its place."""
    outcomes: dict[int, Submitted | MainspringError] = {}
    gate = asyncio.Semaphore(submit_many_calls_max)

    async def send_pack(one: Pack) -> None:
        async with gate:
            outcomes.update(await _submit_pack(transport, one))

    async def send_large(place: int, item: Packed) -> None:
        async with gate:
            try:
                outcomes[place] = Submitted(item.workflow_id, await submit(transport, item))
            except MainspringError as error:
                outcomes[place] = error

    small: list[tuple[int, Packed]] = []
    async with asyncio.TaskGroup() as group:
        for place, item in enumerate(items):
            if isinstance(item, MainspringError):
                outcomes[place] = item
            elif item.inline:
                small.append((place, item))
            else:
                group.create_task(send_large(place, item))
        for one in packs(small):
            group.create_task(send_pack(one))
    return [outcomes[place] for place in range(len(items))]


async def _submit_pack(transport: Transport, one: Pack) -> dict[int, Submitted | MainspringError]:
    """Send one call's workflows; those that were refused for now are sent again while the call's time lasts."""
    outcomes: dict[int, Submitted | MainspringError] = {}
    tries = transport.tries()
    while one.items:
        try:
            answer: client_pb2.SubmitManyResponse = await transport.call(
                lambda at: at.workflows.SubmitMany, one.request(), timeout_ms=tries.left_ms()
            )
        except MainspringError as error:
            return outcomes | dict.fromkeys(one.places, error)
        again = Pack()
        for place, item, outcome in zip(one.places, one.items, answer.outcomes, strict=True):
            if outcome.code == 0:
                outcomes[place] = Submitted(item.workflow_id, outcome.created)
                continue
            outcomes[place] = error_of(outcome.code, outcome.message, reason=outcome.reason)
            if outcome.code in _transient_codes:
                again.items.append(item)
                again.places.append(place)
        if again.items and not await tries.pause(None):
            break
        one = again
    return outcomes
