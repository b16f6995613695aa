"""Pauses through the loop: answered after the commit, and known to a new owner before its first assignment."""

from dataclasses import replace

import pytest

from mainspring.errors import NotOwnerError
from mainspring_coordinator.engine.effects import Assign, ReportBacklog
from mainspring_coordinator.engine.operator_events import PauseSet, PausesSeen, WorkflowPauseSet
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from tests.engine.rig import define
from tests.loop.rig import LoopRig, a_loop, story

one = define([{"id": "a", "executor": "work"}])
everything = ClusterPauses(Pause(7, "ann", "a fire"), {}, 7)


def store(rig: LoopRig, pauses: ClusterPauses) -> None:
    """Let the owner of shard 0, another coordinator, have stored this."""
    with rig.store.tables.lock:
        rig.store.tables.shards[0] = replace(rig.store.tables.shards[0], pauses=pauses.data())


@story
async def test_what_was_paused_before_a_shard_was_taken_is_known_before_anything_of_it_is_given_out() -> None:
    async with a_loop() as rig:
        await rig.take(1)
        assert (await rig.submit(one, rig.name(1))).created
        rig.loop.looked({1: 9})
        # After the look at the peers that this takeover follows from.
        store(rig, everything)
        await rig.take(1)
        _, outbox = rig.attach()
        assert (await rig.submit(one, rig.name(1, 1))).created
        assert not outbox.of(Assign) + outbox.of(ReportBacklog)
        rig.loop.looked({}, PausesSeen(ClusterPauses(changed_at_us=8).data()))
        assert len(await outbox.wait_for(Assign, 2)) == 2


@story
async def test_a_pause_is_answered_once_it_is_stored_and_nothing_is_committed_after_it() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        _, outbox = rig.attach()
        rig.gate.shut()
        asked = rig.ask(0, lambda token: PauseSet(token, 0, "", True, "ann", "a fire"))
        submitted = rig.submit(one, rig.name(1))
        await rig.gate.reached()
        assert not asked.done()
        assert rig.store.tables.shards[0].pauses is None
        rig.gate.open()
        answer = await asked
        assert answer.created
        assert ClusterPauses.parse(rig.store.tables.shards[0].pauses).everything == answer.pause
        assert (await submitted).created
        assert not outbox.of(Assign)
        assert (await rig.ask(0, lambda token: PauseSet(token, 0, "", False, "ann", ""))).created
        await outbox.wait_for(Assign)


@story
async def test_a_pause_that_was_not_stored_because_the_shard_was_lost_is_none() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        _, outbox = rig.attach()
        rig.move(0, "other")
        with pytest.raises(NotOwnerError):
            await rig.ask(0, lambda token: PauseSet(token, 0, "", True, "ann", "a fire"))
        rig.loop.looked({}, PausesSeen(rig.reader.pauses()))
        assert (await rig.submit(one, rig.name(1))).created
        await outbox.wait_for(Assign)


@story
async def test_a_workflows_pause_is_read_back_with_it() -> None:
    async with a_loop() as rig:
        await rig.take(1)
        name = rig.name(1)
        assert (await rig.submit(one, name)).created
        paused = await rig.ask(1, lambda token: WorkflowPauseSet(token, 1, name, True, "ann", "a fire"))
        assert paused.created
        await rig.take(1)
        _, outbox = rig.attach()
        view = (await rig.read(name)).view
        assert view is not None
        assert view.pause == paused.pause
        assert not outbox.of(Assign)
        assert (await rig.ask(1, lambda token: WorkflowPauseSet(token, 1, name, False, "ann", ""))).created
        await outbox.wait_for(Assign)
        assert rig.store.tables.pauses == {}
