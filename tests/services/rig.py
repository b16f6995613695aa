"""Services on a real gRPC server in this process, over a loop and a database that do what the test says."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import orjson
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from mainspring.dial import open_channel, server_options
from mainspring.errors import NotOwnerError
from mainspring.v1 import worker_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceStub
from mainspring.v1.client_pb2_grpc import WorkflowsServiceStub
from mainspring.v1.worker_pb2_grpc import FleetServiceStub
from mainspring_coordinator.admin import Build
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Assign, Ended, NodeView, View, Welcomed
from mainspring_coordinator.engine.events import Cancel, Event, Read, Submit, WorkerAttached
from mainspring_coordinator.engine.operator_events import Audited
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.plans import PlanCache, compile_bytes
from mainspring_coordinator.ports import Outlet, PermitEffect, WorkflowEffect
from mainspring_coordinator.services import Services, add_services
from mainspring_coordinator.session import FleetTimings
from mainspring_coordinator.store.protocol import ConnectionId, CoordinatorRow, StoredNode, StoredWorkflow
from tests.services.fake_reader import CountedStrategies, FakeReader

_M = TypeVar("_M", bound=Message)
shards_total = 4


def story(told: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Let a test be a coroutine."""

    @wraps(told)
    def test() -> None:
        asyncio.run(told())

    del test.__wrapped__  # else pytest would look through it and see a coroutine
    return test


INCARNATIONS = {name: f"{zlib.crc32(name.encode()):08x}" * 4 for name in ("one", "two")}


class FakeClock:
    """A clock that moves when it is told."""

    us = 1_000_000

    def now_us(self) -> int:
        return self.us


Script = Callable[[Any], Answer | Exception]


class FakeLoop:
    """A control loop that answers as the test scripts it, and records what it is given."""

    def __init__(self) -> None:
        self.serving: dict[int, int] = dict.fromkeys(range(shards_total), 1)
        self.events: list[Event] = []
        self.arrived = asyncio.Event()
        self.full: Exception | None = None
        self.views: dict[str, View] = {}
        self.proofs: list[int] = []
        self.on_ask: Callable[[Event], None] = lambda event: None
        self.on_prove: Callable[[], None] = lambda: None
        self.audited: list[Any] = []
        self.answers: dict[type, Script] = {Audited: lambda event: Answer(event.token, 0, "", AnswerCode.OK)}
        self.outlets: dict[int, Outlet] = {}
        self.subscribers: dict[str, list[Callable[[WorkflowEffect], None]]] = {}
        self.lost_subscribers: list[Callable[[int], None]] = []
        self.pass_on_permits: Callable[[Sequence[PermitEffect]], None] = lambda effects: None
        self.welcoming = True
        self._sessions = self._tokens = 0

    @property
    def shards_total(self) -> int:
        return shards_total

    def now_us(self) -> int:
        return 1

    def post(self, event: Event) -> None:
        if self.full is not None:
            raise self.full
        self.events.append(event)
        self.arrived.set()
        if isinstance(event, WorkerAttached) and self.welcoming:
            asyncio.get_running_loop().call_soon(self.deliver, event.session, [Welcomed(event.session)])

    def deliver(self, session: int, effects: Sequence[Any]) -> None:
        if session in self.outlets:
            self.outlets[session].deliver(effects)

    async def wait_for(self, kind: type, count: int = 1) -> list[Any]:
        """Return the posted events of a kind as soon as there are `count`."""
        while len(found := [event for event in self.events if type(event) is kind]) < count:
            self.arrived.clear()
            await self.arrived.wait()
        return found

    async def ask(self, shard: int, make: Callable[[int], Event]) -> Answer:
        if shard not in self.serving:
            raise NotOwnerError(f"shard {shard} is owned by another coordinator")
        self._tokens += 1
        event = make(self._tokens)
        (self.audited if isinstance(event, Audited) else self.events).append(event)
        self.arrived.set()
        self.on_ask(event)
        await asyncio.sleep(0)
        script = self.answers.get(type(event))
        if script is not None:
            answer = script(event)
            if isinstance(answer, Exception):
                raise answer
            return answer
        assert isinstance(event, Read | Submit | Cancel)
        if isinstance(event, Submit):
            return Answer(event.token, shard, event.workflow_id, AnswerCode.OK, WorkflowStatus.RUNNING, created=True)
        view = self.views.get(event.workflow_id)
        code = AnswerCode.NOT_FOUND if view is None else AnswerCode.OK
        return Answer(event.token, shard, event.workflow_id, code, view.status if view is not None else None, view=view)

    async def prove(self, shard: int) -> None:
        if shard not in self.serving:
            raise NotOwnerError(f"shard {shard} is owned by another coordinator")
        self.proofs.append(shard)
        self.on_prove()

    async def wait_for_sessions(self, count: int) -> None:
        """Return when this many streams have been opened."""
        while self._sessions < count:
            self.arrived.clear()
            await self.arrived.wait()

    def new_session(self) -> int:
        self._sessions += 1
        self.arrived.set()
        return self._sessions

    def attach(self, session: int, outlet: Outlet) -> None:
        self.outlets[session] = outlet

    def detach(self, session: int) -> None:
        self.outlets.pop(session, None)

    def subscribe(
        self, workflow_id: str, notify: Callable[[WorkflowEffect], None], *, end_only: bool = False
    ) -> Callable[[], None]:
        self.subscribers.setdefault(workflow_id, []).append(notify)
        return lambda: self._forget(self.subscribers[workflow_id], notify)

    def on_permits(self, pass_on: Callable[[Sequence[PermitEffect]], None]) -> None:
        self.pass_on_permits = pass_on

    def on_shard_lost(self, notify: Callable[[int], None]) -> Callable[[], None]:
        self.lost_subscribers.append(notify)
        return lambda: self._forget(self.lost_subscribers, notify)

    def _forget(self, notified: list[Any], notify: object) -> None:
        notified.remove(notify)
        self.arrived.set()

    @property
    def is_quiet(self) -> bool:
        """Nobody is subscribed to anything."""
        return not any(self.subscribers.values()) and not self.lost_subscribers

    async def wait_until_quiet(self) -> None:
        """Return when nobody is subscribed to anything any more."""
        while not self.is_quiet:
            self.arrived.clear()
            await self.arrived.wait()

    def tell(self, effect: WorkflowEffect) -> None:
        """Let the subscribers of a workflow know, as a commit does."""
        for notify in list(self.subscribers.get(effect.workflow_id, [])):
            notify(effect)

    def lose(self, shard: int) -> None:
        """Stop serving a shard."""
        del self.serving[shard]
        for notify in list(self.lost_subscribers):
            notify(shard)


class FakeDirectory:
    """Who owns what, as the test says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.incarnation = INCARNATIONS[name]
        self.owners: dict[int, tuple[str, str]] = {}
        self.live: list[tuple[str, str, str]] = [(self.incarnation, name, "127.0.0.1:1")]

    def owner_of(self, shard: int) -> tuple[str, str] | None:
        return self.owners.get(shard)

    def coordinators(self) -> Sequence[tuple[str, str, str]]:
        return self.live


class Host:
    """A coordinator's services on a free port of the loopback, and stubs to call them."""

    def __init__(
        self, name: str = "one", timings: FleetTimings | None = None, reader: FakeReader | None = None
    ) -> None:
        self.loop = FakeLoop()
        self.directory = FakeDirectory(name)
        self.reader = reader if reader is not None else FakeReader()
        self.clock = FakeClock()
        self.plans = PlanCache()
        self.timings = timings if timings is not None else FleetTimings()
        self.address = ""
        self.counts = CountedStrategies()

    async def put_on(self, server: grpc.aio.Server) -> Services:
        return await add_services(
            server,
            loop=self.loop,
            directory=self.directory,
            reader=self.reader,
            plans=self.plans,
            build=Build("test", "0.1.0", "0001", "a table"),
            strategy=lambda: "round-robin",
            counts=self.counts,
            timings=self.timings,
            clock=self.clock,
        )

    async def __aenter__(self) -> Self:
        self.server = grpc.aio.server(options=server_options())
        self.services: Services = await self.put_on(self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        await self.services.set_serving(True)
        self.channel = open_channel(self.address)
        self.workflows = WorkflowsServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.fleet = FleetServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.services.leave()
        await self.server.stop(None)
        await self.services.close()
        self.plans.close()

    def own(self, owner: "Host", shards: Iterable[int] = range(shards_total)) -> None:
        """Let our directory say that another one owns these shards, and serve them no more."""
        for shard in shards:
            self.directory.owners[shard] = (owner.directory.incarnation, owner.address)
            if owner is not self:
                self.loop.serving.pop(shard, None)

    # -- workflows ----------------------------------------------------------------------------------------------------------

    def store(self, workflow_id: str, plan: Plan, status: WorkflowStatus, **rest: Any) -> StoredWorkflow:
        """Put a workflow row into the database."""
        stored = StoredWorkflow(
            shard=zlib.crc32(workflow_id.encode()) % shards_total,
            workflow_id=workflow_id,
            digest=b"d" * 32,
            name=plan.name,
            plan_hash=plan.hash,
            status=status,
            **{
                "version": 7,
                "submitted_at_us": 1_000,
                "deadline_at_us": 0,
                "ended_at_us": 9_000 if status >= WorkflowStatus.SUCCEEDED else 0,
                "closing_until_us": 0,
                "strategy": "round-robin",
                "cancel_reason": "",
                "failure": None,
                "input": b'{"n":1}',
                "output": b'{"sum":3}' if status is WorkflowStatus.SUCCEEDED else None,
                **rest,
            },
        )
        self.reader.workflows[workflow_id] = stored
        self.plans.add(plan)
        return stored

    def run(self, workflow_id: str, plan: Plan, version: int = 3, **rest: Any) -> View:
        """Let a workflow run: a row in the database, a view in memory."""
        if workflow_id not in self.reader.workflows:
            self.store(workflow_id, plan, WorkflowStatus.RUNNING, version=version)
        fields: dict[str, Any] = {
            "statuses": bytes([NodeStatus.READY] * len(plan.nodes)),
            "attempts": bytes(len(plan.nodes)),
            "maps": {},
            "active": {},
            "reasons": {},
            **rest,
        }
        view = View(workflow_id, fields.pop("status", WorkflowStatus.RUNNING), version, **fields)
        self.loop.views[workflow_id] = view
        return view

    def add_row(self, workflow_id: str, node: int, instance: int, status: NodeStatus, **rest: Any) -> None:
        """Put a node row into the database."""
        self.reader.node_rows.setdefault(workflow_id, {})[node, instance] = StoredNode(
            workflow_id=workflow_id,
            node=node,
            instance=instance,
            status=status,
            **{
                "attempt": 1,
                "assignment": 1 << 32,
                "worker": "w1",
                "incarnation": "a" * 32,
                "started_at_us": 2_000,
                "ended_at_us": 3_000 if status >= NodeStatus.SUCCEEDED else 0,
                "run_us": 900,
                "retry_at_us": 0,
                "width": 0,
                "redeliveries": 0,
                "version": 2,
                "failure": None,
                **rest,
            },
        )


def define(*nodes: Mapping[str, Any], **rest: Any) -> bytes:
    """Return the JSON of a definition."""
    return orjson.dumps({"name": "demo", "nodes": list(nodes), **rest})


def plan_of(*nodes: Mapping[str, Any], **rest: Any) -> Plan:
    """Return a plan."""
    return compile_bytes(define(*nodes, **rest))


def lease(name: str, address: str, workers: int = 0) -> CoordinatorRow:
    """Return a lease row."""
    none = ConnectionId(0, "")
    return CoordinatorRow(INCARNATIONS[name], name, address, "", 1, workers, none, none, 1)


async def error_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def status_in(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Return the google.rpc.Status of an error."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return status_pb2.Status.FromString(value)
    raise AssertionError(f"no details in {error}")


def _detail(error: grpc.aio.AioRpcError, kind: type[_M]) -> _M:
    detail = kind()
    assert any(packed.Unpack(detail) for packed in status_in(error).details), f"no {kind.__name__} in {error}"
    return detail


def reason_in(error: grpc.aio.AioRpcError) -> str:
    """Return the stable reason of an error."""
    info = _detail(error, error_details_pb2.ErrorInfo)
    assert info.domain == "mainspring"
    return info.reason


def fields_in(error: grpc.aio.AioRpcError) -> list[str]:
    """Return the fields that an error names."""
    request = _detail(error, error_details_pb2.BadRequest)
    return [violation.field for violation in request.field_violations]


def retry_ms_in(error: grpc.aio.AioRpcError) -> int:
    """Return when to try again."""
    info = _detail(error, error_details_pb2.RetryInfo)
    return info.retry_delay.ToMilliseconds()


def hello(**rest: Any) -> worker_pb2.Hello:
    """Return a Hello that is in order."""
    fields: dict[str, Any] = {
        "name": "w1",
        "incarnation": "a" * 32,
        "host": "h1",
        "zone": "z1",
        "labels": {"gpu": "no"},
        "executors": ["echo"],
        "slots": 100,
        "version": "0.1.0",
        "protocol": 1,
        "workflows_max": 10,
        **rest,
    }
    return worker_pb2.Hello(**fields)


def assignment(session: int, number: int, data: bytes = b"{}", **rest: Any) -> Assign:
    """Return an assignment as the engine makes it."""
    fields: dict[str, Any] = {
        "session": session,
        "shard": number % shards_total,
        "epoch": 1,
        "assignment": 1 << 32 | number,
        "ordinal": number,
        "workflow_id": f"wf-{number}",
        "workflow_name": "demo",
        "node_id": "a",
        "instance": -1,
        "attempt": 1,
        "executor": "echo",
        "input": data,
        "start_to_close_ms": 0,
        "progress": None,
        "stop_on_disconnect": False,
        **rest,
    }
    return Assign(**fields)


def ended(workflow_id: str, output: bytes | None = b'"done"', **rest: Any) -> Ended:
    """Return the effect of a workflow's end."""
    fields: dict[str, Any] = {
        "shard": zlib.crc32(workflow_id.encode()) % shards_total,
        "workflow_id": workflow_id,
        "status": WorkflowStatus.SUCCEEDED,
        "output": output,
        "failure": None,
        "submitted_at_us": 1_000,
        "ended_at_us": 9_000,
        "strategy": "round-robin",
        **rest,
    }
    return Ended(**fields)


class WorkerEnd:
    """The worker's side of a stream."""

    def __init__(self, host: Host) -> None:
        self.call = host.fleet.Attach()
        self.seq = 0

    async def send(self, **fields: Any) -> None:
        self.seq += 1
        await self.call.write(worker_pb2.AttachRequest(**{"seq": self.seq, **fields}))

    async def read(self) -> worker_pb2.AttachResponse | None:
        """Return the next message, None at the end of the stream."""
        message = await self.call.read()
        if message is grpc.aio.EOF:
            return None
        assert isinstance(message, worker_pb2.AttachResponse)
        return message

    async def welcome(self, **rest: Any) -> worker_pb2.Welcome:
        """Attach."""
        await self.send(hello=hello(**rest))
        message = await self.read()
        assert message is not None
        assert message.HasField("welcome"), message
        return message.welcome

    async def goodbye(self) -> worker_pb2.Goodbye:
        """Return the Goodbye that comes next, after which the stream has ended."""
        while True:
            message = await self.read()
            assert message is not None, "the stream ended without Goodbye"
            if message.HasField("goodbye"):
                assert await self.read() is None
                return message.goodbye


def running(node: int, instance: int = -1, **rest: Any) -> NodeView:
    """Return the view of a node that runs."""
    fields: dict[str, Any] = {
        "status": NodeStatus.RUNNING,
        "attempt": 1,
        "worker": "w1",
        "started_at_us": 2_000,
        "retry_at_us": 0,
        "width": 0,
        "instances_ended": 0,
        **rest,
    }
    return NodeView(node, instance, **fields)
