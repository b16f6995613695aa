"""What this coordinator knows of the workers on its streams, for operators and for the choice of a strategy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mainspring.v1 import admin_pb2, worker_pb2
from mainspring_coordinator.readings import Fleet


@dataclass(slots=True, eq=False)
class WorkerEntry:
    """One incarnation of a worker. Times are microseconds of the host's clock."""

    session: int
    hello: worker_pb2.Hello
    heard_us: int
    """When its last message came."""
    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    load_known: bool = False
    """Whether it has said how busy it is."""
    credit: int = 0
    """The bound that it set us."""
    round_trip_us: int = 0
    """Of the last heartbeat, 0 before the first."""
    draining: bool = False
    stays: bool = False
    """It drains because an operator said so, and does not end."""
    absent_since_us: int = 0
    """When its stream ended without Goodbye; 0 while it is attached."""
    stated: dict[int, int] = field(default_factory=dict[int, int])
    """By shard, how many assignments it said it has."""
    running: int = 0
    """How many attempts of all coordinators it said it runs."""
    held: int = 0
    """How many it said it has of all coordinators: queued, running, or ended without acknowledgement."""

    @property
    def assigned(self) -> int:
        """How many assignments of ours it has."""
        return sum(self.stated.values())

    @property
    def busy(self) -> int:
        """How many of all coordinators; what it said last may be older than what we know of our own."""
        return max(self.held, self.assigned)

    def reported(self, load: worker_pb2.LoadReport) -> None:
        """It said how busy it is."""
        self.cpu_percent, self.memory_percent, self.load_known = load.cpu_percent, load.memory_percent, True
        self.running, self.held = load.running, load.queued + load.running + load.unacknowledged

    def message(self, now_us: int) -> admin_pb2.Worker:
        """Return it for ListWorkers."""
        hello = self.hello
        status = (
            admin_pb2.WORKER_STATUS_ABSENT
            if self.absent_since_us
            else admin_pb2.WORKER_STATUS_DRAINING
            if self.draining
            else admin_pb2.WORKER_STATUS_ACTIVE
        )
        return admin_pb2.Worker(
            name=hello.name,
            incarnation=hello.incarnation,
            host=hello.host,
            zone=hello.zone,
            labels=hello.labels,
            executors=sorted(hello.executors),
            slots=hello.slots,
            assigned=self.assigned,
            credit=self.credit,
            status=status,
            cpu_percent=self.cpu_percent,
            memory_percent=self.memory_percent,
            round_trip_us=self.round_trip_us,
            silent_ms=max(0, now_us - self.heard_us) // 1_000,
            version=hello.version,
            stays=self.stays,
            can_be_drained=hello.can_be_drained,
            busy=self.busy,
        )


class WorkerBook:
    """The workers that are attached, and those whose stream dropped a moment ago."""

    def __init__(self, grace_us: int) -> None:
        """`grace_us`: how long a worker whose stream dropped may come back."""
        self._grace_us = grace_us
        self._entries: dict[str, WorkerEntry] = {}
        self.said_goodbye = 0
        """How many streams ended so, or because the worker was evicted."""
        self.lost = 0
        """How many ended without a word."""

    def __len__(self) -> int:
        """Return how many workers are attached; safe from any thread."""
        return sum(1 for entry in list(self._entries.values()) if not entry.absent_since_us)

    @property
    def entries(self) -> Mapping[str, WorkerEntry]:
        """The workers by incarnation."""
        return self._entries

    def attached(self, entry: WorkerEntry) -> None:
        """A worker was welcomed; its earlier session, if it had one, is history."""
        self._entries[entry.hello.incarnation] = entry

    def detached(self, entry: WorkerEntry, now_us: int, *, gone: bool) -> None:
        """A stream ended. The end of an older session never touches a newer one. `gone`: it said goodbye, or was evicted."""
        self.said_goodbye += gone
        self.lost += not gone
        if self._entries.get(entry.hello.incarnation) is not entry:
            return
        if gone:
            del self._entries[entry.hello.incarnation]
        else:
            entry.absent_since_us = now_us

    def forget_overdue(self, now_us: int) -> None:
        """Drop the workers that have not come back in time."""
        overdue = [
            incarnation
            for incarnation, entry in self._entries.items()
            if entry.absent_since_us and now_us - entry.absent_since_us > self._grace_us
        ]
        for incarnation in overdue:
            del self._entries[incarnation]

    def fleet(self) -> Fleet:
        """Add up what is known of the workers, for metrics."""
        there = [entry for entry in self._entries.values() if not entry.absent_since_us]
        return Fleet(
            attached=len(there),
            draining=sum(entry.draining for entry in there),
            absent=len(self._entries) - len(there),
            slots=sum(entry.hello.slots for entry in there),
            credit=sum(entry.credit for entry in there),
            said_goodbye=self.said_goodbye,
            lost=self.lost,
        )

    def messages(self, now_us: int) -> Sequence[admin_pb2.Worker]:
        """Return all workers for ListWorkers, by name."""
        entries = sorted(self._entries.values(), key=lambda entry: (entry.hello.name, entry.hello.incarnation))
        return [entry.message(now_us) for entry in entries]
