"""Streams of grpc.aio between processes, as far as the project uses them.

A stream delivers in order, or ends; what was sent before its end and had not arrived is lost. Its end is noticed by each side by itself:
at once when the peer's host says so, after the transport's pings when the link is cut or the peer stands still.

Beyond what a stream does, a single message can be lost, or its items come twice, as they would behind a faulty library.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from mainspring.v1 import worker_pb2 as wire
from tests.simulation.network import Network
from tests.simulation.process import Process
from tests.simulation.world import SECOND, World

_pings_us = (2 * SECOND, 5 * SECOND)
"""Between which delays the transport's pings find a dead connection."""
_repeatable = {
    wire.AttachResponse: ("assignments", "acks", "cancels", "shards"),
    wire.AttachRequest: ("results", "inventory", "progress"),
}
_unread_max = 64
"""How many messages may be on their way before a write waits."""


class Wires:
    """All streams of a run, and who listens where."""

    def __init__(self, world: World, network: Network) -> None:
        self.world = world
        self.network = network
        self.listeners: dict[str, tuple[Process, Callable[[Context], None]]] = {}
        """By address: the process that listens, and what takes up a call as a step of it."""
        self.peers: dict[str, tuple[Process, Callable[[str, Any], None]]] = {}
        """By address: the process that listens, and what takes up a call of another coordinator."""
        self.streams: list[Connection] = []
        self.lose = self.repeat = 0.0
        """How likely a message is lost, or its items come twice."""
        self.faults = 0
        self.sent: Callable[[Process, Any], None] = lambda process, message: None
        """Is told each message as its sender lets it go."""

    def dial(self, process: Process, address: str) -> "Channel":
        """Open a channel."""
        return Channel(self, process, address)

    def copies(self) -> int:
        """Draw how often a call of a coordinator arrives: as a rule once."""
        chance = self.world.chance
        if chance.random() < max(self.lose, 0.02):
            return 0
        return 2 if chance.random() < max(self.repeat, 0.02) else 1

    def post(self, address: str, incarnation: str, request: Any) -> None:
        """A call of a coordinator has arrived at another's host."""
        process, take = self.peers[address]
        if process.alive:
            process.run_soon(partial(take, incarnation, request))

    def find_dead(self) -> None:
        """Let the pings look at every stream: after a cut, a pause or a death."""
        self.streams = [stream for stream in self.streams if not stream.over]
        for stream in self.streams:
            stream.ping()


class End:
    """One side of a stream."""

    def __init__(self, connection: "Connection", process: Process) -> None:
        self.connection = connection
        self.process = process
        self.inbox: deque[Any] = deque()
        self.closed = False
        """This side has noticed the end."""
        self.half_closed = False
        """The other side sends no more."""
        self.code = grpc.StatusCode.UNAVAILABLE
        self.on_end: Callable[[], None] = lambda: None
        self.sent = self.arrived = 0
        self._waiting: Any = None
        self._room: Any = None
        self._last_us = 0

    async def read(self) -> Any:
        """Return the next message; EOF at the end."""
        while not self.inbox:
            if self.closed or self.half_closed:
                return grpc.aio.EOF
            self._waiting = self.process.create_future()
            await self._waiting
        return self.inbox.popleft()

    async def write(self, message: Any) -> None:
        """Send a message; waits while too many have not arrived."""
        while self.sent - self.arrived >= _unread_max and not self.closed:
            self._room = self.process.create_future()
            await self._room
        if self.closed:
            raise grpc.aio.UsageError("simulated: the stream has ended")
        copy = type(message)()
        copy.CopyFrom(message)
        self.connection.send(self, copy)

    def carry(self, item: Any, other: "End") -> None:
        """Let something arrive at the other side, behind what was sent before."""
        world, network = self.connection.wires.world, self.connection.wires.network
        self.sent += 1
        due_us = max(self._last_us, world.now_us + network.delay_us())
        self._last_us = due_us
        waiting = self.connection.held[self]

        def arrive() -> None:
            if network.is_cut(self.process.name, other.process.name) or waiting:
                waiting.append(arrive_late)
            else:
                arrive_late()

        def arrive_late() -> None:
            self.arrived += 1
            other.take(item)
            self._wake_writer()

        world.at(due_us - world.now_us, arrive)

    def take(self, item: Any) -> None:
        """Something has arrived at this host."""
        if self.closed:
            return
        if item is None:
            self.half_closed = True
        else:
            self.inbox.append(item)
        self._wake_reader()

    def end(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """This side notices that the stream is over."""
        if not self.closed:
            self.closed = True
            self.code = code
            self.process.run_soon(self._ended)

    def _ended(self) -> None:
        self._wake_reader()
        self._wake_writer()
        self.on_end()

    def _wake_reader(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.process.run_soon(partial(_settle, waiting))

    def _wake_writer(self) -> None:
        if self._room is not None:
            room, self._room = self._room, None
            self.process.run_soon(partial(_settle, room))


class Connection:
    """One stream."""

    def __init__(self, wires: Wires, client: Process, server: Process) -> None:
        self.wires = wires
        self.client = End(self, client)
        self.server = End(self, server)
        self.held: dict[End, list[Callable[[], None]]] = {self.client: [], self.server: []}
        """What waits for a link to be healed, by its sender."""
        wires.streams.append(self)

    @property
    def over(self) -> bool:
        """Whether both sides know of the end."""
        return (self.client.closed or not self.client.process.alive) and (
            self.server.closed or not self.server.process.alive
        )

    def other(self, end: End) -> End:
        """Return the other side."""
        return self.server if end is self.client else self.client

    def send(self, sender: End, message: Any) -> None:
        """Let a message go, or a part of it, or part of it twice."""
        wires, other = self.wires, self.other(sender)
        wires.sent(sender.process, message)
        if wires.lose and wires.world.chance.random() < wires.lose:
            wires.faults += 1
            wires.world.tell(sender.process.name, f"sends {other.process.name} a message that is lost")
            return
        if wires.repeat and wires.world.chance.random() < wires.repeat:
            wires.faults += 1
            wires.world.tell(sender.process.name, f"sends {other.process.name} items twice")
            copy = type(message)()
            copy.CopyFrom(message)
            for field in _repeatable[type(message)]:
                getattr(message, field).extend(getattr(copy, field))
        sender.carry(message, other)

    def close(self, by: End, code: grpc.StatusCode) -> None:
        """One side ends the stream; the other hears of it behind what was sent, if it can."""
        by.end()
        other = self.other(by)
        network = self.wires.network
        behind_us = max(0, by._last_us - self.wires.world.now_us)
        self.wires.world.at(
            behind_us, lambda: network.send(by.process.name, other.process.name, partial(other.end, code))
        )

    def drop(self) -> None:
        """Something between both resets the connection; what had not arrived is lost."""
        for end in (self.client, self.server):
            self.wires.world.at(self.wires.world.soon_us(), end.end)

    def died(self, end: End) -> None:
        """A process is dead: its host resets its connections."""
        other = self.other(end)
        end.closed = True
        self.wires.network.send(end.process.name, other.process.name, other.end)

    def healed(self) -> None:
        """A link is whole again: what was held comes."""
        for end, held in self.held.items():
            if not self.wires.network.is_cut(self.client.process.name, self.server.process.name):
                waiting = list(held)
                held.clear()
                for arrive in waiting:
                    if not self.other(end).closed:
                        arrive()

    def ping(self) -> None:
        """Plan what the pings of each side find, should it last."""
        world = self.wires.world
        for end in (self.client, self.server):
            world.at(world.chance.randint(*_pings_us), partial(self._look, end))

    def _look(self, end: End) -> None:
        other = self.other(end)
        cut = self.wires.network.is_cut(end.process.name, other.process.name)
        if cut or not other.process.alive or other.process.paused or (other.closed and not end.closed):
            end.end()


class Channel:
    """A client's channel."""

    def __init__(self, wires: Wires, process: Process, address: str) -> None:
        self._wires = wires
        self._process = process
        self._address = address

    def stream_stream(self, path: str, **codecs: object) -> "Callable[[], Call]":
        """See grpc."""
        del path, codecs
        return lambda: Call(self._wires, self._process, self._address)

    async def close(self) -> None:
        """See grpc."""


class Call:
    """The client's side of a call."""

    def __init__(self, wires: Wires, process: Process, address: str) -> None:
        self._wires = wires
        self._process = process
        self._address = address
        self._connection: Connection | None = None
        self._refused = False
        self._cancelled = False
        self._opened = process.create_future()
        wires.network.send(process.name, address, self._arrive)

    def _arrive(self) -> None:
        if self._cancelled:
            return
        listener = self._wires.listeners.get(self._address)
        if listener is None or not listener[0].alive:
            self._refused = True
        else:
            process, serve = listener
            self._connection = connection = Connection(self._wires, self._process, process)
            process.run_soon(partial(serve, Context(connection)))
        self._process.run_soon(partial(_settle, self._opened))

    @property
    def connection(self) -> Connection | None:
        """The stream, once it is open."""
        return self._connection

    async def _end(self) -> End:
        if not self._opened.done():
            await asyncio.wait({self._opened})
        if self._refused or self._connection is None:
            raise _lost("connection refused")
        return self._connection.client

    async def write(self, message: wire.AttachRequest) -> None:
        """See grpc."""
        await (await self._end()).write(message)

    async def read(self) -> Any:
        """See grpc."""
        end = await self._end()
        message = await end.read()
        if message is grpc.aio.EOF and end.code is not grpc.StatusCode.OK and not self._cancelled:
            raise _lost("the stream was lost")
        return message

    async def done_writing(self) -> None:
        """See grpc."""
        end = await self._end()
        if not end.closed:
            end.carry(None, end.connection.server)

    async def code(self) -> grpc.StatusCode:
        """See grpc: raises unless the call ended well."""
        end = await self._end()
        if end.code is not grpc.StatusCode.OK:
            raise _lost("the call was refused")
        return end.code

    def cancel(self) -> bool:
        """See grpc."""
        self._cancelled = True
        _settle(self._opened)
        self._refused = self._connection is None
        if self._connection is not None and not self._connection.client.closed:
            self._connection.close(self._connection.client, grpc.StatusCode.CANCELLED)
        return True


class Context:
    """The server's side of a call."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._end = connection.server

    def peer(self) -> str:
        """See grpc."""
        return self.connection.client.process.name

    async def read(self) -> Any:
        """See grpc."""
        return await self._end.read()

    async def write(self, message: wire.AttachResponse) -> None:
        """See grpc."""
        await self._end.write(message)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: object = ()) -> None:
        """See grpc."""
        del details, trailing_metadata
        self.finish(code)
        raise grpc.aio.AbortError

    def finish(self, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        """The handler has returned."""
        if not self._end.closed:
            self.connection.close(self._end, code)


def _settle(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def _lost(details: str) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, details)
