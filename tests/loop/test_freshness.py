"""A coordinator that cannot prove that it is current does not act, and says nothing that claims to be current."""

import asyncio

import pytest

from mainspring.errors import NotOwnerError, UnavailableError
from mainspring.ids import assignment_id
from mainspring_coordinator.engine.effects import Ack, Assign, Disposition
from mainspring_coordinator.engine.events import ResultItem, Results
from mainspring_coordinator.engine.status import NodeStatus
from tests.engine.rig import define
from tests.loop.rig import a_loop, story

one = define([{"id": "a", "executor": "work"}])
chain = define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work", "depends_on": ["a"]}])


@story
async def test_without_a_fresh_lease_nothing_is_dispatched_and_no_read_is_answered() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        await rig.submit(chain, rig.name(0))
        (first,) = await outbox.wait_for(Assign)
        rig.trusted = False
        done = ResultItem(0, first.assignment, NodeStatus.SUCCEEDED, b"1", None, 5)
        # Its commit succeeds, since nobody took the shard; what it releases stays here all the same.
        rig.loop.post(Results(session, [done]))
        known, unknown, cancel = rig.read(rig.name(0)), rig.read(rig.name(0, 1)), rig.cancel(rig.name(0))
        proof = asyncio.ensure_future(rig.loop.prove(0))
        await rig.gave_up.wait()
        rig.loop.end_term(rig.given_up[0])
        for caller in (known, unknown, cancel, proof):
            with pytest.raises(UnavailableError, match="try again"):
                await caller
        assert outbox.of(Assign) == [first]
        assert not outbox.of(Ack)


@story
async def test_an_owner_that_the_database_does_not_confirm_tells_nobody_what_it_remembers() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        await rig.submit(one, rig.name(0))
        rig.move(0, "another")
        with pytest.raises(NotOwnerError):
            await rig.read(rig.name(0))
        with pytest.raises(NotOwnerError):
            await rig.loop.prove(0)
        assert (await rig.submit(one, rig.name(1))).created


@story
async def test_a_late_result_is_refused_counted_and_told_to_its_worker() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        await rig.submit(one, rig.name(0))
        (assigned,) = await outbox.wait_for(Assign)
        late = assigned.assignment + 1
        rig.loop.post(Results(session, [ResultItem(0, late, NodeStatus.SUCCEEDED, b"1", None, 5)]))
        (ack,) = await outbox.wait_for(Ack)
        assert (ack.assignment, ack.disposition) == (late, Disposition.STALE)
        assert rig.observer.refusals == 1


@story
async def test_a_late_result_is_not_refused_by_an_owner_of_yesterday() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        session, outbox = rig.attach()
        rig.move(0, "another")
        late = ResultItem(0, assignment_id(1, 77), NodeStatus.SUCCEEDED, b"1", None, 5)
        rig.loop.post(Results(session, [late]))
        with pytest.raises(NotOwnerError):
            await rig.loop.prove(0)
        assert not [ack for ack in outbox.of(Ack) if ack.disposition is Disposition.STALE]
