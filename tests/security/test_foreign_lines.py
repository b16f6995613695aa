"""Nobody who connects can write a line of the log."""

import subprocess
import sys

GOAWAY = """
import mainspring_coordinator
import asyncio
import grpc.aio

def frame(kind, body=b""):
    return len(body).to_bytes(3, "big") + bytes((kind, 0, 0, 0, 0, 0)) + body

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    farewell = bytes(4) + (2).to_bytes(4, "big") + b'x\\n{"event": "forged"}\\n'
    writer.write(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + frame(4) + frame(7, farewell))
    writer.write_eof()
    while await reader.read(1_000):
        pass
    await server.stop(None)

asyncio.run(main())
"""


def test_what_a_stranger_says_as_it_leaves_is_no_line_of_the_log() -> None:
    done = subprocess.run([sys.executable, "-c", GOAWAY], check=True, capture_output=True, text=True, timeout=60)
    assert "forged" not in done.stdout + done.stderr
