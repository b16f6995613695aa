"""The result cache through the real loop: asked beside it, stored with what it is of, and never in the way of a workflow."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from mainspring import limits
from mainspring.errors import StoreUnavailableError, UnavailableError
from mainspring_coordinator.engine.effects import AskCache, Assign, KeepResult
from mainspring_coordinator.engine.events import CacheAnswered, CachedOutput, Event, ResultItem, Results
from mainspring_coordinator.engine.rows import NodeAssigned, NodeChanged, ResultCached, WorkflowUpdated
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.result_cache import Questions
from mainspring_coordinator.store.cached_results import StoredResult
from mainspring_coordinator.tasks import Tasks
from tests.engine.rig import define
from tests.loop.rig import LoopRig, Outbox, a_loop, shards_total, story

plan = define([{"id": "a", "executor": "work", "cache": {"ttl": "1h"}}])


async def run_one(rig: LoopRig, session: int, outbox: Outbox, name: str, output: bytes) -> None:
    """Let a workflow run whose output is not in the cache."""
    before = len(outbox.of(Assign))
    ended = ended_of(rig, name)
    await rig.submit(plan, name)
    assign = (await outbox.wait_for(Assign, before + 1))[-1]
    rig.loop.post(
        Results(session, [ResultItem(assign.shard, assign.assignment, NodeStatus.SUCCEEDED, output, None, 5)])
    )
    await ended.wait()


def ended_of(rig: LoopRig, name: str) -> asyncio.Event:
    ended = asyncio.Event()
    rig.loop.subscribe(name, lambda _: ended.set(), end_only=True)
    return ended


@story
async def test_what_ran_in_one_shard_is_taken_in_another_and_each_hit_is_one_commit() -> None:
    async with a_loop() as rig:
        await rig.take(*range(shards_total))
        session, outbox = rig.attach()
        await run_one(rig, session, outbox, rig.name(0), b'"made"')
        stored = next(
            batch for batch in rig.journal.batches if any(isinstance(row, ResultCached) for row in batch.rows)
        )
        assert {type(row) for row in stored.rows} == {NodeChanged, ResultCached, WorkflowUpdated}
        before = len(rig.journal.batches)
        second = rig.name(1)
        ended = ended_of(rig, second)
        await rig.submit(plan, second)
        await ended.wait()
        # The submit, and the hit with all that it leads to.
        assert [len(batch.rows) for batch in rig.journal.batches[before:]] == [2, 2]
        assert not any(isinstance(row, NodeAssigned) for batch in rig.journal.batches[before:] for row in batch.rows)
        assert rig.reader.workflow(second).output == b'{"a":"made"}'
        node = rig.reader.node(second, 0, -1)
        assert (node.status, node.attempt, node.worker, node.output) == (NodeStatus.SUCCEEDED, 0, "", b'"made"')
        assert rig.loop.engine.state.cache_answers == {"hit": 1, "miss": 1, "error": 0, "late": 0}


@pytest.mark.parametrize("error", [StoreUnavailableError("it is away"), RuntimeError("a bug")])
def test_a_database_that_cannot_tell_costs_the_cache_and_not_the_term(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    @story
    async def play() -> None:
        async with a_loop() as rig:
            monkeypatch.setattr(rig.reader, "cached_results", failing(error))
            await rig.take(*range(shards_total))
            session, outbox = rig.attach()
            await run_one(rig, session, outbox, rig.name(0), b"1")
            assert rig.loop.engine.state.cache_answers["error"] == 1
            assert rig.given_up == []

    play()


def failing(error: Exception) -> Callable[..., Any]:
    def read(*_: object) -> None:
        raise error

    return read


@story
async def test_a_read_that_hangs_is_waited_for_by_no_node_longer_than_the_bound() -> None:
    async with a_loop() as rig:
        hanging, reached = threading.Event(), threading.Event()

        def read(*_: object) -> list[StoredResult]:
            reached.set()
            hanging.wait(20)
            return []

        rig.reader.cached_results = read
        await rig.take(*range(shards_total))
        _, outbox = rig.attach()
        await rig.submit(plan, rig.name(0))
        await asyncio.to_thread(reached.wait, 20)
        rig.now += limits.cache_wait_ms_max * 1_000 - 1
        rig.loop.tick()
        await rig.read(rig.name(0))
        assert outbox.of(Assign) == []
        rig.now += 1
        rig.loop.tick()
        await outbox.wait_for(Assign)
        hanging.set()


# -- questions -------------------------------------------------------------------------------------------------------------


class Slow:
    """A cache that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Sequence[bytes]] = []
        self.kept: list[KeepResult] = []
        self.answers: list[asyncio.Future[Mapping[bytes, CachedOutput]]] = []

    async def find(self, keys: Sequence[bytes], now_us: int) -> Mapping[bytes, CachedOutput]:
        self.asked.append(keys)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def keep(self, results: Sequence[KeepResult]) -> None:
        self.kept += results


class Asking:
    """Questions to a slow cache."""

    def __init__(self) -> None:
        self.cache, self.posted, self.us = Slow(), list[CacheAnswered](), 5_000_000
        self.questions = Questions(self.cache, self._post, now_us=lambda: 1, clock_us=lambda: self.us)
        self.tasks = Tasks(asyncio.get_running_loop(), pytest.fail)
        self.questions.begin(self.tasks)

    def _post(self, event: Event) -> None:
        assert isinstance(event, CacheAnswered)
        self.posted.append(event)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def ask(number: int, *, shard: int = 0, key: int = 0) -> AskCache:
    return AskCache(shard, f"wf-{shard}", 0, -1, number, bytes([key]) * 32)


@story
async def test_questions_that_come_while_one_is_under_way_go_out_together_and_each_key_once() -> None:
    asking = Asking()
    asking.questions.put([ask(1)])
    await asking.settle()
    asking.questions.put([ask(2, key=2), ask(3, key=2)])
    asking.questions.put([ask(4, shard=1, key=1), KeepResult(0, "wf", b"k" * 32, b"1", 5, 1_000)])
    await asking.settle()
    assert asking.cache.asked == [[bytes(32)]]
    assert len(asking.cache.kept) == 1
    asking.cache.answers[0].set_result({})
    await asking.settle()
    assert asking.cache.asked[1:] == [[b"\1" * 32, b"\2" * 32]]
    found = CachedOutput(b"7", 9)
    asking.cache.answers[1].set_result({b"\2" * 32: found})
    await asking.settle()
    said = [(event.shard, [(one.number, one.found, one.failed) for one in event.answers]) for event in asking.posted]
    assert said == [(0, [(1, None, False)]), (0, [(2, found, False), (3, found, False)]), (1, [(4, None, False)])]


@story
async def test_a_question_that_nobody_waits_for_any_more_is_not_asked() -> None:
    asking = Asking()
    asking.questions.put([ask(1)])
    await asking.settle()
    asking.questions.put([ask(2)])
    asking.us += limits.cache_wait_ms_max * 1_000
    asking.questions.put([ask(3)])
    asking.cache.answers[0].set_exception(UnavailableError("left aside"))
    await asking.settle()
    asking.cache.answers[1].set_result({})
    await asking.settle()
    assert [(one.number, one.failed) for event in asking.posted for one in event.answers] == [(1, True), (3, False)]


def test_more_questions_than_may_wait_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cache_questions_waiting_max", 3)

    @story
    async def play() -> None:
        asking = Asking()
        asking.questions.put([ask(number) for number in range(1, 6)])
        assert [(one.number, one.failed) for event in asking.posted for one in event.answers] == [(4, True), (5, True)]

    play()


def test_many_questions_are_asked_and_answered_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cache_keys_a_read_max", 10)
    monkeypatch.setattr(limits, "results_an_event_max", 4)

    @story
    async def play() -> None:
        asking = Asking()
        asking.questions.put([ask(number, key=number) for number in range(1, 26)])
        for _ in range(3):
            await asking.settle()
            asking.cache.answers[-1].set_result({})
        await asking.settle()
        assert [len(keys) for keys in asking.cache.asked] == [10, 10, 5]
        assert [len(event.answers) for event in asking.posted] == [4, 4, 2, 4, 4, 2, 4, 1]

    play()


@story
async def test_large_answers_come_in_several_events() -> None:
    asking = Asking()
    asking.questions.put([ask(number, key=number) for number in range(1, 6)])
    await asking.settle()
    large = CachedOutput(b"1" * limits.MIB, 1)
    asking.cache.answers[0].set_result(dict.fromkeys(asking.cache.asked[0], large))
    await asking.settle()
    assert [len(event.answers) for event in asking.posted] == [2, 2, 1]


@story
async def test_a_new_term_asks_nothing_of_the_one_before() -> None:
    asking = Asking()
    asking.questions.put([ask(1)])
    await asking.settle()
    asking.questions.put([ask(2)])
    asking.tasks.cancel()
    asking.questions.begin(Tasks(asyncio.get_running_loop(), pytest.fail))
    asking.questions.put([ask(1, key=3)])
    await asking.settle()
    assert asking.cache.asked == [[bytes(32)], [b"\3" * 32]]
    asking.cache.answers[1].set_result({})
    await asking.settle()
    assert len(asking.posted) == 1
