"""A scripted cluster in a thread of its own, for code that has no event loop or brings one of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.client.scripted import Scripted, serving

Served = Callable[..., AbstractContextManager[tuple[Scripted, str]]]


@contextmanager
def _served(**script: Any) -> Iterator[tuple[Scripted, str]]:
    ready: list[tuple[Scripted, str]] = []
    began, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(**script) as served_at:
            ready.append(served_at)
            began.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert began.wait(10)
    try:
        yield ready[0]
    finally:
        over.set()
        thread.join()


@pytest.fixture
def served() -> Served:
    """Serve a script, {method: steps}, for as long as a context lasts; give the service and its address."""
    return _served
