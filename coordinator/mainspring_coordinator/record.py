"""Failovers are told: one log line, one count, one alert each, after everything else.

The events stand in the database; whoever owns shard 0 tells them, under its fence, so that there is one teller at a time and the next
owner goes on where the last one was. (With failover off, see `Record._home`.) A stage is stored before it is acted on, but for the
alert, which is marked once it was taken: it may come twice, and names its event. Deliveries run beside the passes, one at a time; the
database is their queue. So nothing here is ever in the way of a takeover.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import structlog

from mainspring import limits
from mainspring.clock import Clock
from mainspring.errors import MainspringError
from mainspring.failovers import Failover
from mainspring_coordinator.engine.events import DeathsFound, FailoverTold
from mainspring_coordinator.engine.failovers import event_id
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, Subject
from mainspring_coordinator.epoch import View
from mainspring_coordinator.ports import Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.shard_loader import ShardLoader
from mainspring_coordinator.store.protocol import Reader, ShardRow
from mainspring_coordinator.store.stored_record import StoredFailover
from mainspring_coordinator.webhook import AlertError, Webhook

_log: Final = structlog.get_logger(__name__)


class Counts(Protocol):
    """Is told what is counted."""

    def failover(self, kind: str, seconds: float) -> None:
        """A failover was announced; `seconds` from its detection until the work went on."""
        ...

    def alert(self, outcome: str) -> None:
        """An alert was delivered, refused, or given up."""
        ...


def read_failover(reader: Reader, event: StoredFailover) -> Failover:
    """Read an event with the ids that are shown inline."""
    workflows, nodes = (
        tuple(reader.affected(event.event_id, subject, 0, limits.failover_ids_inline_max))
        for subject in (Subject.WORKFLOWS, Subject.NODES)
    )
    return Failover(
        event.event_id,
        event.kind.name.lower(),
        event.failed_engine,
        event.failed_incarnation,
        event.takeover_engine,
        event.takeover_incarnation,
        workflows,
        nodes,
        event.workflows_count,
        event.nodes_count,
        event.detected_at_us,
        event.recovered_at_us,
        event.alerted_at_us,
    )


def is_whole(event: StoredFailover, shards: Sequence[ShardRow], now_us: int) -> bool:
    """Tell whether nothing more will be added to an event: every shard of the dead has been taken and recorded."""
    if now_us >= event.recovered_at_us + limits.failover_settle_ms_max * 1_000:
        return True
    if now_us < event.settles_at_us:
        return False
    if event.kind is FailoverKind.WORKER_LOST or not event.takeover_incarnation:
        return True
    failed = event.failed_incarnation
    return not any(
        row.holder == failed or (row.holder == event.takeover_incarnation and failed in row.deaths) for row in shards
    )


class Record:
    """The passes that tell, and the deliveries beside them."""

    def __init__(
        self,
        loop: Loop,
        reads: Reads,
        loader: ShardLoader,
        counts: Counts,
        clock: Clock,
        *,
        webhook: Webhook | None,
        failover: bool,
        heartbeat_ms: int,
    ) -> None:
        """`failover` off: the deaths of coordinators from which nobody takes over are recorded here as well."""
        self._loop = loop
        self._reads = reads
        self._loader = loader
        self._counts = counts
        self._clock = clock
        self._webhook = webhook
        self._failover = failover
        self._period_s = min(heartbeat_ms, limits.failover_pass_ms_max) / 1_000
        self._view: View | None = None
        self._waiting: set[str] = set()
        """Deaths without a takeover that are known to be on record."""
        self._tries: dict[str, int] = {}
        """Failed deliveries, by event."""
        self._refusals = 0
        """Failed deliveries in a row, of all events."""
        self._quiet_until_us = 0
        self._task: asyncio.Task[None] | None = None
        self._delivery: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End; whoever owns shard 0 next goes on."""
        tasks = [task for task in (self._task, self._delivery) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def looked(self, view: View) -> None:
        """Who lives or who owns what has changed."""
        self._view = view

    async def _run(self) -> None:
        while True:
            for act in (self._record_waiting, self.tell):
                try:
                    await act()
                except MainspringError as error:
                    _log.warning("failover_pass_failed", error=str(error), action="the next pass tries again")
                except Exception:
                    _log.exception("failover_pass_failed", action="the next pass tries again")
            await asyncio.sleep(self._period_s)

    # -- telling -----------------------------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Announce what is whole, and see that one alert that is due is on its way."""
        if self._home() not in self._loop.serving:
            return
        shards, events = await self._reads.run(_shards_and_events)
        now_us = self._loop.now_us()
        for event in events:
            if event.stage is FailoverStage.RECORDED and is_whole(event, shards, now_us):
                await self._announce(event)
        due = [event for event in events if event.stage is FailoverStage.ANNOUNCED]
        self._tries = {event.event_id: self._tries.get(event.event_id, 0) for event in due}
        idle = self._delivery is None or self._delivery.done()
        if due and idle and self._clock.now_us() >= self._quiet_until_us:
            # Those refused least often first, so that an event which a receiver cannot take holds up no other.
            due.sort(key=lambda event: self._tries[event.event_id])
            self._delivery = asyncio.get_running_loop().create_task(self._deliver(due))

    async def _announce(self, event: StoredFailover) -> None:
        now_us = self._loop.now_us()
        stage = FailoverStage.ANNOUNCED if self._webhook is not None else FailoverStage.CLOSED
        await self._mark(event, stage, announced_at_us=now_us, alerted_at_us=0)
        _log.warning(
            "failover",
            eventId=event.event_id,
            kind=event.kind.name.lower(),
            failedEngine=event.failed_engine,
            takeoverEngine=event.takeover_engine,
            affectedWorkflows=event.workflows_count,
            affectedNodes=event.nodes_count,
        )
        self._counts.failover(event.kind.name.lower(), max(0, event.recovered_at_us - event.detected_at_us) / 1e6)

    async def _deliver(self, due: Sequence[StoredFailover]) -> None:
        """Deliver one alert after the other, until one is refused."""
        for event in due:
            try:
                if not await self._alert(event):
                    return
            except MainspringError as error:
                _log.warning("alert_waits", eventId=event.event_id, error=str(error))
                return
            except Exception:
                _log.exception("alert_waits", eventId=event.event_id)
                return

    async def _alert(self, event: StoredFailover) -> bool:
        """Deliver an alert; tell whether the next may follow."""
        told = event.announced_at_us
        if self._webhook is None:  # it was wanted once, and is no more
            await self._mark(event, FailoverStage.CLOSED, announced_at_us=told, alerted_at_us=0)
            return True
        whole = await self._reads.run(lambda reader: read_failover(reader, event))
        try:
            await self._webhook.send(whole, self._loop.now_us())
        except AlertError as error:
            await self._refused(event, error)
            return False
        self._refusals = 0
        await self._mark(event, FailoverStage.CLOSED, announced_at_us=told, alerted_at_us=self._loop.now_us())
        self._counts.alert("delivered")
        return True

    async def _refused(self, event: StoredFailover, error: AlertError) -> None:
        self._tries[event.event_id] = self._tries.get(event.event_id, 0) + 1
        delay_ms = limits.alert_retry_delay_ms_first * 2 ** min(self._refusals, 10)
        self._refusals += 1
        delay_ms = min(delay_ms, limits.alert_retry_delay_ms_max) * random.uniform(0.8, 1.2)  # noqa: S311  # spreads tries
        self._quiet_until_us = self._clock.now_us() + round(delay_ms * 1_000)
        if self._loop.now_us() >= event.announced_at_us + limits.alert_age_ms_max * 1_000:
            self._counts.alert("given_up")
            _log.error("alert_given_up", eventId=event.event_id, error=str(error))
            await self._mark(event, FailoverStage.CLOSED, announced_at_us=event.announced_at_us, alerted_at_us=0)
            return
        self._counts.alert("refused")
        _log.warning("alert_refused", eventId=event.event_id, error=str(error), retry_ms=round(delay_ms))

    async def _mark(
        self, event: StoredFailover, stage: FailoverStage, *, announced_at_us: int, alerted_at_us: int
    ) -> None:
        name, home = event.event_id, self._home()
        await self._loop.ask(home, lambda token: FailoverTold(token, home, name, stage, announced_at_us, alerted_at_us))

    def _home(self) -> int:
        """Return the shard whose owner tells.

        With failover off it may wait for its dead owner: then that of the first shard that has a live one. Who that is may look
        different to two coordinators for the time of a poll, in which both may tell the same event.
        """
        if self._failover or self._view is None:
            return 0
        return min((shard for shard, holder in self._view.holders.items() if holder is not None), default=0)

    # -- deaths that nobody takes over from --------------------------------------------------------------------------------

    async def _record_waiting(self) -> None:
        """With failover off, record the deaths of coordinators whose shards wait; under the fence of any shard of ours."""
        view, serving = self._view, self._loop.serving
        if self._failover or view is None or not serving:
            return
        fence = min(serving)
        left = {event_id(holder, ""): (holder, shards) for holder, shards in _left_by_the_dead(view).items()}
        self._waiting &= left.keys()
        for name, (holder, shards) in left.items():
            if name in self._waiting:
                continue
            if await self._reads.run(lambda reader, name=name: reader.failover(name)) is not None:  # type: ignore[misc]  # a default binds the loop's value
                self._waiting.add(name)
                continue
            found: list[DeathsFound] = [
                await self._loader.affected(fence, shard, view.deaths[holder]) for shard in shards
            ]
            for event in found:
                self._loop.post(event)


def _left_by_the_dead(view: View) -> Mapping[str, Sequence[int]]:
    left: dict[str, list[int]] = {}
    for shard, row in view.shards.items():
        if row.holder is not None and row.holder in view.deaths:
            left.setdefault(row.holder, []).append(shard)
    return left


def _shards_and_events(reader: Reader) -> tuple[Sequence[ShardRow], Sequence[StoredFailover]]:
    # In this order: what the fence rows note no more is in the events that are read after them.
    return reader.shards(), reader.failovers_to_tell(limits.failovers_a_pass_max)
