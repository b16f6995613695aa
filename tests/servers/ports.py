"""Ports of loopback for servers of tests, each given out once among all processes that run tests.

A port that the kernel picks for a listener that is closed again may be picked a second time before its server listens: by another test
process, or by the next outgoing connection. So ports are taken from below those that the kernel gives out by itself, and claimed.
"""

import secrets
import socket
from typing import Final

_low: Final = 10_240
_high: Final = 32_768
"""The first that Linux gives to outgoing connections."""
_tries_max: Final = 1_000
_claims: Final[list[socket.socket]] = []


def free_port() -> int:
    """Return a port of loopback that nobody listens on and that is given to no other test, for the life of this process."""
    for _ in range(_tries_max):
        port = _low + secrets.randbelow(_high - _low)
        # The UDP port of the same number is the claim: no server of ours uses it, and it goes with this process, however that ends.
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise OSError(f"none of {_tries_max} ports between {_low} and {_high} is free")
