"""A worker against a scripted coordinator over real streams."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import pytest

from mainspring.failures import unknown_executor
from mainspring.v1 import worker_pb2 as wire
from mainspring.v1 import workflow_pb2
from mainspring_worker import Context, RefusedError, Worker, WorkerConfig
from mainspring_worker.executors import describe
from tests.worker.scripted import Coordinator, coordinators, running, until


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scene()

    asyncio.run(bounded())


def test_it_says_who_it_is_what_it_has_and_what_it_may_be_given() -> None:
    async def scene() -> None:
        config: dict[str, Any] = {"host": "h", "zone": "a", "labels": {"zone": "a"}, "workflows_max": 7}
        async with coordinators() as [coordinator], running([coordinator.address], **config):
            session = await coordinator.session()
            hello = session.hello
            assert (hello.name, hello.host, hello.zone, dict(hello.labels)) == ("worker", "h", "a", {"zone": "a"})
            assert (list(hello.executors), hello.slots, hello.workflows_max) == (["echo"], 4, 7)
            message = await session.message(lambda m: m.HasField("credit"))
            assert (message.seq, message.credit.seq, message.credit.limit) == (2, 1, 4)
            assert [(item.shard, item.epoch) for item in message.inventory] == [(0, 1)]

    play(scene)


def test_results_that_end_together_leave_in_one_message() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address], slots=100):
            session = await coordinator.session()
            session.assign(*range(1, 101))
            await session.until(lambda: len(session.results()) == 100)
            assert all(result.outcome == wire.OUTCOME_SUCCEEDED for result in session.results())
            assert sum(bool(message.results) for message in session.heard) <= 3
            assert [message.seq for message in session.heard] == list(range(2, len(session.heard) + 2))

    play(scene)


def test_large_results_arrive_although_together_they_are_larger_than_a_message() -> None:
    async def large() -> str:
        return "x" * 900_000

    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address], {"large": large}, slots=10):
            session = await coordinator.session()
            session.assign(*range(1, 11), executor="large")
            await session.until(lambda: len(session.results()) == 10)
            assert not session.ended.is_set()

    play(scene)


def test_a_dropped_stream_is_dialled_again_and_nothing_that_ran_or_ended_is_lost() -> None:
    async def scene() -> None:
        go_on = asyncio.Event()

        async def wait(_: object) -> str:
            await go_on.wait()
            return "done"

        functions: dict[str, Callable[..., Any]] = {"wait": wait, "echo": wait}
        async with coordinators() as [coordinator], running([coordinator.address], functions):
            first = await coordinator.session()
            first.assign(1, 2)
            await first.until(lambda: first.heard)
            first.drop()
            second = await coordinator.session()
            message = await second.message(lambda m: m.inventory)
            held = {*message.inventory[0].running, *message.inventory[0].finished}
            assert held in ({1, 2}, set()), "all of it, or the assignment never arrived"
            assert message.inventory[0].ordinal_seen == 0, "ordinals are the stream's own"
            if not held:
                second.assign(1, 2)
            second.ack(99)  # of an attempt that nobody knows
            go_on.set()
            assert (await second.result(1)).output.data == b'"done"'
            second.drop()
            third = await coordinator.session()
            assert (await third.result(1)).output.data == b'"done"', "it was not acknowledged"
            await third.result(2)
            third.ack(1)
            third.ack(2)
            third.drop()
            fourth = await coordinator.session()
            inventory = (await fourth.message(lambda m: m.inventory)).inventory[0]
            assert not inventory.running
            assert not inventory.finished
            assert first.hello.incarnation == fourth.hello.incarnation

    play(scene)


def test_a_cancel_that_comes_before_its_assignment_wins() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address]):
            session = await coordinator.session()
            cancel = wire.CancelAttempt(shard=0, id=1, epoch=1, cause=wire.CANCEL_CAUSE_WORKFLOW_CANCELLED)
            session.say(cancels=[cancel])
            session.assign(1, 2)
            assert (await session.result(1)).outcome == wire.OUTCOME_CANCELLED
            assert (await session.result(2)).outcome == wire.OUTCOME_SUCCEEDED

    play(scene)


def test_a_running_attempt_is_cancelled_whatever_the_cause_is_called() -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address], {"never": never}):
            session = await coordinator.session()
            session.assign(1, 2, executor="never")
            causes = (wire.CANCEL_CAUSE_WORKFLOW_FAILED, 99)
            session.say(
                cancels=[
                    wire.CancelAttempt(shard=0, id=number, epoch=1, cause=wire.CancelCause.ValueType(cause))
                    for number, cause in enumerate(causes, 1)
                ]
            )
            assert (await session.result(1)).outcome == wire.OUTCOME_CANCELLED
            assert (await session.result(2)).outcome == wire.OUTCOME_CANCELLED

    play(scene)


def test_an_answer_of_a_kind_that_it_does_not_know_changes_nothing() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address]):
            session = await coordinator.session()
            session.assign(1)
            await session.result(1)
            session.ack(1, 99)
            session.assign(2)
            await session.result(2)
            session.drop()
            again = await coordinator.session()
            assert (await again.result(1)).output.data == b"1", "it is still kept"

    play(scene)


def test_an_executor_that_it_does_not_run_fails_the_attempt() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address]):
            session = await coordinator.session()
            session.assign(1, executor="other")
            result = await session.result(1)
            assert (result.outcome, result.failure.type) == (wire.OUTCOME_FAILED, unknown_executor)

    play(scene)


def test_heartbeats_go_out_at_its_own_interval_and_state_what_it_has() -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    async def scene() -> None:
        config: dict[str, Any] = {"heartbeat_interval_ms": 100, "failure_detection_timeout_ms": 60_000}
        async with coordinators() as [coordinator], running([coordinator.address], {"never": never}, **config):
            session = await coordinator.session()
            session.assign(1, executor="never")
            beat = await session.message(lambda m: m.HasField("heartbeat") and m.heartbeat.load.running)
            assert beat.heartbeat.ping > 0
            assert list(beat.inventory[0].running) == [1]

    play(scene)


def test_a_ping_is_answered_at_once() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address]):
            session = await coordinator.session()
            session.say(heartbeat=wire.CoordinatorHeartbeat(ping=41))
            answer = await session.message(lambda m: m.heartbeat.pong == 41)
            assert answer.heartbeat.ping == 0, "an answer asks for none"

    play(scene)


def test_a_silent_coordinator_is_left_and_dialled_again() -> None:
    async def scene() -> None:
        config: dict[str, Any] = {"heartbeat_interval_ms": 100, "failure_detection_timeout_ms": 300}
        async with coordinators() as [coordinator], running([coordinator.address], **config):
            first = await coordinator.session()
            await coordinator.session()
            async with asyncio.timeout(5):
                await first.ended.wait()

    play(scene)


def test_a_coordinator_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainspring_worker.stream.hello_wait_ms_max", 200)

    async def scene() -> None:
        async with coordinators() as [coordinator]:
            coordinator.answers = False
            async with running([coordinator.address]):
                await coordinator.session()
                await coordinator.session()

    play(scene)


@pytest.mark.parametrize("reason", [wire.GOODBYE_REASON_NAME_TAKEN, wire.GOODBYE_REASON_STEPPING_DOWN])
def test_a_refusal_that_may_pass_is_tried_again(reason: wire.GoodbyeReason.ValueType) -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator]:
            coordinator.refusals = [wire.Goodbye(reason=reason, message="not now")] * 2
            async with running([coordinator.address]):
                await coordinator.session()
            assert len(coordinator.hellos) == 3

    play(scene)


@pytest.mark.parametrize("reason", [wire.GOODBYE_REASON_WRONG_CLUSTER, wire.GOODBYE_REASON_INCOMPATIBLE])
def test_a_refusal_that_will_not_pass_ends_the_worker_with_the_reason(reason: wire.GoodbyeReason.ValueType) -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator]:
            coordinator.refusals = [wire.Goodbye(reason=reason, message="this is another cluster")]
            async with running([coordinator.address]) as worker:
                with pytest.raises(RefusedError, match="another cluster"):
                    await worker._stopped

    play(scene)


def test_a_strange_coordinator_at_an_address_of_ours_does_not_end_a_worker_that_was_taken_in() -> None:
    async def scene() -> None:
        async with coordinators(2) as [ours, strange]:
            wrong = wire.Goodbye(reason=wire.GOODBYE_REASON_WRONG_CLUSTER, message="this is cluster 'other'")
            strange.refusals = [wrong] * 3
            async with running([ours.address]) as worker:
                session = await ours.session()
                await strange.session()
                assert [hello.cluster for hello in ours.hellos] == [""]
                assert {hello.cluster for hello in strange.hellos} == {"test"}, "it says where it belongs"
                assert len(strange.hellos) == 4
                session.assign(1, executor="echo")
                await session.result(1)
                assert not worker._stopped.done()

    play(scene)


def test_every_coordinator_is_dialled_once_and_the_slots_are_shared() -> None:
    async def scene() -> None:
        async with coordinators(3) as cluster, running([cluster[0].address], slots=9):
            sessions = [await coordinator.session() for coordinator in cluster]
            limits = [0, 0, 0]
            while limits != [3, 3, 3]:
                for place, session in enumerate(sessions):
                    told = [message.credit for message in session.heard if message.HasField("credit")]
                    if told:
                        limits[place] = told[-1].limit
                        session.say(credit_seq=told[-1].seq)
                await asyncio.sleep(0.01)  # three sessions at once have no one signal
            assert [len(coordinator.hellos) for coordinator in cluster] == [1, 1, 1]

    play(scene)


def test_several_names_of_one_coordinator_do_not_drive_each_other_out() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator]:
            names = [coordinator.address, coordinator.address.replace("127.0.0.1", "localhost")]
            async with running(names):
                await coordinator.session()
                await asyncio.sleep(1)  # nothing is to happen, and that has no signal
                assert len(coordinator.hellos) <= 2
                last = coordinator.attached.get_nowait() if not coordinator.attached.empty() else None
                assert last is None or not last.ended.is_set()

    play(scene)


def test_a_coordinator_that_drops_every_stream_is_not_stormed() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address]):
            async with asyncio.timeout(60):
                while len(coordinator.hellos) < 2:
                    (await coordinator.session()).drop()
            before = asyncio.get_running_loop().time()
            for _ in range(4):
                (await coordinator.session()).drop()
            assert asyncio.get_running_loop().time() - before >= 3 * 0.05

    play(scene)


def test_a_coordinator_that_joins_is_dialled_and_one_that_left_is_not() -> None:
    async def scene() -> None:
        async with coordinators() as [first]:
            newcomer = Coordinator("f" * 32, [1])
            await newcomer.start()
            try:
                async with running([first.address]):
                    session = await first.session()
                    members = [
                        wire.CoordinatorAddress(incarnation=peer.incarnation, name="c", address=peer.address)
                        for peer in (first, newcomer)
                    ]
                    session.say(coordinators=members)
                    joined = await newcomer.session()
                    session.say(coordinators=members[:1])
                    joined.drop()
                    async with asyncio.timeout(5):
                        await joined.ended.wait()
                    session.assign(1)
                    await session.result(1)
                    assert len(newcomer.hellos) <= 2
            finally:
                await newcomer.stop()

    play(scene)


def test_progress_is_sent_before_the_failure_that_follows_it() -> None:
    async def fails(context: Context) -> None:
        for step in range(100):
            context.progress({"step": step})
        raise ValueError(f"after {context.previous_progress}")

    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address], {"fails": fails}):
            session = await coordinator.session()
            session.assign(1, executor="fails", progress=workflow_pb2.Payload(data=b'{"step":7}'))
            result = await session.result(1)
            assert result.failure.message == "after {'step': 7}"
            told = [(message.seq, p) for message in session.heard for p in message.progress]
            assert orjson.loads(told[-1][1].details.data) == {"step": 99}
            assert len(told) <= 2, "only the first and the last"
            (at,) = [message.seq for message in session.heard if message.results]
            assert told[-1][0] < at

    play(scene)


@pytest.mark.parametrize("stops", [True, False])
def test_work_without_a_coordinator_goes_on_unless_it_asked_to_be_stopped(stops: bool) -> None:
    async def scene() -> None:
        ended = asyncio.Event()

        async def never(_: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with coordinators() as [coordinator], running([coordinator.address], {"never": never}) as worker:
            session = await coordinator.session()
            session.assign(1, executor="never", stop_on_disconnect=stops)
            await until(lambda: worker.running)
            coordinator.answers = False
            session.drop()
            if stops:
                await ended.wait()
            else:
                await asyncio.sleep(0.5)  # nothing is to happen, and that has no signal
                assert not ended.is_set()

    play(scene)


def test_a_drain_finishes_what_runs_gives_back_the_rest_and_says_goodbye() -> None:
    async def scene() -> None:
        go_on = asyncio.Event()

        async def wait(_: object) -> str:
            await go_on.wait()
            return "done"

        async with coordinators() as [coordinator], running([coordinator.address], {"wait": wait}, slots=1) as worker:
            session = await coordinator.session()
            session.assign(1, 2, executor="wait")
            await until(lambda: worker.running)
            session.say(drain=wire.Drain(deadline_ms=5_000))
            await session.message(lambda m: m.HasField("draining"))
            assert (await session.result(2)).outcome == wire.OUTCOME_NOT_STARTED
            await session.message(lambda m: m.HasField("credit") and m.credit.limit == 0)
            go_on.set()
            assert (await session.result(1)).outcome == wire.OUTCOME_SUCCEEDED
            session.ack(1)
            session.ack(2)
            last = await session.message(lambda m: m.HasField("goodbye"))
            assert last.goodbye.reason == wire.GOODBYE_REASON_SHUTDOWN
            assert list(last.goodbye.abandoned) == []
            await worker._stopped

    play(scene)


def test_a_drain_whose_time_is_over_stops_what_it_leaves_before_it_says_so() -> None:
    async def scene() -> None:
        causes: list[str] = []

        async def wait(context: Context) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                causes.append(context.cancel_cause)

        async with coordinators() as [coordinator], running([coordinator.address], {"wait": wait}, slots=1) as worker:
            session = await coordinator.session()
            session.assign(1, executor="wait")
            await until(lambda: worker.running)
            assert await worker.drain(10) == [(0, 1)]
            assert causes == ["STOPPED"]
            last = await session.message(lambda m: m.HasField("goodbye"))
            assert [item.id for item in last.goodbye.abandoned] == [1]
            assert session.results() == []

    play(scene)


def test_a_drain_without_a_coordinator_ends_in_time_and_names_the_results_that_it_could_not_deliver() -> None:
    async def scene() -> None:
        async with coordinators() as [coordinator], running([coordinator.address], {"wait": wait}) as worker:
            session = await coordinator.session()
            session.assign(1, executor="wait")
            await until(lambda: worker.running)
            await coordinator.stop()
            await until(lambda: not worker.attached)
            go_on.set()
            assert await worker.drain(200) == [(0, 1)]

    go_on = asyncio.Event()

    async def wait(_: object) -> None:
        await go_on.wait()

    play(scene)


def test_a_worker_serves_within_a_program_of_ones_own_and_can_be_cancelled_there() -> None:
    async def scene() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def wait(_: object) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with coordinators() as [coordinator]:
            worker = Worker(WorkerConfig("mine", [coordinator.address]), {"wait": describe(wait, "wait")})
            task = asyncio.create_task(worker.run())
            session = await coordinator.session()
            session.assign(1, executor="wait")
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set(), "nothing of it goes on behind its back"

    play(scene)
