"""A workflow that is run again, by the real loop and writer: it comes into memory after the commit, whatever happens in between."""

import asyncio

from mainspring_coordinator.engine.effects import AnswerCode, Assign
from mainspring_coordinator.engine.events import ResultItem, Results
from mainspring_coordinator.engine.operator_events import ActOnNode, CopyNodes, Rerun
from mainspring_coordinator.engine.rows import NodesCopied, WorkflowInserted
from mainspring_coordinator.engine.status import NodeAct, NodeStatus, WorkflowStatus
from tests.engine.rig import define
from tests.loop.rig import LoopRig, Outbox, a_loop, story

plan = define(
    [
        {"id": "a", "executor": "work"},
        {"id": "b", "executor": "work", "input": "${a}", "retry": {"max_attempts": 1}},
    ]
)


async def failed(rig: LoopRig, session: int, worker: Outbox, name: str) -> None:
    """Let a workflow end whose second node fails."""
    assert (await rig.submit(plan, name)).created
    (first,) = await worker.wait_for(Assign)
    rig.loop.post(Results(session, [ResultItem(first.shard, first.assignment, NodeStatus.SUCCEEDED, b'"A"', None, 5)]))
    await worker.wait_for(Assign, 2)
    await rig.cancel(name)
    second, ended = worker.of(Assign)[1], asyncio.Event()
    rig.loop.subscribe(name, lambda _: ended.set(), end_only=True)
    rig.loop.post(Results(session, [ResultItem(second.shard, second.assignment, NodeStatus.CANCELLED, b"", None, 5)]))
    await ended.wait()


@story
async def test_a_rerun_goes_on_from_what_was_copied_once_it_is_committed() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, worker = rig.attach()
        old, new = rig.name(0), rig.name(0, 1)
        await failed(rig, session, worker, old)
        copied = await rig.ask(0, lambda token: CopyNodes(token, 0, new, old, (0,), (-1, 0), (0, -1)))
        assert copied.code is AnswerCode.OK
        assert isinstance(rig.journal.batches[-1].rows[0], NodesCopied)
        assert new not in rig.store.tables.workflows, "nobody sees it yet"
        made = await rig.ask(0, lambda token: Rerun(token, 0, new, plan, b"null", b"d" * 32, "", old))
        assert made.created
        assert rig.store.tables.workflows[new].rerun_of == old
        third = (await worker.wait_for(Assign, 3))[2]
        assert (third.workflow_id, third.node_id, third.input, third.attempt) == (new, "b", b'"A"', 1)
        view = (await rig.read(new)).view
        assert view is not None
        assert view.statuses == bytes([NodeStatus.SUCCEEDED, NodeStatus.RUNNING])
        assert rig.store.tables.workflows[old].status is WorkflowStatus.CANCELLED


@story
async def test_nothing_of_a_rerun_leaves_before_its_commit() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        _, worker = rig.attach()
        new = rig.name(0, 1)
        rig.gate.shut()
        made = rig.ask(0, lambda token: Rerun(token, 0, new, plan, b"null", b"d" * 32, "", "old"))
        await rig.gate.reached()
        assert not made.done()
        assert not worker.of(Assign)
        rig.gate.open()
        assert (await made).created
        assert (await worker.wait_for(Assign))[0].node_id == "a"


@story
async def test_the_same_rerun_is_found_in_memory_and_in_the_database() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        session, worker = rig.attach()
        old = rig.name(0)
        await failed(rig, session, worker, old)
        # The id of a workflow that has ended: only the database knows it.
        for name in (old, rig.name(0, 1), rig.name(0, 1)):
            answer = await rig.ask(0, lambda token, name=name: Rerun(token, 0, name, plan, b"null", b"d" * 32, "", old))  # type: ignore[misc]  # a default binds the loop's value
            assert answer.code is AnswerCode.OK
        assert not rig.loop.engine.state.shards[0].reloading
        inserted = [row for batch in rig.journal.batches for row in batch.rows if isinstance(row, WorkflowInserted)]
        assert [row.workflow_id for row in inserted].count(rig.name(0, 1)) == 1


@story
async def test_a_rerun_whose_rows_are_refused_leaves_nothing_behind() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        new = rig.name(0, 1)
        rig.journal.refused.add(new)
        made = rig.ask(0, lambda token: Rerun(token, 0, new, plan, b"null", b"d" * 32, "", "old"))
        error = (await asyncio.gather(made, return_exceptions=True))[0]
        assert "refused to store" in str(error)
        assert (await rig.read(new)).code is AnswerCode.NOT_FOUND
        rig.journal.refused.clear()
        assert (await rig.ask(0, lambda token: Rerun(token, 0, new, plan, b"null", b"d" * 32, "", "old"))).created


@story
async def test_a_rerun_that_was_stored_when_the_shard_was_lost_is_the_next_owners() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        new = rig.name(0, 1)
        assert (await rig.ask(0, lambda token: Rerun(token, 0, new, plan, b"null", b"d" * 32, "", "old"))).created
        await rig.take(0)
        assert (await rig.read(new)).view is not None


@story
async def test_an_act_is_answered_after_its_commit_and_frees_what_follows_in_the_same() -> None:
    async with a_loop() as rig:
        await rig.take(0)
        _, worker = rig.attach()
        name = rig.name(0)
        assert (await rig.submit(plan, name)).created
        await worker.wait_for(Assign)
        rig.gate.shut()
        done = rig.ask(0, lambda token: ActOnNode(token, 0, name, NodeAct.COMPLETE, "a", -1, "", 0, b'"by hand"'))
        await rig.gate.reached()
        assert not done.done()
        rig.gate.open()
        assert (await done).created
        assert (await worker.wait_for(Assign, 2))[1].input == b'"by hand"'
        batch = next(
            batch
            for batch in rig.journal.batches
            if any(getattr(row, "output", b"") == b'"by hand"' for row in batch.rows)
        )
        assert [type(row).__name__ for row in batch.rows] == ["AttemptEnded", "NodeChanged", "NodeAssigned"]
