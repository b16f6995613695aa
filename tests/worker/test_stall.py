"""A worker that stood still for long begins nothing of what was sent meanwhile, until it knows that it still is wanted."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from mainspring.dial import Keepalive
from mainspring.limits import stall_ms_min
from mainspring.v1 import worker_pb2 as wire
from mainspring_worker.attempts import Outcome, Start, Work
from mainspring_worker.machine import Machine
from mainspring_worker.pulse import Pulse, stall_limit_us
from mainspring_worker.surroundings import Surroundings
from tests.worker.scripted import coordinators, running

_limit_us = 5_000_000
"""At the default settings: the transport's pings find out first."""


class FakeClock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.us = 1_000_000_000

    def now_us(self) -> int:
        return self.us


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scene

    asyncio.run(bounded())


@pytest.mark.parametrize(
    ("heartbeat_ms", "silence_ms", "keepalive", "limit_ms"),
    [
        (30_000, 90_000, Keepalive(), 5_000),
        (30_000, 90_000, Keepalive(ping_timeout_ms=2_000), 2_000),
        (30_000, 90_000, Keepalive(timeout_ms=3_000), 3_000),
        (1_000, 5_000, Keepalive(), 4_000),
        (100, 300, Keepalive(), stall_ms_min),
    ],
)
def test_a_stall_is_what_a_coordinator_may_take_for_a_death(
    heartbeat_ms: int, silence_ms: int, keepalive: Keepalive, limit_ms: int
) -> None:
    assert stall_limit_us(heartbeat_ms, silence_ms, keepalive) == limit_ms * 1_000


def test_a_stall_is_seen_once_by_whichever_beat_comes_first() -> None:
    clock, seen = FakeClock(), list[int]()
    pulse = Pulse(clock, 1_000, seen.append)
    for passed_us in (0, 999, 1_000, 1_001, 0, 1_000):
        clock.us += passed_us
        pulse.beat()
    assert seen == [1_001]


def test_nothing_is_begun_before_a_ping_of_after_the_stall_was_answered() -> None:
    machine = Machine(4)
    machine.welcomed(1, [(0, 1)])
    machine.welcomed(2, [(1, 1)])
    assert machine.assigned(1, [Work(0, 1, 1, 1)]) == [Start(Work(0, 1, 1, 1))]
    for session in (1, 2):
        machine.outgoing(session)
    machine.stood_still(100)
    assert machine.assigned(1, [Work(0, 2, 1, 2), Work(0, 3, 1, 3)]) == []
    (stated,) = machine.outgoing(1).inventory
    assert (list(stated.queued), list(stated.running), stated.ordinal_seen) == ([], [1], 3), "so both are offered again"
    machine.heard(1, 99)
    assert machine.assigned(1, [Work(0, 4, 1, 4)]) == [], "an answer to a ping of before says nothing"
    machine.heard(1, 100)
    assert machine.assigned(1, [Work(0, 5, 1, 5)]) == [Start(Work(0, 5, 1, 5))]
    assert machine.assigned(2, [Work(1, 6, 1, 1)]) == [], "each coordinator answers for itself"
    # One that took us in since then knows us.
    machine.welcomed(3, [(1, 2)])
    assert machine.assigned(3, [Work(1, 7, 2, 1)]) == [Start(Work(1, 7, 2, 1))]


def test_what_waited_for_its_start_before_the_stall_is_let_go() -> None:
    machine = Machine(1)
    machine.welcomed(1, [(0, 1)])
    machine.assigned(1, [Work(0, 1, 1, 1), Work(0, 2, 1, 2)])
    machine.outgoing(1)
    machine.stood_still(100)
    (stated,) = machine.outgoing(1).inventory
    assert (list(stated.queued), list(stated.running), stated.ordinal_seen) == ([], [1], 2), "so it is offered again"
    assert machine.finished((0, 1), Outcome.SUCCEEDED, None, 1) == []


def test_a_worker_that_stood_still_asks_before_it_begins_anything() -> None:
    begun: list[object] = []

    async def note(data: object) -> None:
        begun.append(data)

    async def scene() -> None:
        clock = FakeClock()
        async with (
            coordinators() as [coordinator],
            running([coordinator.address], {"note": note}, surroundings=Surroundings(clock=clock)),
        ):
            session = await coordinator.session()
            session.assign(1, executor="note", data=b"1")
            await session.result(1)
            clock.us += _limit_us + 1
            session.assign(2, executor="note", data=b"2")
            turned_away = await session.message(lambda m: any(item.ordinal_seen == 2 for item in m.inventory))
            assert [(list(item.queued), list(item.running)) for item in turned_away.inventory] == [([], [])]
            asked = await session.message(lambda m: m.heartbeat.ping >= clock.us)
            session.say(heartbeat=wire.CoordinatorHeartbeat(pong=asked.heartbeat.ping))
            session.assign(3, executor="note", data=b"3")
            await session.result(3)
            assert begun == [1, 3]
            # Not so long that anybody could have taken it for lost.
            clock.us += _limit_us - 1
            session.assign(4, executor="note", data=b"4")
            await session.result(4)

    play(scene())


def test_what_ends_first_after_a_stall_begins_nothing_that_waited() -> None:
    begun: list[object] = []

    async def scene() -> None:
        clock = FakeClock()

        async def block(data: object) -> None:
            begun.append(data)
            # The event loop stands still with it, so that its end is the first thing that happens afterwards.
            clock.us += _limit_us + 1

        async with (
            coordinators() as [coordinator],
            running([coordinator.address], {"block": block}, slots=1, surroundings=Surroundings(clock=clock)),
        ):
            session = await coordinator.session()
            await session.message(lambda m: m.HasField("credit"))
            session.assign(1, 2, executor="block")
            await session.result(1)
            let_go = await session.message(lambda m: any(item.ordinal_seen == 2 for item in m.inventory))
            assert [list(item.queued) for item in let_go.inventory] == [[]]
            assert len(begun) == 1

    play(scene())


def test_a_worker_that_is_not_answered_goes_on_by_a_new_stream() -> None:
    async def scene() -> None:
        clock = FakeClock()
        async with (
            coordinators() as [coordinator],
            running([coordinator.address], surroundings=Surroundings(clock=clock)),
        ):
            first = await coordinator.session()
            await first.message(lambda m: m.HasField("credit"))
            clock.us += _limit_us + 1
            first.assign(1)
            await first.message(lambda m: any(item.ordinal_seen == 1 for item in m.inventory))
            first.drop()
            second = await coordinator.session()
            second.assign(2)
            await second.result(2)
            assert first.results() == []
            assert [result.id for result in second.results()] == [2]

    play(scene())
