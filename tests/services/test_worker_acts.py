"""What operators do with one worker: whoever is asked finds it, tells it, and says what came of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mainspring import limits
from mainspring.errors import UnavailableError
from mainspring.v1 import admin_pb2, worker_pb2
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Refuse
from mainspring_coordinator.engine.events import Inventory, WorkerDetached, WorkerDraining, WorkerResumed
from mainspring_coordinator.engine.operator_events import Audited, WorkerEvicted
from mainspring_coordinator.store.stored_record import StoredAuditEntry
from tests.services.rig import INCARNATIONS, Host, WorkerEnd, error_of, fields_in, story

OURS, OTHERS, MINE = "a" * 32, "b" * 32, "c" * 32


def entries(host: Host) -> list[tuple[str, str, str]]:
    return [(event.entry.act, event.entry.subject, event.entry.outcome) for event in host.loop.audited]


def know_each_other(*hosts: Host) -> None:
    """Let all be live, and find in the database what one writes."""
    for host in hosts:
        host.directory.live = [(one.directory.incarnation, one.directory.name, one.address) for one in hosts]

    def write(event: Any) -> Answer:
        row = event.entry
        said = (row.act, row.subject, row.reason, row.who, row.coordinator, row.outcome)
        for host in hosts:
            host.reader.audit_rows = [StoredAuditEntry(row.entry_id, row.began_at_us, row.ended_at_us, *said)]
        return Answer(event.token, 0, "", AnswerCode.OK)

    for host in hosts:
        host.loop.answers[Audited] = write


async def attach(host: Host, incarnation: str = OURS, **rest: Any) -> WorkerEnd:
    worker = WorkerEnd(host)
    welcome = await worker.welcome(**{"incarnation": incarnation, "can_be_drained": True, **rest})
    assert welcome.sets_draining
    return worker


async def asked(worker: WorkerEnd) -> bool:
    """Return what the worker is asked for next."""
    while True:
        message = await worker.read()
        assert message is not None
        if message.HasField("set_draining"):
            return message.set_draining.draining


def drain(name: str = "w1", incarnation: str = "") -> admin_pb2.DrainWorkerRequest:
    return admin_pb2.DrainWorkerRequest(name=name, incarnation=incarnation, reason="a new kernel")


def undrain(name: str = "w1", incarnation: str = "") -> admin_pb2.UndrainWorkerRequest:
    return admin_pb2.UndrainWorkerRequest(name=name, incarnation=incarnation, reason="it is there")


def evict(name: str = "w1", incarnation: str = "", reason: str = "it burned") -> admin_pb2.EvictWorkerRequest:
    return admin_pb2.EvictWorkerRequest(name=name, incarnation=incarnation, reason=reason)


async def status(host: Host) -> list[tuple[int, bool]]:
    listed = await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())
    return [(worker.status, worker.stays) for worker in listed.workers]


# -- drain -------------------------------------------------------------------------------------------------------------------


@story
async def test_a_worker_is_drained_and_undrained_once_it_has_said_so() -> None:
    async with Host() as host:
        worker = await attach(host)
        call = asyncio.ensure_future(host.admin.DrainWorker(drain()))
        assert await asked(worker) is True
        assert await status(host) == [(admin_pb2.WORKER_STATUS_ACTIVE, False)]
        assert not call.done()
        stated = worker_pb2.ShardInventory(shard=1, epoch=1, running=[1, 2])
        load = worker_pb2.LoadReport(running=5, unacknowledged=1)
        await worker.send(draining=worker_pb2.Draining(stays=True), inventory=[stated], load=load)
        answer = await call
        assert (answer.incarnation, answer.assigned, answer.running) == (OURS, 2, 5)
        assert await status(host) == [(admin_pb2.WORKER_STATUS_DRAINING, True)]
        await host.loop.wait_for(WorkerDraining)
        assert not answer.already
        again = asyncio.ensure_future(host.admin.DrainWorker(drain()))
        assert await asked(worker) is True
        await worker.send(draining=worker_pb2.Draining(stays=True))
        assert (await again).already
        back = asyncio.ensure_future(host.admin.UndrainWorker(undrain(incarnation=OURS)))
        assert await asked(worker) is False
        await worker.send(taking_work=worker_pb2.TakingWork(), inventory=[stated])
        assert await back == admin_pb2.UndrainWorkerResponse(incarnation=OURS)
        assert await status(host) == [(admin_pb2.WORKER_STATUS_ACTIVE, False)]
        again_back = asyncio.ensure_future(host.admin.UndrainWorker(undrain()))
        assert await asked(worker) is False
        await worker.send(taking_work=worker_pb2.TakingWork())
        assert await again_back == admin_pb2.UndrainWorkerResponse(incarnation=OURS, already=True)
        # What it states in the same message counts from then on.
        kinds = [type(event) for event in host.loop.events]
        assert kinds[kinds.index(WorkerResumed) + 1] is Inventory
        assert entries(host) == [
            ("DrainWorker", f"w1 ({OURS})", ""),
            ("DrainWorker", f"w1 ({OURS})", "done"),
            ("DrainWorker", f"w1 ({OURS})", ""),
            ("DrainWorker", f"w1 ({OURS})", "done"),
            ("UndrainWorker", f"w1 ({OURS})", ""),
            ("UndrainWorker", f"w1 ({OURS})", "done"),
            ("UndrainWorker", f"w1 ({OURS})", ""),
            ("UndrainWorker", f"w1 ({OURS})", "done"),
        ]


@story
async def test_who_does_not_have_the_worker_sends_the_act_to_one_that_has() -> None:
    async with Host("one") as one, Host("two") as two:
        know_each_other(one, two)
        worker = await attach(two)
        call = asyncio.ensure_future(one.admin.DrainWorker(drain()))
        assert await asked(worker) is True
        await worker.send(draining=worker_pb2.Draining(stays=True))
        assert (await call).incarnation == OURS
        assert [outcome for _, _, outcome in entries(one)] == ["", "done"]
        assert entries(two) == []
        back = asyncio.ensure_future(one.admin.UndrainWorker(undrain()))
        assert await asked(worker) is False
        await worker.send(taking_work=worker_pb2.TakingWork())
        assert (await back).incarnation == OURS


@story
async def test_a_worker_of_an_earlier_version_is_refused_and_told_nothing() -> None:
    async with Host() as host:
        await attach(host, can_be_drained=False)
        error = await error_of(host.admin.DrainWorker(drain()))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "operators cannot drain; upgrade them, or end it in order by SIGTERM" in (error.details() or "")
        assert entries(host) == []


@story
async def test_a_worker_on_its_way_out_is_not_undrained() -> None:
    async with Host() as host:
        worker = await attach(host)
        call = asyncio.ensure_future(host.admin.UndrainWorker(undrain()))
        await asked(worker)
        await worker.send(draining=worker_pb2.Draining(deadline_ms=5_000))
        error = await error_of(call)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "is on its way out" in (error.details() or "")
        assert "on its way out" in entries(host)[1][2]


@story
async def test_a_worker_whose_stream_ends_or_that_does_not_answer_is_no_success() -> None:
    async with Host() as host:
        worker = await attach(host)
        call = asyncio.ensure_future(host.admin.DrainWorker(drain()))
        await asked(worker)
        worker.call.cancel()
        error = await error_of(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "stream ended before it answered" in (error.details() or "")


def test_a_worker_that_does_not_answer_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "peer_answer_ms_max", 50)

    @story
    async def told() -> None:
        async with Host() as host:
            await attach(host)
            error = await error_of(host.admin.DrainWorker(drain()))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "did not answer within 50 ms" in (error.details() or "")

    told()


@story
async def test_a_name_that_stands_for_several_asks_for_the_incarnation() -> None:
    async with Host("one") as one, Host("two") as two:
        know_each_other(one, two)
        await attach(one)
        twin = await attach(two, OTHERS)
        error = await error_of(one.admin.DrainWorker(drain()))
        assert fields_in(error) == ["incarnation"]
        assert OURS in (error.details() or "")
        assert OTHERS in (error.details() or "")
        call = asyncio.ensure_future(one.admin.DrainWorker(drain(incarnation=OTHERS)))
        assert await asked(twin) is True
        await twin.send(draining=worker_pb2.Draining(stays=True))
        assert (await call).incarnation == OTHERS


@story
async def test_a_worker_that_is_nowhere_is_not_found_and_who_could_not_be_asked_is_named() -> None:
    async with Host("one") as one:
        one.directory.live = [
            (one.directory.incarnation, "one", one.address),
            (INCARNATIONS["two"], "two", "127.0.0.1:1"),
        ]
        error = await error_of(one.admin.DrainWorker(drain()))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "(not asked, because out of reach: two)" in (error.details() or "")


@story
async def test_an_incarnation_that_is_not_there_is_named_with_those_that_are() -> None:
    async with Host("one") as one, Host("two") as two:
        know_each_other(one, two)
        stores(one)
        await attach(one)
        await attach(two, OTHERS)
        for call in (
            one.admin.DrainWorker(drain(incarnation=MINE)),
            one.admin.UndrainWorker(undrain(incarnation=MINE)),
        ):
            error = await error_of(call)
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert error.details() == (
                f"no live coordinator knows incarnation {MINE} of worker 'w1'; attached is: {OURS}, {OTHERS}"
            )
        # One that is gone may be evicted; what lives by its name is said, should another one be meant.
        evicted = await one.admin.EvictWorker(evict(incarnation=MINE))
        assert (evicted.known, list(evicted.others)) == (False, [OURS, OTHERS])
        evicted = await one.admin.EvictWorker(evict(incarnation=OURS))
        assert (evicted.known, list(evicted.others)) == (True, [OTHERS])


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda host: host.admin.DrainWorker(drain(name="")), "name"),
        (lambda host: host.admin.UndrainWorker(undrain(name="x" * 129)), "name"),
        (lambda host: host.admin.DrainWorker(drain(incarnation="0815")), "incarnation"),
        (lambda host: host.admin.EvictWorker(evict(incarnation="0815")), "incarnation"),
        (lambda host: host.admin.EvictWorker(evict(reason=" ")), "reason"),
        (lambda host: host.admin.EvictWorker(evict("w2", OURS)), "incarnation"),
    ],
)
def test_what_is_asked_must_be_in_order(call: Callable[[Host], Any], field: str) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            await attach(host)
            error = await error_of(call(host))
            assert fields_in(error) == [field]
            assert entries(host) == []

    told()


@story
async def test_what_a_worker_has_of_another_coordinator_does_not_count_as_ours() -> None:
    async with Host() as host:
        del host.loop.serving[3]
        worker = await attach(host)
        stated = [worker_pb2.ShardInventory(shard=shard, epoch=1, running=[1]) for shard in (2, 3)]
        await worker.send(inventory=stated)
        await host.loop.wait_for(Inventory, 2)
        await asyncio.sleep(0)
        (listed,) = (await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())).workers
        assert (listed.assigned, listed.busy) == (1, 1)


@story
async def test_what_a_worker_says_it_has_of_all_coordinators_is_listed_and_never_less_than_ours() -> None:
    async with Host() as host:
        worker = await attach(host)

        async def busy(load: worker_pb2.LoadReport, running: list[int], seen: int) -> tuple[int, int]:
            stated = worker_pb2.ShardInventory(shard=1, epoch=1, running=running)
            await worker.send(inventory=[stated], load=load)
            await host.loop.wait_for(Inventory, seen)
            await asyncio.sleep(0)
            (listed,) = (await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())).workers
            return listed.assigned, listed.busy

        assert await busy(worker_pb2.LoadReport(queued=3, running=2, unacknowledged=1), [1], 1) == (1, 6)
        assert await busy(worker_pb2.LoadReport(), [1, 2], 2) == (2, 2)


# -- evict -------------------------------------------------------------------------------------------------------------------


def stores(host: Host) -> None:
    host.loop.answers[WorkerEvicted] = lambda event: Answer(event.token, event.shard, "", AnswerCode.OK)


@story
async def test_an_eviction_is_recorded_then_stored_under_the_first_shard_that_is_served() -> None:
    async with Host() as host:
        stores(host)
        del host.loop.serving[0]
        await attach(host)
        answer = await host.admin.EvictWorker(evict())
        assert (answer.incarnation, answer.known, list(answer.unasked)) == (OURS, True, [])
        (event,) = await host.loop.wait_for(WorkerEvicted)
        assert (event.shard, event.incarnation) == (1, OURS)
        assert entries(host) == [("EvictWorker", f"w1 ({OURS})", ""), ("EvictWorker", f"w1 ({OURS})", "done")]


@story
async def test_a_worker_that_is_evicted_hears_why_and_is_not_listed_as_absent() -> None:
    async with Host() as host:
        worker = await attach(host)
        host.loop.deliver(1, [Refuse(1, "EVICTED", "an operator evicted it")])
        goodbye = await worker.goodbye()
        assert (goodbye.reason, goodbye.message) == (worker_pb2.GOODBYE_REASON_EVICTED, "an operator evicted it")
        await host.loop.wait_for(WorkerDetached)
        assert await status(host) == []


@story
async def test_an_incarnation_that_nobody_knows_any_more_may_be_evicted_by_its_name_it_may_not() -> None:
    async with Host() as host:
        stores(host)
        answer = await host.admin.EvictWorker(evict("w9", MINE))
        assert (answer.incarnation, answer.known) == (MINE, False)
        error = await error_of(host.admin.EvictWorker(evict("w9")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "mainspring failovers" in (error.details() or "")


@story
async def test_who_serves_nothing_has_it_stored_by_one_that_does_and_asks_all_for_the_worker() -> None:
    async with Host("one") as one, Host("two") as two:
        know_each_other(one, two)
        one.own(two)
        stores(two)
        one.directory.live.append(("d" * 32, "three", "127.0.0.1:1"))
        await attach(two)
        answer = await one.admin.EvictWorker(evict())
        assert (answer.incarnation, answer.known, list(answer.unasked)) == (OURS, True, ["three"])
        assert len(await two.loop.wait_for(WorkerEvicted)) == 1
        assert [event for event in one.loop.events if isinstance(event, WorkerEvicted)] == []


@story
async def test_with_no_shard_served_nothing_is_evicted() -> None:
    async with Host() as host:
        await attach(host)
        host.loop.serving.clear()
        error = await error_of(host.admin.EvictWorker(evict()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "nothing was done" in (error.details() or "")


@story
async def test_an_eviction_that_was_not_stored_is_no_success() -> None:
    async with Host() as host:
        host.loop.answers[WorkerEvicted] = lambda _: UnavailableError("the term is over; the outcome is unknown")
        await attach(host)
        error = await error_of(host.admin.EvictWorker(evict()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "the outcome is unknown" in entries(host)[1][2]
