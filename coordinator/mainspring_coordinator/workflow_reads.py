"""Reads of workflows, current as of the call.

A workflow that runs is seen in the memory of its shard's owner, by an answer that reflects a commit. One that is not there has ended,
and its end never changes, so the database may tell it at once; or there is none, which is said only after a proof, begun after the
call, that the shard is still ours.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import orjson

from mainspring import limits
from mainspring.errors import BadRequestError, BusyError, NotFoundError, NotOwnerError, UnavailableError
from mainspring.ids import is_workflow_id, shard_of
from mainspring.paths import PathError
from mainspring.v1 import client_pb2
from mainspring.wire import null, to_payload
from mainspring_coordinator import history, views
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Explanation, View
from mainspring_coordinator.engine.events import Read
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.plans import PlanCache
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.shard_loader import collect_output
from mainspring_coordinator.store.protocol import Reader, StoredNode, StoredWorkflow, WorkflowFilter
from mainspring_coordinator.views import Sight

_T = TypeVar("_T")
_looks_max: Final = 5
_token_bytes_max: Final = 512


def shard_of_workflow(workflow_id: str, shards_total: int, field: str = "workflow_id") -> int:
    """Return the shard of a workflow id that came from outside; `BadRequestError` when it may not name a workflow."""
    if not is_workflow_id(workflow_id):
        raise BadRequestError(
            f"{field}: {workflow_id[:64]!r} is no workflow id; use 1 to {limits.workflow_id_bytes_max} letters, digits and -_.:@+=",
            field=field,
            reason="BAD_WORKFLOW_ID",
        )
    return shard_of(workflow_id, shards_total)


def check_answer(answer: Answer) -> Answer:
    """Return an answer of the loop, or raise what it stands for when it is no answer of the engine's to this call."""
    if answer.code is AnswerCode.BUSY:
        raise BusyError(answer.message or f"shard {answer.shard} is full; nothing was accepted", retry_after_ms=1_000)
    if answer.code is AnswerCode.NOT_OWNER:
        raise NotOwnerError(answer.message or f"shard {answer.shard} is owned by another coordinator now")
    return answer


def not_found(workflow_id: str) -> NotFoundError:
    """Return the error that says that there is no such workflow."""
    return NotFoundError(f"there is no workflow {workflow_id!r}; list those there are with: mainspring list")


class WorkflowReads:
    """Looks at workflows of our shards."""

    def __init__(self, loop: Loop, reads: Reads, plans: PlanCache) -> None:
        self._loop = loop
        self._reads = reads
        self._plans = plans
        self._histories = history.Histories()
        self._counts: OrderedDict[tuple[str, int, int], Mapping[NodeStatus, int]] = OrderedDict()

    async def glance(self, shard: int, workflow_id: str) -> View | StoredWorkflow:
        """Return the view of a workflow that runs, or the row of one that has ended. `NotFoundError` when there is none."""
        for _ in range(_looks_max):
            answer = check_answer(await self._loop.ask(shard, lambda token: Read(token, shard, workflow_id)))
            if answer.view is not None:
                return answer.view
            stored = await self.row(shard, workflow_id)
            if stored is None:
                raise not_found(workflow_id)
            if views.has_ended(stored.status):
                return stored
            # It was submitted, or came back into memory, between the two looks.
        raise UnavailableError(f"workflow {workflow_id!r} is being loaded; try again")

    async def explained(
        self, shard: int, workflow_id: str, about: tuple[str, int]
    ) -> tuple[Explanation | StoredWorkflow, Plan]:
        """Return why a workflow, or one node and instance of it, does not run, or the row of one that has ended; and its plan."""
        for _ in range(_looks_max):
            answer = check_answer(
                await self._loop.ask(shard, lambda token: Read(token, shard, workflow_id, about=about))
            )
            stored = await self.row(shard, workflow_id)
            if answer.explanation is not None and stored is not None:
                return answer.explanation, await self.plan(stored)
            if stored is None:
                raise not_found(workflow_id)
            if views.has_ended(stored.status):
                return stored, await self.plan(stored)
            # As in `glance`.
        raise UnavailableError(f"workflow {workflow_id!r} is being loaded; try again")

    async def ended(self, shard: int, workflow_id: str) -> StoredWorkflow | None:
        """Return the row of a workflow that has ended, None for one that runs. `NotFoundError` when there is none.

        Nothing of a running one is told, so that no proof is waited for.
        """
        for _ in range(_looks_max):
            answer = check_answer(
                await self._loop.ask(shard, lambda token: Read(token, shard, workflow_id, brief=True))
            )
            if answer.code is AnswerCode.OK:
                return None
            stored = await self.row(shard, workflow_id)
            if stored is None:
                raise not_found(workflow_id)
            if views.has_ended(stored.status):
                return stored
            # It was submitted, or came back into memory, between the two looks.
        raise UnavailableError(f"workflow {workflow_id!r} is being loaded; try again")

    async def row(self, shard: int, workflow_id: str) -> StoredWorkflow | None:
        """Return the row of a workflow that is not in memory; None, after a proof, when there is none."""
        stored = await self._reads.run(lambda reader: reader.workflow(workflow_id))
        if stored is None:
            await self._loop.prove(shard)
            stored = await self._reads.run(lambda reader: reader.workflow(workflow_id))
        return stored

    async def look(self, shard: int, workflow_id: str, before: Sight | None = None) -> Sight:
        """Return a workflow as it is now. What cannot have changed since `before` is not read again."""
        seen = await self.glance(shard, workflow_id)
        if isinstance(seen, StoredWorkflow):
            return Sight(seen, None, await self.plan(seen))
        if before is not None and before.view is not None and before.view.status is seen.status:
            return Sight(before.stored, seen, before.plan)
        stored = await self.row(shard, workflow_id)
        if stored is None:  # it has ended since, and been deleted
            raise not_found(workflow_id)
        # It may have ended since the answer; then the row is the later truth.
        return Sight(stored, None if views.has_ended(stored.status) else seen, await self.plan(stored))

    async def message(self, sight: Sight) -> client_pb2.Workflow:
        """Return a workflow with its node counts as a message."""
        if sight.view is not None:
            return views.workflow_message(sight, sight.view.node_counts)
        counts = self._counts.get(sight.key)
        if counts is None:
            counts = self._counts[sight.key] = await self._of(sight, lambda reader: views.node_counts(reader, sight))
            if len(self._counts) > limits.counts_cached_max:
                self._counts.popitem(last=False)
        return views.workflow_message(sight, counts)

    async def list_nodes(self, shard: int, request: client_pb2.ListNodesRequest) -> client_pb2.ListNodesResponse:
        """Answer ListNodes."""
        limit = page_size(request.page_size, default=200)
        statuses = [NodeStatus(status) for status in checked_statuses(request.statuses, len(NodeStatus), 16)]
        after = _node_key(request.page_token)
        sight = await self.look(shard, request.workflow_id)
        nodes, last = await self._of(sight, lambda reader: views.node_page(reader, sight, after, limit, statuses))
        return client_pb2.ListNodesResponse(nodes=nodes, next_page_token=to_token(*last) if last is not None else "")

    async def get_node(self, shard: int, request: client_pb2.GetNodeRequest) -> client_pb2.GetNodeResponse:
        """Answer GetNode."""
        sight = await self.look(shard, request.workflow_id)
        node = sight.plan.graph.index.get(request.node_id)
        if node is None:
            raise no_such_node(request.workflow_id, request.node_id, -1)
        return await self._of(sight, lambda reader: _read_node(reader, sight, node, request.instance))

    async def nodes(self, sight: Sight, after: tuple[int, int]) -> tuple[list[client_pb2.Node], tuple[int, int] | None]:
        """Return a page of a snapshot, and its last key, None at the end."""
        return await self._of(sight, lambda reader: views.node_page(reader, sight, after, limits.page_size_max))

    async def changed_nodes(self, sight: Sight, keys: Sequence[tuple[int, int]]) -> list[client_pb2.Node]:
        """Return some nodes and instances, sorted."""
        return await self._of(sight, lambda reader: _read_changed(reader, sight, sorted(keys)))

    async def get_history(self, shard: int, request: client_pb2.GetHistoryRequest) -> client_pb2.GetHistoryResponse:
        """Answer GetHistory."""
        limit = page_size(request.page_size, default=limits.page_size_max)
        start = place(request.page_token)
        sight = await self.look(shard, request.workflow_id)
        lines = self._histories.known(sight)
        if lines is None:
            lines = await self._of(sight, lambda reader: history.tell(reader, sight))
            self._histories.keep(sight, lines)
        events = history.page(lines, sight, start, limit)
        following = start + len(events)
        return client_pb2.GetHistoryResponse(
            events=events,
            next_page_token=to_token(following) if following < len(lines) else "",
        )

    async def list_workflows(self, request: client_pb2.ListRequest) -> client_pb2.ListResponse:
        """Answer List, from the database, anywhere."""
        limit = page_size(request.page_size, default=100)
        _check_text(request.name, "name", limits.name_bytes_max)
        check_prefix(request.id_prefix)
        for field in ("submitted_from_us", "submitted_before_us"):
            if getattr(request, field) < 0:
                raise BadRequestError(f"{field}: a time before 1970; send microseconds, 0 for no bound", field=field)
        wanted = WorkflowFilter(
            [WorkflowStatus(status) for status in checked_statuses(request.statuses, len(WorkflowStatus), 8)],
            request.name,
            request.id_prefix,
            request.submitted_from_us,
            request.submitted_before_us,
        )
        before = moment_and_id(request.page_token)
        found = await self._reads.run(lambda reader: reader.list_workflows(wanted, before, limit + 1))
        workflows: list[client_pb2.Workflow] = []
        size = 0
        for stored in found[:limit]:
            workflows.append(views.listed_workflow(stored))
            size += workflows[-1].ByteSize()
            if size >= limits.message_split_bytes:
                break
        last = workflows[-1] if len(workflows) < len(found) else None
        return client_pb2.ListResponse(
            workflows=workflows,
            next_page_token=to_token(last.submitted_at_us, last.workflow_id) if last is not None else "",
        )

    async def rows(self, shard: int, workflow_ids: Sequence[str]) -> dict[str, StoredWorkflow]:
        """Return the rows of workflows that are not in memory; those that are not in the answer do not exist, which is proven."""
        found = await self._reads.run(lambda reader: _read_rows(reader, workflow_ids))
        known = {stored.workflow_id: stored for stored in found}
        missing = [workflow_id for workflow_id in workflow_ids if workflow_id not in known]
        if missing:
            await self._loop.prove(shard)
            for stored in await self._reads.run(lambda reader: _read_rows(reader, missing)):
                known[stored.workflow_id] = stored
        return known

    async def _of(self, sight: Sight, read: Callable[[Reader], _T]) -> _T:
        """Return what `read` finds in the rows of a workflow; `NotFoundError` if they were deleted before it had all of them."""

        def looked(reader: Reader) -> _T | None:
            found = read(reader)
            # After it: as long as the workflow is there, none of its rows has gone.
            return found if sight.view is not None or _is_kept(reader, sight.stored) else None

        found = await self._reads.run(looked)
        if found is None:
            raise not_found(sight.stored.workflow_id)
        return found

    async def plan(self, stored: StoredWorkflow) -> Plan:
        """Return the plan of a workflow."""
        plan = self._plans.get(stored.plan_hash)
        if plan is None:
            definition = await self._reads.run(lambda reader: reader.plan(stored.shard, stored.plan_hash))
            if definition is None and not await self._reads.run(lambda reader: _is_kept(reader, stored)):
                raise not_found(stored.workflow_id)
            assert definition is not None, f"workflow {stored.workflow_id} has no plan {stored.plan_hash.hex()}"
            plan = await self._plans.compile(definition)
        return plan


def no_such_node(workflow_id: str, node_id: str, instance: int, *, begun: bool = False) -> NotFoundError:
    """Return what to raise for a node, or an instance of it, that is not there; `begun`: or has not begun."""
    what = f"node {node_id[:128]!r}" if instance == -1 else f"instance {node_id[:128]}[{instance}]"
    return NotFoundError(
        f"workflow {workflow_id!r} has no {what}{' that has begun' * begun}; list its nodes with: mainspring get {workflow_id}"
    )


def _is_kept(reader: Reader, stored: StoredWorkflow) -> bool:
    return reader.is_kept(stored.workflow_id, stored.submitted_at_us)


def _read_rows(reader: Reader, workflow_ids: Sequence[str]) -> list[StoredWorkflow]:
    return list(reader.workflows_named(workflow_ids))


def _read_changed(reader: Reader, sight: Sight, keys: Sequence[tuple[int, int]]) -> list[client_pb2.Node]:
    rows: dict[tuple[int, int], StoredNode] = {}
    for node, instance in keys:
        if (node, instance) not in rows:
            # One look brings the neighbours too, which in a wide `map` have mostly changed as well.
            for row in reader.node_page(sight.stored.workflow_id, (node, instance - 1), 50 if len(keys) > 1 else 1):
                rows[row.node, row.instance] = row
    return [views.node_message(reader, sight, *key, rows.get(key)) for key in keys]


def _read_node(reader: Reader, sight: Sight, node: int, instance: int) -> client_pb2.GetNodeResponse:
    workflow_id = sight.stored.workflow_id
    definition = sight.plan.nodes[node]
    row = reader.node(workflow_id, node, instance) if instance >= -1 else None
    if instance < -1 or (instance >= 0 and row is None):
        raise no_such_node(workflow_id, definition.id, instance, begun=definition.map is not None)
    response = client_pb2.GetNodeResponse(
        node=views.node_message(reader, sight, node, instance, row),
        attempts=[views.attempt_message(attempt) for attempt in reader.attempts(workflow_id, node, instance)],
    )
    if row is None:
        return response
    begun = views.is_cached(sight.plan, row) or (row.attempt > 0 and (definition.map is None or instance >= 0))
    given = _input_of(reader, sight, node, instance) if begun else None
    if given is not None:
        response.input.CopyFrom(to_payload(given))
    if row.status is NodeStatus.SUCCEEDED:
        whole_map = definition.map is not None and instance < 0
        output = _outputs(reader, sight, [node])[node] if whole_map else row.output
        response.output.CopyFrom(to_payload(output if output is not None else null))
    if row.progress is not None:
        response.progress.CopyFrom(to_payload(row.progress))
    return response


def _outputs(reader: Reader, sight: Sight, nodes: Sequence[int]) -> dict[int, bytes]:
    """Return the outputs of nodes; that of a `map` is collected from its instances, whose rows are the list."""
    rows: dict[int, list[StoredNode]] = {node: [] for node in nodes}
    for row in reader.outputs(sight.stored.workflow_id, nodes) if nodes else ():
        rows[row.node].append(row)
    widths = {
        node: next((row.width for row in found if row.instance < 0), 0)
        for node, found in rows.items()
        if sight.plan.nodes[node].map is not None and _whole(found)
    }
    return {node: collect_output(found, widths.get(node)) for node, found in rows.items()}


def _whole(rows: Sequence[StoredNode]) -> bool:
    """Tell whether a `map` gives a list: one that failed, or was skipped, as a whole gives null."""
    return any(row.instance < 0 and row.status is NodeStatus.SUCCEEDED for row in rows)


def _input_of(reader: Reader, sight: Sight, node: int, instance: int) -> bytes | None:
    """Make the input again as the engine made it; None if it cannot be made, which the node's failure tells."""
    plan, stored = sight.plan, sight.stored
    refs = sorted({*plan.input_refs[node], *(plan.over_refs[node] if instance >= 0 else ())})
    scope = {
        "input": stored.input if stored.input is not None else null,
        "workflow": orjson.dumps({"id": stored.workflow_id, "name": plan.name}),
        **{plan.graph.ids[ref]: output for ref, output in _outputs(reader, sight, refs).items()},
    }
    try:
        over = plan.graph.overs[node]
        if instance >= 0 and over is not None:
            items = over.evaluate_list(scope)
            if instance >= len(items):
                return None
            scope["item"] = items[instance]
            scope["index"] = b"%d" % instance
        return plan.graph.inputs[node].render(scope)
    except PathError:
        return None


def page_size(asked: int, *, default: int) -> int:
    """Return how many items a page has."""
    if asked > limits.page_size_max:
        raise BadRequestError(
            f"page_size: {asked} is over the bound of {limits.page_size_max}; read by page", field="page_size"
        )
    return asked or default


def checked_statuses(statuses: Sequence[int], highest: int, count_max: int) -> Sequence[int]:
    """Return the states of a filter; `BadRequestError` when one is not known or they are too many."""
    if len(statuses) > count_max:
        raise BadRequestError(f"statuses: {len(statuses)} are over the bound of {count_max}", field="statuses")
    for index, status in enumerate(statuses):
        if not 1 <= status <= highest:
            raise BadRequestError(f"statuses[{index}]: {status} is no state; leave it out", field=f"statuses[{index}]")
    return statuses


def to_token(*parts: int | str) -> str:
    """Write a place in a list as a page token."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode()


def from_token(token: str, kinds: tuple[type, ...]) -> tuple[object, ...] | None:
    """Read a page token; None for the first page."""
    if not token:
        return None
    if len(token) > _token_bytes_max:
        raise _bad_token()
    try:
        parts = orjson.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _bad_token() from error
    if not isinstance(parts, list) or [type(part) for part in parts] != list(kinds) or not all(map(_is_ours, parts)):
        raise _bad_token()
    return tuple(parts)


def _is_ours(part: object) -> bool:
    """Tell whether a database can be asked for it: ids are of ASCII there, and numbers have 64 bits."""
    return part.isascii() if isinstance(part, str) else isinstance(part, int) and -(2**63) <= part < 2**63


def _node_key(token: str) -> tuple[int, int]:
    parts = from_token(token, (int, int))
    if parts is None:
        return views.first_key
    node, instance = parts
    assert isinstance(node, int)
    assert isinstance(instance, int)
    return node, instance


def place(token: str) -> int:
    """Read the token of a page that begins at a number."""
    parts = from_token(token, (int,))
    start = parts[0] if parts is not None else 0
    if not isinstance(start, int) or start < 0:
        raise _bad_token()
    return start


def moment_and_id(token: str) -> tuple[int, str] | None:
    """Read the token of a page of a list that is ordered by a time and then an id."""
    parts = from_token(token, (int, str))
    if parts is None:
        return None
    at_us, item_id = parts
    assert isinstance(at_us, int)
    assert isinstance(item_id, str)
    return at_us, item_id


def _bad_token() -> BadRequestError:
    return BadRequestError(
        "page_token: not one of ours; send it as it was given, or none for the first page", field="page_token"
    )


def check_prefix(prefix: str) -> None:
    """Raise `BadRequestError` when no workflow's id can begin so."""
    if prefix and not is_workflow_id(prefix):
        raise BadRequestError(
            f"id_prefix: {prefix[:64]!r} begins no id; ids have 1 to {limits.workflow_id_bytes_max} letters, digits and `-_.:@+=`",
            field="id_prefix",
        )


def _check_text(text: str, field: str, bytes_max: int) -> None:
    if len(text.encode()) > bytes_max:
        raise BadRequestError(f"{field}: longer than {bytes_max} bytes", field=field)
