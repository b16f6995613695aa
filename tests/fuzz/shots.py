"""One shot of the fuzz: what is sent, by whom and to which method or port, all drawn from the seed and the shot's number; and what of the
answer is a defect."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from google.protobuf.message import DecodeError

from tests.fuzz import garbage
from tests.fuzz.callers import Pretender, odd_metadata
from tests.fuzz.calls import Answered, Call, make
from tests.fuzz.contract import Method, attach, methods, new
from tests.fuzz.drawing import Draw
from tests.fuzz.spoiling import oversized, spoilers
from tests.fuzz.stage import Stage
from tests.fuzz.streams import stories, tell_story
from tests.fuzz.tally import Tally
from tests.fuzz.watch import ours

_incident: Final = re.compile(r" under incident [0-9a-f]+")
_call_s_max: Final = 20.0
"""Who has not answered by then hangs, whatever else the machine does."""
_patience_s: Final = 0.3
"""For methods that wait for something to happen."""
_refusals: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_refused_below: Final = frozenset({"RESOURCE_EXHAUSTED", "GIVEN UP", "CUT OFF", "CANCELLED", "UNAVAILABLE"})
"""By the transport, before anybody was asked who calls: a message or metadata over the bound, a connection that was ended for it."""


@dataclass(slots=True)
class Shooter:
    """Shoots at a cluster, as those that may not call (`strangers`), or as those that may."""

    stage: Stage
    tally: Tally
    seed: int
    strangers: bool
    methods: Sequence[Method]
    callers: Sequence[Pretender]

    @classmethod
    def at(cls, stage: Stage, tally: Tally, seed: int, *, strangers: bool) -> "Shooter":
        """Return one with all methods and callers."""
        known, unknown = stage.secrets.known(), stage.secrets.strangers()
        return cls(stage, tally, seed, strangers, methods(), [*unknown, *known] if strangers else known)

    async def shoot(self, number: int) -> None:
        """Make the shot of this number."""
        rng = Random(f"{self.seed}/{self.strangers}/{number}")
        method = self.methods[number % len(self.methods)]
        roll = rng.random()
        if roll < 0.03:
            await self._at_port(rng)
        elif method.path == attach and roll < 0.8:
            await self._by_stream(rng, method)
        else:
            await self._by_call(rng, method)

    # -- calls ---------------------------------------------------------------------------------------------------------------

    async def _by_call(self, rng: Random, method: Method) -> None:
        caller = self._caller(rng, method)
        channel = rng.choice(self.stage.channels[caller.certificate])
        # Who may not call is refused at once, by those methods that wait as well.
        timeout_s = _patience_s if method.waits and (method.open or not self.strangers) else _call_s_max
        for kind, parts in self._messages(rng, method):
            # Before its own, the last of which counts: a coordinator may say for whom it calls, and would be let in by what is drawn.
            metadata = (*odd_metadata(rng), *caller.metadata) if kind == "odd metadata" else caller.metadata
            call = Call(method, parts, metadata, timeout_s, kind == "abandoned", kind == "compressed")
            answered = await make(channel, call)
            self.tally.note(kind, method.name, answered.code, answered.seconds, max(1, len(parts)))
            self._judge(kind, method, caller, answered)

    def _caller(self, rng: Random, method: Method) -> Pretender:
        if method.open:
            return rng.choice(self.callers)
        return rng.choice([one for one in self.callers if one.may(method) is not self.strangers])

    def _messages(self, rng: Random, method: Method) -> Iterator[tuple[str, Sequence[bytes]]]:
        """Yield the calls of one shot: one as a rule, and three when one is replayed."""
        kind = rng.choices(
            ("drawn", "spoiled", "replayed", "odd metadata", "abandoned", "compressed", "oversized"),
            (46, 34, 6, 6, 4, 3.8, 0.2),
        )[0]
        draw = Draw(rng, self.stage.known)
        drawn = draw.message(method.request)
        if kind == "replayed":
            other = draw.message(method.request)
            for field in ("request_id", "workflow_id", "event_id"):
                if field in method.request.fields_by_name:
                    setattr(other, field, getattr(drawn, field))
            yield kind, self._parts(rng, method, drawn.SerializeToString())
            yield kind, self._parts(rng, method, drawn.SerializeToString())
            yield kind, self._parts(rng, method, other.SerializeToString())
            return
        data = drawn.SerializeToString()
        if kind == "spoiled":
            kind = rng.choice(list(spoilers))
            data = spoilers[kind](rng, data)
        elif kind == "oversized":
            data = oversized(rng, data)
        yield kind, self._parts(rng, method, data)

    def _parts(self, rng: Random, method: Method, data: bytes) -> Sequence[bytes]:
        """Return a call's messages: of a stream some more, before and after."""
        if not self.strangers:
            data = tamed(method, data)
        if not method.client_streaming:
            return [data]
        more = [
            Draw(rng, self.stage.known).message(method.request).SerializeToString()
            for _ in range(rng.choice((0, 0, 1, 3)))
        ]
        return rng.choice(([data, *more], [*more, data], more))

    def _judge(self, kind: str, method: Method, caller: Pretender, answered: Answered) -> None:
        code, details = answered.code, answered.details
        about = f"{method.name} by {caller.name}, {kind}: {code}"
        if code in ("INTERNAL", "UNKNOWN", "DATA_LOSS"):
            self.tally.find(f"{method.name}: {code}: {_incident.sub('', details)[:160]}")
        elif code == "DEADLINE_EXCEEDED" and (not method.waits or kind in stories):
            self.tally.find(f"{about}: no answer within {_call_s_max:g} s")
        elif self.strangers and not method.open and code not in _refusals | _refused_below:
            self.tally.find(f"let in: {about}: {details[:160]}")
        elif not self.strangers and code in _refusals and kind != "odd metadata":
            self.tally.find(f"kept out: {about}: {details[:160]}")

    # -- streams and ports ---------------------------------------------------------------------------------------------------

    async def _by_stream(self, rng: Random, method: Method) -> None:
        caller = self._caller(rng, method)
        channel = rng.choice(self.stage.channels[caller.certificate])
        story = rng.choice(list(stories))
        answered, sent = await tell_story(channel, caller.metadata, story, rng, self.stage.known)
        self.tally.note(story, method.name, answered.code, answered.seconds, max(1, sent))
        self._judge(story, method, caller, answered)

    async def _at_port(self, rng: Random) -> None:
        port = rng.choice(self.stage.ports)
        ways = garbage.of_grpc if port.name == "gRPC port" else garbage.of_http
        kind = rng.choice(list(ways))
        metadata = rng.choice(self.callers).metadata
        chunks = ways[kind](rng, metadata)
        came = await garbage.throw(port, chunks, in_the_clear=rng.random() < 0.2, cut=rng.random() < 0.5)
        self.tally.note(kind, port.name, came)
        if came == "HTTP 500":
            self.tally.find(f"{port.name}, {kind}: {came}")


def tamed(method: Method, data: bytes) -> bytes:
    """Return the same message, unless one who may would by it do to the ordinary client's workflows what it may."""
    if method.name not in _harmful:
        return data
    message: Any = new(method.request)
    try:
        message.ParseFromString(data)
    except DecodeError:
        return data
    before = message.SerializeToString()
    _harmful[method.name](message)
    return data if message.SerializeToString() == before else message.SerializeToString()


def _spare(message: Any) -> None:
    if message.workflow_id.startswith(ours):
        message.workflow_id = "fuzz-none"


def _spare_many(message: Any) -> None:
    if not message.dry_run:
        message.id_prefix = "fuzz-"


def _come_back_soon(message: Any) -> None:
    if 1 < message.seconds <= 3_600:
        message.seconds = 1


def _pause_others(message: Any) -> None:
    if message.WhichOneof("what") in ("all", "workflow_id"):
        message.executor = "fuzz-none"
    elif message.executor:
        message.executor = f"fuzz-{message.executor}"


def _spare_worker(message: Any) -> None:
    message.name, message.incarnation = "fuzz-none", ""


_harmful: Final = {
    "WorkflowsService.Cancel": _spare,
    "AdminService.RetryNode": _spare,
    "AdminService.SkipNode": _spare,
    "AdminService.CompleteNode": _spare,
    "AdminService.PauseDispatch": _pause_others,
    "AdminService.DrainWorker": _spare_worker,
    "AdminService.EvictWorker": _spare_worker,
    "AdminService.CancelWorkflows": _spare_many,
    "AdminService.StepDown": _come_back_soon,
}
