"""What docs/workers.md shows is run: its module of executors, served by its own program."""

import asyncio
import importlib
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from mainspring.v1 import worker_pb2 as wire
from mainspring.v1 import workflow_pb2
from mainspring_worker import Context
from mainspring_worker.executors import registry
from tests.worker.scripted import Session, coordinators

page = (Path(__file__).parents[2] / "docs/workers.md").read_text()
Program = Callable[[str, asyncio.Event], Coroutine[Any, Any, None]]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    tasks, main = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    name = tasks.partition("\n")[0].removeprefix("# ")
    (tmp_path / name).write_text(tasks)
    (tmp_path / "serve_shop.py").write_text(main)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_executors", {})
    yield importlib.import_module("serve_shop").main
    for module in ("shop", "serve_shop"):
        sys.modules.pop(module, None)


def test_the_page_s_executors_do_what_it_says(program: Program) -> None:
    async def outcome(session: Session, number: int, executor: str, data: object, **fields: Any) -> object:
        session.assign(number, executor=executor, data=orjson.dumps(data), **fields)
        result = await session.result(number)
        session.ack(number)
        if result.outcome == wire.OUTCOME_SUCCEEDED:
            return orjson.loads(result.output.data)
        return result.failure.type.rpartition(".")[2], result.failure.non_retryable

    async def scene() -> None:
        stop = asyncio.Event()
        async with asyncio.timeout(60), coordinators() as [coordinator]:
            serving = asyncio.create_task(program(coordinator.address, stop))
            session = await coordinator.session()
            assert sorted(session.hello.executors) == ["charge", "crawl", "import-rows", "primes"]
            assert await outcome(session, 1, "charge", {"amount": 7}) == {"charged": 7}
            assert await outcome(session, 2, "charge", {"amount": 0}) == ("NonRetryable", True)
            before = workflow_pb2.Payload(data=b"3")
            again = await outcome(session, 3, "import-rows", ["a", "b"], attempt=2, progress=before)
            assert again == 3, "it takes its predecessor's word for what was done"
            assert await outcome(session, 4, "crawl", ["x"]) == ["X"]
            assert await outcome(session, 5, "primes", 12) == [2, 3, 5, 7, 11]
            stop.set()
            last = await session.message(lambda m: m.HasField("goodbye"))
            assert not last.goodbye.abandoned
            await serving

    asyncio.run(scene())


def test_the_page_names_everything_that_a_context_has() -> None:
    public = {name for name in dir(Context) if not name.startswith("_")} - {"cancel"}
    named = set(re.findall(r"`(\w+)", page))
    assert public - named == set()
