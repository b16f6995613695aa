"""A shard that is given up on purpose: its workers have heard all that was sent before anybody else may take it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mainspring import limits
from mainspring.errors import NotOwnerError
from mainspring_coordinator.engine.effects import Assign
from tests.engine.rig import define
from tests.loop.rig import a_loop, story

one = define([{"id": "a", "executor": "work"}])
_never_ms = 1_000_000


@asynccontextmanager
async def waiting(bound_ms: int) -> AsyncIterator[None]:
    """Let a move wait for so long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "move_seen_ms_max", bound_ms)
        yield


@story
async def test_a_shard_is_not_released_before_its_workers_have_heard_what_was_sent() -> None:
    async with waiting(_never_ms), a_loop() as rig:
        await rig.take(0)
        _, prompt = rig.attach("prompt")
        _, slow = rig.attach("slow")
        slow.hears = False
        assert (await rig.submit(one, rig.name(0))).created
        rig.gate.shut()
        under_way = rig.submit(one, rig.name(0, 1))
        await rig.gate.reached()
        release = asyncio.ensure_future(rig.loop.release_shards([0]))
        await asyncio.sleep(0)
        assert not slow.asked, "what is still under way has yet to be sent"
        rig.gate.open()
        heard = await slow.wait_until_asked()
        assert (await under_way).created
        assert len(prompt.of(Assign) + slow.of(Assign)) == 2
        late = rig.read(rig.name(0))
        # A commit of another shard, so that a release that did not wait would have been written by now.
        await rig.take(1)
        assert rig.store.tables.shards[0].holder == "me"
        assert not late.done(), "a call waits as well, and is not failed"
        heard.set_result(None)
        await release
        assert rig.store.tables.shards[0].holder is None
        with pytest.raises(NotOwnerError):
            await late
        assert len(prompt.asked) == len(slow.asked) == 1
        assert not rig.given_up


@story
async def test_a_worker_that_hangs_is_waited_for_once_and_not_for_each_shard() -> None:
    async with waiting(1), a_loop() as rig:
        await rig.take(0, 1, 2)
        _, prompt = rig.attach("prompt")
        _, hung = rig.attach("hung")
        hung.hears = False
        await rig.loop.release_shards([0, 1, 2])
        assert {row.holder for row in rig.store.tables.shards.values()} == {None}
        assert len(prompt.asked) == 3
        assert [seen.cancelled() for seen in hung.asked] == [True]
        # Another move begins with another try.
        await rig.take(0)
        hung.hears = True
        await rig.loop.release_shards([0])
        assert [seen.cancelled() for seen in hung.asked] == [True, False]


@story
async def test_a_term_that_ends_while_workers_are_waited_for_gives_up_nothing_of_the_next() -> None:
    async with waiting(_never_ms), a_loop() as rig:
        await rig.take(0, 1)
        _, outbox = rig.attach()
        outbox.hears = False
        release = asyncio.ensure_future(rig.loop.release_shards([0, 1]))
        heard = await outbox.wait_until_asked()
        rig.loop.end_term("doubt")
        rig.begin()
        await rig.take(0, 1)
        heard.set_result(None)
        await release
        await rig.loop.prove(0)
        assert rig.loop.serving == {0: 2, 1: 2}
        assert {rig.store.tables.shards[shard].holder for shard in (0, 1)} == {"me"}
