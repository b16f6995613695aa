"""A coordinator as a script: a real gRPC server whose test says each word, and hears each word of the worker."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from mainspring.dial import server_options
from mainspring.v1 import worker_pb2 as wire
from mainspring.v1 import workflow_pb2
from mainspring.v1.worker_pb2_grpc import FleetServiceServicer, add_FleetServiceServicer_to_server
from mainspring_worker.config import WorkerConfig
from mainspring_worker.executors import describe
from mainspring_worker.surroundings import Surroundings
from mainspring_worker.worker import Worker

wait_s = 10.0
epoch = 1
_lost = wire.AttachResponse()
"""Stands for a message that is lost on its way."""


class Session:
    """One stream as the coordinator sees it."""

    def __init__(self, hello: wire.Hello) -> None:
        self.hello = hello
        self.heard: list[wire.AttachRequest] = []
        self.ended = asyncio.Event()
        self._spoken = asyncio.Event()
        self._outbox: asyncio.Queue[wire.AttachResponse | None] = asyncio.Queue()
        self._ordinal = 0

    def say(self, **fields: Any) -> None:
        self._outbox.put_nowait(wire.AttachResponse(**fields))

    def skip(self) -> None:
        """Lose a message: its number is taken, and it never comes."""
        self._outbox.put_nowait(_lost)

    def drop(self) -> None:
        """End the stream without a word."""
        self._outbox.put_nowait(None)

    def assign(self, *numbers: int, executor: str = "echo", data: bytes = b"1", **fields: Any) -> None:
        self.say(assignments=[self.assignment(number, executor=executor, data=data, **fields) for number in numbers])

    def assignment(self, number: int, *, executor: str = "echo", data: bytes = b"1", **fields: Any) -> wire.Assignment:
        self._ordinal += 1
        fields = {"shard": 0, "epoch": epoch, "attempt": 1, "instance": -1} | fields
        return wire.Assignment(
            id=number,
            ordinal=self._ordinal,
            workflow_id="wf",
            workflow_name="test",
            node_id=f"node-{number}",
            executor=executor,
            input=workflow_pb2.Payload(data=data),
            **fields,
        )

    def ack(self, number: int, disposition: int = wire.ACK_DISPOSITION_RECORDED, *, at: int = epoch) -> None:
        ack = wire.ResultAck(shard=0, id=number, epoch=at, disposition=wire.AckDisposition.ValueType(disposition))
        self.say(acks=[ack])

    def results(self) -> list[wire.Result]:
        return [result for message in self.heard for result in message.results]

    async def until(self, met: Callable[[], Any]) -> Any:
        """Wait until what was heard makes `met` true."""
        async with asyncio.timeout(wait_s):
            while not (found := met()):
                self._spoken.clear()
                await self._spoken.wait()
        return found

    async def result(self, number: int) -> wire.Result:
        found: wire.Result = await self.until(lambda: next((r for r in self.results() if r.id == number), None))
        return found

    async def message(self, met: Callable[[wire.AttachRequest], Any]) -> wire.AttachRequest:
        found: wire.AttachRequest = await self.until(lambda: next((m for m in self.heard if met(m)), None))
        return found

    async def serve(self, context: "grpc.aio.ServicerContext[wire.AttachRequest, wire.AttachResponse]") -> None:
        tasks = {asyncio.create_task(self._read(context)), asyncio.create_task(self._write(context))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.ended.set()

    async def _read(self, context: "grpc.aio.ServicerContext[wire.AttachRequest, wire.AttachResponse]") -> None:
        while True:
            message = await context.read()
            if not isinstance(message, wire.AttachRequest):
                return
            self.heard.append(message)
            self._spoken.set()
            if message.HasField("goodbye"):
                return

    async def _write(self, context: "grpc.aio.ServicerContext[wire.AttachRequest, wire.AttachResponse]") -> None:
        seq = 0
        while (message := await self._outbox.get()) is not None:
            seq += 1
            if message is _lost:
                continue
            message.seq = seq
            await context.write(message)
            if message.HasField("goodbye"):
                return


class Coordinator(FleetServiceServicer):
    """Welcomes workers, unless told otherwise; like a real one, a newer stream of an incarnation replaces the older."""

    def __init__(self, incarnation: str = "a" * 32, shards: Sequence[int] = (0,)) -> None:
        self.incarnation = incarnation
        self.shards = shards
        self.address = ""
        self.peers: list[Coordinator] = [self]
        self.refusals: list[wire.Goodbye] = []
        """What the next Hellos are answered with."""
        self.answers = True
        self.welcomes = asyncio.Event()
        """Cleared: a Hello waits for its Welcome."""
        self.welcomes.set()
        self.welcome: Mapping[str, Any] = {}
        self.attached: asyncio.Queue[Session] = asyncio.Queue()
        self.hellos: list[wire.Hello] = []
        self.replaced = 0
        self._current: dict[str, Session] = {}
        self._server = grpc.aio.server(options=server_options())

    async def start(self) -> None:
        add_FleetServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def session(self) -> Session:
        """Return the next session."""
        async with asyncio.timeout(wait_s):
            return await self.attached.get()

    async def Attach(  # type: ignore[override]  # noqa: N802  (the contract's name; the generated type knows generators only)
        self, request_iterator: object, context: "grpc.aio.ServicerContext[wire.AttachRequest, wire.AttachResponse]"
    ) -> None:
        first = await context.read()
        assert isinstance(first, wire.AttachRequest)
        self.hellos.append(first.hello)
        session = Session(first.hello)
        if not self.answers:
            self.attached.put_nowait(session)
            await asyncio.Event().wait()
        if self.refusals:
            await context.write(wire.AttachResponse(seq=1, goodbye=self.refusals.pop(0)))
            return
        await self.welcomes.wait()
        older = self._current.get(first.hello.incarnation)
        if older is not None and not older.ended.is_set():
            self.replaced += 1
            older.say(goodbye=wire.Goodbye(reason=wire.GOODBYE_REASON_REPLACED))
        self._current[first.hello.incarnation] = session
        session.say(welcome=wire.Welcome(**(self._welcome() | dict(self.welcome))))
        self.attached.put_nowait(session)
        await session.serve(context)

    def _welcome(self) -> dict[str, Any]:
        return {
            "cluster": "test",
            "incarnation": self.incarnation,
            "name": "scripted",
            "coordinators": [
                wire.CoordinatorAddress(incarnation=peer.incarnation, name="scripted", address=peer.address)
                for peer in self.peers
            ],
            "shards": [wire.ShardOwnership(shard=shard, epoch=epoch, owned=True) for shard in self.shards],
            "shards_total": 16,
            "heartbeat_interval_ms": 30_000,
            "silence_limit_ms": 90_000,
            "stream_grace_ms": 200,
        }


async def until(met: Callable[[], Any]) -> None:
    """Wait for what gives no sign of itself: another process, a thread of user code."""
    async with asyncio.timeout(3 * wait_s):
        while not met():  # noqa: ASYNC110  (no signal crosses from there)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def coordinators(count: int = 1) -> AsyncIterator[list[Coordinator]]:
    """Run coordinators that know of each other; each owns one shard."""
    started = [Coordinator(f"{number + 1:032x}", [number]) for number in range(count)]
    for coordinator in started:
        coordinator.peers = started
        await coordinator.start()
    try:
        yield started
    finally:
        for coordinator in started:
            await coordinator.stop()


@asynccontextmanager
async def running(
    addresses: Sequence[str],
    executors: Mapping[str, Callable[..., Any]] | None = None,
    *,
    surroundings: Surroundings | None = None,
    **config: Any,
) -> AsyncIterator[Worker]:
    """Run a worker; at the end it is drained, which must not take long."""
    defaults: dict[str, Any] = {"name": "worker", "slots": 4, "drain_ms": 2_000, "processes": 1}
    functions = executors if executors is not None else {"echo": echo}
    worker = Worker(
        WorkerConfig(addresses=addresses, **(defaults | config)),
        {name: describe(f, name) for name, f in functions.items()},
        surroundings=surroundings,
    )
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        if not task.done():
            await worker.drain(0)
        await asyncio.gather(task, return_exceptions=True)


async def echo(data: object) -> object:
    return data
