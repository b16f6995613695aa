"""A stream on which nothing happens stays open: our own pings are not held against us."""

import asyncio

import grpc.aio

from mainspring.dial import Keepalive, open_channel, server_options
from mainspring.v1 import client_pb2, client_pb2_grpc
from tests.client.answers import node, seen
from tests.client.scripted import Step, serving_with

OFTEN = Keepalive(time_ms=1_000)
OFFENDED_S = 7.0
"""Longer than a server that takes offence at one ping of this pace bears them: it does after 3 to 4 s."""


async def _never(_: object) -> None:
    await asyncio.Event().wait()


def test_an_idle_stream_is_not_cut_for_its_pings() -> None:
    async def play() -> None:
        strikes = "grpc.http2.max_ping_strikes"
        strict = [(name, 1 if name == strikes else value) for name, value in server_options(OFTEN)]
        script: dict[str, list[Step]] = {"Watch": [[seen(1, node(), snapshot=True), _never]]}
        async with serving_with(strict, script) as (_, address), open_channel(address, OFTEN) as channel:
            call = client_pb2_grpc.WorkflowsServiceStub(channel).Watch(client_pb2.WatchRequest(workflow_id="w"))
            assert await call.read() != grpc.aio.EOF
            more = asyncio.ensure_future(call.read())
            done, _ = await asyncio.wait({more}, timeout=OFFENDED_S)
            assert not done, more.exception()
            call.cancel()
            await asyncio.gather(more, return_exceptions=True)

    asyncio.run(play())
