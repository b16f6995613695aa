"""An assignment that was committed and never arrived: it is offered again soon, and as the same attempt."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc.aio

from mainspring.naming import new_incarnation
from mainspring.v1 import worker_pb2
from mainspring.v1.worker_pb2_grpc import FleetServiceStub
from mainspring.wire import protocol_version, to_payload
from tests.cluster.flows import gate
from tests.cluster.running import RealCluster

heartbeat_s: Final = 0.5
_answer_s_max: Final = 20.0


class FrailWorker:
    """A worker's end of a stream, which takes note of nothing unless the test says so."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[worker_pb2.AttachRequest, worker_pb2.AttachResponse]") -> None:
        self.call = call
        self.epochs: dict[int, int] = {}
        self.ordinal_seen = 0
        self._seq = 0

    async def attach(self, incarnation: str) -> None:
        """Say who we are, and that we have nothing."""
        hello = worker_pb2.Hello(
            name="frail",
            incarnation=incarnation,
            executors=["gated"],
            slots=1,
            workflows_max=1,
            protocol=protocol_version,
        )
        await self.send(worker_pb2.AttachRequest(hello=hello))
        welcome = (await self.read()).welcome
        self.epochs = {owned.shard: owned.epoch for owned in welcome.shards}
        await self.state_nothing()
        await self.send(worker_pb2.AttachRequest(credit=worker_pb2.Credit(seq=1, limit=1)))

    async def state_nothing(self) -> None:
        """State an inventory of nothing."""
        inventory = [
            worker_pb2.ShardInventory(shard=shard, epoch=epoch, ordinal_seen=self.ordinal_seen)
            for shard, epoch in self.epochs.items()
        ]
        await self.send(worker_pb2.AttachRequest(inventory=inventory))

    async def assigned(self) -> worker_pb2.Assignment:
        """Return the next assignment."""
        while not (message := await self.read()).assignments:
            pass
        (assignment,) = message.assignments
        self.ordinal_seen = assignment.ordinal
        return assignment

    async def report(self, of: worker_pb2.Assignment, output: bytes) -> int:
        """Send a result; return what became of it."""
        result = worker_pb2.Result(
            shard=of.shard, id=of.id, outcome=worker_pb2.OUTCOME_SUCCEEDED, output=to_payload(output)
        )
        await self.send(worker_pb2.AttachRequest(results=[result]))
        while not (message := await self.read()).acks:
            pass
        (ack,) = message.acks
        assert ack.id == of.id
        return ack.disposition

    async def send(self, message: worker_pb2.AttachRequest) -> None:
        """Send a message, numbered."""
        self._seq += 1
        message.seq = self._seq
        await self.call.write(message)

    async def read(self) -> worker_pb2.AttachResponse:
        """Return the next message."""
        message = await self.call.read()
        assert isinstance(message, worker_pb2.AttachResponse)
        return message


@asynccontextmanager
async def frail(address: str, incarnation: str) -> AsyncIterator[FrailWorker]:
    """Attach; the stream ends with the context, without a word."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(_answer_s_max):
        worker = FrailWorker(FleetServiceStub(channel).Attach())
        await worker.attach(incarnation)
        yield worker
        worker.call.cancel()


def test_an_assignment_that_never_arrived_is_offered_again_as_the_same_attempt(file_url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            await cluster.coordinator()
            handle = await cluster.client().submit(gate(), "open")
            incarnation, address = new_incarnation(), cluster.address("c1")
            async with frail(address, incarnation) as worker:
                first = await worker.assigned()
                # Lost within the worker: its next inventory has seen the assignment go by, and has it not.
                began = time.monotonic()
                await worker.state_nothing()
                again = await worker.assigned()
                assert time.monotonic() - began < 2 * heartbeat_s + 3  # the last seconds are for a busy machine
            # Lost with the stream.
            async with frail(address, incarnation) as worker:
                began = time.monotonic()
                anew = await worker.assigned()
                assert time.monotonic() - began < 2 * heartbeat_s + 3
                # The same attempt each time, under a name of its own: should the lost one turn up, it does not count.
                assert [one.attempt for one in (first, again, anew)] == [1, 1, 1]
                assert first.id < again.id < anew.id
                assert await worker.report(first, b'"late"') == worker_pb2.ACK_DISPOSITION_STALE
                assert await worker.report(anew, b'"done"') == worker_pb2.ACK_DISPOSITION_RECORDED
            assert await handle.result(30) == "done"

    asyncio.run(play())
