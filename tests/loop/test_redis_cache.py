"""The result cache in Redis: what is put in comes back, and whatever else Redis does is a miss in bounded time."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from mainspring import limits
from mainspring.errors import SettingsError, UnavailableError
from mainspring_coordinator.engine.effects import KeepResult
from mainspring_coordinator.engine.events import CachedOutput
from mainspring_coordinator.redis_cache import RedisCache, read_value, write_value
from tests.loop.rig import story
from tests.servers.certificates import Authority
from tests.servers.ports import free_port
from tests.servers.redis import Pretender, Redis, Talk, hang_up, nonsense, promise, silence, wrong_kinds

one, two = b"1" * 32, b"2" * 32
bound_s = limits.redis_wait_ms_max / 1_000


class Counted:
    """What was counted."""

    def __init__(self) -> None:
        self.written: Counter[str] = Counter()
        self.aside = False
        self.changed = asyncio.Event()

    def cache_written(self, outcome: str, count: int) -> None:
        self.written[outcome] += count
        self.changed.set()

    def redis_aside(self, *, aside: bool) -> None:
        self.aside = aside

    async def until(self, outcome: str, count: int) -> None:
        await self._until(lambda: self.written[outcome] >= count)

    async def until_tried(self, count: int) -> None:
        await self._until(lambda: self.written.total() >= count)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.us = 1

    def now_us(self) -> int:
        return self.us

    def pass_by(self, ms: int) -> None:
        self.us += ms * 1_000


class Cache(RedisCache):
    """One that can be waited for, on a machine so busy that Redis is left aside."""

    def __init__(self, url: str, cluster: str) -> None:
        self.counted, self.time = Counted(), Clock()
        super().__init__(url, cluster, self.counted, self.time)

    async def found(self, *keys: bytes) -> Mapping[bytes, CachedOutput]:
        while True:
            try:
                return await self.find(keys, 0)
            except UnavailableError:
                self.time.pass_by(limits.redis_aside_ms)

    async def put_in(self, *results: KeepResult) -> None:
        written = self.counted.written
        while True:
            stored, tried = written["stored"], written.total()
            self.keep(results)
            await self.counted.until_tried(tried + len(results))
            if written["stored"] == stored + len(results):
                return
            self.time.pass_by(limits.redis_aside_ms)


@asynccontextmanager
async def a_cache(url: str, cluster: str = "test") -> AsyncIterator[tuple[Cache, Counted, Clock]]:
    cache = Cache(url, cluster)
    try:
        yield cache, cache.counted, cache.time
    finally:
        await cache.close()


def kept(key: bytes, output: bytes, ttl_ms: int = 60_000) -> KeepResult:
    return KeepResult(0, "wf", key, output, 77, ttl_ms)


def run(play: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(play(), 30))


def test_what_is_put_in_comes_back_until_its_time_is_over_and_nothing_else_does(tmp_path: Path) -> None:
    async def play() -> None:
        with Redis(tmp_path) as server:
            plain: Any = redis.Redis.from_url(server.url)
            async with a_cache(server.url) as (cache, counted, _):
                assert await cache.found(one, two) == {}
                await cache.put_in(kept(one, b'{"a":1}'), kept(two, b"2", ttl_ms=100_000))
                assert await cache.found(two, one, b"3" * 32) == {
                    one: CachedOutput(b'{"a":1}', 77),
                    two: CachedOutput(b"2", 77),
                }
                names = sorted(plain.keys())
                assert names == [b"mainspring:test:result:" + key.hex().encode() for key in (one, two)]
                assert 0 < plain.pttl(names[0]) <= 60_000 < plain.pttl(names[1]) <= 100_000
                async with a_cache(server.url, "another") as (other, _, _):
                    assert await other.found(one) == {}
                for wrong in (b"", b"x", plain.get(names[1]), plain.get(names[0])[:-1], b"x" * 3_000_000):
                    plain.set(names[0], wrong)
                    assert await cache.found(one, two) == {two: CachedOutput(b"2", 77)}
                plain.delete(names[0])
                plain.lpush(names[0], b"x")
                assert await cache.found(one, two) == {two: CachedOutput(b"2", 77)}
                assert not counted.aside

    run(play)


def test_one_that_stands_still_or_is_gone_is_left_aside_and_taken_up_again(tmp_path: Path) -> None:
    async def play() -> None:
        with Redis(tmp_path) as server:
            async with a_cache(server.url) as (cache, counted, clock):
                await cache.put_in(kept(one, b"1"))
                server.pause()
                await within_bounds(cache)
                assert counted.aside
                began = time.monotonic()
                for _ in range(100):
                    with pytest.raises(UnavailableError):
                        await cache.find([one], 0)
                assert time.monotonic() - began < 10 * bound_s
                cache.keep([kept(two, b"2")])
                await counted.until("failed", 1)
                server.resume()
                clock.pass_by(limits.redis_aside_ms)
                assert await cache.found(one, two) == {one: CachedOutput(b"1", 77)}
                assert not counted.aside
                server.kill()
                await within_bounds(cache)
                server.start()
                clock.pass_by(limits.redis_aside_ms)
                assert await cache.found(one) == {}
                assert not counted.aside

    run(play)


def test_it_is_reached_by_tls_and_by_a_socket_too(tmp_path: Path) -> None:
    async def play() -> None:
        authority = Authority(tmp_path)
        identity, port, path = authority.sign("redis"), free_port(), tmp_path / "r.sock"
        certificates = ("--tls-cert-file", str(identity.cert), "--tls-key-file", str(identity.key))
        trusts = ("--tls-ca-cert-file", str(authority.path), "--tls-auth-clients", "no")
        server = Redis(tmp_path)
        server.start("--tls-port", str(port), *certificates, *trusts, "--unixsocket", str(path))
        try:
            for key, url in (
                (one, f"rediss://:h%40sh@127.0.0.1:{port}/1?ssl_ca_certs={authority.path}"),
                (two, f"unix://:h%40sh@{path}?db=1"),
            ):
                async with a_cache(url) as (cache, _, _):
                    await cache.put_in(kept(key, b"1"))
            async with a_cache(server.url) as (cache, _, _):
                assert set(await cache.found(one, two)) == {one, two}
            async with a_cache(f"rediss://:h%40sh@127.0.0.1:{port}/1") as (cache, _, _):
                await within_bounds(cache)  # whose certificate nobody vouches for
        finally:
            server.kill()

    run(play)


def test_one_that_is_full_goes_on_answering(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def play() -> None:
        with Redis(tmp_path) as server:
            async with a_cache(server.url) as (cache, counted, _):
                await cache.put_in(kept(one, b"1"))
                plain: Any = redis.Redis.from_url(server.url)
                plain.config_set("maxmemory", 1)
                for _ in range(2):
                    cache.keep([kept(two, b"2")])
                await counted.until("failed", 2)
                assert await cache.found(one, two) == {one: CachedOutput(b"1", 77)}
                assert not counted.aside

    run(play)
    assert capsys.readouterr().out.count("redis_refuses") == 1


def test_a_wrong_password_or_a_right_that_is_missing_is_told_and_no_password_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def play() -> None:
        with Redis(tmp_path) as server:
            plain: Any = redis.Redis.from_url(server.url)
            plain.execute_command("ACL", "SETUSER", "weak", "on", ">w@ong", "~*", "+@all", "-getrange")
            for url in (server.url.replace("h%40sh", "w%40ong"), server.url.replace(":h%40sh", "weak:w%40ong")):
                async with a_cache(url) as (cache, counted, _):
                    await within_bounds(cache)
                    assert counted.aside

    run(play)
    said = capsys.readouterr().out
    assert said.count("redis_left_aside") == 2
    assert "w@ong" not in said
    assert "w%40ong" not in said


async def within_bounds(cache: Cache) -> None:
    """Nobody can tell, and that is known in time."""
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await cache.find([one, two], 0)
    assert time.monotonic() - began < 10 * bound_s


@pytest.mark.parametrize("talk", [silence, hang_up, nonsense, promise])
def test_one_that_talks_no_redis_is_left_aside_in_bounded_time_and_leaves_no_thread_behind(talk: Talk) -> None:
    async def play() -> None:
        async with Pretender(talk) as server, a_cache(server.url) as (cache, counted, clock):
            for _ in range(3):
                # A thread that hung on the first would not be there for the next.
                await within_bounds(cache)
                assert counted.aside
                await asyncio.get_running_loop().run_in_executor(cache._asking, clock.now_us)
                clock.pass_by(limits.redis_aside_ms)
            cache.keep([kept(one, b"1")])
            await counted.until("failed", 1)

    run(play)


@story
async def test_answers_of_a_wrong_kind_are_misses() -> None:
    async with Pretender(wrong_kinds) as server, a_cache(server.url) as (cache, counted, _):
        assert await cache.find([one, two], 0) == {}
        assert not counted.aside


@story
async def test_one_that_is_not_there_costs_nothing_but_the_cache() -> None:
    async with a_cache(f"redis://127.0.0.1:{free_port()}") as (cache, _, _):
        await within_bounds(cache)


@story
async def test_what_waits_to_be_put_in_is_bounded() -> None:
    async with Pretender(silence) as server, a_cache(server.url) as (cache, counted, _):
        large = b'"' + b"x" * (limits.MIB - 2) + b'"'
        cache.keep([kept(one, large)] * 70)
        assert counted.written["dropped"] == 70 - limits.cache_bytes_waiting_max // limits.MIB
        cache.keep([kept(one, b"1")] * (limits.cache_writes_waiting_max + 1))
        assert counted.written["dropped"] > 70 - limits.cache_bytes_waiting_max // limits.MIB


@pytest.mark.parametrize("url", ["redis://host:port", "redis://:hush@host:99999x/0"])
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        RedisCache(url, "test", Counted(), Clock())
    assert "hush" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(SettingsError, match=r"pip install 'mainspring-\S+\.whl\[redis\]'"):
        RedisCache("redis://host", "test", Counted(), Clock())


# -- values ----------------------------------------------------------------------------------------------------------------


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**62),
    st.sampled_from([b"null", b'"x"', b"[1,2]", b'{"a":1e5}']),
)
def test_a_value_says_when_it_was_made_and_is_read_for_its_own_key_only(key: bytes, at_us: int, output: bytes) -> None:
    value = write_value(key, output, at_us)
    assert read_value(key, value) == CachedOutput(output, at_us)
    assert read_value(bytes(32) if key != bytes(32) else b"k" * 32, value) is None


@given(st.data())
def test_a_value_of_which_anything_is_changed_is_nothing(data: st.DataObject) -> None:
    value = bytearray(write_value(one, b'{"a":[1,2,3]}', 5))
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    assert read_value(one, bytes(value)) is None
    assert read_value(one, bytes(value[:at])) is None


@pytest.mark.parametrize("output", [b"", b"nonsense", b'{"a":', b"1 2", b'"' + b"x" * limits.payload_bytes_max + b'"'])
def test_what_is_no_json_or_too_large_is_nothing(output: bytes) -> None:
    assert read_value(one, write_value(one, output, 5)) is None


@pytest.mark.parametrize("value", [None, 7, "text", [b"x"], b"", b"mr1:"])
def test_what_is_no_value_is_nothing(value: Sequence[Any] | None) -> None:
    assert read_value(one, value) is None
