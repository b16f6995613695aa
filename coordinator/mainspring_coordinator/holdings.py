"""Which shards a coordinator owns, which of them it serves, and who waits to learn of a change.

A shard is *owned* from the moment that its fence row is ours, and *served* once its state is built. Calls for one that is owned and
not served yet wait; calls for any other are refused at once.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from mainspring import limits
from mainspring.errors import MainspringError, NotOwnerError, UnavailableError
from mainspring_coordinator.store.protocol import ShardRow


class Holdings:
    """The shards of one term after the other."""

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}
        self._served: dict[int, int] = {}
        self._waiters: dict[int, dict[asyncio.Future[None], None]] = {}
        """By shard, in the order in which they came; those that gave up have left."""
        self._listeners: list[Callable[[int], None]] = []

    @property
    def epochs(self) -> Mapping[int, int]:
        """The shards that we own, with their epochs."""
        return self._epochs

    @property
    def served(self) -> Mapping[int, int]:
        """Those that are ready, with their epochs."""
        return self._served

    def take(self, row: ShardRow) -> None:
        """A shard is ours."""
        self._epochs[row.shard] = row.epoch

    def serve(self, row: ShardRow) -> None:
        """A shard is ready: whoever waits for it goes on."""
        self._served[row.shard] = row.epoch
        resolve(list(self._waiters.pop(row.shard, ())))

    def stop_serving(self, shard: int) -> bool:
        """Serve a shard no longer; tell whether it was served, in which case the listeners have been told."""
        if self._served.pop(shard, None) is None:
            return False
        for notify in list(self._listeners):
            notify(shard)
        return True

    def drop(self, shard: int) -> None:
        """Own a shard no longer."""
        self._epochs.pop(shard, None)
        reject(list(self._waiters.pop(shard, ())), NotOwnerError(f"another coordinator owns shard {shard} now"))

    def is_ours(self, shard: int, epoch: int) -> bool:
        """Tell whether a shard is ours under this epoch; it may have been lost meanwhile, and even taken again."""
        return self._epochs.get(shard) == epoch

    def end_term(self, error: MainspringError) -> None:
        """Own nothing any more; whoever waits gets the error."""
        self._epochs.clear()
        for futures in self._waiters.values():
            reject(list(futures), error)
        self._waiters.clear()
        for shard in list(self._served):
            self.stop_serving(shard)

    async def until_served(self, shard: int) -> None:
        """Return when a shard is served; `NotOwnerError` when it is not ours, or stops being ours first.

        The wait is bounded: then `UnavailableError`.
        """
        if shard in self._served:
            return
        if shard not in self._epochs:
            raise NotOwnerError(f"this coordinator does not own shard {shard}")
        future = asyncio.get_running_loop().create_future()
        waiting = self._waiters.setdefault(shard, {})
        waiting[future] = None
        try:
            async with asyncio.timeout(limits.recovery_wait_ms_max / 1_000):
                await future
        except TimeoutError as error:
            raise UnavailableError(
                f"shard {shard} was not recovered within {limits.recovery_wait_ms_max} ms; try again"
            ) from error
        finally:
            waiting.pop(future, None)

    def on_lost(self, notify: Callable[[int], None]) -> Callable[[], None]:
        """Call `notify` with each shard that stops being served; returns what ends it."""
        self._listeners.append(notify)
        return lambda: self._listeners.remove(notify)


class Proofs:
    """Who waits for a proof that a shard is ours: those who asked since the last cut, and those whose statement is under way."""

    def __init__(self) -> None:
        self.asked: dict[int, list[asyncio.Future[None]]] = {}
        """By shard: those for whom no statement has begun."""
        self._begun: dict[int, list[asyncio.Future[None]]] = {}

    def ask(self, shard: int) -> "asyncio.Future[None]":
        """Return what ends with the first proof that begins after this call."""
        future = asyncio.get_running_loop().create_future()
        self.asked.setdefault(shard, []).append(future)
        return future

    def begin(self) -> None:
        """A statement for all who asked is about to begin."""
        self._begun, self.asked = self.asked, {}

    def answer(self, lost: Mapping[int, int], owned: Mapping[int, int]) -> None:
        """The statement has ended, and found these shards lost."""
        for shard, futures in self._begun.items():
            if shard in lost or shard not in owned:
                reject(futures, NotOwnerError(f"another coordinator owns shard {shard} now"))
            else:
                resolve(futures)
        self._begun = {}

    def waiting(self) -> "list[asyncio.Future[None]]":
        """Return all who wait."""
        return [future for group in (self.asked, self._begun) for futures in group.values() for future in futures]


def resolve(futures: "Sequence[asyncio.Future[None]]") -> None:
    """Let those go on who still wait."""
    for future in futures:
        if not future.done():
            future.set_result(None)


def reject(futures: "Sequence[asyncio.Future[None]]", error: MainspringError) -> None:
    """Give those an error who still wait."""
    for future in futures:
        if not future.done():
            future.set_exception(error)


def owned_elsewhere() -> NotOwnerError:
    """Return what callers get of a shard that turned out to be another coordinator's."""
    return NotOwnerError("another coordinator owns the shard now; ask there what was done")
