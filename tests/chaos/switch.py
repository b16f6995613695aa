"""The network between the namespaces: a process that carries each packet from one to another, or loses it, or holds it back.

    python -m tests.chaos.switch c1=chaos-7-c1=10.77.0.2 db=chaos-7-db=10.77.0.3

Each member's namespace gets one TUN device, whose other end is here; so cuts in one direction, loss and latency need neither a firewall
nor a traffic shaper, which not every kernel has. Orders come as lines of JSON on stdin and are answered by a line each:

    {"add": "f7", "pairs": [["c1", "db"]], "drop": 0.1, "delay_ms": 80, "jitter_ms": 40, "bytes_a_s": 50000}
    {"remove": "f7"}
    {}
"""

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

_device: Final = "tun0"
_mtu_bytes: Final = 9_000
_packet_bytes_max: Final = 65_536
_held_packets_max: Final = 50_000
_tunsetiff: Final = 0x400454CA
_iff_tun, _iff_no_pi = 0x0001, 0x1000
_clone_newnet: Final = 0x40000000

_queue_s_max: Final = 1.0
"""What would wait for longer at the entry of a thin network is lost."""
_whole: Final = (0.0, 0.0, 0.0, 0.0)

Pair = tuple[str, str]


class Rules:
    """What happens to packets from one member to another; rules add up."""

    def __init__(self) -> None:
        self._rules: dict[str, dict[str, Any]] = {}
        self.of: dict[Pair, tuple[float, float, float, float]] = {}
        """By pair: the share that is lost, the delay and the most that chance adds to it, in seconds; and the seconds that a byte takes."""

    def obey(self, order: dict[str, Any]) -> None:
        """Add or remove a rule; an empty order only asks whether anybody is there."""
        if "add" in order:
            self._rules[order["add"]] = order
        self._rules.pop(order.get("remove", ""), None)
        self.of.clear()
        for rule in self._rules.values():
            for source, target in rule["pairs"]:
                passes, delay_s, jitter_s, byte_s = self.of.get((source, target), _whole)
                self.of[source, target] = (
                    1 - (1 - passes) * (1 - rule.get("drop", 0.0)),
                    delay_s + rule.get("delay_ms", 0) / 1000,
                    jitter_s + rule.get("jitter_ms", 0) / 1000,
                    max(byte_s, 1 / rule["bytes_a_s"] if rule.get("bytes_a_s") else 0.0),
                )


def open_device(namespace: str, address: str) -> int:
    """Make a TUN device in a namespace and give it an address; return our end."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _clone_newnet):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _tunsetiff, struct.pack("16sH22x", _device.encode(), _iff_tun | _iff_no_pi))
        for command in (
            ["addr", "add", f"{address}/24", "dev", _device],
            ["link", "set", _device, "mtu", str(_mtu_bytes), "up"],
            ["link", "set", "lo", "up"],
        ):
            subprocess.run(["ip", *command], check=True, stdin=subprocess.DEVNULL)
    finally:
        libc.setns(home, _clone_newnet)
        os.close(home)
        os.close(there)
    return end


class Switch:
    """Carries packets until stdin ends."""

    def __init__(self, ends: dict[str, int], addresses: dict[str, str]) -> None:
        self._rules = Rules()
        self._names = {end: name for name, end in ends.items()}
        self._by_address = {socket.inet_aton(address): (name, ends[name]) for name, address in addresses.items()}
        self._held: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._free_at: dict[Pair, float] = {}
        """By pair: when the last packet that was let into a thin network is through."""
        self._chance = random.Random(0)

    def run(self) -> None:
        """Carry."""
        poll = select.epoll()
        for end in self._names:
            poll.register(end, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        rest = b""
        while True:
            wait_s = max(0.0, self._held[0][0] - time.monotonic()) if self._held else -1
            for ready, _ in poll.poll(wait_s):
                if ready == 0:
                    chunk = os.read(0, _packet_bytes_max)
                    if not chunk:
                        return
                    *orders, rest = (rest + chunk).split(b"\n")
                    for order in orders:
                        self._rules.obey(json.loads(order))
                        os.write(1, b"done\n")
                else:
                    self._take(ready)
            self._let_go()

    def _take(self, end: int) -> None:
        source = self._names[end]
        for _ in range(64):  # then others, too
            try:
                packet = os.read(end, _packet_bytes_max)
            except BlockingIOError:
                return
            target = self._by_address.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            if target is None:
                continue  # neighbour discovery and the like
            drop, delay_s, jitter_s, byte_s = self._rules.of.get((source, target[0]), _whole)
            if drop and self._chance.random() < drop:
                continue
            if byte_s:
                now = time.monotonic()
                through = max(now, self._free_at.get((source, target[0]), 0.0)) + byte_s * len(packet)
                if through - now > _queue_s_max:
                    continue
                self._free_at[source, target[0]] = through
                delay_s += through - now
            if not delay_s and not jitter_s:
                _put(target[1], packet)
            elif len(self._held) < _held_packets_max:
                self._count += 1
                due = time.monotonic() + delay_s + jitter_s * self._chance.random()
                heapq.heappush(self._held, (due, self._count, target[1], packet))

    def _let_go(self) -> None:
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, end, packet = heapq.heappop(self._held)
            _put(end, packet)


def _put(end: int, packet: bytes) -> None:
    with contextlib.suppress(BlockingIOError):  # a full queue loses packets, as a real one does
        os.write(end, packet)


def main() -> None:
    """Make the devices, say so, and carry."""
    members = [word.split("=") for word in sys.argv[1:]]
    addresses = {name: address for name, _, address in members}
    ends = {name: open_device(namespace, address) for name, namespace, address in members}
    os.nice(-10)  # a network does not wait for the machine's other work
    Path("/proc/self/comm").write_text("chaos-switch")
    os.write(1, b"ready\n")
    Switch(ends, addresses).run()


if __name__ == "__main__":
    main()
