"""What coordinators say to each other of permits, over real streams."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from mainspring import limits
from mainspring.errors import BusyError
from mainspring.ids import shard_of
from mainspring.owner_hint import addressee_key
from mainspring.v1 import admin_pb2, peers_pb2
from mainspring.v1.peers_pb2_grpc import PeersServiceStub
from mainspring_coordinator.engine.effects import GrantPermits, StatePermits
from mainspring_coordinator.engine.events import PermitsGranted, PermitsStated
from mainspring_coordinator.engine.permits import Group, Reply, Statement
from tests.services.rig import INCARNATIONS, Host, fields_in, reason_in, shards_total, story

KEY = next(f"key{n}" for n in range(99) if shard_of(f"key{n}", shards_total) == 2)
WANTS = {Group(9, 3): 2, Group(0, 1_000): 1}


def statement(number: int = 1, key: str = KEY, **rest: Any) -> Statement:
    return Statement(
        **{"key": key, "shard": 1, "epoch": 5, "number": number, "home_epoch": 7, "keeps": 4, "wants": WANTS, **rest}
    )


def reply(number: int = 1, **rest: Any) -> Reply:
    given: dict[str, Any] = {"key": KEY, "shard": 1, "epoch": 5, "number": number, "home_epoch": 7, "granted": WANTS}
    return Reply(**{**given, "out": 6, "waiting": 9, **rest})


async def all_sent(host: Host) -> None:
    tasks = [box.task for box in host.services.post._outboxes.values() if box.task is not None]
    await asyncio.gather(*tasks)


@story
async def test_what_is_meant_for_our_own_shards_stays_within_the_process() -> None:
    async with Host("one") as one:
        one.loop.pass_on_permits([StatePermits(1, statement()), GrantPermits(2, reply())])
        assert one.loop.events == [PermitsStated(2, statement()), PermitsGranted(1, reply())]
        one.loop.full = BusyError("full", retry_after_ms=1)
        one.loop.pass_on_permits([StatePermits(1, statement())])


@story
async def test_a_statement_goes_to_the_keys_home_and_a_reply_to_the_shard() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two, [1, 2])
        one.loop.pass_on_permits([StatePermits(1, statement()), GrantPermits(2, reply())])
        assert await two.loop.wait_for(PermitsStated) == [PermitsStated(2, statement())]
        assert await two.loop.wait_for(PermitsGranted) == [PermitsGranted(1, reply())]
        assert one.loop.events == []


@story
async def test_what_waits_is_sent_together_and_of_one_key_only_the_latest() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two, [2])
        for number in range(1, 50):
            one.loop.pass_on_permits([StatePermits(1, statement(number)), StatePermits(3, statement(number, shard=3))])
        got = await two.loop.wait_for(PermitsStated, 2)
        assert [event.statement for event in got] == [statement(49), statement(49, shard=3)]


@story
async def test_what_cannot_be_passed_on_is_dropped_and_the_next_is_sent() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two, [2])
        owner = one.directory.owners.pop(2)
        one.loop.pass_on_permits([StatePermits(1, statement(1))])  # nobody owns it
        one.directory.owners[2] = (INCARNATIONS["one"][::-1], two.address)
        one.loop.pass_on_permits([StatePermits(1, statement(2))])  # somebody else is there by now
        await all_sent(one)
        one.directory.owners[2] = owner
        two.loop.serving.pop(2)
        one.loop.pass_on_permits([StatePermits(1, statement(3))])  # and does not own it
        await all_sent(one)
        two.loop.serving[2] = 1
        one.loop.pass_on_permits([StatePermits(1, statement(4))])
        assert await two.loop.wait_for(PermitsStated) == [PermitsStated(2, statement(4))]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (peers_pb2.PermitStatement(key="", shard=1), "key"),
        (peers_pb2.PermitStatement(key="k" * 129, shard=1), "key"),
        (peers_pb2.PermitStatement(key="k", shard=shards_total), "shard"),
        (peers_pb2.PermitStatement(key="k", epoch=2**31), "epoch"),
        (peers_pb2.PermitStatement(key="k", keeps=2**31), "keeps"),
        (peers_pb2.PermitStatement(key="k", wants=[peers_pb2.PermitGroup(priority=10, limit=1, count=1)]), "priority"),
        (peers_pb2.PermitStatement(key="k", wants=[peers_pb2.PermitGroup(limit=0, count=1)]), "limit"),
        (peers_pb2.PermitStatement(key="k", wants=[peers_pb2.PermitGroup(limit=1, count=1_001)]), "count"),
        (
            peers_pb2.PermitStatement(
                key="k", wants=[peers_pb2.PermitGroup(limit=limit, count=1) for limit in range(1, 34)]
            ),
            "groups",
        ),
    ],
)
def test_what_is_beyond_its_bounds_is_refused(message: peers_pb2.PermitStatement, field: str) -> None:
    @story
    async def told() -> None:
        async with Host("one") as one:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await PeersServiceStub(one.channel).PassPermits(peers_pb2.PassPermitsRequest(statements=[message]))
            assert fields_in(raised.value) == [field]
            assert one.loop.events == []

    told()


@story
async def test_what_was_meant_for_another_incarnation_is_refused() -> None:
    async with Host("one") as one:
        request = peers_pb2.PassPermitsRequest(statements=[peers_pb2.PermitStatement(key=KEY, shard=1)])
        stub = PeersServiceStub(one.channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.PassPermits(request, metadata=((addressee_key, "f" * 32),))
        assert reason_in(raised.value) == "NOT_OWNER"
        many = peers_pb2.PassPermitsRequest(replies=[peers_pb2.PermitReply(key="k")] * (limits.items_a_message_max + 1))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.PassPermits(many)


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (admin_pb2.AuditEntry(entry_id="a" * 31, act="StepDown"), "entry.entry_id"),
        (admin_pb2.AuditEntry(entry_id="é" * 16, act="StepDown"), "entry.entry_id"),
        (admin_pb2.AuditEntry(entry_id="a" * 32, act="é"), "entry.act"),
        (admin_pb2.AuditEntry(entry_id="a" * 32, act="x" * 65), "entry.act"),
    ],
)
def test_an_entry_that_the_database_would_refuse_with_all_that_come_beside_it_is_not_taken(
    entry: admin_pb2.AuditEntry, field: str
) -> None:
    @story
    async def told() -> None:
        async with Host("one") as one:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await PeersServiceStub(one.channel).WriteAudit(peers_pb2.WriteAuditRequest(entry=entry))
            assert fields_in(raised.value) == [field]
            assert one.loop.audited == []

    told()
