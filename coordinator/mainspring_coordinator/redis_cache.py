"""The result cache in Redis. Whatever Redis does costs the cache and nothing else.

All that is said to Redis is said in threads of its own, within short times. One that is away, hangs or talks nonsense is left aside
for a while, in which every question is answered at once: nobody can tell. Values carry their format, the time at which they were made and
a hash over all of it with their key, so that what was cut off, is of another key or was put there by something else is taken for nothing.
Outputs are put in after the commit that holds them, from a bounded queue; what does not fit is not kept.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import orjson
import structlog

from mainspring import limits
from mainspring.clock import Clock
from mainspring.errors import SettingsError, UnavailableError
from mainspring.extras import wheel_with
from mainspring_coordinator.engine.effects import KeepResult
from mainspring_coordinator.engine.events import CachedOutput

_T = TypeVar("_T")
_log: Final = structlog.get_logger(__name__)
_magic: Final = b"mr1:"
_wrong_type: Final = "WRONGTYPE"
"""Redis says so of one value; whatever else it refuses is wrong with all."""
_time_bytes: Final = 8
_hash_bytes: Final = 16
_head_bytes: Final = len(_magic) + _time_bytes + _hash_bytes
_value_bytes_max: Final = _head_bytes + limits.payload_bytes_max


class Counts(Protocol):
    """Is told what is counted."""

    def cache_written(self, outcome: str, count: int) -> None:
        """Outputs were stored; or dropped, because too many waited; or failed."""
        ...

    def redis_aside(self, *, aside: bool) -> None:
        """Redis is left aside, or not any more."""
        ...


class RedisCache:
    """Implements `result_cache.ResultCache`."""

    def __init__(self, url: str, cluster: str, counts: Counts, clock: Clock) -> None:
        """Nothing is connected yet. `SettingsError` when redis-py is not installed or the URL is none."""
        try:
            import redis  # noqa: PLC0415  (an extra, which most do without)
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415
        except ImportError as error:
            raise SettingsError(f"REDIS_URL needs a package that is not installed: {wheel_with('redis')}") from error
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                socket_connect_timeout=limits.redis_socket_timeout_ms / 1_000,
                socket_timeout=limits.redis_socket_timeout_ms / 1_000,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except ValueError as error:
            raise SettingsError(
                f"REDIS_URL: {error}; write it as redis://:password@host:6379/0, rediss://… or unix://…"
            ) from None  # its cause may show the password
        self._prefix = f"mainspring:{cluster}:result:".encode()
        self._counts = counts
        self._clock_us = clock.now_us
        # One for questions and one for what is put in, so that neither waits for the other.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="redis-ask")
        self._keeping = ThreadPoolExecutor(1, thread_name_prefix="redis-keep")
        self._aside_until_us = 0
        self._queue: deque[KeepResult] = deque()
        self._queue_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._refusing = False
        """It answers, and did not take all of the last outputs."""

    # -- asking ------------------------------------------------------------------------------------------------------------

    async def find(self, keys: Sequence[bytes], now_us: int) -> Mapping[bytes, CachedOutput]:
        """See `ResultCache`. `UnavailableError` at once while Redis is left aside."""
        del now_us  # Redis drops what is over its time by itself
        return await self._try(self._asking, lambda: self._read(keys))

    def _read(self, keys: Sequence[bytes]) -> Mapping[bytes, CachedOutput]:
        # No MGET: it would bring a value of whatever size, and GETRANGE no more than one can have.
        asked = self._client.pipeline(transaction=False)
        for key in keys:
            asked.getrange(self._name(key), 0, _value_bytes_max)
        values = asked.execute(raise_on_error=False)
        for value in values:
            if isinstance(value, Exception) and not str(value).startswith(_wrong_type):
                raise value
        found = ((key, read_value(key, value)) for key, value in zip(keys, values, strict=True))
        return {key: output for key, output in found if output is not None}

    # -- putting in --------------------------------------------------------------------------------------------------------

    def keep(self, results: Sequence[KeepResult]) -> None:
        """See `ResultCache`."""
        dropped = 0
        for result in results:
            full = len(self._queue) >= limits.cache_writes_waiting_max
            if full or self._queue_bytes + len(result.output) > limits.cache_bytes_waiting_max:
                dropped += 1
            else:
                self._queue.append(result)
                self._queue_bytes += len(result.output)
        if dropped:
            self._counts.cache_written("dropped", dropped)
        if self._queue and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._queue:
                await self._write_some()
        except Exception:  # a bug, which costs what waited
            _log.exception("redis_failed")
        finally:
            # Here, and not when the task is seen to be done: what is put in between would wait for the next one.
            self._writing = None

    async def _write_some(self) -> None:
        part, size = list[KeepResult](), 0
        while self._queue and len(part) < limits.cache_keys_a_read_max and size < limits.message_split_bytes:
            part.append(self._queue.popleft())
            size += len(part[-1].output)
        self._queue_bytes -= size
        try:
            refusals = await self._try(self._keeping, lambda: self._write(part))
        except UnavailableError:
            self._counts.cache_written("failed", len(part))
            return
        self._counts.cache_written("stored", len(part) - len(refusals))
        self._counts.cache_written("failed", len(refusals))
        if refusals and not self._refusing:
            _log.warning("redis_refuses", error=refusals[0], action="what it does not take is not cached")
        self._refusing = bool(refusals)

    def _write(self, results: Sequence[KeepResult]) -> list[str]:
        """Return what Redis says to those that it refuses, because it is full, say."""
        put = self._client.pipeline(transaction=False)
        for one in results:
            put.set(self._name(one.key), write_value(one.key, one.output, one.stored_at_us), px=one.ttl_ms)
        return [str(answer) for answer in put.execute(raise_on_error=False) if isinstance(answer, Exception)]

    # -- both --------------------------------------------------------------------------------------------------------------

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()

    async def _try(self, threads: ThreadPoolExecutor, act: Callable[[], _T]) -> _T:
        """Do something in a thread, within the time that it may take."""
        if self._clock_us() < self._aside_until_us:
            raise UnavailableError("Redis is left aside for a moment")
        try:
            async with asyncio.timeout(limits.redis_wait_ms_max / 1_000):
                done = await asyncio.get_running_loop().run_in_executor(threads, act)
        except Exception as error:  # of whatever kind: answers may be none of Redis' language
            self._leave_aside(error)
            raise UnavailableError(f"Redis: {_said(error)}") from error
        if self._aside_until_us:
            self._aside_until_us = 0
            self._counts.redis_aside(aside=False)
            _log.info("redis_answers", action="the result cache is used again")
        return done

    def _leave_aside(self, error: Exception) -> None:
        if not self._aside_until_us:
            seconds = limits.redis_aside_ms / 1_000
            _log.warning(
                "redis_left_aside",
                error=_said(error),
                action=f"nodes run as if nothing were cached; tried again each {seconds:g} s",
            )
            self._counts.redis_aside(aside=True)
        self._aside_until_us = self._clock_us() + limits.redis_aside_ms * 1_000
        # A thread that is in the midst of something, which may last as long as bytes come, ends by that.
        self._client.connection_pool.disconnect()

    async def close(self) -> None:
        """End; what waits is not kept."""
        self._queue.clear()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        for threads in (self._asking, self._keeping):
            threads.shutdown(wait=False, cancel_futures=True)
        self._client.connection_pool.disconnect()


def write_value(key: bytes, output: bytes, stored_at_us: int) -> bytes:
    """Return what stands in Redis for an output."""
    head = _magic + stored_at_us.to_bytes(_time_bytes)
    return head + _hash(key, head, output) + output


def read_value(key: bytes, value: object) -> CachedOutput | None:
    """Return the output that stands in Redis, None if it is nothing of ours for this key."""
    if not isinstance(value, bytes) or not _head_bytes < len(value) <= _value_bytes_max or not value.startswith(_magic):
        return None
    head, output = value[: len(_magic) + _time_bytes], value[_head_bytes:]
    if value[len(head) : _head_bytes] != _hash(key, head, output):
        return None
    try:
        orjson.loads(output)
    except orjson.JSONDecodeError:
        return None
    return CachedOutput(output, int.from_bytes(head[len(_magic) :]))


def _hash(key: bytes, head: bytes, output: bytes) -> bytes:
    hashed = hashlib.sha256(key + head)
    hashed.update(output)
    return hashed.digest()[:_hash_bytes]


def _said(error: Exception) -> str:
    return str(error) or ("it took too long" if isinstance(error, TimeoutError) else type(error).__name__)
