"""What the engine knows.

A workflow is arrays over its plan, not an object a node; a node that has not begun takes a few bytes. Occupancy is derived: what a
worker has is the set of its live assignments, and every index over them is changed in `State.add_live` and `State.remove_live` alone.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mainspring import limits
from mainspring_coordinator.engine.backlog import Backlog
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.events import Event, SubmitExisted, WorkflowEvicted
from mainspring_coordinator.engine.pauses import Pause
from mainspring_coordinator.engine.permits import Demands, Home
from mainspring_coordinator.engine.placement.affinities import Affinities
from mainspring_coordinator.engine.placement.origins import Origins
from mainspring_coordinator.engine.placement.pool import Pool, meets
from mainspring_coordinator.engine.plan import Plan
from mainspring_coordinator.engine.rates import Rates
from mainspring_coordinator.engine.ready import ClassKey, ReadyQueue, WorkflowKey
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.engine.timers import Timer, Timers
from mainspring_coordinator.engine.worker import WorkerState

cache_outcomes: Final = ("hit", "miss", "error", "late")
"""What comes of a question to the result cache."""


@dataclass(slots=True, eq=False)
class Assignment:
    """An attempt that was given to a worker and has not ended."""

    shard: int
    id: int
    workflow_id: str
    node: int
    instance: int
    attempt: int
    worker: str
    incarnation: str
    started_at_us: int
    redeliveries: int
    session: int = 0
    """The stream on which the worker is known to have it; 0 while the worker is absent or has not stated its inventory."""
    ordinal: int = 0
    """Its number on that stream; 0 once it is known to have come, and if it came by an earlier one."""
    cancelling: bool = False
    accompanied: bool = False
    """Its worker has had something else of ours beside it."""
    cache_key: bytes = b""
    """Under what its output goes into the result cache; empty: it does not, or that has to be worked out anew."""


@dataclass(slots=True, eq=False)
class MapState:
    """The instances of an expanded `map` node."""

    width: int
    statuses: bytearray
    attempts: bytearray
    outputs: list[bytes | None]
    """By instance; None before its end, and after a recovery until they are asked for."""
    items: list[bytes] | None = None
    """The elements; None after a recovery until they are made anew."""
    again: deque[int] = field(default_factory=deque[int])
    """Instances to be started before any new one: retries and repeated offers."""
    next: int = 0
    """The first instance that was never started."""
    live: int = 0
    """How many instances have a live assignment."""
    ended: int = 0
    queued: bool = False
    """Its one item stands in the ready queue."""
    listing: bool = False
    """The elements are being made anew."""
    collecting: bool = False
    """All instances have ended; the outputs have been asked for."""


@dataclass(slots=True, eq=False)
class WorkflowState:
    """One unfinished workflow."""

    shard: int
    id: str
    plan: Plan
    digest: bytes
    input: bytes
    strategy: str
    submitted_at_us: int
    deadline_at_us: int
    statuses: bytearray
    remaining: "array[int]"
    """By node: how many of the nodes it depends on have not ended."""
    attempts: bytearray
    unfinished: int
    """Nodes that are not terminal."""
    status: WorkflowStatus = WorkflowStatus.RUNNING
    version: int = 1
    cut: int = -1
    """The batch that `version` was raised for."""
    touched: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(node, instance) that changed in that batch."""
    closing_until_us: int = 0
    cancel_reason: str = ""
    failure: bytes | None = None
    pause: Pause | None = None
    outputs: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """Outputs that other nodes or the workflow's output still need, as far as they are in memory."""
    output_bytes: int = 0
    """The size of `outputs`."""
    payload_bytes: int = 0
    """The size of all payloads that the workflow has recorded since it came into memory."""
    maps: dict[int, MapState] = field(default_factory=dict[int, MapState])
    live: dict[int, Assignment] = field(default_factory=dict[int, Assignment])
    run_us: int = 0
    """How long its nodes run, the last ones counting most; 0: not known. See `crowding`."""
    progress: dict[tuple[int, int], bytes] = field(default_factory=dict[tuple[int, int], bytes])
    redeliveries: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    retry_at_us: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    start_by_us: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """By READY (node, instance) with such a deadline: when it must have been assigned. An attempt may wait more than once."""
    near_until_us: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """By items that wait, or have waited, for a worker near their inputs: until when. All instances of a `map` wait as one, once."""
    asked: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """By READY (node, instance) that waits for the result cache: the number of its question; 0: what it gets is being loaded first."""
    places: "array[int] | None" = None
    """By node: the number in `State.origins` of the worker that had its last attempt, 0 if not known. None before the first."""
    loading: set[int] = field(default_factory=set[int])
    """Nodes whose outputs have been asked for."""
    parked: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Items of the ready queue, and `map` nodes to be expanded, that wait for outputs being loaded."""
    closing: bool = False
    """What is to be stopped or skipped of it is not all stopped or skipped yet, so that it cannot end."""
    finishing: bool = False
    """All nodes have ended; only the workflow's output is still to be made."""

    @property
    def key(self) -> WorkflowKey:
        """Return its name in the ready queue."""
        return (self.shard, self.id)


class Ending(NamedTuple):
    """What is known of a workflow whose end is not stored yet."""

    digest: bytes
    status: WorkflowStatus
    plan: bytes
    """The hash of its plan."""


@dataclass(slots=True, eq=False)
class ShardState:
    """A shard that we own."""

    shard: int
    epoch: int
    grace_until_us: int
    holder: str
    """Our own incarnation, under which we own it."""
    mourned: dict[str, int] = field(default_factory=dict[str, int])
    """The events of workers' deaths that went on record here last, with how many chunks of ids they have."""
    ready: bool = False
    """Its workflows are all loaded. Until then events about them wait in `deferred`."""
    ready_us: int = 0
    """Since when; only then its workers are told of us, and say what they have."""
    deferred: list[Event] = field(default_factory=list[Event])
    put_off: list[Timer] = field(default_factory=list[Timer])
    """Deadlines that passed while the shard was occupied."""
    next_number: int = 0
    """The lower half of the next assignment id."""
    workflows: dict[str, WorkflowState] = field(default_factory=dict[str, WorkflowState])
    plans: set[bytes] = field(default_factory=set[bytes])
    """Plans that the database is known, or was asked in this term, to have."""
    live: dict[int, Assignment] = field(default_factory=dict[int, Assignment])
    recent: "OrderedDict[int, str]" = field(default_factory=OrderedDict[int, str])
    """Assignments, with their workflows, whose results were recorded a moment ago: a repeated result is not a late one."""
    gone: "OrderedDict[int, str]" = field(default_factory=OrderedDict[int, str])
    """Assignments, with their workflows, that ended a moment ago, however they did: what is said of one names the workflow, so that it
    leaves only with the rows that ended it."""
    reloading: set[str] = field(default_factory=set[str])
    """Workflows that are being loaded anew; what is about them, or may be, waits in `deferred`."""
    refused: dict[str, int] = field(default_factory=dict[str, int])
    """How often the database refused rows of a workflow."""
    demands: Demands = field(default_factory=Demands)
    """What it has and wants of concurrency keys."""
    home: Home = field(default_factory=Home)
    """What it gives out of those whose home it is."""
    seen_epoch: int = 0
    """The highest epoch that a worker says it has seen, above which it is to be taken anew; 0: none has seen more than we know of."""
    evicted: Sequence[str] = ()
    """The incarnations of workers that its fence row says were evicted, the oldest eviction first."""


@dataclass(slots=True, eq=False)
class Held:
    """The live assignments of one incarnation of a worker."""

    assignments: dict[tuple[int, int], Assignment] = field(default_factory=dict[tuple[int, int], Assignment])
    workflows: dict[WorkflowKey, int] = field(default_factory=dict[WorkflowKey, int])
    """How many of them each workflow has."""
    alone: int = 0
    """How many of them are to run alone."""


@dataclass(slots=True, eq=False)
class State:
    """All of it."""

    config: EngineConfig
    shards: dict[int, ShardState] = field(default_factory=dict[int, ShardState])
    workers: dict[int, WorkerState] = field(default_factory=dict[int, WorkerState])
    """By session."""
    sessions: dict[str, int] = field(default_factory=dict[str, int])
    """By incarnation: the session of each attached worker, or the last one of an absent worker within its grace."""
    held: dict[str, Held] = field(default_factory=dict[str, Held])
    """By incarnation."""
    names: dict[str, str] = field(default_factory=dict[str, str])
    """By worker name: the incarnation that has it."""
    given_up: "OrderedDict[str, int]" = field(default_factory=OrderedDict[str, int])
    """By incarnation: the last session of a worker that was given up and has not come back."""
    departed: "OrderedDict[str, None]" = field(default_factory=OrderedDict[str, None])
    """Incarnations of workers that said goodbye to us; the owner of a shard before us may not have heard it."""
    epoch_claims: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """By shard: when its epoch was raised last for what workers say that they have seen."""
    evicted: "OrderedDict[str, None]" = field(default_factory=OrderedDict[str, None])
    """Incarnations of workers that operators evicted."""
    roomy: set[int] = field(default_factory=set[int])
    """Sessions that may get more assignments."""
    ready: ReadyQueue = field(init=False)
    rates: Rates = field(init=False)
    timers: Timers = field(default_factory=Timers)
    cached: "OrderedDict[WorkflowKey, WorkflowState]" = field(default_factory=OrderedDict[WorkflowKey, WorkflowState])
    """Workflows with outputs in memory, the one used longest ago first."""
    cached_bytes: int = 0
    changed: dict[WorkflowKey, WorkflowState] = field(default_factory=dict[WorkflowKey, WorkflowState])
    """Workflows touched since the last cut."""
    ended: dict[WorkflowKey, Ending] = field(default_factory=dict[WorkflowKey, Ending])
    """Workflows that ended since the last cut: until their end is stored, only we know that they were there."""
    cuts: int = 0
    refused_results: int = 0
    """How many late results were refused."""
    attempts_ended: int = 0
    """How many attempts ended, well or badly."""
    attempts_failed: int = 0
    """How many of them badly."""
    backlog: Backlog = field(default_factory=Backlog)
    occupied: dict[int, int] = field(default_factory=dict[int, int])
    """Shards of which workflows are being built or forgotten, with how many acts do so: nothing else of them is touched meanwhile."""
    arriving: dict[int, deque[Event]] = field(default_factory=dict[int, deque[Event]])
    """By shard: what came from the database while the shard was occupied, in order."""
    woken: dict[int, None] = field(default_factory=dict[int, None])
    """Shards whose `deferred` events can be handled now."""
    reserved: dict[int, ClassKey] = field(default_factory=dict[int, ClassKey])
    """By session: the workers that are kept for a node that must run alone."""
    rotation: int = 0
    """How many assignments were made; the turns of workers."""
    pool: Pool = field(default_factory=Pool)
    """The workers that take work, as strategies look for them. What it knows of their room is kept by `update_room`."""
    touched: dict[int, None] = field(default_factory=dict[int, None])
    """Sessions with room that had something change since all that waits was last looked at."""
    roused: dict[int, None] = field(default_factory=dict[int, None])
    """Those of them for which what is tied to them was not untied since."""
    origins: Origins = field(default_factory=Origins)
    affinities: Affinities = field(default_factory=Affinities)
    peers_have_workers: bool = False
    """Workers are attached to another coordinator."""
    heard_us: int = 0
    """When a worker said something, the last time that the engine was told of it."""
    cut_off: bool = False
    """Somebody was looked for, while no worker had been heard that would show that it is not we who cannot be reached."""
    cut_off_us: int = 0
    """When that was over, the last time."""
    any_attached: bool = False
    """Whether any worker was attached at `looked_us`."""
    looked_us: int = 0
    small: WorkflowKey = (-1, "")
    """The workflow with few nodes under way that was given one last, and when (`crowding`)."""
    small_us: int = -limits.small_workflow_us - 1
    questions: int = 0
    """How many the result cache was asked."""
    cache_answers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(cache_outcomes, 0))
    """What came of them."""
    unsaid: dict[tuple[int, str], None] = field(default_factory=dict[tuple[int, str], None])
    """Shards and concurrency keys of which the home may have to be told something."""

    def __post_init__(self) -> None:
        self.ready = ReadyQueue(self.config.priority_ageing_us)
        self.rates = Rates(self.config.rates)

    def add_live(self, workflow: WorkflowState, assignment: Assignment) -> None:
        """Record that a worker has an attempt."""
        self.shards[assignment.shard].live[assignment.id] = assignment
        workflow.live[assignment.id] = assignment
        held = self.held.get(assignment.incarnation)
        if held is None:
            held = self.held[assignment.incarnation] = Held()
        if held.assignments:
            assignment.accompanied = True
            if len(held.assignments) == 1:
                for one in held.assignments.values():
                    one.accompanied = True
        if assignment.redeliveries:
            held.alone += assignment.redeliveries >= limits.redeliveries_alone_min
        held.assignments[assignment.shard, assignment.id] = assignment
        held.workflows[workflow.key] = held.workflows.get(workflow.key, 0) + 1
        if workflow.plan.concurrency:
            self._count_permit(workflow, assignment, 1)
        self.update_room(assignment.incarnation)

    def remove_live(self, workflow: WorkflowState, assignment: Assignment) -> None:
        """Record that an attempt is over, or that its worker does not have it."""
        shard = self.shards[assignment.shard]
        del shard.live[assignment.id]
        shard.gone[assignment.id] = workflow.id
        if len(shard.gone) > limits.ended_assignments_a_shard_max:
            shard.gone.popitem(last=False)
        del workflow.live[assignment.id]
        if workflow.plan.concurrency:
            self._count_permit(workflow, assignment, -1)
        self.unhold(assignment)

    def _count_permit(self, workflow: WorkflowState, assignment: Assignment, by: int) -> None:
        concurrency = workflow.plan.concurrency[assignment.node]
        if concurrency is not None:
            self.shards[workflow.shard].demands.of(concurrency.key).live += by
            self.unsaid[workflow.shard, concurrency.key] = None

    def unhold(self, assignment: Assignment) -> None:
        """Count an assignment no longer among those of its worker."""
        key = (assignment.shard, assignment.workflow_id)
        held = self.held[assignment.incarnation]
        del held.assignments[assignment.shard, assignment.id]
        if assignment.redeliveries:
            held.alone -= assignment.redeliveries >= limits.redeliveries_alone_min
        left = held.workflows[key] - 1
        if left:
            held.workflows[key] = left
        else:
            del held.workflows[key]
        if not held.assignments:
            del self.held[assignment.incarnation]
        self.update_room(assignment.incarnation)

    def update_room(self, incarnation: str) -> None:
        """Keep `roomy` true after anything that `room` depends on has changed."""
        session = self.sessions.get(incarnation)
        worker = self.workers.get(session) if session is not None else None
        if worker is None:
            return
        held = self.held.get(incarnation)
        has_room = _room(worker, held) > 0
        if has_room:
            self.roomy.add(worker.session)
            self.touch_worker(worker.session)
        else:
            self.roomy.discard(worker.session)
        self.pool.note(
            worker.session,
            is_open=has_room and (held is None or len(held.workflows) < worker.workflows_max),
            load=self._load(worker, held),
        )

    def touch_worker(self, session: int) -> None:
        """A worker that has room may be able to take what it could not."""
        self.touched[session] = None
        self.roused[session] = None

    def load_of(self, worker: WorkerState) -> float:
        """Return the load of a worker; 0 is idle."""
        return self._load(worker, self.held.get(worker.incarnation))

    def _load(self, worker: WorkerState, held: Held | None) -> float:
        config = self.config
        return (
            config.cpu_weight * worker.cpu / 100.0
            + config.memory_weight * worker.memory / 100.0
            + config.workflow_weight * (len(held.assignments) if held is not None else 0) / max(1, worker.slots)
        )

    def has_workflow(self, session: int, key: WorkflowKey) -> bool:
        """Tell whether a worker has a live node of a workflow."""
        held = self.held.get(self.workers[session].incarnation)
        return held is not None and key in held.workflows

    def eligible_sessions(self, key: ClassKey) -> dict[int, None]:
        """Return the sessions of workers that take work and have what a class asks for, which is met for the first time."""
        if self.pool.wants_known > len(self.ready.classes):
            self.pool.keep((known.executor, known.requires) for known in self.ready.classes)
        self.pool.know((key.executor, key.requires))
        return {one.session: None for one in self.workers.values() if self.may_run(one, key) and one.attached}

    def may_run(self, worker: WorkerState, key: ClassKey) -> bool:
        """Tell whether a worker that is attached, or may attach again, takes nodes of a class when it has room."""
        return not worker.draining and runs(worker, key)

    def reconcile(self, worker: WorkerState, shard: int) -> None:
        """A worker has stated its inventory of a shard, so that it may get work of it."""
        worker.reconciled.add(shard)
        self.pool.reconcile(worker.session, shard)
        self.update_room(worker.incarnation)

    def unreconcile(self, shard: int) -> None:
        """What workers have stated of a shard counts no more."""
        for worker in self.workers.values():
            worker.reconciled.discard(shard)
        self.pool.unreconcile(shard)

    def note_origin(self, workflow: WorkflowState, node: int, incarnation: str) -> None:
        """A worker has an attempt of a node, so that the node's output will be made there."""
        if workflow.places is None:
            workflow.places = array("I", bytes(4 * len(workflow.statuses)))
        workflow.places[node] = self.origins.number_of(incarnation)

    def room(self, worker: WorkerState) -> int:
        """Return how many more assignments a worker may get now."""
        return _room(worker, self.held.get(worker.incarnation))

    def occupy(self, shard: int) -> None:
        """An act begins that must have a shard for itself."""
        self.occupied[shard] = self.occupied.get(shard, 0) + 1

    def vacate(self, shard: int) -> None:
        """It has ended."""
        self.occupied[shard] -= 1
        if not self.occupied[shard]:
            del self.occupied[shard]

    def has(self, assignment: Assignment) -> bool:
        """Tell whether an assignment is still live, and not another one of its name."""
        shard = self.shards.get(assignment.shard)
        return shard is not None and shard.live.get(assignment.id) is assignment

    def is_reloading(self, event: SubmitExisted | WorkflowEvicted) -> bool:
        """Tell whether the workflow of an event is being loaded anew."""
        shard = self.shards.get(event.shard)
        return shard is not None and event.workflow_id in shard.reloading

    def knows(self, workflow: WorkflowState) -> bool:
        """Tell whether a workflow is still in memory, and not another one of its id."""
        shard = self.shards.get(workflow.shard)
        return shard is not None and shard.workflows.get(workflow.id) is workflow

    def remember_recent(self, shard: ShardState, assignment: Assignment) -> None:
        """Keep an assignment's id for a while after its result was recorded."""
        shard.recent[assignment.id] = assignment.workflow_id
        if len(shard.recent) > limits.recent_results_a_shard_max:
            shard.recent.popitem(last=False)

    def remember_given_up(self, worker: WorkerState) -> None:
        """Keep for a while under which session a worker was given up: what is found of it later is of the same death."""
        self.given_up[worker.incarnation] = worker.session
        if len(self.given_up) > limits.workers_max:
            self.given_up.popitem(last=False)

    def remember_departed(self, incarnation: str) -> None:
        """Keep for a while that a worker said goodbye."""
        self.departed[incarnation] = None
        if len(self.departed) > limits.workers_max:
            self.departed.popitem(last=False)

    def remember_evicted(self, incarnation: str) -> None:
        """Keep that a worker was evicted."""
        self.evicted[incarnation] = None
        if len(self.evicted) > limits.evictions_max:
            self.evicted.popitem(last=False)

    def touch(self, workflow: WorkflowState, node: int = -1, instance: int = -1) -> int:
        """Note a change of a workflow, raise its version once a batch, and return it."""
        if workflow.cut != self.cuts:
            workflow.cut = self.cuts
            workflow.version += 1
            self.changed[workflow.key] = workflow
        if node >= 0:
            workflow.touched.append((node, instance))
        return workflow.version


def runs(worker: WorkerState, key: ClassKey) -> bool:
    """Tell whether a worker has the executor and the labels of a class."""
    return meets(worker.executors, worker.labels, key.executor, key.requires)


def _room(worker: WorkerState, held: Held | None) -> int:
    if not worker.attached or worker.draining or worker.reserved is not None:
        return 0
    if held is None:
        return worker.credit
    return worker.credit - len(held.assignments) if not held.alone else 0
