"""Deaths go into the record after the takeover, and are told once, whatever the database and the receiver of alerts do."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mainspring.errors import StoreUnavailableError
from mainspring.failovers import Failover
from mainspring_coordinator.deaths import note
from mainspring_coordinator.engine.events import Death
from mainspring_coordinator.engine.failovers import event_id
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, Subject
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.record import Record
from mainspring_coordinator.store.stored_record import StoredFailover
from mainspring_coordinator.webhook import AlertError, Webhook, signature
from tests.engine.rig import define
from tests.loop.rig import LoopRig, a_loop, story
from tests.servers.receiver import Receiver

one = define([{"id": "a", "executor": "work"}])
GONE = "9" * 32
DEATH = Death(FailoverKind.COORDINATOR_KILLED, "c-gone", GONE, 1)
SECRET = "s"


class Clock:
    def __init__(self) -> None:
        self.us = 0

    def now_us(self) -> int:
        return self.us


@dataclass
class Counted:
    failovers: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    any_failover: asyncio.Event = field(default_factory=asyncio.Event)
    alerts: list[str] = field(default_factory=list[str])

    def failover(self, kind: str, seconds: float) -> None:
        self.failovers.append((kind, seconds))
        self.any_failover.set()

    def alert(self, outcome: str) -> None:
        self.alerts.append(outcome)


class Told:
    """A record whose passes the test takes one by one."""

    def __init__(self, rig: LoopRig, reads: Reads, url: str | None) -> None:
        self.rig = rig
        self.clock = Clock()
        self.counted = Counted()
        webhook = Webhook(url, SECRET, "test") if url is not None else None
        self.record = Record(
            rig.loop, reads, rig.loader, self.counted, self.clock, webhook=webhook, failover=True, heartbeat_ms=1_000
        )

    async def passes(self) -> None:
        """Take a pass, and see the delivery through that it began."""
        await self.record.tell()
        if self.record._delivery is not None:
            await self.record._delivery

    def stored(self) -> list[StoredFailover]:
        return list(self.rig.reader.failovers(None, 100))


@asynccontextmanager
async def telling(url: str | None = None) -> AsyncIterator[tuple[LoopRig, Told]]:
    async with a_loop() as rig:
        reads = Reads(rig.reader)
        told = Told(rig, reads, url)
        try:
            yield rig, told
        finally:
            await told.record.close()
            reads.close()


async def die_and_be_followed(rig: LoopRig, *shards: int) -> None:
    """Let another coordinator, now dead, have owned these shards, in which work was under way; take them."""
    await rig.take(*shards)
    rig.attach()
    for shard in shards:
        await rig.submit(one, rig.name(shard))
    rig.loop.end_term("the coordinator died")
    rig.begin()
    for shard in shards:
        row = rig.move(shard, GONE)
        session = rig.store.open_lock_session("test")
        taken = session.take(row, "me", 10_000_000, note(DEATH))
        assert taken is not None
        rig.loop.take_shard(taken)
    for shard in shards:
        await rig.loop.prove(shard)


async def recorded(rig: LoopRig, *shards: int) -> None:
    """Return when the fence rows note nothing more."""
    while any(row.deaths for row in rig.reader.shards() if row.shard in shards):  # noqa: ASYNC110  (the database tells nobody)
        await asyncio.sleep(0.001)


@story
async def test_a_takeover_is_recorded_with_what_was_unfinished_and_its_note_goes_with_it() -> None:
    async with telling() as (rig, told):
        await die_and_be_followed(rig, 0, 1)
        await recorded(rig, 0, 1)
        (event,) = told.stored()
        assert (event.event_id, event.failed_engine) == (event_id(GONE, "me"), "c-gone")
        assert (event.workflows_count, event.nodes_count) == (2, 2)
        names = [rig.name(0), rig.name(1)]
        assert rig.reader.affected(event.event_id, Subject.WORKFLOWS, 0, 9) == names
        assert rig.reader.affected(event.event_id, Subject.NODES, 0, 9) == [f"{name}/a" for name in names]


@story
async def test_a_recorder_that_dies_before_its_commit_leaves_all_to_the_next_owner_and_nothing_is_doubled() -> None:
    async with telling() as (rig, told):
        rig.gate.script = [StoreUnavailableError("away")] * 100_000
        await die_and_be_followed_by_nobody(rig, 0)
        assert told.stored() == []
        rig.gate.script = []
        rig.loop.end_term("killed while it recorded")
        rig.begin()
        row = rig.store.tables.shards[0]
        killed = Death(FailoverKind.COORDINATOR_KILLED, "me", "me", 5)
        taken = rig.store.open_lock_session("test").take(row, "me", 10_000_000, note(killed))
        assert taken is not None
        rig.loop.take_shard(taken)
        await rig.loop.prove(0)
        await recorded(rig, 0)
        assert sorted(event.failed_engine for event in told.stored()) == ["c-gone", "me"]
        assert {event.workflows_count for event in told.stored()} == {0}


async def die_and_be_followed_by_nobody(rig: LoopRig, shard: int) -> None:
    """Take a dead coordinator's shard while the database takes no commit, and stop when it was tried."""
    row = rig.move(shard, GONE)
    taken = rig.store.open_lock_session("test").take(row, "me", 10_000_000, note(DEATH))
    assert taken is not None
    rig.loop.take_shard(taken)
    while not rig.gate.tries:  # noqa: ASYNC110  (the journal's thread tells nobody)
        await asyncio.sleep(0.001)


@story
async def test_a_failover_is_logged_and_counted_once() -> None:
    async with telling() as (rig, told):
        await die_and_be_followed(rig, 0)
        await recorded(rig, 0)
        with capture_logs() as lines:
            for _ in range(3):
                await told.passes()
        (line,) = [line for line in lines if line["event"] == "failover"]
        assert line == {
            "event": "failover",
            "log_level": "warning",
            "eventId": event_id(GONE, "me"),
            "kind": "coordinator_killed",
            "failedEngine": "c-gone",
            "takeoverEngine": "",
            "affectedWorkflows": 1,
            "affectedNodes": 1,
        }
        assert [kind for kind, _ in told.counted.failovers] == ["coordinator_killed"]
        assert [event.stage for event in told.stored()] == [FailoverStage.CLOSED]


@story
async def test_nothing_is_told_while_a_shard_of_the_dead_is_not_on_record() -> None:
    async with telling() as (rig, told):
        await die_and_be_followed(rig, 0)
        await recorded(rig, 0)
        rig.move(1, GONE)
        await told.passes()
        assert [event.stage for event in told.stored()] == [FailoverStage.RECORDED]
        rig.move(1, "other")
        await told.passes()
        assert [event.stage for event in told.stored()] == [FailoverStage.CLOSED]


@story
async def test_only_the_owner_of_shard_0_tells() -> None:
    async with telling() as (rig, told):
        await die_and_be_followed(rig, 1)
        await recorded(rig, 1)
        await told.passes()
        assert [event.stage for event in told.stored()] == [FailoverStage.RECORDED]
        await rig.take(0)
        await told.passes()
        assert [event.stage for event in told.stored()] == [FailoverStage.CLOSED]


@story
async def test_an_alert_that_is_refused_comes_again_after_a_while_and_is_marked_once_it_was_taken() -> None:
    with Receiver() as receiver:
        async with telling(receiver.url) as (rig, told):
            receiver.statuses = [500, 302]
            await die_and_be_followed(rig, 0)
            await recorded(rig, 0)
            await told.passes()  # announces
            await told.passes()  # is refused
            await told.passes()  # too soon
            assert [post.status for post in receiver.posts] == [500]
            for _ in range(4):
                told.clock.us += 60_000_000
                await told.passes()
            assert [post.status for post in receiver.posts] == [500, 302, 200]
            assert told.counted.alerts == ["refused", "refused", "delivered"]
            (event,) = told.stored()
            assert event.alerted_at_us == rig.now
            post = receiver.posts[-1]
            assert post.headers["mainspring-signature"] == signature(
                SECRET, post.headers["mainspring-timestamp"], post.body
            )
            assert post.document["eventId"] == post.headers["mainspring-event-id"] == event.event_id
            assert post.document["affectedNodes"] == [f"{rig.name(0)}/a"]


@story
async def test_while_a_receiver_hangs_other_failovers_are_announced() -> None:
    with Receiver() as receiver:
        async with telling(receiver.url) as (rig, told):
            receiver.shut()
            await die_and_be_followed(rig, 0)
            await recorded(rig, 0)
            await told.record.tell()
            await told.record.tell()
            assert await asyncio.to_thread(receiver.arrived.wait, 10)
            row = rig.move(1, "8" * 32)
            second = Death(FailoverKind.COORDINATOR_HUNG, "c-too", "8" * 32, 2)
            taken = rig.store.open_lock_session("test").take(row, "me", 10_000_000, note(second))
            assert taken is not None
            rig.loop.take_shard(taken)
            await rig.loop.prove(1)
            await recorded(rig, 1)
            await told.record.tell()
            assert [event.stage for event in told.stored()] == [FailoverStage.ANNOUNCED] * 2
            assert len(told.counted.failovers) == 2


@story
async def test_an_alert_that_nobody_takes_for_a_day_is_given_up() -> None:
    with Receiver() as receiver:
        async with telling(receiver.url) as (rig, told):
            receiver.statuses = [500] * 9
            await die_and_be_followed(rig, 0)
            await recorded(rig, 0)
            await told.passes()
            await told.passes()
            rig.now += 24 * 3600 * 1_000_000
            told.clock.us += 60_000_000
            await told.passes()
            assert told.counted.alerts == ["refused", "given_up"]
            event = rig.reader.failover(event_id(GONE, "me"))
            assert (event.stage, event.alerted_at_us) == (FailoverStage.CLOSED, 0)


@story
async def test_an_error_in_a_pass_is_logged_and_does_not_stop_the_next() -> None:
    async with telling() as (rig, told):
        await die_and_be_followed(rig, 0)
        await recorded(rig, 0)
        reads: Any = told.record._reads
        broken = [StoreUnavailableError("away"), RuntimeError("a bug")]
        run = reads.run

        async def failing(read: Any) -> Any:
            if broken:
                raise broken.pop(0)
            return await run(read)

        reads.run = failing
        told.record._period_s = 0.001
        with capture_logs() as lines:
            told.record.start()
            await told.counted.any_failover.wait()
        failed = [line for line in lines if line["event"] == "failover_pass_failed"]
        assert [line["log_level"] for line in failed] == ["warning", "error"]


EVENT = Failover("f" * 32, "worker_lost", "w1", "a" * 32, "c1", "b" * 32, ("w",), ("w/a",), 1, 1, 1, 2)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/?token=hidden", "out of reach"),
        ("http://127.0.0.1:hidden/", "gave no answer"),
        ("https://127.0.0.1:1/hidden", "out of reach"),
    ],
)
def test_a_receiver_out_of_reach_is_an_error_without_the_url(url: str, why: str) -> None:
    with pytest.raises(AlertError, match=why) as refused:
        asyncio.run(Webhook(url, None, "test").send(EVENT, 5_000_000))
    assert "hidden" not in str(refused.value)


def test_without_a_secret_an_alert_is_not_signed() -> None:
    with Receiver() as receiver:
        asyncio.run(Webhook(receiver.url, None, "test").send(EVENT, 5_999_999))
    (post,) = receiver.posts
    assert "mainspring-signature" not in post.headers
    assert (post.headers["mainspring-timestamp"], post.headers["content-type"]) == ("5", "application/json")
    assert post.document == {
        "cluster": "test",
        "eventId": "f" * 32,
        "kind": "worker_lost",
        "failedEngineId": "w1",
        "failedIncarnation": "a" * 32,
        "takeoverEngineId": "c1",
        "takeoverIncarnation": "b" * 32,
        "affectedWorkflows": ["w"],
        "affectedWorkflowsCount": 1,
        "affectedNodes": ["w/a"],
        "affectedNodesCount": 1,
        "detectedAt": "1970-01-01T00:00:00.000Z",
        "recoveredAt": "1970-01-01T00:00:00.000Z",
        "alertedAt": None,
    }


def test_a_receiver_that_checks_as_the_page_says_takes_what_we_sign_and_nothing_else() -> None:
    page = (Path(__file__).parents[2] / "docs" / "failovers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown: dict[str, Any] = {}
    exec(code, shown)
    is_genuine, body = shown["is_genuine"], b'{"a":1}'
    told = signature("secret", "17", body)
    assert is_genuine("secret", "17", told, body)
    for other in (("wrong", "17", told, body), ("secret", "18", told, body), ("secret", "17", told, b"{}")):
        assert not is_genuine(*other)
