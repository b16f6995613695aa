"""The result cache as the control loop sees it: questions go out many at a time, beside the loop, and come back as events.

Nothing depends on an answer. What the cache cannot tell in time is not told, and the engine's own deadline lets the nodes go on.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Final, Protocol

import structlog

from mainspring import limits
from mainspring.errors import MainspringError
from mainspring_coordinator.engine.effects import AskCache, KeepResult
from mainspring_coordinator.engine.events import CacheAnswer, CacheAnswered, CachedOutput, Event
from mainspring_coordinator.store.protocol import Reader
from mainspring_coordinator.tasks import Tasks

_log: Final = structlog.get_logger(__name__)
_stale_us: Final = limits.cache_wait_ms_max * 1_000


class ResultCache(Protocol):
    """Where outputs are that nodes may take."""

    async def find(self, keys: Sequence[bytes], now_us: int) -> Mapping[bytes, CachedOutput]:
        """Return what there is of these keys; `now_us` is database time. `MainspringError` when nobody can tell."""
        ...

    def keep(self, results: Sequence[KeepResult]) -> None:
        """Put outputs in that are committed, in a while or not at all; never blocks, never raises."""
        ...


class DatabaseCache:
    """The table `result_cache`, which the journal writes."""

    def __init__(self, reader: Reader, threads: Executor) -> None:
        self._reader = reader
        self._threads = threads

    async def find(self, keys: Sequence[bytes], now_us: int) -> Mapping[bytes, CachedOutput]:
        """See `ResultCache`."""
        reading = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: self._reader.cached_results(keys, now_us)
        )
        return {row.key: CachedOutput(row.output, row.stored_at_us) for row in await reading}

    def keep(self, results: Sequence[KeepResult]) -> None:
        """See `ResultCache`. The engine has stored them as rows."""
        assert not results, "the engine stores outputs as rows, unless the cache is elsewhere"


class Questions:
    """Those of one term after the other."""

    def __init__(
        self,
        cache: ResultCache,
        post: Callable[[Event], None],
        *,
        now_us: Callable[[], int],
        clock_us: Callable[[], int],
    ) -> None:
        """`now_us` is database time, `clock_us` the host's."""
        self._cache = cache
        self._post = post
        self._now_us = now_us
        self._clock_us = clock_us

    def begin(self, tasks: Tasks) -> None:
        """Begin a term: nothing is asked yet."""
        self._tasks = tasks
        self._waiting: deque[tuple[int, AskCache]] = deque()
        self._asking = False

    def put(self, effects: Sequence[AskCache | KeepResult]) -> None:
        """Pass on what a commit let out."""
        asked_us, turned_away = self._clock_us(), list[AskCache]()
        for effect in effects:
            if isinstance(effect, KeepResult):
                self._cache.keep((effect,))
            elif len(self._waiting) < limits.cache_questions_waiting_max:
                self._waiting.append((asked_us, effect))
            else:
                turned_away.append(effect)
        if turned_away:
            self._answer(turned_away, None)
        if self._waiting and not self._asking:
            self._asking = True
            self._tasks.spawn(self._ask_all())

    async def _ask_all(self) -> None:
        """Ask as many at a time as have gathered meanwhile; those that nobody waits for any more are left out."""
        while self._waiting:
            most = min(len(self._waiting), limits.cache_keys_a_read_max)
            part = [self._waiting.popleft() for _ in range(most)]
            young_us = self._clock_us() - _stale_us
            asks = [ask for asked_us, ask in part if asked_us > young_us]
            if asks:
                self._answer(asks, await self._find(asks))
        self._asking = False

    async def _find(self, asks: Sequence[AskCache]) -> Mapping[bytes, CachedOutput] | None:
        try:
            return await self._cache.find(sorted({ask.key for ask in asks}), self._now_us())
        except MainspringError as error:
            _log.debug("cache_unavailable", error=str(error))
        except Exception:  # a bug, which costs the cache and not the term
            _log.exception("cache_failed")
        return None

    def _answer(self, asks: Sequence[AskCache], found: Mapping[bytes, CachedOutput] | None) -> None:
        """Post the answers, some at a time, so that none takes the loop long; None: nobody could tell."""
        by_shard: dict[int, list[CacheAnswer]] = {}
        known = found if found is not None else {}
        for ask in asks:
            answer = CacheAnswer(
                ask.workflow_id, ask.node, ask.instance, ask.number, known.get(ask.key), failed=found is None
            )
            by_shard.setdefault(ask.shard, []).append(answer)
        for shard, answers in by_shard.items():
            for part in _parts(answers):
                self._post(CacheAnswered(shard, part))


def _parts(answers: Sequence[CacheAnswer]) -> Iterator[Sequence[CacheAnswer]]:
    part, size = list[CacheAnswer](), 0
    for answer in answers:
        part.append(answer)
        size += len(answer.found.output) if answer.found is not None else 0
        if len(part) == limits.results_an_event_max or size >= limits.message_split_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part
