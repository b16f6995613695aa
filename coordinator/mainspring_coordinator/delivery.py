"""What leaves after a commit: to workers, to callers, to watchers.

One call a worker for all that a commit released, so that it becomes one message.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import structlog

from mainspring import limits
from mainspring.errors import BusyError, MainspringError, NotOwnerError
from mainspring_coordinator.engine.effects import (
    Ack,
    Answer,
    AnswerCode,
    AskCache,
    Assign,
    Changed,
    EchoCredit,
    Effect,
    Ended,
    EpochSpent,
    GrantPermits,
    KeepResult,
    LoadOutputs,
    LoadWorkflow,
    Refuse,
    Replace,
    ReportBacklog,
    StatePermits,
    Stop,
    StrategyFailed,
    Welcomed,
)
from mainspring_coordinator.ports import Outlet, PermitEffect, SessionEffect, WorkflowEffect

_log: Final = structlog.get_logger(__name__)
_session_effects: Final = (Assign, Ack, Stop, EchoCredit, ReportBacklog, Welcomed, Refuse, Replace)

Notify = Callable[[WorkflowEffect], None]


class Delivery:
    """Knows who waits for what."""

    def __init__(
        self,
        load: Callable[[LoadOutputs | LoadWorkflow], None],
        raise_epoch: Callable[[EpochSpent], None],
        ended: Callable[[Ended], None],
        strategy_failed: Callable[[StrategyFailed], None],
    ) -> None:
        self._load = load
        self._raise_epoch = raise_epoch
        self._ended = ended
        self._strategy_failed = strategy_failed
        self.pass_on_permits: Callable[[Sequence[PermitEffect]], None] = _nowhere
        self.pass_to_cache: Callable[[Sequence[AskCache | KeepResult]], None] = _nowhere
        self._outlets: dict[int, Outlet] = {}
        self._callers: dict[int, asyncio.Future[Answer]] = {}
        self._watchers = _Audience(limits.watchers_max)
        self._waiters = _Audience(limits.ends_awaited_max)
        self._token = 0

    def attach(self, session: int, outlet: Outlet) -> None:
        """Let a session's effects go to this outlet."""
        self._outlets[session] = outlet

    def detach(self, session: int) -> None:
        """Forget a session's outlet."""
        self._outlets.pop(session, None)

    def shards_changed(self, owned: Mapping[int, int]) -> None:
        """Tell all workers which shards are served."""
        for outlet in list(self._outlets.values()):
            outlet.shards_changed(owned)

    async def until_seen(self, mute: set[int]) -> None:
        """Return when all workers have heard what was let out; those that take longer than the bound are added to `mute`.

        Whoever is in `mute` already is not waited for: a worker that hangs delays what goes on in several steps once, not each time.
        """
        asked = {session: outlet.until_seen() for session, outlet in self._outlets.items() if session not in mute}
        if asked:
            await asyncio.wait(asked.values(), timeout=limits.move_seen_ms_max / 1_000)
        for session, seen in asked.items():
            if not seen.done():
                mute.add(session)
                seen.cancel()

    @contextmanager
    def caller(self) -> Iterator[tuple[int, "asyncio.Future[Answer]"]]:
        """Give a token and what its answer will come by; afterwards nobody waits for it."""
        self._token += 1
        token, future = self._token, asyncio.get_running_loop().create_future()
        self._callers[token] = future
        try:
            yield token, future
        finally:
            self._callers.pop(token, None)

    def subscribe(self, workflow_id: str, notify: Notify, *, end_only: bool = False) -> Callable[[], None]:
        """Call `notify` after each commit that changed a workflow, or only after that of its end; returns what ends it.

        Those that wait for the end only are counted apart, because one call may wait for thousands.
        """
        audience = self._waiters if end_only else self._watchers
        return audience.add(workflow_id, notify)

    def let_out(self, effects: Sequence[Effect]) -> None:
        """Deliver the effects of a batch that is committed."""
        by_session: dict[int, list[SessionEffect]] = {}
        rare: list[StrategyFailed | EpochSpent | AskCache | KeepResult] = []
        permits: list[PermitEffect] = []
        for effect in effects:
            if isinstance(effect, _session_effects):
                by_session.setdefault(effect.session, []).append(effect)
            elif isinstance(effect, Answer):
                self._answer(effect)
            elif isinstance(effect, Changed | Ended):
                if isinstance(effect, Ended):
                    self._ended(effect)
                    self._waiters.tell(effect)
                self._watchers.tell(effect)
            elif isinstance(effect, StatePermits | GrantPermits):
                permits.append(effect)
            elif isinstance(effect, StrategyFailed | EpochSpent | AskCache | KeepResult):
                rare.append(effect)
            elif isinstance(effect, LoadOutputs | LoadWorkflow):
                self._load(effect)
        self.pass_on_permits(permits)
        if rare:
            self._let_out_rare(rare)
        for session, items in by_session.items():
            outlet = self._outlets.get(session)
            if outlet is not None:
                outlet.deliver(items)

    def _let_out_rare(self, effects: Sequence[StrategyFailed | EpochSpent | AskCache | KeepResult]) -> None:
        self._tell_failures([effect for effect in effects if isinstance(effect, StrategyFailed)])
        # The last of a shard has the highest epoch.
        self._raise_epochs({effect.shard: effect for effect in effects if isinstance(effect, EpochSpent)})
        self.pass_to_cache([effect for effect in effects if isinstance(effect, AskCache | KeepResult)])

    def _raise_epochs(self, spent: Mapping[int, EpochSpent]) -> None:
        for shard, effect in spent.items():
            seen = {"worker": effect.by, "seen_epoch": effect.above} if effect.by else {}
            _log.warning("epoch_spent", shard=shard, **seen, action="given up, to be taken under a higher epoch")
            self._raise_epoch(effect)

    def _tell_failures(self, failures: Sequence[StrategyFailed]) -> None:
        """Count each, but write a line for all of a batch: a strategy that fails does so for every node."""
        for effect in failures:
            self._strategy_failed(effect)
        if failures:
            last = failures[-1]
            _log.error(
                "strategy_failed",
                strategy=last.strategy,
                error=last.error,
                workflow_id=last.workflow_id,
                node_id=last.node_id,
                failures=len(failures),
                instead="round-robin",
            )

    def refuse(self, effects: Sequence[Effect], error: MainspringError) -> None:
        """Tell the callers among dropped effects what happened."""
        for effect in effects:
            if isinstance(effect, Answer):
                self.fail(effect.token, error)

    def fail(self, token: int, error: MainspringError) -> None:
        """Answer one caller with an error."""
        future = self._callers.pop(token, None)
        if future is not None and not future.done():
            future.set_exception(error)

    def fail_all(self, error: MainspringError) -> None:
        """Answer all who wait with an error."""
        for token in list(self._callers):
            self.fail(token, error)

    def _answer(self, answer: Answer) -> None:
        future = self._callers.pop(answer.token, None)
        if future is not None and not future.done():
            future.set_result(answer)


def _nowhere(effects: Sequence[Effect]) -> None:
    """Let what may be lost be lost, as long as nobody is there to pass it on."""
    del effects


class _Audience:
    """Who is told of which workflows, bounded."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._by_workflow: dict[str, list[Notify]] = {}

    def add(self, workflow_id: str, notify: Notify) -> Callable[[], None]:
        """Tell `notify` of a workflow; returns what ends it."""
        members = self._by_workflow.get(workflow_id, [])
        if len(members) >= limits.watchers_a_workflow_max or self._count >= self._most:
            raise BusyError(
                f"workflow {workflow_id!r} has too many watchers; try again when some have gone", retry_after_ms=1_000
            )
        self._by_workflow.setdefault(workflow_id, members).append(notify)
        self._count += 1

        def end() -> None:
            current = self._by_workflow.get(workflow_id, [])
            if notify in current:
                current.remove(notify)
                self._count -= 1
                if not current:
                    del self._by_workflow[workflow_id]

        return end

    def tell(self, effect: WorkflowEffect) -> None:
        """Tell all whom it concerns."""
        for notify in list(self._by_workflow.get(effect.workflow_id, ())):
            notify(effect)


def checked(answer: Answer) -> Answer:
    """Return an answer; raise what it stands for if it is a refusal."""
    if answer.code is AnswerCode.NOT_OWNER:
        raise NotOwnerError(f"this coordinator does not own shard {answer.shard} any more")
    if answer.code is AnswerCode.BUSY:
        raise BusyError(answer.message, retry_after_ms=1_000)
    return answer
