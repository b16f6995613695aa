"""What a worker makes of streams on which something is missing or late."""

import asyncio
import gc
from unittest.mock import AsyncMock, Mock, patch

import grpc.aio

from mainspring.v1 import worker_pb2 as wire
from mainspring_worker import stream
from tests.worker.scripted import coordinators, running

_longest_s = 60


def test_a_message_that_is_missing_ends_the_stream_and_the_next_one_states_what_is_there() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address]):
            first = await coordinator.session()
            first.skip()
            first.assign(1)
            second = await coordinator.session()
            assert second.hello.incarnation == first.hello.incarnation
            await second.message(lambda m: m.inventory)
            assert not second.results()

    asyncio.run(asyncio.wait_for(scene(), _longest_s))


class FailingCall:
    """A call that welcomes, and whose second write fails when it is told to."""

    def __init__(self) -> None:
        self.writing, self.ended, self.fails = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._read = False

    async def read(self) -> object:
        if self._read:
            await self.ended.wait()
            return grpc.aio.EOF
        self._read = True
        return wire.AttachResponse(seq=1, welcome=wire.Welcome(incarnation="c1"))

    async def write(self, message: wire.AttachRequest) -> None:
        if not message.HasField("hello"):
            self.writing.set()
            await self.fails.wait()
            raise grpc.aio.UsageError("the call is over")

    def cancel(self) -> None:
        pass


def test_a_write_that_fails_when_nobody_waits_for_it_any_more_is_no_error() -> None:
    async def scene() -> None:
        untaken: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: untaken.append(context))
        call, host = FailingCall(), Mock(hello=lambda: wire.Hello(incarnation="w1"), fill=lambda *_: True)
        with patch.object(stream, "FleetServiceStub", lambda _: Mock(Attach=lambda: call)):
            link = stream.Stream(1, "c1:7320", host, lambda: Mock(close=AsyncMock()), beat_ms=1_000, silence_ms=9_000)
            running_link = asyncio.create_task(link.run())
            await call.writing.wait()
            call.ended.set()
            await asyncio.sleep(0)
            running_link.cancel()
            await asyncio.wait([running_link])
        [writer] = [task for task in asyncio.all_tasks() if "Stream._write" in repr(task.get_coro())]
        call.fails.set()
        await asyncio.wait([writer])
        del writer
        gc.collect()
        assert not untaken

    asyncio.run(asyncio.wait_for(scene(), _longest_s))
