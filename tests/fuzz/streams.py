"""The worker's stream, out of order: what a worker with a fault, or one that means harm, may say from its Hello to its end.

A story yields the messages of one stream; `None` stands for listening a moment. It hears what came, so that it can answer to it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, cast

import grpc
import grpc.aio

from mainspring.v1 import worker_pb2
from mainspring.v1.workflow_pb2 import Payload
from tests.fuzz.callers import Metadata
from tests.fuzz.calls import Answered, named
from tests.fuzz.contract import attach
from tests.fuzz.drawing import Draw, Known, documents, long_numbers, unsigned_numbers
from tests.fuzz.spoiling import spoilers

Request = worker_pb2.AttachRequest
Step = Request | bytes | None
_listen_s: Final = 0.2
_stream_s: Final = 20.0
_stolen: Final = Payload(data=b'"stolen"')


@dataclass(slots=True)
class Teller:
    """What a story is made of, and what it has heard."""

    rng: Random
    known: Known
    heard: list[worker_pb2.AttachResponse] = field(default_factory=list[worker_pb2.AttachResponse])
    seq: int = 0

    def say(self, **fields: Any) -> Request:
        """Return the next message, numbered."""
        self.seq += 1
        return Request(**{"seq": self.seq, **fields})

    def hello(self, **fields: Any) -> Request:
        """Return a first message that is in order."""
        named = {
            "name": f"fuzz-{self.rng.getrandbits(40):x}",
            "incarnation": f"{self.rng.getrandbits(128):032x}",
            "executors": ["fuzzed"],
            "slots": 10,
            "protocol": 1,
            "workflows_max": 10,
            **fields,
        }
        return self.say(hello=worker_pb2.Hello(**named), credit=worker_pb2.Credit(seq=1, limit=10))

    def drawn(self) -> Request:
        """Return a message of anything but a Hello."""
        message: Any = Draw(self.rng, self.known).message(Request.DESCRIPTOR, 0.25)
        message.ClearField("hello")
        message.ClearField("goodbye")
        self.seq += 1
        message.seq = self.seq
        return message  # type: ignore[no-any-return]

    @property
    def epochs(self) -> dict[int, int]:
        """The shards with the epochs of which it was told last."""
        told = {
            one.shard: one.epoch for heard in self.heard for one in (*heard.welcome.shards, *heard.shards) if one.owned
        }
        return told or {0: 1}

    @property
    def given(self) -> list[worker_pb2.Assignment]:
        """What it was given to do."""
        return [one for heard in self.heard for one in heard.assignments]


def before_hello(tell: Teller) -> Iterator[Step]:
    """Everything but a Hello first."""
    yield tell.drawn()
    yield tell.hello()


def second_hello(tell: Teller) -> Iterator[Step]:
    """Another Hello in a later message, by the same worker or by another."""
    first = tell.hello()
    yield first
    yield None
    yield tell.say(hello=first.hello) if tell.rng.random() < 0.5 else tell.hello()


def drawn_hello(tell: Teller) -> Iterator[Step]:
    """A Hello with fields at and beyond their bounds."""
    hello: Any = Draw(tell.rng, tell.known).message(worker_pb2.Hello.DESCRIPTOR)
    hello.executors[:] = [name for name in hello.executors if name not in ("step", "noop", "gated", "stumble")]
    if tell.rng.random() < 0.8:
        hello.protocol = 1
        hello.incarnation = f"{tell.rng.getrandbits(128):032x}"
        hello.cluster = ""
    yield tell.say(hello=hello)
    yield tell.drawn()
    yield None


def misnumbered(tell: Teller) -> Iterator[Step]:
    """Numbers that go back, stand still or leap."""
    yield tell.hello()
    yield tell.say(seq=tell.rng.choice((0, 1, 3, 2**63, 2**64 - 1)))


def unknown_inventory(tell: Teller) -> Iterator[Step]:
    """Shards that there are not, epochs of yesterday and of never, ids that nobody minted."""
    rng = tell.rng
    yield tell.hello()
    yield None
    for _ in range(4):
        epochs = tell.epochs
        shard = rng.choice((*epochs, *epochs, *epochs, 16, 1_023, 2**32 - 1))
        epoch = epochs.get(shard, 1)
        # Rarely a higher epoch, or an id not yet minted: the shard is given up and taken under a higher one for it, which takes a moment.
        daring = rng.random() < 0.05
        stated = rng.choice(
            (2**31 - 1, 2**31, 2**32 - 1, epoch + 1) if daring else (0, epoch, epoch, max(0, epoch - 1))
        )
        ids = [
            (epoch if daring else max(0, epoch - 1)) << 32 | rng.choice(long_numbers[:14])
            for _ in range(rng.randrange(4))
        ]
        yield tell.say(
            inventory=[
                worker_pb2.ShardInventory(
                    shard=shard,
                    epoch=stated,
                    queued=ids[:1],
                    running=[*ids[1:], *ids[:1]],
                    finished=[*ids, 0],
                    ordinal_seen=rng.choice(unsigned_numbers),
                )
            ]
        )


def results_of_others(tell: Teller) -> Iterator[Step]:
    """Results of the assignments that other workers have just now, of old ones and of ones that will be."""
    yield tell.hello()
    yield None
    for shard, epoch in list(tell.epochs.items()):
        ids = [epoch << 32 | number for number in range(1, 60)] + [
            max(0, epoch - 1) << 32 | number for number in range(5)
        ]
        outcomes: list[Any] = [tell.rng.choice((1, 2, 3, 4)) for _ in ids]
        yield tell.say(
            results=[
                worker_pb2.Result(shard=shard, id=one, outcome=how, output=_stolen)
                for one, how in zip(ids, outcomes, strict=True)
            ],
            progress=[worker_pb2.Progress(shard=shard, id=one, details=_stolen) for one in ids],
        )
    yield None


def replayed_results(tell: Teller) -> Iterator[Step]:
    """What it was given is answered more than once, each time otherwise, with outputs that are none."""
    yield tell.hello()
    yield None
    yield tell.say(
        inventory=[worker_pb2.ShardInventory(shard=shard, epoch=epoch) for shard, epoch in tell.epochs.items()]
    )
    yield None
    for _ in range(3):
        yield tell.say(
            results=[
                worker_pb2.Result(
                    shard=one.shard,
                    id=one.id,
                    outcome=cast("worker_pb2.Outcome.ValueType", tell.rng.choice((1, 2, 3, 4))),
                    output=Payload(encoding=tell.rng.choice(("", "json", "x")), data=tell.rng.choice(documents)),
                    run_us=tell.rng.choice(unsigned_numbers),
                )
                for one in tell.given[:20]
            ]
        )
    yield None


def old_credit(tell: Teller) -> Iterator[Step]:
    """Credit with numbers of the past, more than it has slots, none at all."""
    yield tell.hello()
    for seq, limit in ((5, 10), (4, 1), (5, 0), (1, 3)):
        yield tell.say(credit=worker_pb2.Credit(seq=seq, limit=limit))
    yield None
    seq, limit = tell.rng.choice(((0, 1), (2**63, 1), (9, 11), (2**64 - 1, 2**32 - 1)))
    yield tell.say(credit=worker_pb2.Credit(seq=seq, limit=limit))


def unknown_pings(tell: Teller) -> Iterator[Step]:
    """Answers to pings that nobody sent, loads that are no numbers."""
    yield tell.hello()
    for _ in range(10):
        beat = worker_pb2.WorkerHeartbeat(
            load=worker_pb2.LoadReport(cpu_percent=float("nan"), memory_percent=float("-inf"), queued=2**32 - 1),
            last_seq_seen=tell.rng.choice(unsigned_numbers),
            ping=tell.rng.choice(unsigned_numbers),
            pong=tell.rng.choice(unsigned_numbers),
        )
        yield tell.say(heartbeat=beat)


def spoiled(tell: Teller) -> Iterator[Step]:
    """Bytes that are no message, before Hello or after it."""
    if tell.rng.random() < 0.7:
        yield tell.hello()
    spoil = tell.rng.choice(list(spoilers.values()))
    yield spoil(tell.rng, tell.drawn().SerializeToString())
    yield tell.drawn()


def anything(tell: Teller) -> Iterator[Step]:
    """A stream of drawn messages, well numbered."""
    yield tell.hello()
    for _ in range(tell.rng.randint(1, 20)):
        yield tell.drawn()


def after_goodbye(tell: Teller) -> Iterator[Step]:
    """It says goodbye, leaves what it never had, and goes on talking."""
    yield tell.hello()
    abandoned = [worker_pb2.AbandonedAttempt(shard=one, id=one << 32 | 1) for one in (0, 15, 16, 2**31)]
    reason: Any = tell.rng.choice((0, 1, 3))
    yield tell.say(goodbye=worker_pb2.Goodbye(reason=reason, abandoned=abandoned))
    yield tell.drawn()


def taken_name(tell: Teller) -> Iterator[Step]:
    """The name of a worker that lives, by another incarnation."""
    names = tell.known.by_field.get("worker_name") or ["w1"]
    yield tell.hello(name=tell.rng.choice(names))
    yield None


def drained(tell: Teller) -> Iterator[Step]:
    """It drains again and again, and takes more credit."""
    yield tell.hello()
    for number in range(3):
        yield tell.say(
            draining=worker_pb2.Draining(deadline_ms=2**32 - 1), credit=worker_pb2.Credit(seq=10 + number, limit=10)
        )


stories: Final[Mapping[str, Callable[[Teller], Iterator[Step]]]] = {
    "before Hello": before_hello,
    "second Hello": second_hello,
    "drawn Hello": drawn_hello,
    "misnumbered": misnumbered,
    "unknown inventory": unknown_inventory,
    "results of others": results_of_others,
    "replayed results": replayed_results,
    "old credit": old_credit,
    "unknown pings": unknown_pings,
    "spoiled stream": spoiled,
    "drawn stream": anything,
    "after Goodbye": after_goodbye,
    "taken name": taken_name,
    "drained": drained,
}


async def tell_story(
    channel: grpc.aio.Channel, metadata: Metadata, name: str, rng: Random, known: Known
) -> tuple[Answered, int]:
    """Play a story on a stream of its own; return how it ended, and how many messages were sent."""
    teller = Teller(rng, known)
    call: Any = channel.stream_stream(attach)(metadata=metadata, timeout=_stream_s)
    began = time.monotonic()
    listening = asyncio.create_task(_listen(call, teller.heard))
    sent = 0
    try:
        # The stream may have been ended by the other side; that is what its status tells.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for step in stories[name](teller):
                if step is None:
                    await asyncio.wait({listening}, timeout=_listen_s)
                else:
                    await call.write(step if isinstance(step, bytes) else step.SerializeToString())
                    sent += 1
            await call.done_writing()
        await listening
    finally:
        listening.cancel()
        call.cancel()
    code, details = listening.result()
    goodbye = next((heard.goodbye for heard in teller.heard if heard.HasField("goodbye")), None)
    if goodbye is not None and code == "OK":
        code = "GOODBYE " + worker_pb2.GoodbyeReason.Name(goodbye.reason).removeprefix("GOODBYE_REASON_")
    return Answered(code, details or (goodbye.message if goodbye is not None else ""), time.monotonic() - began), sent


async def _listen(call: Any, heard: list[worker_pb2.AttachResponse]) -> tuple[str, str]:
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            heard.append(worker_pb2.AttachResponse.FromString(message))
        return (await call.code()).name, await call.details() or ""
    except grpc.aio.AioRpcError as error:
        return named(error)
