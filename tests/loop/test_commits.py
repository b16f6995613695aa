"""Save, then speak: what leaves, when, and what the database's troubles make of it."""

import asyncio
import contextlib
from dataclasses import replace
from itertools import count
from unittest.mock import patch

import pytest

from mainspring import limits
from mainspring.errors import BusyError, PoisonBatchError, UnavailableError
from mainspring_coordinator.engine.effects import Ack, AnswerCode, Assign, Disposition, Ended
from mainspring_coordinator.engine.events import Inventory, ProgressReported, ResultItem, Results
from mainspring_coordinator.engine.rows import NodeAssigned, Row, WorkflowUpdated
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from mainspring_coordinator.store.protocol import Batch, Committed
from tests.engine.rig import define
from tests.loop.rig import a_loop, story, unavailable

one = define([{"id": "a", "executor": "work"}])
chain = define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work", "depends_on": ["a"]}])


def done(assign: Assign) -> ResultItem:
    return ResultItem(assign.shard, assign.assignment, NodeStatus.SUCCEEDED, b"1", None, 5)


@story
async def test_nothing_leaves_before_the_commit_that_holds_it() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        _, outbox = rig.attach()
        rig.gate.shut()
        caller = rig.submit(one, rig.name(0))
        await rig.gate.reached()
        assert not caller.done()
        assert not outbox.of(Assign)
        rig.gate.open()
        assert (await caller).created
        assigned = (await outbox.wait_for(Assign))[0]
        stored = [row for batch in rig.journal.batches for row in batch.rows if isinstance(row, NodeAssigned)]
        assert [row.assignment for row in stored] == [assigned.assignment]


@story
async def test_what_waits_behind_a_batch_is_told_when_it_is_closed_and_what_it_assigns_once_that_has_left() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        _, outbox = rig.attach(slots=1)
        rig.gate.shut()
        for number in range(3):
            rig.submit(one, rig.name(0, number))
        await rig.gate.reached()
        assert rig.observer.waited[-1] == {"work": 2}
        assert not any(rig.observer.given_out)
        rig.gate.open()
        await outbox.wait_for(Assign)
        assert [given for given in rig.observer.given_out if given] == [["work"]]


@story
async def test_what_comes_during_a_commit_shares_the_next_one() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        rig.gate.shut()
        callers = [rig.submit(one, rig.name(0))]
        await rig.gate.reached()
        callers += [rig.submit(one, rig.name(0, number)) for number in range(1, 20)]
        while rig.loop._engine.state.shards[0].workflows.keys() != {rig.name(0, number) for number in range(20)}:  # noqa: ASYNC110  (the state gives no signal)
            await asyncio.sleep(0)
        rig.gate.open()
        assert all([(await caller).created for caller in callers])
        assert len(rig.journal.batches) == 2


@story
async def test_a_slot_that_a_submit_of_an_ended_workflow_held_for_a_moment_is_not_given_to_another_such_one() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach(slots=1)
        names = [rig.name(0, number) for number in range(2)]
        for number, name in enumerate(names, 1):
            await rig.submit(one, name)
            assigned = await outbox.wait_for(Assign, number)
            rig.loop.post(Results(session, [done(assigned[-1])]))
            await outbox.wait_for(Ack, number)
        again = [rig.submit(one, name) for name in names]
        assert not any([(await caller).created for caller in again])
        await rig.loop.prove(0)
        for name in names:
            stored = rig.store.reader().node(name, 0, -1)
            assert stored is not None
            assert stored.status is NodeStatus.SUCCEEDED
        assert len(outbox.of(Assign)) == 2


@story
async def test_a_database_that_was_away_gets_the_same_batch_again() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        before = rig.gate.tries
        rig.gate.script = unavailable(3)
        assert (await rig.submit(one, rig.name(0))).created
        assert rig.gate.tries == before + 4
        assert len(rig.journal.batches) == 1
        assert not rig.given_up


@story
async def test_callers_of_a_term_that_is_lost_learn_that_the_outcome_is_unknown() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        rig.gate.shut()
        first = rig.submit(one, rig.name(0))
        await rig.gate.reached()
        second = rig.submit(one, rig.name(0, 1))
        proof = asyncio.ensure_future(rig.loop.prove(0))
        await asyncio.sleep(0)
        rig.loop.end_term("the test says so")
        rig.gate.open()
        for caller in (first, second, proof):
            with pytest.raises(UnavailableError, match="unknown"):
                await caller


@story
async def test_nothing_leaves_once_the_lease_is_in_doubt_even_if_it_is_renewed_then() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        rig.trusted = False
        first = rig.submit(one, rig.name(0))
        await rig.gave_up.wait()
        rig.trusted = True
        second = rig.submit(one, rig.name(0, 1))
        await asyncio.sleep(0)
        rig.loop.end_term("as asked")
        for caller in (first, second):
            with pytest.raises(UnavailableError):
                await caller
        assert len(rig.journal.batches) == 1


@story
async def test_an_id_that_the_database_has_is_answered_from_there() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        name = rig.name(0)
        await rig.submit(one, name)
        rig.loop.post(Results(session, [done((await outbox.wait_for(Assign))[0])]))
        await outbox.wait_for(Ack)
        same, other = await rig.submit(one, name), await rig.submit(one, name, b"e" * 32)
        assert (same.code, same.created, same.status) == (AnswerCode.OK, False, WorkflowStatus.SUCCEEDED)
        assert (other.code, other.created) == (AnswerCode.ALREADY_EXISTS, False)
        assert len(outbox.of(Assign)) == 1
        assert rig.loop.engine.open_workflows == 0


@story
async def test_each_submit_of_an_id_that_the_database_has_is_answered_from_there_whatever_batch_it_came_in() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        name = rig.name(0)
        await rig.submit(one, name)
        rig.loop.post(Results(session, [done((await outbox.wait_for(Assign))[0])]))
        await outbox.wait_for(Ack)
        rig.gate.shut()
        callers = [rig.submit(one, name, digest) for digest in (b"d" * 32, b"d" * 32, b"e" * 32)]
        await rig.gate.reached()
        # While the commit that will find it is under way.
        callers += [rig.submit(one, name, digest) for digest in (b"d" * 32, b"e" * 32)]
        reader = rig.read(name)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writes = len(rig.observer.writes)
        rig.gate.open()
        answers = [await caller for caller in callers]
        same, other = AnswerCode.OK, AnswerCode.ALREADY_EXISTS
        assert [answer.code for answer in answers] == [same, same, other, same, other]
        assert {(answer.created, answer.status) for answer in answers} == {(False, WorkflowStatus.SUCCEEDED)}
        assert len(rig.observer.writes) == writes + 2, "those that came later are proven later"
        with pytest.raises(UnavailableError, match="looked up"):
            await reader
        assert rig.loop.engine.open_workflows == 0


@story
async def test_of_two_submits_of_one_id_in_one_batch_one_creates_it() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        name = rig.name(0)
        answers = await asyncio.gather(rig.submit(one, name), rig.submit(one, name), rig.submit(one, name, b"e" * 32))
        assert [(a.code, a.created) for a in answers] == [
            (AnswerCode.OK, True),
            (AnswerCode.OK, False),
            (AnswerCode.ALREADY_EXISTS, False),
        ]


@story
async def test_a_workflow_whose_rows_are_refused_is_loaded_anew_and_others_go_on() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        bad, good = rig.name(0), rig.name(0, 1)
        await asyncio.gather(rig.submit(chain, bad), rig.submit(chain, good))
        await outbox.wait_for(Assign, 2)
        first = {assign.workflow_id: assign for assign in outbox.of(Assign)}
        rig.journal.refused = {bad}
        cancel = rig.cancel(bad)
        rig.loop.post(Results(session, [done(first[good])]))
        with pytest.raises(UnavailableError, match="refused"):
            await cancel
        rig.journal.refused = set()
        assert (await outbox.wait_for(Assign, 3))[2].workflow_id == good
        view = (await rig.read(bad)).view
        assert view is not None
        assert view.status is WorkflowStatus.RUNNING
        # What runs of it is still known, and counts.
        rig.loop.post(Results(session, [done(first[bad])]))
        assert (await outbox.wait_for(Assign, 4))[3].node_id == "b"


@story
async def test_a_result_that_was_refused_with_its_workflow_is_not_acknowledged_when_it_is_repeated() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        bad = rig.name(0)
        await rig.submit(chain, bad)
        assign = (await outbox.wait_for(Assign))[0]
        rig.journal.refused = {bad}
        rig.gate.shut()
        rig.loop.post(Results(session, [done(assign)]))
        await rig.gate.reached()
        rig.loop.post(Results(session, [done(assign)]))
        await asyncio.sleep(0)
        rig.gate.open()
        assert (await rig.submit(one, rig.name(0, 1))).created
        assert not outbox.of(Ack)
        rig.journal.refused = set()
        assert (await rig.read(bad)).view is not None
        rig.loop.post(Results(session, [done(assign)]))
        assert [ack.disposition for ack in await outbox.wait_for(Ack)] == [Disposition.RECORDED]
        assert next(a for a in await outbox.wait_for(Assign, 3) if a.node_id == "b").workflow_id == bad


@story
async def test_a_workflow_that_cannot_be_read_at_once_is_loaded_anew_when_it_can() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        bad = rig.name(0)
        await rig.submit(chain, bad)
        rig.journal.refused = {bad}
        read, failures = rig.reader.workflow, unavailable(2)

        def flaky(name: str) -> object:
            if failures:
                raise failures.pop()
            return read(name)

        rig.reader.workflow = flaky
        with pytest.raises(UnavailableError):
            await rig.cancel(bad)
        rig.journal.refused = set()
        assert (await rig.submit(chain, bad)).code is AnswerCode.OK
        assert (await rig.read(bad)).view is not None
        assert not rig.given_up


@story
async def test_a_deadline_that_is_due_when_rows_are_refused_changes_nothing_until_they_are_read_anew() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        bad = rig.name(0)
        await rig.submit(define([{"id": "a", "executor": "work"}], timeout="5s"), bad)
        (assign,) = await outbox.wait_for(Assign)
        before, written, read, away = len(rig.journal.batches), asyncio.Event(), rig.reader.workflow, [True]

        def later(name: str) -> object:
            if away:
                raise unavailable(1)[0]
            return read(name)

        rig.reader.workflow = later
        rig.gate.shut()
        rig.loop.post(ProgressReported(session, 0, assign.assignment, b"1"))
        await rig.gate.reached()
        rig.gate.script = [PoisonBatchError(bad, "no such value")]
        rig.now += 6_000_000
        with patch.object(rig.observer, "committed", lambda _: written.set()):
            rig.gate.open()
            await written.wait()
        assert (await rig.submit(one, rig.name(0, 1))).created
        stored = [row for batch in rig.journal.batches[before:] for row in batch.rows if row.workflow_id == bad]
        assert not stored
        away.clear()
        assert (await rig.read(bad)).code is AnswerCode.OK
        assert (await rig.read(bad)).status is WorkflowStatus.FAILING


@story
async def test_a_workflow_of_which_something_is_refused_each_time_that_it_is_made_fails() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        bad = rig.name(0)
        await rig.submit(one, bad)
        (assign,) = await outbox.wait_for(Assign)

        def too_large(row: Row) -> bool:
            return isinstance(row, WorkflowUpdated) and row.output is not None

        commit = rig.journal.commit

        def picky(batch: Batch) -> Committed:
            if any(too_large(row) for row in batch.rows):
                raise PoisonBatchError(bad, "the row is too large")
            return commit(batch)

        with patch.object(rig.journal, "commit", picky):
            ended = asyncio.Event()
            rig.loop.subscribe(bad, lambda effect: ended.set() if isinstance(effect, Ended) else None)
            while not ended.is_set():
                rig.loop.post(Results(session, [done(assign)]))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.02)
        (end,) = rig.observer.ends
        assert end.status is WorkflowStatus.FAILED
        assert b"mainspring.RowsRefused" in (end.failure or b"")


@story
async def test_a_full_queue_refuses_while_a_commit_is_under_way() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "batch_rows_max", 6)
        patch.setattr(limits, "events_queue_max", 10)
        async with a_loop() as rig:
            await rig.take(0)
            rig.gate.shut()
            callers = [rig.submit(one, rig.name(0))]
            await rig.gate.reached()
            for number in range(1, 40):
                callers.append(rig.submit(one, rig.name(0, number)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            refused = [caller for caller in callers if caller.done()]
            assert len(refused) > 15
            rig.gate.open()
            for caller in refused:
                with pytest.raises(BusyError):
                    await caller
            assert all([(await caller).created for caller in callers if caller not in refused])


@story
async def test_a_failing_step_ends_the_term_and_nothing_of_it_is_stored() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach()
        await rig.submit(one, rig.name(0))
        assign = (await outbox.wait_for(Assign))[0]
        stored = len(rig.journal.batches)
        # A result that no worker can send: it is checked before it becomes an event.
        broken = replace(done(assign), status=NodeStatus.FAILED)
        rig.loop.post(Results(session, [broken]))
        rig.loop.post(ProgressReported(session, 0, assign.assignment, b"1"))
        await rig.gave_up.wait()
        await asyncio.sleep(0)
        assert len(rig.journal.batches) == stored
        assert not outbox.of(Ack)


@story
async def test_watchers_are_bound_and_refused_ones_leave_nothing_behind() -> None:
    async with a_loop() as rig:
        ends = [rig.loop.subscribe("wf", lambda effect: None) for _ in range(limits.watchers_a_workflow_max)]
        with pytest.raises(BusyError, match="watchers"):
            rig.loop.subscribe("wf", lambda effect: None)
        for end in ends:
            end()
            end()
        rig.loop.subscribe("wf", lambda effect: None)()


@story
async def test_a_wide_release_gives_the_event_loop_a_turn_after_each_of_its_parts() -> None:
    width = 3 * limits.step_nodes_max
    fan = define([{"id": f"n{at}", "executor": "work"} for at in range(width)])
    async with a_loop() as rig:
        await rig.take(0)
        with pytest.MonkeyPatch.context() as patch:
            # Each look at the clock finds the time of a slice over.
            ticks = count(step=limits.loop_slice_ms_max * 1_000)
            patch.setattr(rig.loop, "_clock_us", lambda: next(ticks))
            caller, name = rig.submit(fan, rig.name(0)), rig.name(0)
            workflows = rig.loop._engine.state.shards[0].workflows
            seen: set[int] = set()
            while width not in seen:
                await asyncio.sleep(0)
                if name in workflows:
                    seen.add(workflows[name].statuses.count(NodeStatus.READY))
        assert seen == {limits.step_nodes_max * parts for parts in (1, 2, 3)}
        assert (await caller).created


@story
async def test_a_refusal_leaves_only_with_what_it_rests_on() -> None:
    """The database refuses the rows by which an attempt is over: then its result is current still, and is not refused."""
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach(slots=2)
        name = rig.name(0)
        await rig.submit(one, name)
        assign = (await outbox.wait_for(Assign))[0]
        rig.gate.shut()
        other = rig.submit(one, rig.name(0, 1))
        await rig.gate.reached()
        # What its worker says it does not have is offered again; then the result comes after all, and later it is asked for.
        rig.journal.refused.add(name)
        rig.loop.post(Inventory(session, 0, 1, (), (), (), assign.ordinal))
        rig.loop.post(Results(session, [done(assign)]))
        rig.loop.post(Inventory(session, 0, 1, (), (assign.assignment,), (), assign.ordinal))
        asked = rig.read(name)
        await asyncio.sleep(0)
        rig.gate.open()
        assert (await other).created
        with pytest.raises(UnavailableError):
            await asked
        stored = rig.store.tables.nodes[name, 0, -1]
        assert (await rig.read(name)).code is AnswerCode.OK
        assert (stored.status, stored.assignment) == (NodeStatus.RUNNING, assign.assignment)
        about = [effect for effect in outbox.got if getattr(effect, "assignment", 0) == assign.assignment]
        assert about == [assign]


@story
async def test_an_end_that_rests_on_refused_rows_is_told_to_nobody() -> None:
    """A workflow has ended in memory when the rows before its end are refused: it is as it was, and nobody hears of another version."""
    async with a_loop() as rig:
        await rig.take(0)
        session, outbox = rig.attach(slots=2)
        name = rig.name(0)
        await rig.submit(define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work"}]), name)
        first, second = await outbox.wait_for(Assign, 2)
        told: list[object] = []
        rig.loop.subscribe(name, told.append)
        rig.gate.shut()
        rig.journal.refused.add(name)
        rig.loop.post(Results(session, [done(first)]))
        await rig.gate.reached()
        rig.loop.post(Results(session, [done(second)]))
        other = rig.submit(one, rig.name(0, 1))
        await asyncio.sleep(0)
        rig.gate.open()
        assert (await other).created
        view = (await rig.read(name)).view
        assert view is not None
        assert view.status is WorkflowStatus.RUNNING
        assert not told
