"""An operator drains a worker, which stays and may take work again; one that was evicted ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from mainspring.v1 import worker_pb2 as wire
from mainspring_worker.probes import WorkerProbes
from mainspring_worker.worker import EvictedError, Worker
from tests.worker.scripted import Coordinator, Session, coordinators, running, until

_drained = wire.SetDraining(draining=True)
_undrained = wire.SetDraining(draining=False)
_evicted = wire.Goodbye(reason=wire.GOODBYE_REASON_EVICTED, message="an operator evicted it")


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def understands(*among: Coordinator) -> None:
    for coordinator in among:
        coordinator.welcome = {"sets_draining": True}


async def has_credit(session: Session, limit: int) -> None:
    """Wait until the last bound that was set is this one, and let it count."""

    def last() -> Any:
        return next((m.credit for m in reversed(session.heard) if m.HasField("credit")), None)

    await session.until(lambda: (said := last()) is not None and said.limit == limit)
    session.say(credit_seq=last().seq)


def is_ready(worker: Worker) -> int:
    return WorkerProbes("w1").ready(worker)[0]


def test_a_drained_worker_finishes_what_runs_gives_back_the_rest_tells_all_and_stays() -> None:
    async def scene() -> None:
        go_on = asyncio.Event()

        async def wait(_: object) -> str:
            await go_on.wait()
            return "done"

        async with coordinators(2) as [first, second]:
            understands(first, second)
            async with running([first.address], {"wait": wait}, slots=1) as worker:
                one, other = await first.session(), await second.session()
                one.assign(1, 2, executor="wait")
                await until(lambda: worker.running)
                one.say(set_draining=_drained)
                for session in (one, other):
                    told = await session.message(lambda m: m.HasField("draining"))
                    assert (told.draining.stays, told.draining.deadline_ms) == (True, 0)
                    await has_credit(session, 0)
                assert (await one.result(2)).outcome == wire.OUTCOME_NOT_STARTED
                assert is_ready(worker) == 503
                one.assign(3, executor="wait")
                assert (await one.result(3)).outcome == wire.OUTCOME_NOT_STARTED
                go_on.set()
                assert (await one.result(1)).outcome == wire.OUTCOME_SUCCEEDED
                for number in (1, 2, 3):
                    one.ack(number)
                await until(lambda: not worker.unacknowledged)
                assert not worker._stopped.done()
                assert (worker.attached, worker.draining) == (2, True)

    play(scene())


def test_a_drained_worker_tells_every_coordinator_at_once_how_much_it_has_left() -> None:
    def last(session: Session) -> tuple[int, int]:
        load = next((m.load for m in reversed(session.heard) if m.HasField("load")), wire.LoadReport(running=99))
        return load.running, load.unacknowledged

    async def scene() -> None:
        go_on = asyncio.Event()

        async def wait(_: object) -> None:
            await go_on.wait()

        async with coordinators(2) as [first, second]:
            understands(first, second)
            executors, never = {"wait": wait}, 600_000
            async with running([first.address], executors, load_report_interval_ms=never) as worker:
                one, other = await first.session(), await second.session()
                one.assign(1, 2, executor="wait")
                await until(lambda: worker.running == 2)
                other.say(set_draining=_drained)
                for session in (one, other):
                    told = await session.message(lambda m: m.HasField("draining"))
                    assert told.load.running == 2
                go_on.set()
                await other.until(lambda: last(other) == (0, 2))
                one.ack(1)
                one.ack(2)
                await one.until(lambda: last(one) == (0, 0))
                await other.until(lambda: last(other) == (0, 0))

    play(scene())


def test_an_undrained_worker_says_so_with_all_that_it_has_and_takes_work_again() -> None:
    async def scene() -> None:
        async with coordinators(2) as [first, second]:
            understands(first, second)
            async with running([first.address]) as worker:
                one, other = await first.session(), await second.session()
                other.say(set_draining=_drained)
                await one.message(lambda m: m.HasField("draining"))
                await has_credit(one, 0)
                await has_credit(other, 0)
                one.say(set_draining=_undrained)
                for session, shard in ((one, 0), (other, 1)):
                    told = await session.message(lambda m: m.HasField("taking_work"))
                    assert [stated.shard for stated in told.inventory] == [shard]
                    await has_credit(session, 2)
                assert (worker.draining, is_ready(worker)) == (False, 200)
                one.assign(1)
                assert (await one.result(1)).outcome == wire.OUTCOME_SUCCEEDED

    play(scene())


def test_whoever_asks_is_answered_though_nothing_has_changed() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator]:
            understands(coordinator)
            async with running([coordinator.address]):
                session = await coordinator.session()

                def said() -> list[str]:
                    names = ("draining", "taking_work")
                    return [name for m in session.heard for name in names if m.HasField(name)]  # type: ignore[arg-type]  # one of both

                session.say(set_draining=_undrained)
                await session.until(lambda: said() == ["taking_work"])
                session.say(set_draining=_drained)
                await session.until(lambda: said() == ["taking_work", "draining"])
                session.say(set_draining=_drained)
                await session.until(lambda: said() == ["taking_work", "draining", "draining"])

    play(scene())


def test_a_coordinator_that_comes_later_is_told_and_one_of_an_earlier_version_only_gets_no_credit() -> None:
    async def scene() -> None:
        async with coordinators(2) as [first, second]:
            understands(first)
            async with running([first.address]) as worker:
                one, other = await first.session(), await second.session()
                one.say(set_draining=_drained)
                await one.message(lambda m: m.HasField("draining"))
                await has_credit(other, 0)
                one.drop()
                again = await first.session()
                assert (await again.message(lambda m: m.HasField("draining"))).draining.stays
                again.say(set_draining=_undrained)
                await again.message(lambda m: m.HasField("taking_work"))
                await until(lambda: worker.credit == 4)
                await other.until(lambda: [m for m in other.heard if m.HasField("credit") and m.credit.limit])
                assert not [m for m in other.heard if m.HasField("draining") or m.HasField("taking_work")]

    play(scene())


def test_a_worker_on_its_way_out_stays_so_and_all_are_told_that_it_leaves() -> None:
    async def scene() -> None:
        go_on = asyncio.Event()

        async def wait(_: object) -> None:
            await go_on.wait()

        async with coordinators() as [coordinator]:
            understands(coordinator)
            async with running([coordinator.address], {"wait": wait}) as worker:
                session = await coordinator.session()
                session.assign(1, executor="wait")
                await until(lambda: worker.running)
                session.say(set_draining=_drained)
                await session.message(lambda m: m.HasField("draining"))
                leaving = asyncio.create_task(worker.drain(60_000))
                await session.message(lambda m: m.HasField("draining") and m.draining.deadline_ms > 50_000)
                session.say(set_draining=_undrained)
                count = len(session.heard)
                told = await session.until(lambda: [m for m in session.heard[count:] if m.HasField("draining")])
                assert not told[0].draining.stays
                assert worker.draining
                go_on.set()
                await session.result(1)
                session.ack(1)
                await leaving
                assert not [m for m in session.heard if m.HasField("taking_work")]

    play(scene())


@pytest.mark.parametrize("refused", [True, False])
def test_an_evicted_worker_stops_what_it_runs_and_ends(refused: bool) -> None:
    async def scene() -> None:
        stopped = asyncio.Event()

        async def wait(_: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        async with coordinators() as [coordinator], running([coordinator.address], {"wait": wait}) as worker:
            session = await coordinator.session()
            session.assign(1, executor="wait")
            await until(lambda: worker.running)
            if refused:
                coordinator.refusals = [_evicted]
                session.drop()
            else:
                session.say(goodbye=_evicted)
            with pytest.raises(EvictedError, match="an operator evicted it"):
                await asyncio.shield(worker._stopped)
            async with asyncio.timeout(10):
                await stopped.wait()
            assert len(coordinator.hellos) == 1 + refused

    play(scene())
