"""Permits of concurrency keys through the real loop and its journal: stored, then used; taken back only for what is stored."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mainspring.errors import UnavailableError
from mainspring.ids import shard_of
from mainspring_coordinator.engine.effects import Ack, Assign, StatePermits
from mainspring_coordinator.engine.events import PermitsGranted, PermitsStated, ResultItem, Results
from mainspring_coordinator.engine.permits import HeldPermits
from mainspring_coordinator.engine.rows import NodeAssigned, NodeChanged, PermitsHeld, Row
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.ports import PermitEffect
from tests.engine.rig import define
from tests.loop.rig import LoopRig, a_loop, shards_total, story

limited = define([{"id": "a", "executor": "work", "concurrency": {"key": "db", "limit": 1}}])
free = define([{"id": "a", "executor": "work"}])
home = shard_of("db", shards_total)


def pass_on_permits(rig: LoopRig) -> list[PermitEffect]:
    """Let what is said of permits come back to the same loop; return where it is noted."""
    passed: list[PermitEffect] = []

    def pass_on(effects: Sequence[PermitEffect]) -> None:
        for effect in effects:
            passed.append(effect)
            if isinstance(effect, StatePermits):
                rig.loop.post(PermitsStated(home, effect.statement))
            else:
                rig.loop.post(PermitsGranted(effect.reply.shard, effect.reply))

    rig.loop.on_permits(pass_on)
    return passed


def done(assign: Assign) -> ResultItem:
    return ResultItem(assign.shard, assign.assignment, NodeStatus.SUCCEEDED, b"1", None, 5)


def rows(rig: LoopRig, *kinds: type[Row]) -> list[Row]:
    """Return the rows of these kinds that were committed, in order; permits and nodes of one batch in the order of the batch."""
    return [row for batch in rig.journal.batches for row in batch.rows if isinstance(row, kinds)]


@story
async def test_a_permit_is_stored_before_it_is_used_and_given_on_after_the_end_is_stored() -> None:
    async with a_loop() as rig:
        await rig.take(*range(shards_total))
        pass_on_permits(rig)
        session, outbox = rig.attach()
        first, second = rig.name(0), rig.name(1)
        await rig.submit(limited, first)
        (assign,) = await outbox.wait_for(Assign)
        await rig.submit(limited, second)
        rig.loop.post(Results(session, [done(assign)]))
        assert (await outbox.wait_for(Assign, 2))[1].workflow_id == second
        marks: list[Callable[[Any], object]] = [
            lambda row: isinstance(row, PermitsHeld) and row.holder == 0 and row.count,
            lambda row: isinstance(row, NodeAssigned) and row.workflow_id == first,
            lambda row: isinstance(row, NodeChanged) and row.workflow_id == first,
            lambda row: isinstance(row, PermitsHeld) and row.holder == 1 and row.count,
            lambda row: isinstance(row, NodeAssigned) and row.workflow_id == second,
        ]
        batches = rig.journal.batches
        at = [next(n for n, batch in enumerate(batches) if any(map(mark, batch.rows))) for mark in marks]
        assert at == sorted(set(at)), at


@story
async def test_while_the_end_of_a_node_is_refused_its_permit_is_not_given_back() -> None:
    async with a_loop() as rig:
        await rig.take(*range(shards_total))
        passed = pass_on_permits(rig)
        session, outbox = rig.attach()
        bad, good = rig.name(0), rig.name(0, 1)
        await rig.submit(limited, bad)
        (assign,) = await outbox.wait_for(Assign)
        await rig.submit(limited, good)
        rig.journal.refused = {bad}
        rig.loop.post(Results(session, [done(assign)]))
        with suppress(UnavailableError):  # if it is asked in the batch that is refused
            await rig.read(bad)
        # It is answered once the workflow is loaded anew.
        assert (await rig.read(bad)).view is not None
        assert not outbox.of(Ack)
        assert all(one.statement.keeps for one in passed[3:] if isinstance(one, StatePermits))
        rig.journal.refused = set()
        rig.loop.post(Results(session, [done(assign)]))
        await outbox.wait_for(Ack)
        # What went with the refused end is said again after a while.
        rig.now += 1_000_000
        rig.loop.tick()
        assert (await outbox.wait_for(Assign, 2))[1].workflow_id == good
        kinds = [type(row) for row in rows(rig, NodeAssigned, NodeChanged)]
        assert kinds == [NodeAssigned, NodeChanged, NodeAssigned]


@story
async def test_a_submit_of_an_ended_workflow_delays_nobody_who_asks_for_a_permit() -> None:
    async with a_loop() as rig:
        await rig.take(*range(shards_total))
        pass_on_permits(rig)
        session, outbox = rig.attach()
        ended = rig.name(1)
        await rig.submit(free, ended)
        rig.loop.post(Results(session, [done((await outbox.wait_for(Assign))[0])]))
        await outbox.wait_for(Ack)
        answers = await asyncio.gather(rig.submit(limited, rig.name(0)), rig.submit(free, ended))
        assert [answer.created for answer in answers] == [True, False]
        # No time passes here, so that nothing is said twice.
        assert (await outbox.wait_for(Assign, 2))[1].workflow_id == rig.name(0)


@story
async def test_permits_from_before_a_takeover_are_read_back_and_freed_when_nobody_has_them() -> None:
    async with a_loop() as rig:
        rig.store.tables.permits[home, "db", 3] = HeldPermits("db", 3, 1, 1)
        pass_on_permits(rig)
        await rig.take(*range(shards_total))
        _, outbox = rig.attach()
        await rig.submit(limited, rig.name(0))
        # Should shard 3 not have been ready when it was asked the first time.
        rig.now += 4_000_000
        rig.loop.tick()
        await outbox.wait_for(Assign)
        assert set(rig.store.tables.permits) == {(home, "db", 0)}
        permits = [row for row in rows(rig, PermitsHeld) if isinstance(row, PermitsHeld)]
        assert [(row.holder, row.count) for row in permits] == [(3, 0), (0, 1)]
