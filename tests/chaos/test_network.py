"""The network between namespaces: whole, slow, and cut in one direction, as real packets find it."""

import asyncio
import subprocess
import sys

import pytest

from tests.chaos.network import Namespaces

port = 7321
echo = """
import socket
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("0.0.0.0", %d))
print("ready", flush=True)
while True:
    said, who = here.recvfrom(2000)
    print("heard", flush=True)
    here.sendto(said, who)
"""
ask = """
import socket, sys, time
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.settimeout(float(sys.argv[2]))
began = time.monotonic()
here.sendto(b"?" * 1000, (sys.argv[1], %d))
try:
    here.recv(2000)
    print(time.monotonic() - began)
except TimeoutError:
    print("nothing")
"""


async def asked(network: Namespaces, patience_s: float) -> str:
    command = [*network.prefix("b"), sys.executable, "-c", ask % port, network.host("a"), str(patience_s)]
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


@pytest.mark.skipif(bool(reason := Namespaces.missing()), reason=f"no network namespaces: {reason}")
def test_packets_pass_are_held_back_and_are_lost_as_ordered() -> None:
    async def play() -> None:
        async with Namespaces(["a", "b"]) as network:
            server = await asyncio.create_subprocess_exec(
                *network.prefix("a"), sys.executable, "-c", echo % port, stdout=asyncio.subprocess.PIPE
            )
            assert server.stdout is not None
            try:
                assert await server.stdout.readline() == b"ready\n"
                assert float(await asked(network, 30)) >= 0
                assert await server.stdout.readline() == b"heard\n"
                await network.trouble("f1", [("a", "b")], delay_ms=300)
                assert float(await asked(network, 30)) >= 0.3
                assert await server.stdout.readline() == b"heard\n"
                await network.heal("f1")
                # Only the way back is cut: the question is heard, the answer is not.
                await network.trouble("f2", [("a", "b")], drop=1.0)
                assert await asked(network, 0.5) == "nothing"
                assert await server.stdout.readline() == b"heard\n"
                await network.heal("f2")
                assert float(await asked(network, 30)) >= 0
                assert await server.stdout.readline() == b"heard\n"
                # A kilobyte takes a quarter of a second each way.
                await network.trouble("f3", [("a", "b"), ("b", "a")], bytes_a_s=4_096)
                assert float(await asked(network, 30)) >= 0.5
            finally:
                server.kill()
                await server.communicate()

    asyncio.run(play())
