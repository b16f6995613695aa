"""The workers' stream as messages: what arrives becomes events, what a commit releases becomes as few messages as fit.

Whoever breaks the contract is told which field, and the stream ends; nothing that arrives is trusted. An output that cannot be taken is
not a breach: it becomes a failure of its attempt, because the worker would only send it again.

Packing is the path that every node takes twice. A message costs 170 microseconds whatever it carries, an item in it 3, so
everything that waits to be written waits in one message that is still open.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, cast

from mainspring import limits
from mainspring.errors import BadRequestError, Failure
from mainspring.failures import payload_too_large, result_refused
from mainspring.ids import is_incarnation
from mainspring.v1 import worker_pb2
from mainspring.wire import check_payload, from_failure, null, protocol_version, serves_protocol
from mainspring_coordinator.engine.effects import Ack, Assign, EchoCredit, ReportBacklog, Stop
from mainspring_coordinator.engine.events import (
    CreditSet,
    Event,
    Inventory,
    LoadReported,
    ProgressReported,
    ResultItem,
    Results,
    WorkerDraining,
    WorkerResumed,
)
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.ports import SessionEffect

_outcomes: Final[Mapping[int, NodeStatus]] = {
    worker_pb2.OUTCOME_SUCCEEDED: NodeStatus.SUCCEEDED,
    worker_pb2.OUTCOME_FAILED: NodeStatus.FAILED,
    worker_pb2.OUTCOME_CANCELLED: NodeStatus.CANCELLED,
    worker_pb2.OUTCOME_NOT_STARTED: NodeStatus.READY,
}
_run_us_max: Final = limits.timeout_ms_max * 1_000
_overhead_bytes: Final = 512
"""What an item takes beside its payloads, at most."""
_no_failure: Final = Failure(result_refused, "the worker reported a failure and did not say which")


class HelloRefusedError(Exception):
    """A worker may not attach, for a reason that the wire has a name for."""

    def __init__(self, reason: worker_pb2.GoodbyeReason.ValueType, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def check_hello(request: worker_pb2.AttachRequest, cluster: str) -> worker_pb2.Hello:
    """Return the Hello of a stream's first message; `BadRequestError` or `HelloRefusedError` when it cannot be taken."""
    if not request.HasField("hello"):
        raise _breach("hello", "missing; the first message says who attaches")
    hello = request.hello
    if not serves_protocol(hello.protocol):
        later = hello.protocol > protocol_version
        raise HelloRefusedError(
            worker_pb2.GOODBYE_REASON_INCOMPATIBLE,
            f"hello.protocol: this coordinator speaks version {protocol_version} and serves the one before it, the worker "
            f"(mainspring {hello.version[:32] or 'unknown'}) speaks {hello.protocol}; "
            f"upgrade {'the coordinators first, then their workers' if later else 'the worker'}",
        )
    if hello.cluster and hello.cluster != cluster:
        raise HelloRefusedError(
            worker_pb2.GOODBYE_REASON_WRONG_CLUSTER,
            f"hello.cluster: this is cluster {cluster!r}, not {hello.cluster[:64]!r}; look at MAINSPRING_ADDRESS and CLUSTER_NAME",
        )
    _check_text("hello.name", hello.name, limits.name_bytes_max, required=True)
    if not is_incarnation(hello.incarnation):
        raise _breach("hello.incarnation", "not 32 hexadecimal characters")
    _check_text("hello.host", hello.host, limits.host_bytes_max)
    _check_text("hello.zone", hello.zone, limits.name_bytes_max)
    _check_text("hello.version", hello.version, limits.version_bytes_max)
    if len(hello.labels) > limits.labels_max:
        raise _breach("hello.labels", f"{len(hello.labels)} are over the bound of {limits.labels_max}")
    for name, value in hello.labels.items():
        _check_text("hello.labels", name, limits.name_bytes_max, required=True)
        _check_text(f"hello.labels[{name!r}]", value, limits.name_bytes_max)
    _check_range("hello.executors", len(hello.executors), 1, limits.executors_a_worker_max)
    for index, name in enumerate(hello.executors):
        _check_text(f"hello.executors[{index}]", name, limits.executor_bytes_max, required=True)
    _check_range("hello.slots", hello.slots, 1, limits.slots_max)
    _check_range("hello.workflows_max", hello.workflows_max, 1, limits.slots_max)
    return hello


def events_of(session: int, request: worker_pb2.AttachRequest, shards_total: int, slots: int) -> list[Event]:
    """Return what a message says, in the order in which it must be heard; `BadRequestError` names the field that breaks the contract."""
    events: list[Event] = []
    if request.HasField("taking_work"):
        # First: what it states in the same message counts from then on.
        events.append(WorkerResumed(session))
    if request.inventory:
        events += _inventories(session, request.inventory, shards_total)
    if request.results:
        items, most = _results(request.results, shards_total), limits.results_an_event_max
        events += [Results(session, items[at : at + most]) for at in range(0, len(items), most)]
    if request.progress:
        events += _progress(session, request.progress, shards_total)
    if request.HasField("credit"):
        credit = request.credit
        _check_range("credit.seq", credit.seq, 1, 2**63 - 1)
        _check_range("credit.limit", credit.limit, 0, slots)
        events.append(CreditSet(session, credit.seq, credit.limit))
    if (report := load_of(request)) is not None:
        events.append(LoadReported(session, _percent(report.cpu_percent), _percent(report.memory_percent)))
    if request.HasField("draining"):
        events.append(WorkerDraining(session))
    return events


def load_of(request: worker_pb2.AttachRequest) -> worker_pb2.LoadReport | None:
    """Return the load that a message reports, if any."""
    if request.HasField("load"):
        return request.load
    if request.HasField("heartbeat") and request.heartbeat.HasField("load"):
        return request.heartbeat.load
    return None


def _inventories(session: int, stated: Sequence[worker_pb2.ShardInventory], shards_total: int) -> list[Event]:
    _check_range("inventory", len(stated), 0, limits.shards_max)
    events: list[Event] = []
    for index, item in enumerate(stated):
        if item.shard >= shards_total:
            raise _no_shard(f"inventory[{index}].shard", item.shard, shards_total)
        _check_range(f"inventory[{index}].epoch", item.epoch, 0, limits.epoch_max)
        events.append(
            Inventory(
                session,
                item.shard,
                item.epoch,
                list(item.queued),
                list(item.running),
                list(item.finished),
                item.ordinal_seen,
            )
        )
    return events


def _results(results: Sequence[worker_pb2.Result], shards_total: int) -> list[ResultItem]:
    _check_range("results", len(results), 0, limits.items_a_message_max)
    items: list[ResultItem] = []
    for index, result in enumerate(results):
        shard, assignment, status = result.shard, result.id, _outcomes.get(result.outcome)
        if shard >= shards_total:
            raise _no_shard(f"results[{index}].shard", shard, shards_total)
        if not assignment:
            raise _breach(f"results[{index}].id", "missing")
        if status is None:
            raise _breach(f"results[{index}].outcome", f"{result.outcome} is no outcome")
        run_us = min(result.run_us, _run_us_max)
        if status is NodeStatus.SUCCEEDED:
            try:
                output = check_payload(result.output, "output")
            except BadRequestError as error:
                kind = payload_too_large if error.reason == "PAYLOAD_TOO_LARGE" else result_refused
                refused = Failure(kind, str(error), non_retryable=True)
                items.append(ResultItem(shard, assignment, NodeStatus.FAILED, null, refused, run_us))
            else:
                items.append(ResultItem(shard, assignment, status, output, None, run_us))
            continue
        failure = from_failure(result.failure) if result.HasField("failure") else None
        if status is NodeStatus.FAILED and (failure is None or not failure.type):
            failure = _no_failure
        items.append(ResultItem(shard, assignment, status, null, failure, run_us))
    return items


def _progress(session: int, reports: Sequence[worker_pb2.Progress], shards_total: int) -> list[Event]:
    _check_range("progress", len(reports), 0, limits.items_a_message_max)
    events: list[Event] = []
    for index, report in enumerate(reports):
        if report.shard >= shards_total:
            raise _no_shard(f"progress[{index}].shard", report.shard, shards_total)
        details = check_payload(report.details, f"progress[{index}].details", bytes_max=limits.progress_bytes_max)
        events.append(ProgressReported(session, report.shard, report.id, details))
    return events


def _percent(value: float) -> float:
    # Written so that NaN becomes 0.
    return value if 0.0 <= value <= 100.0 else 100.0 if value > 100.0 else 0.0


def _breach(field: str, what: str) -> BadRequestError:
    return BadRequestError(f"{field}: {what}", field=field)


def _no_shard(field: str, shard: int, shards_total: int) -> BadRequestError:
    return _breach(field, f"there is no shard {shard}, the cluster has {shards_total}")


def _check_text(field: str, text: str, bytes_max: int, *, required: bool = False) -> None:
    if required and not text:
        raise _breach(field, "empty")
    if len(text.encode()) > bytes_max:
        raise _breach(field, f"longer than {bytes_max} bytes")


def _check_range(field: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise _breach(field, f"{value} is not within {lowest} to {highest}")


class Outbox:
    """What waits to be written to one worker, packed into as few messages as fit."""

    def __init__(self) -> None:
        self._messages: deque[worker_pb2.AttachResponse] = deque()
        self._open: worker_pb2.AttachResponse | None = None
        """The last message, while more may go into it."""
        self._items = 0
        self._bytes = 0
        self._seq = 0
        self.closed = False
        """A Goodbye is in it; nothing may follow."""

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._messages)

    @property
    def overflown(self) -> bool:
        """Tell whether more messages wait than may."""
        return len(self._messages) > limits.stream_queue_messages_max

    def take(self) -> worker_pb2.AttachResponse | None:
        """Return the next message to write, numbered; None when nothing waits."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        if message is self._open:
            self._open = None
        self._seq += 1
        message.seq = self._seq
        return message

    def pack(self, effects: Sequence[SessionEffect]) -> None:
        """Add what a commit released."""
        if self.closed:
            return
        for effect in effects:
            if isinstance(effect, Assign):
                self._assign(effect)
            elif isinstance(effect, Ack):
                self._for(0).acks.add(
                    shard=effect.shard,
                    id=effect.assignment,
                    epoch=effect.epoch,
                    disposition=cast("worker_pb2.AckDisposition.ValueType", effect.disposition),
                )
            elif isinstance(effect, Stop):
                self._for(0).cancels.add(
                    shard=effect.shard,
                    epoch=effect.epoch,
                    id=effect.assignment,
                    cause=cast("worker_pb2.CancelCause.ValueType", effect.cause),
                )
            elif isinstance(effect, EchoCredit):
                self.message().credit_seq = effect.seq
            elif isinstance(effect, ReportBacklog):
                self.message().backlog.CopyFrom(worker_pb2.Backlog(waiting=effect.waiting))

    def own(self, changes: Sequence[worker_pb2.ShardOwnership]) -> None:
        """Add changes of ownership; the latest word on a shard replaces an earlier one that still waits."""
        if self.closed:
            return
        message = self.message()
        known = {ownership.shard: ownership for ownership in message.shards}
        for change in changes:
            if change.shard in known:
                known[change.shard].CopyFrom(change)
            else:
                message.shards.add().CopyFrom(change)

    def close(self, reason: worker_pb2.GoodbyeReason.ValueType, text: str) -> None:
        """Add the last message's Goodbye."""
        if not self.closed:
            self.message().goodbye.CopyFrom(worker_pb2.Goodbye(reason=reason, message=text))
            self.closed = True

    def message(self) -> worker_pb2.AttachResponse:
        """Return the open message, to be filled in."""
        if self._open is None:
            self._open = worker_pb2.AttachResponse()
            self._messages.append(self._open)
            self._items = self._bytes = 0
        return self._open

    def _for(self, payload_bytes: int) -> worker_pb2.AttachResponse:
        """Return a message that has room for one more item."""
        size = payload_bytes + _overhead_bytes
        if self._items >= limits.items_a_message_max or (
            self._bytes and self._bytes + size > limits.message_split_bytes
        ):
            self._open = None
        message = self.message()
        self._items += 1
        self._bytes += size
        return message

    def _assign(self, effect: Assign) -> None:
        progress = effect.progress
        message = self._for(len(effect.input) + (len(progress) if progress is not None else 0))
        assignment = message.assignments.add(
            shard=effect.shard,
            epoch=effect.epoch,
            id=effect.assignment,
            ordinal=effect.ordinal,
            workflow_id=effect.workflow_id,
            node_id=effect.node_id,
            instance=effect.instance,
            attempt=effect.attempt,
            executor=effect.executor,
            workflow_name=effect.workflow_name,
        )
        assignment.input.data = effect.input
        if effect.start_to_close_ms:
            assignment.start_to_close_ms = effect.start_to_close_ms
        if progress is not None:
            assignment.progress.data = progress
        if effect.stop_on_disconnect:
            assignment.stop_on_disconnect = True
