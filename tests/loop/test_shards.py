"""Shards come and go under load, and are never served from what another owner may have changed."""

import asyncio
import contextlib
import gc
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pytest

from mainspring import limits
from mainspring.errors import NotOwnerError, PoisonBatchError, StoreUnavailableError, UnavailableError
from mainspring_coordinator.engine.effects import Ack, AnswerCode, Assign, Disposition
from mainspring_coordinator.engine.events import Inventory, PeersSeen, ResultItem, Results
from mainspring_coordinator.engine.operator_events import StrategySeen
from mainspring_coordinator.engine.rows import WorkflowUpdated
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.store.memory import MemoryJournal
from mainspring_coordinator.store.protocol import Batch, Committed, no_epochs
from tests.engine.rig import define
from tests.loop.rig import a_loop, story, unavailable

one = define([{"id": "a", "executor": "work"}])
timed = define([{"id": "a", "executor": "work"}], timeout="5s")


@story
async def test_a_shard_lost_in_flight_takes_its_effects_along_and_others_keep_theirs() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        _, outbox = rig.attach()
        lost: list[int] = []
        rig.loop.on_shard_lost(lost.append)
        rig.gate.shut()
        head = rig.submit(one, rig.name(1, 5))
        await rig.gate.reached()
        gone, kept = rig.submit(one, rig.name(0)), rig.submit(one, rig.name(1))
        await asyncio.sleep(0)
        rig.move(0, "other")
        rig.gate.open()
        with pytest.raises(NotOwnerError):
            await gone
        assert (await kept).created
        assert (await head).created
        assert {assign.shard for assign in await outbox.wait_for(Assign, 2)} == {1}
        assert lost == [0]
        assert rig.name(0) not in rig.store.tables.workflows
        with pytest.raises(NotOwnerError):
            await rig.read(rig.name(0))


@story
async def test_what_was_made_under_an_old_epoch_is_not_stored_under_a_new_one() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        rig.gate.shut()
        first = rig.submit(one, rig.name(0))
        await rig.gate.reached()
        second = rig.submit(one, rig.name(0, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rig.move(0, "other")
        rig.loop.take_shard(rig.move(0, "me"))
        rig.gate.open()
        for caller in (first, second):
            with pytest.raises(NotOwnerError):
                await caller
        await rig.loop.prove(0)
        assert rig.loop.serving == {0: 3}
        assert not rig.store.tables.workflows
        assert (await rig.submit(one, rig.name(0))).created


@story
async def test_a_recovery_of_before_a_loss_does_not_feed_the_one_after_it() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        await rig.submit(one, rig.name(0))
        await rig.loop.release_shards([0])
        calls: list[int] = []
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        recover = rig.loader.recover

        async def slow(row: Any, post: Any, taken_in: Any, stored: Any) -> int:
            calls.append(row.epoch)
            if len(calls) == 1:
                await held
            return await recover(row, post, taken_in, stored)

        rig.loader.recover = slow  # type: ignore[method-assign]  # the seam at which a read can be held
        rig.loop.take_shard(rig.move(0, "me"))
        await asyncio.sleep(0)
        rig.move(0, "other")
        rig.loop.take_shard(rig.move(0, "me"))
        await rig.loop.prove(0)
        if not held.done():
            held.set_result(None)
        await asyncio.sleep(0)
        assert (await rig.read(rig.name(0))).code is AnswerCode.OK
        assert rig.loop.serving == {0: 4}


@story
async def test_what_a_recovery_led_to_before_it_began_again_is_stored_before_it_reads_anew() -> None:
    slow = define([{"id": "a", "executor": "work"}], timeout="1s")
    with patch.object(limits, "recovery_page_workflows", 1):
        async with a_loop() as rig:
            await rig.take(0)
            _, outbox = rig.attach()
            for number in range(2):
                await rig.submit(slow, rig.name(0, number))
            await outbox.wait_for(Assign, 2)
            await rig.loop.release_shards([0])
            rig.now += 10_000_000
            read, again = rig.reader.open_workflows, asyncio.Event()
            loop, calls = asyncio.get_running_loop(), list[str]()

            def away_at_the_second_page(shard: int, after: str, limit: int) -> Any:
                calls.append(after)
                if len(calls) == 2:
                    raise StoreUnavailableError("away")
                if len(calls) == 3:
                    loop.call_soon_threadsafe(again.set)
                return read(shard, after, limit)

            rig.reader.open_workflows = away_at_the_second_page
            rig.gate.shut()
            rig.loop.take_shard(rig.move(0, "me"))
            # The time of the first page's workflow is over for long; that this is so is about to be stored, and the recovery begins again.
            await rig.gate.reached()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(again.wait(), 0.5)
            rig.gate.open()
            await rig.loop.prove(0)
            ends = [
                row.workflow_id
                for batch in rig.journal.batches
                for row in batch.rows
                if isinstance(row, WorkflowUpdated) and row.status is WorkflowStatus.FAILING
            ]
            assert sorted(ends) == sorted(rig.name(0, number) for number in range(2))


@story
async def test_released_shards_fail_no_call_silently() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        session, outbox = rig.attach()
        callers = [rig.submit(one, rig.name(shard, number)) for number in range(20) for shard in (0, 1)]
        await asyncio.sleep(0)
        release = asyncio.ensure_future(rig.loop.release_shards([0]))
        await asyncio.sleep(0)
        late = [rig.submit(one, rig.name(0, 30)), rig.read(rig.name(0))]
        await release
        answers = await asyncio.gather(*callers, *late, return_exceptions=True)
        assert all(isinstance(answer, NotOwnerError) or answer.code is AnswerCode.OK for answer in answers)  # type: ignore[union-attr]  # anything else fails here
        created = {answer.workflow_id for answer in answers if not isinstance(answer, BaseException) and answer.created}
        assert created == set(rig.store.tables.workflows)
        row = rig.store.tables.shards[0]
        assert row.holder is None
        assert not rig.given_up
        rig.loop.post(Results(session, [ResultItem(0, 1 << 32, NodeStatus.SUCCEEDED, b"1", None, 0)]))
        assert [a.disposition for a in await outbox.wait_for(Ack)] == [Disposition.NOT_OWNER]


@story
async def test_shards_are_given_up_one_by_one_and_the_others_served_meanwhile() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1, 2)
        rig.gate.shut()
        caller = rig.submit(one, rig.name(0))
        await rig.gate.reached()
        release = asyncio.ensure_future(rig.loop.release_shards([0, 1, 2]))
        await asyncio.sleep(0)
        assert set(rig.loop.serving) == {1, 2}
        other = rig.submit(one, rig.name(2))
        rig.gate.open()
        await release
        assert (await caller).created
        assert (await other).created
        assert not rig.loop.serving
        assert {row.holder for row in rig.store.tables.shards.values()} == {None}


@story
async def test_a_shard_can_be_taken_released_and_taken_again() -> None:
    async with a_loop() as rig:
        name = rig.name(0)
        for epoch in (1, 2, 3):
            await rig.take(0)
            assert rig.loop.serving == {0: epoch}
            assert (await rig.submit(one, name)).created == (epoch == 1)
            await rig.loop.release_shards([0])
            assert not rig.loop.serving


@story
async def test_a_release_of_a_shard_that_is_another_s_by_then_does_not_end_the_term() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        rig.move(0, "other")
        await rig.loop.release_shards([0])
        assert not rig.given_up
        assert (await rig.submit(one, rig.name(1))).created
        assert rig.store.tables.shards[0].holder == "other"


@story
async def test_a_release_whose_answer_was_lost_does_not_end_the_term() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        release = rig.journal.release
        answers = unavailable(1)

        def lossy(epochs: Mapping[int, int], least: Mapping[int, int] = no_epochs) -> None:
            release(epochs, least)
            if answers:
                raise answers.pop()

        rig.journal.release = lossy  # type: ignore[method-assign]  # the answer of this one is lost
        await rig.loop.release_shards([0])
        assert rig.store.tables.shards[0].holder is None
        assert not rig.given_up
        assert (await rig.submit(one, rig.name(1))).created


@story
async def test_a_shard_that_is_lost_with_refused_rows_in_one_write_is_only_lost() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        commit, bad = rig.journal.commit, rig.name(0)

        def refuse_then_fence(batch: Batch) -> Committed:
            if any(row.workflow_id == bad and row.shard == 0 for row in batch.rows):
                rig.move(0, "other")
                raise PoisonBatchError(bad, "no such value")
            return commit(batch)

        rig.journal.commit = refuse_then_fence  # type: ignore[method-assign]  # two troubles at once
        first, second = rig.submit(one, bad), rig.submit(one, rig.name(1))
        third = rig.submit(one, rig.name(0, 1))
        for caller in (first, third):
            with pytest.raises(NotOwnerError):
                await caller
        assert (await second).created
        assert not rig.given_up
        assert rig.loop.serving == {1: 1}


@story
async def test_what_waited_before_an_outage_goes_on_in_the_order_of_its_submits() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        order = sorted(rig.name(0, number) for number in range(4))[::-1]
        for name in order:
            rig.now += 1
            await rig.submit(one, name)
        rig.loop.end_term("the coordinator died")
        rig.begin()
        await rig.take(0)
        _, outbox = rig.attach(slots=2)
        first = await outbox.wait_for(Assign, 2)
        assert [assign.workflow_id for assign in first] == order[:2]


@story
async def test_a_recovery_that_begins_again_serves_what_is_there() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        names = [rig.name(0, number) for number in range(5)]
        await asyncio.gather(*(rig.submit(one, name) for name in names))
        await rig.loop.release_shards([0])
        read, failures = rig.reader.open_workflows, unavailable(2)

        def flaky(shard: int, after: str, limit: int) -> Sequence[Any]:
            if failures:
                raise failures.pop()
            found: Sequence[Any] = read(shard, after, limit)
            return found

        rig.reader.open_workflows = flaky
        rig.loop.take_shard(rig.move(0, "me"))
        assert (await rig.read(names[0])).code is AnswerCode.OK
        assert rig.loop.engine.open_workflows == 5
        _, outbox = rig.attach()
        assert len(await outbox.wait_for(Assign, 5)) == 5


@story
async def test_a_recovery_that_waits_for_the_database_ends_when_its_shard_is_lost() -> None:
    async with a_loop() as rig:
        await rig.take(1)

        def away(shard: int, _after: str, _limit: int) -> Sequence[Any]:
            raise StoreUnavailableError(f"shard {shard} cannot be read")

        rig.reader.open_workflows = away
        rig.loop.take_shard(rig.move(0, "me"))
        waiting = rig.read(rig.name(0))
        await asyncio.sleep(0)
        rig.move(0, "other")
        del rig.reader.open_workflows
        rig.loop.take_shard(rig.move(0, "me"))
        with pytest.raises(NotOwnerError):
            await waiting
        await rig.loop.prove(0)
        assert rig.loop.serving == {0: 3, 1: 1}


@story
async def test_who_waits_for_a_shard_waits_a_bounded_time_and_leaves_nothing_behind() -> None:
    async with a_loop() as rig:

        def away(shard: int, _after: str, _limit: int) -> Sequence[Any]:
            raise StoreUnavailableError(f"shard {shard} cannot be read")

        rig.reader.open_workflows = away
        rig.loop.take_shard(rig.move(0, "me"))
        with patch.object(limits, "recovery_wait_ms_max", 20):
            for waiting in (rig.loop.prove(0), rig.read(rig.name(0))):
                with pytest.raises(UnavailableError):
                    await waiting
        assert not any(rig.loop._holdings._waiters.values())


@story
async def test_a_shard_that_another_took_is_given_up_though_nothing_is_to_be_written() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        rig.move(0, "rival")
        rig.loop.looked({0: 2, 1: 1, 2: 7}, PeersSeen(have_workers=True), StrategySeen(""))
        assert dict(rig.loop.serving) == {1: 1}
        with pytest.raises(NotOwnerError):
            await rig.loop.prove(0)
        await rig.loop.prove(1)
        assert not rig.given_up


@story
async def test_a_recovery_has_no_more_on_its_way_than_a_page_and_serves_when_all_of_it_is_built() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "recovery_page_workflows", 3)
        async with a_loop() as rig:
            await rig.take(0)
            wide = define([{"id": f"n{at}", "executor": "work"} for at in range(limits.step_nodes_max)])
            await asyncio.gather(*(rig.submit(wide, rig.name(0, number)) for number in range(8)))
            await rig.loop.release_shards([0])
            waiting: list[int] = []
            page, state = rig.loader._page, rig.loop._engine.state

            def watched(shard: int, after: tuple[int, str]) -> Sequence[Any]:
                waiting.append(len(rig.loop._queue) + sum(map(len, state.arriving.values())))
                return page(shard, after)

            patch.setattr(rig.loader, "_page", watched)
            rig.loop.take_shard(rig.move(0, "me"))
            await rig.loop.prove(0)
            # Beside what is read, only the proof that this test asks for is queued.
            assert max(waiting) <= 1
            assert len(waiting) == 3
            assert len(state.shards[0].workflows) == 8
            assert not rig.loop._engine.is_taking_in(0)


@story
async def test_a_shard_whose_epoch_has_no_more_assignment_ids_goes_on_under_the_next_one() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "assignment_number_max", 3)
        async with a_loop() as rig:
            await rig.take(0)
            session, outbox = rig.attach()
            names = [rig.name(0, number) for number in range(6)]
            await asyncio.gather(*(rig.submit(one, name) for name in names))
            assigned = await outbox.wait_for(Assign, 4)
            assert [assign.assignment for assign in assigned] == [1 << 32 | number for number in range(4)]
            # The election takes a shard without a holder; here it is this test.
            while rig.store.tables.shards[0].holder is not None:  # noqa: ASYNC110  (a table gives no signal)
                await asyncio.sleep(0)
            rig.loop.take_shard(rig.move(0, "me"))
            await rig.loop.prove(0)
            has = [assign.assignment for assign in assigned]
            rig.loop.post(Inventory(session, 0, 2, (), has, (), 4))
            done = [ResultItem(0, number, NodeStatus.SUCCEEDED, b"1", None, 0) for number in has]
            rig.loop.post(Results(session, done))
            later = (await outbox.wait_for(Assign, 6))[4:]
            assert [assign.assignment for assign in later] == [2 << 32, 2 << 32 | 1]
            assert {assign.workflow_id for assign in outbox.of(Assign)} == set(names)
            acks = await outbox.wait_for(Ack, 4)
            assert {ack.disposition for ack in acks} == {Disposition.RECORDED}


@story
async def test_after_history_was_lost_a_shard_is_taken_above_all_that_its_workers_have_seen_in_one_go() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        (session, _), (other, _) = rig.attach("w1"), rig.attach("w2")
        for who, epoch in ((session, 90), (other, 95)):
            rig.loop.post(Inventory(who, 0, epoch, (), (), (), 0))
        while rig.store.tables.shards[0].holder is not None:  # noqa: ASYNC110  (as above)
            await asyncio.sleep(0)
        assert rig.store.tables.shards[0].epoch == 95
        rig.loop.take_shard(rig.move(0, "me"))
        await rig.loop.prove(0)
        assert rig.loop.serving == {0: 96}
        # It was for that once.
        await rig.loop.release_shards([0])
        assert rig.store.tables.shards[0].epoch == 96


@story
async def test_who_waits_for_a_shard_when_the_term_ends_gets_one_error_and_leaves_none_behind() -> None:
    async with a_loop() as rig:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

        async def never(row: Any, post: Any, taken_in: Any, stored: Any) -> int:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        rig.loader.recover = never  # type: ignore[method-assign]
        rig.loop.take_shard(rig.move(0, "me"))
        asking = rig.submit(one, rig.name(0))
        await asyncio.sleep(0)
        rig.loop.end_term("the test says so")
        await asyncio.wait({asking})
        assert isinstance(asking.exception(), UnavailableError)
        del asking  # its traceback holds on to what nobody awaited
        gc.collect()
        assert reported == []


@story
async def test_a_deadline_that_is_due_when_its_shard_is_taken_again_changes_nothing_of_what_another_stored() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        name = rig.name(0)
        assert (await rig.submit(timed, name)).created
        row = rig.move(0, "other")
        other = MemoryJournal(rig.store, "other")
        other.adopt(row)
        ended = WorkflowUpdated(0, name, 9, WorkflowStatus.SUCCEEDED, output=b"1", ended_at_us=rig.now + 1)
        other.commit(Batch(b"o" * 16, {0: row.epoch}, [ended]))
        rig.now += 6_000_000
        rig.loop.take_shard(rig.move(0, "me"))
        await rig.loop.prove(0)
        assert not rig.given_up
        assert rig.store.tables.workflows[name].status is WorkflowStatus.SUCCEEDED


@story
async def test_a_deadline_that_is_due_when_its_shard_is_lost_does_not_end_the_term() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        assert (await rig.submit(timed, rig.name(0))).created
        rig.move(0, "rival")
        rig.now += 6_000_000
        rig.loop.looked({0: 2, 1: 1}, PeersSeen(have_workers=False), StrategySeen(""))
        await rig.loop.prove(1)
        assert not rig.given_up


@story
async def test_a_deadline_that_is_due_when_a_commit_is_fenced_does_not_end_the_term() -> None:
    async with a_loop() as rig:
        await rig.take(0, 1)
        assert (await rig.submit(timed, rig.name(0))).created
        rig.gate.shut()
        submitted = rig.submit(one, rig.name(0, 1))
        await rig.gate.reached()
        rig.move(0, "rival")
        rig.now += 6_000_000
        rig.gate.open()
        with pytest.raises(NotOwnerError):
            await submitted
        await rig.loop.prove(1)
        assert not rig.given_up
