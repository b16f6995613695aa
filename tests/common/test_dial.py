"""How connections are made."""

import asyncio
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mainspring.dial import open_channel, server_options
from tests.servers.cut import CuttableProxy

_slow_s = 0.4
"""A TLS handshake over 100 ms of round trip, or any over a host that is busy for a moment."""


def test_a_connection_that_takes_a_moment_is_made_at_the_first_try() -> None:
    async def play() -> None:
        server = grpc.aio.server(options=server_options())
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with CuttableProxy(port) as proxy, open_channel(f"127.0.0.1:{proxy.port}") as channel:
            proxy.cut()
            stub: Any = health_pb2_grpc.HealthStub(channel)
            asking = asyncio.ensure_future(stub.Check(health_pb2.HealthCheckRequest()))
            asyncio.get_running_loop().call_later(_slow_s, proxy.heal)
            assert (await asking).status == health_pb2.HealthCheckResponse.SERVING
        await server.stop(None)

    asyncio.run(play())
