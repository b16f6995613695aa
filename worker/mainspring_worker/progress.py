"""What running attempts say of their progress, on its way to the coordinators: the last words of each, at most once a second."""

import asyncio
import threading
from collections.abc import Callable, Container
from typing import Final

from mainspring.limits import message_split_bytes, progress_bytes_max, progress_interval_ms_min
from mainspring.v1 import worker_pb2 as wire
from mainspring.v1 import workflow_pb2
from mainspring.wire import json_encoding
from mainspring_worker.attempts import Key

_a_message_max: Final = message_split_bytes // (progress_bytes_max + 256)


class ProgressBook:
    """Holds at most one report an attempt; `due` is called on the event loop when there is something to send."""

    def __init__(self, due: Callable[[], None]) -> None:
        self._due = due
        self._loop = asyncio.get_running_loop()
        self._noted: dict[Key, bytes] = {}
        """What came since the last look; written by any thread."""
        self._lock = threading.Lock()
        self._waiting: dict[Key, bytes] = {}
        """What a stream is to take."""
        self._timer: asyncio.TimerHandle | None = None

    def report(self, key: Key, details: bytes) -> None:
        """Note the last details of an attempt; may be called from any thread."""
        with self._lock:
            first = not self._noted
            self._noted[key] = details
        if first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._look)

    def ended(self, key: Key, *, failed: bool) -> None:
        """An attempt is over; after a failure the next one begins with what this one said last."""
        if not self._noted:
            return
        with self._lock:
            details = self._noted.pop(key, None)
        if details is not None and failed:
            self._waiting[key] = details

    def take(self, owned: Container[int], held: Container[Key]) -> list[wire.Progress]:
        """Return what the owner of some shards is to be sent now; what is no longer held is forgotten."""
        if not self._waiting:
            return []
        for key in [key for key in self._waiting if key not in held]:
            del self._waiting[key]
        keys = [key for key in self._waiting if key[0] in owned][:_a_message_max]
        return [
            wire.Progress(
                shard=key[0],
                id=key[1],
                details=workflow_pb2.Payload(encoding=json_encoding, data=self._waiting.pop(key)),
            )
            for key in keys
        ]

    def close(self) -> None:
        """Send no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._timer is None:
            self._gather()

    def _gather(self) -> None:
        self._timer = None
        with self._lock:
            noted, self._noted = self._noted, {}
        if noted:
            self._waiting |= noted
            self._timer = self._loop.call_later(progress_interval_ms_min / 1_000, self._gather)
            self._due()
