"""The client learns from answers who owns what, and goes straight there; it depends on none of it."""

import asyncio
from dataclasses import dataclass

from mainspring.dial import Keepalive
from mainspring.ids import shard_of
from mainspring.owner_hint import OwnerHint, owner_key
from mainspring.v1 import client_pb2
from mainspring_client import Client, WorkflowStatus
from mainspring_client.owners import Owners
from mainspring_client.stubs import Stubs
from mainspring_coordinator.engine import status
from mainspring_coordinator.forward import Peer
from tests.servers.ports import free_port
from tests.services.rig import INCARNATIONS, Host, plan_of, shards_total, story

name = "wf-1"
shard = shard_of(name, shards_total)


@dataclass
class Counted:
    """How many calls about workflows a coordinator was asked."""

    calls: int = 0


def counted(host: Host) -> Counted:
    """Count from now on."""
    count, find = Counted(), host.services.forwarder.find

    def counting(asked: int) -> Peer | bool:
        count.calls += 1
        return find(asked)

    host.services.forwarder.find = counting  # type: ignore[method-assign, assignment]
    host.store(name, plan_of({"id": "a", "executor": "echo"}), status.WorkflowStatus.SUCCEEDED)
    return count


async def until_not_asked(client: Client, count: Counted) -> None:
    """Read until a read passes a coordinator by."""
    before = -1
    while count.calls != before:
        before = count.calls
        assert (await client.get(name)).status is WorkflowStatus.SUCCEEDED


@story
async def test_calls_go_straight_to_the_owner_once_an_answer_has_named_it() -> None:
    async with Host("one") as one, Host("two") as two, Client(one.address) as client:
        one.own(two)
        first, second = counted(one), counted(two)
        assert (await client.get(name)).status is WorkflowStatus.SUCCEEDED
        assert (first.calls, second.calls) == (1, 0), "a forwarded call is not looked for again"
        await until_not_asked(client, first)
        assert second.calls == 1


@story
async def test_a_shard_that_moved_is_followed() -> None:
    async with Host("one") as one, Host("two") as two, Client(one.address) as client:
        one.own(two)
        first, second = counted(one), counted(two)
        await until_not_asked(client, first)
        one.loop.serving[shard] = 2
        two.own(one, [shard])
        await until_not_asked(client, second)


@story
async def test_an_owner_that_dies_or_comes_back_as_another_is_passed_by() -> None:
    async with Host("one") as one, Host("two") as two, Client(one.address) as client:
        one.own(two)
        first = counted(one)
        counted(two)
        await until_not_asked(client, first)
        two.directory.incarnation = "f" * 32
        one.own(two)
        before = first.calls
        assert (await client.get(name)).status is WorkflowStatus.SUCCEEDED
        assert first.calls == before + 1
        await until_not_asked(client, first)
        await two.server.stop(None)
        one.loop.serving[shard] = 2
        assert (await client.get(name)).status is WorkflowStatus.SUCCEEDED


@story
async def test_a_call_that_means_another_incarnation_is_refused_before_anything_is_done() -> None:
    async with Host("one") as one, Client(one.address) as client:
        counted(one)
        owners = Owners(lambda address: Stubs(address, Keepalive()))
        await owners.learn(Answered(OwnerHint(shard, shards_total, INCARNATIONS["two"], one.address)))  # type: ignore[arg-type]
        client._transport._owners = owners
        before = len(one.loop.events)
        request = client_pb2.GetRequest(workflow_id=name)
        while owners.find(request) is None:
            await client.cluster()  # its round trip gives the connection time
        handle = await client.submit({"name": "n", "nodes": [{"id": "a", "executor": "echo"}]}, workflow_id=name)
        assert handle.created
        assert len(one.loop.events) == before + 1, "the second try alone was heard"
        assert owners.find(request) is None


@story
async def test_an_owner_that_cannot_be_reached_from_here_is_not_waited_for() -> None:
    async with Host("one") as one, Client(one.address) as client:
        counted(one)
        owners = Owners(lambda address: Stubs(address, Keepalive()))
        nowhere = OwnerHint(shard, shards_total, INCARNATIONS["two"], f"127.0.0.1:{free_port()}")
        await owners.learn(Answered(nowhere))  # type: ignore[arg-type]
        client._transport._owners = owners
        async with asyncio.timeout(5):
            assert (await client.get(name)).status is WorkflowStatus.SUCCEEDED


class Answered:
    """A call whose answer names an owner."""

    def __init__(self, hint: OwnerHint) -> None:
        self._metadata = ((owner_key, hint.to_text()),)

    async def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata
