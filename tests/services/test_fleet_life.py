"""The life of workers' streams: silence, stalls, heartbeats, ends."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from mainspring import limits
from mainspring.errors import BusyError
from mainspring.v1 import admin_pb2, worker_pb2
from mainspring_coordinator.engine.effects import (
    Ack,
    Disposition,
    Replace,
    Welcomed,
)
from mainspring_coordinator.engine.events import (
    CreditSet,
    WorkerAttached,
    WorkerDetached,
)
from mainspring_coordinator.session import FleetTimings, Session
from tests.services.rig import Host, WorkerEnd, assignment, hello, story


@story
async def test_a_silent_worker_is_ended_as_lost() -> None:
    async with Host(timings=FleetTimings(1_000, 3_000, 500)) as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        for _ in range(13):
            host.clock.us += 250_000
            host.services.fleet.beat()
        goodbye = await worker.goodbye()
        assert goodbye.reason == worker_pb2.GOODBYE_REASON_SILENT
        assert await host.loop.wait_for(WorkerDetached) == [WorkerDetached(1, goodbye=False)]


@story
async def test_a_stall_of_our_own_extends_all_deadlines() -> None:
    async with Host(timings=FleetTimings(1_000, 3_000, 500)) as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        host.clock.us += 60_000_000
        host.services.fleet.beat()
        message = await worker.read()
        assert message is not None
        assert message.HasField("heartbeat")
        assert not message.HasField("goodbye")


@story
async def test_a_stream_without_hello_is_ended_after_a_bounded_wait() -> None:
    async with Host() as host:
        mute = host.fleet.Attach()
        await host.loop.wait_for_sessions(1)
        for _ in range(12):
            host.clock.us += 1_000_000
            host.services.fleet.beat()
        message = await mute.read()
        assert isinstance(message, worker_pb2.AttachResponse)
        assert message.goodbye.reason == worker_pb2.GOODBYE_REASON_SILENT
        assert "no Hello" in message.goodbye.message


@story
async def test_a_hello_that_the_loop_does_not_answer_is_ended_after_a_bounded_wait() -> None:
    async with Host() as host:
        host.loop.welcoming = False
        worker = WorkerEnd(host)
        await worker.send(hello=hello())
        await host.loop.wait_for(WorkerAttached)
        for _ in range(12):
            host.clock.us += 1_000_000
            host.services.fleet.beat()
        goodbye = await worker.goodbye()
        assert "attach again" in goodbye.message


@story
async def test_heartbeats_go_both_ways_and_measure_the_round_trip() -> None:
    async with Host(timings=FleetTimings(1_000, 3_000, 500)) as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        await worker.send(heartbeat=worker_pb2.WorkerHeartbeat(ping=11, load=worker_pb2.LoadReport(cpu_percent=12.5)))
        answer = await worker.read()
        assert answer is not None
        assert (answer.heartbeat.pong, answer.heartbeat.ping, answer.heartbeat.last_seq_seen) == (11, 0, 2)
        assert (answer.heartbeat.database, answer.heartbeat.lock) == ("up", "held")
        for _ in range(4):
            host.clock.us += 250_000
            host.services.fleet.beat()
        beat = await worker.read()
        assert beat is not None
        assert beat.heartbeat.ping == 1
        host.clock.us += 1_500
        await worker.send(heartbeat=worker_pb2.WorkerHeartbeat(pong=1), credit=worker_pb2.Credit(seq=1, limit=9))
        await host.loop.wait_for(CreditSet)
        listed = await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())
        (row,) = listed.workers
        assert (row.round_trip_us, row.cpu_percent, row.credit, row.silent_ms) == (1_500, 12.5, 9, 0)


@story
async def test_a_worker_is_asked_whether_it_has_heard_all_and_answers_for_what_came_before() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        outlet = host.loop.outlets[1]
        host.loop.deliver(1, [assignment(1, 1)])
        first = outlet.until_seen()
        message = await worker.read()
        assert message is not None
        assert len(message.assignments) == 1
        assert message.heartbeat.ping == 1
        second = outlet.until_seen()
        asked_again = await worker.read()
        assert asked_again is not None
        assert asked_again.heartbeat.ping == 2
        await worker.send(heartbeat=worker_pb2.WorkerHeartbeat(pong=1))
        await first
        assert not second.done()
        # It answers for all before; one that nobody waits for any more does no harm.
        third = outlet.until_seen()
        third.cancel()
        assert await worker.read() is not None
        await worker.send(heartbeat=worker_pb2.WorkerHeartbeat(pong=3))
        await second


@story
async def test_who_waits_for_a_worker_to_have_heard_goes_on_when_its_stream_ends() -> None:
    async with Host() as host:
        host.loop.welcoming = False
        worker = WorkerEnd(host)
        await worker.send(hello=hello())
        await host.loop.wait_for(WorkerAttached)
        outlet = host.loop.outlets[1]
        assert outlet.until_seen().done(), "before its Welcome nothing was sent"
        host.loop.deliver(1, [Welcomed(1)])
        assert await worker.read() is not None
        heard = outlet.until_seen()
        assert not heard.done()
        worker.call.cancel()
        await heard
        leaver = WorkerEnd(host)
        host.loop.welcoming = True
        await leaver.welcome(incarnation="b" * 32)
        host.loop.deliver(2, [Replace(2)])
        assert host.loop.outlets[2].until_seen().done(), "behind a Goodbye nothing can be asked"


@story
async def test_changes_of_ownership_are_told_as_differences() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        host.loop.outlets[1].shards_changed({0: 1, 1: 1, 2: 5})
        message = await worker.read()
        assert message is not None
        assert sorted((item.shard, item.epoch, item.owned) for item in message.shards) == [(2, 5, True), (3, 1, False)]


@story
async def test_workers_are_told_when_a_coordinator_comes_or_goes() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        for live in ([("c" * 32, "two", "127.0.0.1:2")], [("d" * 32, "three", "127.0.0.1:3")]):
            host.directory.live = live
            host.services.fleet.coordinators_changed()
        message = await worker.read()
        assert message is not None
        assert [(item.name, item.address) for item in message.coordinators] == [("three", "127.0.0.1:3")]


@story
async def test_a_full_queue_of_the_loop_makes_the_worker_wait_and_loses_nothing() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        host.loop.full = BusyError("full", retry_after_ms=1)
        await worker.send(credit=worker_pb2.Credit(seq=1, limit=1))
        await worker.send(credit=worker_pb2.Credit(seq=2, limit=2))
        asyncio.get_running_loop().call_later(0.02, setattr, host.loop, "full", None)
        assert await host.loop.wait_for(CreditSet, 2) == [CreditSet(1, 1, 1), CreditSet(1, 2, 2)]


@story
async def test_a_worker_that_does_not_read_is_cut_off_and_others_are_served() -> None:
    async with Host(timings=FleetTimings(1_000, 3_000, 500)) as host:
        stuck = WorkerEnd(host)
        await stuck.welcome()
        fine = WorkerEnd(host)
        await fine.welcome(name="w2", incarnation="b" * 32)
        large = b'"' + b"x" * (limits.payload_bytes_max - 2) + b'"'
        host.loop.deliver(1, [assignment(1, number, large) for number in range(40)])
        host.loop.deliver(2, [assignment(2, 1)])
        message = await fine.read()
        assert message is not None
        entry = host.services.fleet.book.entries["b" * 32]
        for _ in range(16):
            host.clock.us += 250_000
            await fine.send(heartbeat=worker_pb2.WorkerHeartbeat())
            while entry.heard_us != host.clock.us:  # noqa: ASYNC110  (the book gives no signal)
                await asyncio.sleep(0)
            host.services.fleet.beat()
        assert WorkerDetached(1, goodbye=False) in await host.loop.wait_for(WorkerDetached)


@story
async def test_closing_says_goodbye_behind_what_waits_and_takes_no_new_workers() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        host.loop.deliver(1, [Ack(1, 0, 1, "wf", 7, Disposition.STALE)])
        closing = asyncio.create_task(host.services.fleet.close())
        message = await worker.read()
        assert message is not None
        assert len(message.acks) == 1
        goodbye = message.goodbye if message.HasField("goodbye") else await worker.goodbye()
        assert goodbye.reason == worker_pb2.GOODBYE_REASON_SHUTDOWN
        await closing
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await WorkerEnd(host).welcome()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@story
async def test_the_book_counts_assignments_between_two_inventories() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        await worker.send(
            inventory=[worker_pb2.ShardInventory(shard=0, epoch=1, running=[1, 2])],
            credit=worker_pb2.Credit(seq=1, limit=5),
        )
        await host.loop.wait_for(CreditSet)
        host.loop.deliver(1, [assignment(1, 4), assignment(1, 5), Ack(1, 0, 1, "wf", 1, Disposition.RECORDED)])
        (row,) = (await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())).workers
        assert row.assigned == 3


def test_an_effect_that_cannot_be_packed_ends_the_stream_not_the_loop() -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            worker = WorkerEnd(host)
            await worker.welcome()
            host.loop.deliver(1, [assignment(1, 1, shard=-1)])
            goodbye = await worker.goodbye()
            assert "incident" in goodbye.message

    told()


def test_welcomed_twice_is_welcomed_once_a_session() -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            worker = WorkerEnd(host)
            await worker.welcome()
            host.loop.deliver(1, [Welcomed(1), Ack(1, 0, 1, "wf", 7, Disposition.NOT_OWNER)])
            message = await worker.read()
            assert message is not None
            assert message.acks[0].disposition == worker_pb2.ACK_DISPOSITION_NOT_OWNER

    told()


@story
async def test_a_worker_that_leaves_while_it_is_written_to_hears_the_end_of_its_stream() -> None:
    async with Host() as host:

        async def come_and_go(number: int) -> None:
            worker = WorkerEnd(host)
            # Both before Welcome, so that it is being written when the Goodbye is read.
            await worker.send(hello=hello(name=f"w{number}", incarnation=f"{number:032x}"))
            await worker.send(goodbye=worker_pb2.Goodbye(reason=worker_pb2.GOODBYE_REASON_SHUTDOWN))
            while await worker.read() is not None:
                continue
            assert await worker.call.code() is grpc.StatusCode.OK

        async with asyncio.timeout(20):
            await asyncio.gather(*map(come_and_go, range(1, 21)))


class StuckCall:
    """A worker's call over which nothing comes and nothing gets away."""

    async def read(self) -> None:
        await asyncio.Event().wait()

    async def write(self, _message: worker_pb2.AttachResponse) -> None:
        await asyncio.Event().wait()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@story
async def test_a_stream_whose_call_is_cancelled_while_it_ends_leaves_nothing_running() -> None:
    async with Host() as host:
        call: Any = StuckCall()
        session = Session(host.services.fleet._surroundings, call)
        serving = asyncio.create_task(session.serve())
        await asyncio.sleep(0)
        for _ in range(2):  # by the worker, and by the server that stops
            serving.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({serving})
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("session ")]
