"""What the election's thread asks of the event loop's state holds however much of it changes between two looks."""

from typing import cast
from unittest.mock import PropertyMock, patch

from mainspring_coordinator.batch import Gathered
from mainspring_coordinator.loop import ControlLoop
from mainspring_coordinator.worker_book import WorkerBook, WorkerEntry
from tests.loop.rig import a_loop, story


@story
async def test_a_batch_may_end_while_its_age_is_asked_for() -> None:
    async with a_loop() as rig:
        begun_us = rig.loop._clock_us()
        looks = PropertyMock(side_effect=[Gathered(begun_us=begun_us), None])
        with patch.object(ControlLoop, "_in_flight", looks, create=True):
            assert rig.loop.oldest_batch_us() >= 0
        assert looks.call_count == 1


def test_a_worker_may_come_while_workers_are_counted() -> None:
    book = WorkerBook(0)

    class Joining:
        """A worker during whose counting another one comes."""

        @property
        def absent_since_us(self) -> int:
            book._entries[f"another of {len(book._entries)}"] = cast("WorkerEntry", Joining())
            return 0

    book._entries["one"] = cast("WorkerEntry", Joining())
    assert len(book) == 1
    assert len(book) == 2
