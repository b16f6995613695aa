"""The one door: every event enters here, our own timers too, and effects come out.

The host feeds events in the order in which they came, each with a time that never goes back. It may gather the effects of many steps
into one batch; when it cuts the batch, it calls `cut`, stores all rows in one transaction, and lets the rest out after the commit.
No step takes long: while the engine is `busy`, the host goes on with it by `Tick`, between other events.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias, cast

from mainspring import limits
from mainspring_coordinator.engine import (
    absence,
    acts,
    asking,
    caching,
    dispatch,
    eviction,
    failovers,
    fleet,
    granting,
    nodes,
    pausing,
    recovery,
    reruns,
    retention,
    workflows,
)
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Changed, Effect
from mainspring_coordinator.engine.events import (
    CacheAnswered,
    Call,
    Cancel,
    CreditSet,
    DeathsFound,
    Event,
    FailoverTold,
    Inventory,
    LoadReported,
    OutputsLoaded,
    PeersSeen,
    PermitsGranted,
    PermitsLoaded,
    PermitsStated,
    ProgressReported,
    Read,
    Results,
    ShardLost,
    ShardReady,
    ShardTaken,
    Submit,
    SubmitExisted,
    Tick,
    WorkerAttached,
    WorkerDetached,
    WorkerDraining,
    WorkerHeard,
    WorkerResumed,
    WorkflowAbsent,
    WorkflowEvicted,
    WorkflowLoaded,
)
from mainspring_coordinator.engine.operator_events import (
    ActOnNode,
    Audited,
    CopyNodes,
    EvictionsSeen,
    PauseSet,
    PausesSeen,
    Rerun,
    RetentionDue,
    StrategyChosen,
    StrategySeen,
    StrategySet,
    WorkerEvicted,
    WorkflowPauseSet,
)
from mainspring_coordinator.engine.placement import Strategy, strategies
from mainspring_coordinator.engine.state import ShardState, State
from mainspring_coordinator.engine.strategy import ClusterStrategy, home, strategy_changed
from mainspring_coordinator.engine.timers import Timer, TimerKind
from mainspring_coordinator.engine.turn import Act, Turn

_OfShard: TypeAlias = Call | Inventory | ProgressReported
_OfLoading: TypeAlias = (
    WorkflowLoaded
    | WorkflowAbsent
    | OutputsLoaded
    | SubmitExisted
    | WorkflowEvicted
    | ShardReady
    | DeathsFound
    | CacheAnswered
)
_from_workers: Final = (
    *(Results, Inventory, CreditSet, LoadReported, ProgressReported, WorkerAttached, WorkerDraining),
    *(WorkerHeard, WorkerResumed),
)


class Engine:
    """Decides; see the module for the rules of its use."""

    def __init__(self, config: EngineConfig) -> None:
        self.state = State(config)
        self._own = config.strategy
        self.cluster_strategy = ClusterStrategy()
        self._strategies: Mapping[str, Strategy] = {}
        """By the name that a definition has for it; the empty one is what holds where a definition has none."""
        self._place_by(self.cluster_strategy)
        self._acts: deque[Act] = deque()
        self._assigning = False
        """There was more to assign than the last step might."""

    def step(self, event: Event, now_us: int) -> list[Effect]:
        """Take an event in, return what is to be done. `now_us` is database time."""
        turn = Turn(self.state, now_us, left=self.state.config.step_nodes, acts=self._acts)
        if not isinstance(event, ShardLost | ShardTaken | WorkflowEvicted):
            # Of a shard that is lost nothing may happen any more: its rows would have no epoch, or that of a later ownership.
            # Nor of a workflow that is loaded anew: what came of it would be stored, and not be in what is loaded.
            self._fire_due(turn)
        if isinstance(event, _from_workers):
            absence.heard(turn)  # here: what is handled only later, because it waited for a shard, was said before
        self._handle(turn, event)
        nodes.settle(turn)
        if self._acts:
            self._go_on(turn)
        if self.state.arriving or self.state.woken:
            self._take_in(turn)
        self._assigning = dispatch.dispatch(turn, self._strategies)
        if self.state.unsaid:
            asking.speak(turn)
        if self.state.timers.crowded:
            self.state.timers.look_through(partial(_holds, self.state))
        return turn.effects

    @property
    def strategy(self) -> str:
        """The strategy in force where neither node nor definition names one."""
        return self.state.config.strategy

    @property
    def open_workflows(self) -> int:
        """How many unfinished workflows are in memory."""
        return sum(len(shard.workflows) for shard in self.state.shards.values())

    @property
    def busy(self) -> bool:
        """Whether something is left to do at once, which any step does a part of; `Tick` is one."""
        return self._assigning or bool(self._acts or self.state.arriving or self.state.unsaid)

    def is_taking_in(self, shard: int) -> bool:
        """Tell whether something that came from the database for this shard is not in the state yet."""
        return shard in self.state.occupied or shard in self.state.arriving

    def next_due_us(self) -> int | None:
        """Return when the earliest deadline is, None if nothing waits for time."""
        return self.state.timers.next_due_us()

    def is_due(self, now_us: int) -> bool:
        """Tell whether a `Tick` has something to do now."""
        due_us = self.state.timers.next_due_us()
        return self.busy or (due_us is not None and due_us <= now_us)

    def cut(self) -> list[Changed]:
        """End a batch: return what it changed, a workflow at a time. The next change of a workflow raises its version again."""
        changes = [
            Changed(workflow.shard, workflow.id, workflow.version, workflow.status, workflow.touched)
            for workflow in self.state.changed.values()
        ]
        for workflow in self.state.changed.values():
            workflow.touched = []
        self.state.changed.clear()
        self.state.ended.clear()
        self.state.cuts += 1
        return changes

    def _place_by(self, standing: ClusterStrategy) -> None:
        self.cluster_strategy = standing
        in_force = standing.in_force(self._own)
        if in_force not in strategies:  # a newer version's, which takes over from us
            in_force = ClusterStrategy().in_force(self._own)
        if in_force != self.state.config.strategy or not self._strategies:
            self.state.config = replace(self.state.config, strategy=in_force)
            self._strategies = {**strategies, "": strategies[in_force]}

    def _fire_due(self, turn: Turn) -> None:
        while turn.left > 0 and (timer := turn.state.timers.pop_due(turn.now_us)) is not None:
            turn.left -= 1
            _fire(turn, timer)
            nodes.settle(turn)

    def _go_on(self, turn: Turn) -> None:
        """Give each act that has not ended a part, in turn, as far as the step may."""
        for _ in range(len(self._acts)):
            if turn.left <= 0:
                return
            act = self._acts.popleft()
            with suppress(StopIteration):
                act.send(turn)
                self._acts.append(act)
            nodes.settle(turn)

    def _take_in(self, turn: Turn) -> None:
        """Handle what waited for shards that are not occupied any more."""
        state = turn.state
        for shard_id in list(state.arriving):
            waiting = state.arriving[shard_id]
            while waiting and shard_id not in state.occupied and turn.left > 0:
                _arrive(turn, waiting.popleft())
                nodes.settle(turn)
            if not waiting:
                state.arriving.pop(shard_id, None)
        while state.woken:
            shard_id, _ = state.woken.popitem()
            shard = state.shards.get(shard_id)
            if shard is not None and shard.ready and shard_id not in state.occupied:
                self._handle_deferred(turn, shard)
                absence.end_grace(turn, shard)

    def _handle(self, turn: Turn, event: Event) -> None:
        kind = type(event)
        if (handle := _of_no_shard.get(kind)) is not None:
            handle(turn, event)
            return
        match event:
            case StrategySet() | StrategyChosen() | StrategySeen():
                self._of_strategy(turn, event)
            case ShardTaken() | ShardLost():
                self._of_ownership(turn, event)
            case _ if kind in _of_a_ready_shard:
                _of_shard(turn, cast("_OfShard", event))
            case _:
                self._of_loading(turn, cast("_OfLoading", event))

    def _of_loading(self, turn: Turn, event: "_OfLoading") -> None:
        state = turn.state
        if isinstance(event, SubmitExisted | WorkflowEvicted) and not state.is_reloading(event):
            # It must leave before anything more of it is stored, whatever else of its shard is being built.
            _arrive(turn, event)
        elif event.shard in state.occupied or event.shard in state.arriving:
            state.arriving.setdefault(event.shard, deque()).append(event)
        else:
            _arrive(turn, event)

    def _of_ownership(self, turn: Turn, event: ShardTaken | ShardLost) -> None:
        # Whatever we had of it is void from now on; what is read of it waits until that is forgotten.
        recovery.lost(turn, event.shard) if isinstance(event, ShardLost) else recovery.taken(turn, event)
        if isinstance(event, ShardLost) and event.shard == home:
            # What we set last may never be stored now: whatever is read next holds.
            self.cluster_strategy = replace(self.cluster_strategy, changed_at_us=-1)
            turn.state.ready.pauses = replace(turn.state.ready.pauses, changed_at_us=-1)

    def _of_strategy(self, turn: Turn, event: StrategySet | StrategyChosen | StrategySeen) -> None:
        if not isinstance(event, StrategySeen):
            self._place_by(strategy_changed(turn, self.cluster_strategy, event))
            return
        seen = ClusterStrategy.parse(event.text)
        # What we have stored ourselves since then is newer.
        if seen.changed_at_us > self.cluster_strategy.changed_at_us:
            self._place_by(seen)

    def _handle_deferred(self, turn: Turn, shard: ShardState) -> None:
        deferred, shard.deferred = shard.deferred, []
        for earlier in deferred:
            self._handle(turn, earlier)
            nodes.settle(turn)


def _defer(turn: Turn, shard: ShardState, event: _OfShard | Results) -> None:
    """Let an event wait for what is being loaded, as far as there is room."""
    if len(shard.deferred) < limits.deferred_events_a_shard_max:
        shard.deferred.append(event)
    elif isinstance(event, Call):
        message = f"shard {shard.shard} is being recovered and {len(shard.deferred)} calls and reports wait for it; try again in a moment"
        turn.emit(Answer(event.token, shard.shard, event.workflow_id, AnswerCode.BUSY, message=message))
    # Workers state what they have, and offer results, when the shard is served and with every heartbeat: none of it is lost here.


def _of_shard(turn: Turn, event: _OfShard) -> None:
    shard = turn.state.shards.get(event.shard)
    if shard is None:
        if isinstance(event, Call):
            turn.emit(Answer(event.token, event.shard, event.workflow_id, AnswerCode.NOT_OWNER))
        return
    if not shard.ready or shard.shard in turn.state.occupied or _waits_for_reload(shard, event):
        # What it is about may not be loaded yet; that it is not there would be a lie.
        _defer(turn, shard, event)
        return
    _of_a_ready_shard[type(event)](turn, shard, event)


def _arrive(turn: Turn, event: Event) -> None:
    event = cast("_OfLoading", event)
    shard = turn.state.shards.get(event.shard)
    if shard is not None:
        _of_a_loading_shard[type(event)](turn, shard, event)


def _shard_ready(turn: Turn, shard: ShardState, event: ShardReady) -> None:
    recovery.ready(turn, shard, event)
    absence.offer_departed(turn, shard)


def _existed(turn: Turn, shard: ShardState, event: SubmitExisted) -> None:
    workflows.existed(turn, shard, event)
    # A rerun that is there already, or was: nothing of it is on its way into memory.
    recovery.reloaded(turn, shard, event.workflow_id)


def _absent(turn: Turn, shard: ShardState, event: WorkflowAbsent) -> None:
    recovery.reloaded(turn, shard, event.workflow_id)


def _nothing(turn: Turn, event: Tick | WorkerHeard) -> None:
    """What is due, and that somebody was heard, is seen to in every step."""
    del turn, event


def _peers_seen(turn: Turn, event: PeersSeen) -> None:
    turn.state.peers_have_workers = event.have_workers
    turn.state.rates.share(event.coordinators)


def _audited(turn: Turn, event: Audited) -> None:
    ours = event.shard in turn.state.shards
    if ours:
        turn.store(event.entry)
    turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK if ours else AnswerCode.NOT_OWNER))


def _waits_for_reload(shard: ShardState, event: _OfShard) -> bool:
    """Tell whether an event may be about a workflow that is being loaded anew."""
    if isinstance(event, Inventory):
        return bool(shard.reloading)
    return not isinstance(event, ProgressReported) and event.workflow_id in shard.reloading


def _results(turn: Turn, event: Results) -> None:
    for item in event.items:
        shard = turn.state.shards.get(item.shard)
        if shard is not None and (
            not shard.ready
            or item.shard in turn.state.occupied
            or (shard.reloading and item.assignment not in shard.live)
        ):
            _defer(turn, shard, Results(event.session, (item,)))
            continue
        fleet.result(turn, event.session, item)
        nodes.settle(turn)


_of_no_shard: Final[Mapping[type[Event], Callable[[Turn, Any], None]]] = {
    Tick: _nothing,
    WorkerHeard: _nothing,
    Results: _results,
    WorkerAttached: fleet.attached,
    WorkerDetached: absence.detached,
    CreditSet: fleet.credit,
    LoadReported: fleet.load,
    WorkerDraining: fleet.draining,
    WorkerResumed: fleet.resumed,
    PeersSeen: _peers_seen,
    FailoverTold: failovers.told,
    Audited: _audited,
    RetentionDue: retention.due,
    WorkerEvicted: eviction.evict,
    EvictionsSeen: eviction.seen,
    PauseSet: pausing.pause_set,
    PausesSeen: pausing.pauses_seen,
    PermitsLoaded: granting.loaded,
    PermitsStated: granting.stated,
    PermitsGranted: asking.granted,
}
"""What handles an event that needs no shard, or looks for its shards itself."""
_of_a_ready_shard: Final[Mapping[type[Event], Callable[[Turn, ShardState, Any], None]]] = {
    Submit: workflows.submit,
    Cancel: workflows.cancel,
    WorkflowPauseSet: pausing.workflow_pause_set,
    Read: workflows.read,
    ActOnNode: acts.act,
    CopyNodes: reruns.copy,
    Rerun: reruns.begin,
    Inventory: fleet.inventory,
    ProgressReported: fleet.progress,
}
"""What handles an event about a shard whose workflows are all there; it waits until they are."""
_of_a_loading_shard: Final[Mapping[type[Event], Callable[[Turn, ShardState, Any], None]]] = {
    WorkflowLoaded: recovery.loaded,
    WorkflowAbsent: _absent,
    OutputsLoaded: recovery.outputs_loaded,
    SubmitExisted: _existed,
    WorkflowEvicted: workflows.existed,
    ShardReady: _shard_ready,
    DeathsFound: failovers.deaths_found,
    CacheAnswered: caching.answered,
}
"""What handles an event that came from the database, in the order in which they came."""
_of_a_shard: Final[Mapping[TimerKind, Callable[[Turn, ShardState, Timer], None]]] = {
    TimerKind.SHARD_GRACE: absence.shard_grace_over,
    TimerKind.PERMITS: asking.restate,
    TimerKind.PERMITS_SILENT: granting.ask_silent,
}
"""What handles the deadlines that concern no one workflow."""


def _holds(state: State, timer: Timer) -> bool:
    """Tell whether a deadline may still mean something, by what those that are set for long are set for."""
    if timer.kind is TimerKind.WORKER_GRACE:
        return timer.number in state.workers
    if timer.kind is TimerKind.RATE:
        return True
    shard = state.shards.get(timer.shard)
    if shard is None or timer.kind in _of_a_shard:
        return shard is not None
    workflow = shard.workflows.get(timer.workflow_id)
    if workflow is None:
        return False
    match timer.kind:
        case TimerKind.START_TO_CLOSE:
            return timer.number in shard.live
        case TimerKind.SCHEDULE_TO_START:
            return workflow.start_by_us.get((timer.node, timer.instance)) == timer.due_us
        case TimerKind.CACHE:
            return workflow.asked.get((timer.node, timer.instance)) == timer.number
        case _:
            return True


def _fire(turn: Turn, timer: Timer) -> None:
    match timer.kind:
        case TimerKind.WORKER_GRACE:
            absence.grace_over(turn, timer)
        case TimerKind.RATE:
            dispatch.rate_due(turn, timer)
        case _:
            _fire_in_shard(turn, timer)


def _fire_in_shard(turn: Turn, timer: Timer) -> None:
    shard = turn.state.shards.get(timer.shard)
    if shard is None:
        return
    if timer.shard in turn.state.occupied:
        shard.put_off.append(timer)
        return
    if (of_shard := _of_a_shard.get(timer.kind)) is not None:
        of_shard(turn, shard, timer)
        return
    workflow = shard.workflows.get(timer.workflow_id)
    if workflow is None:
        return
    match timer.kind:
        case TimerKind.RETRY:
            nodes.retry_due(turn, workflow, timer)
        case TimerKind.SCHEDULE_TO_START:
            nodes.start_overdue(turn, workflow, timer)
        case TimerKind.START_TO_CLOSE:
            fleet.attempt_overdue(turn, shard, timer)
        case TimerKind.WORKFLOW:
            workflows.out_of_time(turn, workflow)
        case TimerKind.NEARNESS:
            dispatch.patience_over(turn, workflow, timer)
        case TimerKind.CLOSING:
            workflows.closing_overdue(turn, workflow)
        case TimerKind.CACHE:
            caching.overdue(turn, workflow, timer)
