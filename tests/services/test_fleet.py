"""The workers' stream: attaching, packing, hearing, ending."""

import asyncio
from heapq import nlargest
from typing import Any
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from mainspring import limits
from mainspring.v1 import admin_pb2, worker_pb2, workflow_pb2
from mainspring.wire import protocol_version, serves_protocol, to_payload
from mainspring_coordinator import fleet
from mainspring_coordinator.engine.effects import (
    Ack,
    CancelCause,
    Disposition,
    EchoCredit,
    Refuse,
    Replace,
    ReportBacklog,
    Stop,
)
from mainspring_coordinator.engine.events import (
    CreditSet,
    Inventory,
    LoadReported,
    ProgressReported,
    Results,
    WorkerAttached,
    WorkerDetached,
    WorkerDraining,
    WorkerHeard,
)
from mainspring_coordinator.engine.status import NodeStatus
from tests.services.rig import Host, WorkerEnd, assignment, hello, story


@story
async def test_a_worker_that_attaches_is_told_the_cluster() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        welcome = await worker.welcome()
        assert (welcome.cluster, welcome.name, welcome.shards_total) == ("test", "one", 4)
        assert [(item.shard, item.epoch, item.owned) for item in welcome.shards] == [(n, 1, True) for n in range(4)]
        assert [item.incarnation for item in welcome.coordinators] == [host.directory.incarnation]
        assert (welcome.heartbeat_interval_ms, welcome.silence_limit_ms) == (30_000, 90_000)
        (attached,) = await host.loop.wait_for(WorkerAttached)
        assert (attached.name, attached.executors, attached.slots) == ("w1", frozenset({"echo"}), 100)
        assert attached.labels == {"gpu": "no"}


@pytest.mark.parametrize(
    ("theirs", "ours", "served"),
    [(1, 1, True), (2, 1, False), (0, 1, False), (4, 4, True), (3, 4, True), (2, 4, False), (5, 4, False)],
)
def test_a_worker_one_protocol_back_is_served_and_no_other(theirs: int, ours: int, *, served: bool) -> None:
    assert serves_protocol(theirs, ours) is served


@story
async def test_a_worker_of_a_later_protocol_is_told_what_to_upgrade_first() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.send(hello=hello(protocol=protocol_version + 1, version="9.9.9"))
        goodbye = await worker.goodbye()
        assert goodbye.reason == worker_pb2.GOODBYE_REASON_INCOMPATIBLE
        assert "9.9.9" in goodbye.message
        assert "upgrade the coordinators first, then their workers" in goodbye.message


@story
async def test_all_that_a_commit_releases_is_one_message() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        effects = [assignment(1, number) for number in range(100)]
        acks = [Ack(1, 0, 1, "wf", 7, Disposition.RECORDED)]
        stops = [Stop(1, 2, 1, "wf", 8, CancelCause.TIMED_OUT)]
        host.loop.deliver(1, [*effects, *acks, *stops, EchoCredit(1, 4), ReportBacklog(1, 0)])
        message = await worker.read()
        assert message is not None
        assert len(message.assignments) == 100
        assert (len(message.acks), len(message.cancels), message.credit_seq, message.seq) == (1, 1, 4, 2)
        assert message.HasField("backlog")
        sent = message.assignments[5]
        assert (sent.shard, sent.id, sent.ordinal, sent.workflow_id) == (1, 1 << 32 | 5, 5, "wf-5")
        assert (sent.node_id, sent.instance, sent.input.data, sent.HasField("progress")) == ("a", -1, b"{}", False)


@story
async def test_commits_that_follow_each_other_share_a_message_until_it_is_written() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        for number in range(50):
            host.loop.deliver(1, [assignment(1, number)])
        message = await worker.read()
        assert message is not None
        assert len(message.assignments) == 50


@story
async def test_items_over_the_bound_of_a_message_go_into_the_next() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        host.loop.deliver(1, [assignment(1, number) for number in range(limits.items_a_message_max + 1)])
        sizes = [len(message.assignments) for message in [await worker.read(), await worker.read()] if message]
        assert sizes == [limits.items_a_message_max, 1]


@story
async def test_large_inputs_are_split_over_messages_that_stay_below_the_bound() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        large = b'"' + b"x" * (limits.payload_bytes_max - 2) + b'"'
        host.loop.deliver(1, [assignment(1, number, large) for number in range(5)])
        got: list[int] = []
        while len(got) < 5:
            message = await worker.read()
            assert message is not None
            assert message.ByteSize() <= limits.message_split_bytes
            got += [item.ordinal for item in message.assignments]
        assert got == [0, 1, 2, 3, 4]


@story
async def test_what_a_worker_says_becomes_events_in_order() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        await worker.send(
            inventory=[
                worker_pb2.ShardInventory(shard=2, epoch=1, queued=[1], running=[2], finished=[3], ordinal_seen=9)
            ],
            results=[
                worker_pb2.Result(
                    shard=1, id=5, outcome=worker_pb2.OUTCOME_SUCCEEDED, output=to_payload(b"[1]"), run_us=7
                ),
                worker_pb2.Result(
                    shard=1,
                    id=6,
                    outcome=worker_pb2.OUTCOME_FAILED,
                    failure=workflow_pb2.Failure(type="E", message="m"),
                ),
                worker_pb2.Result(shard=1, id=7, outcome=worker_pb2.OUTCOME_NOT_STARTED),
                worker_pb2.Result(shard=1, id=8, outcome=worker_pb2.OUTCOME_SUCCEEDED),
            ],
            progress=[worker_pb2.Progress(shard=0, id=4, details=to_payload(b"{}"))],
            credit=worker_pb2.Credit(seq=1, limit=50),
            load=worker_pb2.LoadReport(cpu_percent=250.0, memory_percent=float("nan")),
            draining=worker_pb2.Draining(),
        )
        await host.loop.wait_for(WorkerDraining)
        assert host.loop.events[1] == Inventory(1, 2, 1, [1], [2], [3], 9)
        results = host.loop.events[2]
        assert isinstance(results, Results)
        assert [(item.status, item.output) for item in results.items] == [
            (NodeStatus.SUCCEEDED, b"[1]"),
            (NodeStatus.FAILED, b"null"),
            (NodeStatus.READY, b"null"),
            (NodeStatus.SUCCEEDED, b"null"),
        ]
        assert results.items[1].failure is not None
        assert results.items[1].failure.type == "E"
        assert host.loop.events[3:] == [
            ProgressReported(1, 0, 4, b"{}"),
            CreditSet(1, 1, 50),
            LoadReported(1, 100.0, 0.0),
            WorkerDraining(1),
        ]


@story
async def test_an_output_that_cannot_be_taken_fails_its_attempt_not_the_stream() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        outputs: list[dict[str, Any]] = [
            {"data": b"not json"},
            {"data": b"1", "encoding": "pickle"},
            {"data": b'"' + b"x" * limits.payload_bytes_max + b'"'},
        ]
        await worker.send(
            results=[
                worker_pb2.Result(
                    shard=0, id=1 + index, outcome=worker_pb2.OUTCOME_SUCCEEDED, output=workflow_pb2.Payload(**output)
                )
                for index, output in enumerate(outputs)
            ]
        )
        (results,) = await host.loop.wait_for(Results)
        assert [item.status for item in results.items] == [NodeStatus.FAILED] * 3
        assert [item.failure.type for item in results.items] == [
            "mainspring.ResultRefused",
            "mainspring.ResultRefused",
            "mainspring.PayloadTooLarge",
        ]
        assert all(item.failure.non_retryable for item in results.items)


_R = worker_pb2.Result
_breaches: list[tuple[str, dict[str, Any]]] = [
    ("seq", {"seq": 7}),
    ("hello", {"hello": hello()}),
    ("inventory[0].shard", {"inventory": [worker_pb2.ShardInventory(shard=4)]}),
    ("inventory[0].epoch", {"inventory": [worker_pb2.ShardInventory(shard=0, epoch=2**31)]}),
    ("results[1].shard", {"results": [_R(shard=0, id=1, outcome=worker_pb2.OUTCOME_CANCELLED), _R(shard=9, id=1)]}),
    ("results[0].id", {"results": [_R(outcome=worker_pb2.OUTCOME_CANCELLED)]}),
    ("results[0].outcome", {"results": [_R(id=1)]}),
    ("results", {"results": [_R(id=1, outcome=worker_pb2.OUTCOME_CANCELLED)] * 1_001}),
    ("progress[0].details", {"progress": [worker_pb2.Progress(id=1, details=to_payload(b"x" * 5_000))]}),
    ("progress[0].shard", {"progress": [worker_pb2.Progress(shard=4, id=1)]}),
    ("credit.limit", {"credit": worker_pb2.Credit(seq=1, limit=101)}),
    ("credit.seq", {"credit": worker_pb2.Credit(seq=0, limit=1)}),
]


@pytest.mark.parametrize(("field", "message"), _breaches, ids=[field for field, _ in _breaches])
def test_a_breach_of_the_contract_ends_the_stream_and_names_the_field(field: str, message: dict[str, Any]) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            worker = WorkerEnd(host)
            await worker.welcome()
            await worker.send(**message)
            goodbye = await worker.goodbye()
            assert goodbye.reason == worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR
            assert f": {field}: " in goodbye.message
            (detached,) = await host.loop.wait_for(WorkerDetached)
            assert not detached.goodbye

    told()


_refusals: list[tuple[str, int, dict[str, Any]]] = [
    ("hello.protocol", worker_pb2.GOODBYE_REASON_INCOMPATIBLE, {"protocol": protocol_version + 1}),
    ("hello.protocol", worker_pb2.GOODBYE_REASON_INCOMPATIBLE, {"protocol": 0}),
    ("hello.cluster", worker_pb2.GOODBYE_REASON_WRONG_CLUSTER, {"cluster": "other"}),
    ("hello.name", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"name": ""}),
    ("hello.name", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"name": "x" * 129}),
    ("hello.incarnation", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"incarnation": "A" * 32}),
    ("hello.host", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"host": "x" * 256}),
    ("hello.labels", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"labels": {str(n): "" for n in range(65)}}),
    ("hello.labels['a']", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"labels": {"a": "x" * 129}}),
    ("hello.executors", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"executors": []}),
    ("hello.executors[1]", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"executors": ["a", ""]}),
    ("hello.slots", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"slots": 0}),
    ("hello.workflows_max", worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, {"workflows_max": 10_001}),
]


@pytest.mark.parametrize(
    ("field", "reason", "change"), _refusals, ids=[f"{f}-{i}" for i, (f, _, _) in enumerate(_refusals)]
)
def test_a_hello_out_of_its_bounds_is_refused_with_its_field(field: str, reason: int, change: dict[str, Any]) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            worker = WorkerEnd(host)
            await worker.send(hello=hello(**change))
            goodbye = await worker.goodbye()
            assert goodbye.reason == reason
            assert f"{field}: " in goodbye.message
            assert host.loop.events == []

    told()


@story
async def test_a_stream_that_begins_without_hello_is_refused() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.send(load=worker_pb2.LoadReport())
        goodbye = await worker.goodbye()
        assert goodbye.reason == worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR
        assert "hello: missing" in goodbye.message


@story
async def test_the_engines_refusal_reaches_the_worker_with_its_words() -> None:
    async with Host() as host:
        host.loop.welcoming = False
        worker = WorkerEnd(host)
        await worker.send(hello=hello())
        await host.loop.wait_for(WorkerAttached)
        host.loop.deliver(1, [Refuse(1, "NAME_TAKEN", "a worker named 'w1' is attached already")])
        goodbye = await worker.goodbye()
        assert goodbye.reason == worker_pb2.GOODBYE_REASON_NAME_TAKEN
        assert "is attached already" in goodbye.message


@story
async def test_a_worker_that_is_not_believed_loses_its_stream_and_the_log_has_why() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        with capture_logs() as lines:
            host.loop.deliver(1, [Refuse(1, "PROTOCOL_ERROR", "worker 'w1' says that it has seen epoch 9")])
            goodbye = await worker.goodbye()
        assert (goodbye.reason, "seen epoch 9" in goodbye.message) == (worker_pb2.GOODBYE_REASON_PROTOCOL_ERROR, True)
        (told,) = (line for line in lines if line["event"] == "worker_refused")
        assert (told["log_level"], "'w1'" in told["reason"]) == ("warning", True)


@story
async def test_the_end_of_a_replaced_stream_never_touches_the_newer_one() -> None:
    async with Host() as host:
        old = WorkerEnd(host)
        await old.welcome()
        new = WorkerEnd(host)
        await new.welcome()
        host.loop.deliver(1, [Replace(1)])
        goodbye = await old.goodbye()
        assert goodbye.reason == worker_pb2.GOODBYE_REASON_REPLACED
        (detached,) = await host.loop.wait_for(WorkerDetached)
        assert detached == WorkerDetached(1, goodbye=False)
        assert list(host.loop.outlets) == [2]
        answer = await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())
        assert [worker.status for worker in answer.workers] == [admin_pb2.WORKER_STATUS_ACTIVE]
        host.loop.deliver(2, [assignment(2, 1)])
        message = await new.read()
        assert message is not None
        assert len(message.assignments) == 1


@story
async def test_when_a_worker_goes_without_a_word_another_is_asked_to_answer() -> None:
    async with Host() as host:
        gone, other = WorkerEnd(host), WorkerEnd(host)
        await gone.welcome()
        await other.welcome()
        await gone.call.done_writing()
        asked = await other.read()
        assert asked is not None
        assert asked.heartbeat.ping
        assert not [event for event in host.loop.events if isinstance(event, WorkerHeard)]
        await other.send(heartbeat=worker_pb2.WorkerHeartbeat(pong=asked.heartbeat.ping))
        (heard,) = await host.loop.wait_for(WorkerHeard)
        (detached,) = await host.loop.wait_for(WorkerDetached)
        assert heard.session != detached.session
        # What it answers later on is nothing that anybody waits for.
        await other.send(
            heartbeat=worker_pb2.WorkerHeartbeat(pong=asked.heartbeat.ping), credit=worker_pb2.Credit(seq=1)
        )
        await host.loop.wait_for(CreditSet)
        assert await host.loop.wait_for(WorkerHeard) == [heard]


@story
async def test_when_many_workers_go_at_once_the_others_are_looked_through_once_and_once_more() -> None:
    async with Host() as host:
        ends = [WorkerEnd(host) for _ in range(12)]
        for number, end in enumerate(ends):
            await end.welcome(name=f"w{number}", incarnation=f"{number:032x}")
        twice, looks = asyncio.Event(), list[int]()

        def looking(count: int, sessions: Any, key: Any) -> list[Any]:
            looks.append(count)
            if len(looks) == 2:
                twice.set()
            return nlargest(count, sessions, key)

        with patch.object(fleet, "nlargest", looking):
            for end in ends[1:]:
                await end.call.done_writing()
            assert len(await host.loop.wait_for(WorkerDetached, 11)) == 11
            # Whoever went in the moment after the first look is in the next one.
            await twice.wait()
        assert len(looks) < 6


@pytest.mark.parametrize("wanted", [True, False])
def test_only_a_goodbye_makes_the_end_of_a_stream_a_wanted_one(wanted: bool) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            worker = WorkerEnd(host)
            await worker.welcome()
            if wanted:
                await worker.send(goodbye=worker_pb2.Goodbye(reason=worker_pb2.GOODBYE_REASON_SHUTDOWN))
            await worker.call.done_writing()
            assert await worker.read() is None
            assert await host.loop.wait_for(WorkerDetached) == [WorkerDetached(1, goodbye=wanted)]
            assert host.loop.outlets == {}
            answer = await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())
            assert [worker.status for worker in answer.workers] == ([] if wanted else [admin_pb2.WORKER_STATUS_ABSENT])

    told()


@story
async def test_a_worker_whose_call_is_cancelled_is_detached() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        worker.call.cancel()
        assert await host.loop.wait_for(WorkerDetached) == [WorkerDetached(1, goodbye=False)]
