"""What a strategy sees: the workers that could run one item of the ready queue, as far as it asks for them."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from mainspring_coordinator.engine.placement.base import Choices
from mainspring_coordinator.engine.placement.kind import Group, Kind
from mainspring_coordinator.engine.placement.origins import Origin
from mainspring_coordinator.engine.placement.ring import probes_of
from mainspring_coordinator.engine.ready import Item, ReadyClass
from mainspring_coordinator.engine.state import State, WorkflowState

_origins_max: Final = 8
"""So many workers that made inputs are looked for; of a wider fan-in no worker made much."""


class Candidates(Choices):
    """The workers of the pool that are able; `only` one of them, if given."""

    __slots__ = ("_item", "_kinds", "_now_us", "_only", "_ready", "_state", "_workflow")

    def __init__(
        self, state: State, ready: ReadyClass, workflow: WorkflowState, item: Item, now_us: int, only: int = 0
    ) -> None:
        self._state = state
        self._ready = ready
        self._workflow = workflow
        self._item = item
        self._now_us = now_us
        self._only = only
        """The one worker that can take it: it is at its bound of workflows, and has this one."""
        shard = workflow.shard
        self._kinds: Sequence[Kind] = [kind for kind in state.pool.able(ready.want) if kind.shards >> shard & 1]

    @property
    def names(self) -> tuple[int, str, str]:
        """Return the shard, the workflow and the node that it is for."""
        return self._workflow.shard, self._workflow.id, self._workflow.plan.nodes[self._item[0]].id

    @property
    def key(self) -> str:
        """Return what it has in common with other nodes that are to run on the same worker."""
        key = self._workflow.plan.affinities[self._item[0]].key
        return self._workflow.id if key is None else key

    @property
    def hard(self) -> bool:
        """Whether the node waits for the worker that has its key."""
        return self._workflow.plan.affinities[self._item[0]].hard

    @property
    def patient(self) -> bool:
        """Whether the node may still wait for a worker near its inputs."""
        wait_us = self._state.config.locality_wait_us
        return bool(wait_us) and self._workflow.near_until_us.get(self._item, self._now_us + wait_us) > self._now_us

    def can_take(self, session: int) -> bool:
        """Tell whether a worker can run the node and has room for it."""
        state = self._state
        member = state.pool.members.get(session)
        if member is None or member.kind not in self._kinds or session not in state.roomy:
            return False
        return member.open or state.has_workflow(session, self._workflow.key)

    def least_loaded(self) -> int:
        """Return the worker with the least load that can take it."""
        return self._only or self._least(lambda kind: kind.all)

    def next_in_turn(self) -> int:
        """Return the worker that can take it and was given something longest ago."""
        ranks = [rank for kind in self._kinds if (rank := kind.next_in_turn()) is not None]
        return self._only or min(ranks)[2]

    def least_versatile(self) -> int:
        """Return the worker with the fewest executors that can take it, the least loaded of them."""
        ranks = [(kind.executors, rank) for kind in self._kinds if (rank := kind.all.least_loaded()) is not None]
        return self._only or min(ranks)[1][2]

    def least_loaded_on(self, host: str) -> int:
        """Return the worker of a host with the least load that can take it."""
        if self._only:
            return self._only if self._state.pool.members[self._only].host == host else 0
        return self._least(lambda kind: kind.on_host(host)) or self._bound_on(host)

    def least_loaded_in(self, zone: str) -> int:
        """Return the worker of a zone with the least load that can take it."""
        if self._only:
            return self._only if self._state.pool.members[self._only].zone == zone else 0
        return self._least(lambda kind: kind.in_zone(zone))

    def is_on(self, host: str) -> bool:
        """Tell whether a worker of a host can run it, with room or without."""
        return any(kind.on_host(host).members for kind in self._kinds)

    def origins(self) -> Sequence[Origin]:
        """Return where its inputs were made, where most of them were first."""
        plan, places = self._workflow.plan, self._workflow.places
        node = self._item[0]
        if places is None:
            return ()
        inputs = (*plan.input_refs[node], *plan.over_refs[node]) or plan.graph.parents_of(node)
        counts = Counter(places[one] for one in inputs)
        del counts[0]  # not known
        ranked = sorted(counts, key=lambda number: (-counts[number], number))[:_origins_max]
        return [origin for number in ranked if (origin := self._state.origins.get(number)) is not None]

    def attached(self, incarnation: str) -> int:
        """Return the session of a worker by its incarnation."""
        return self._state.sessions.get(incarnation, 0)

    def keeper(self) -> int:
        """Return the worker that has the node's key and lives, with room or without, if it could run the node."""
        incarnation = self._state.affinities.get(self.key)
        worker = self._state.workers.get(self._state.sessions.get(incarnation, 0)) if incarnation is not None else None
        return worker.session if worker is not None and self._state.may_run(worker, self._ready.key) else 0

    def nearest(self) -> int:
        """Return the worker that the node's key belongs to by hashing, with room or without."""
        probes = probes_of(self.key)
        found = [near for kind in self._kinds if (near := kind.nearest(probes)) is not None]
        return min(found)[2] if found else 0

    def incarnation_of(self, session: int) -> str:
        """Return the incarnation of a worker that could run it."""
        return self._state.workers[session].incarnation

    def remember(self, session: int) -> None:
        """The node goes to a worker: its key is that worker's, unless another one has it. 0: it waits for the one that it hashes to."""
        if not self.keeper():
            self._state.affinities.note(self.key, self.incarnation_of(session or self.nearest()))

    def _bound_on(self, host: str) -> int:
        """Return a worker of a host that is at its bound of workflows, and has this one."""
        members = [member for kind in self._kinds for member in kind.on_host(host).members.values() if not member.open]
        able = [(member.load, member.name, member.session) for member in members if self.can_take(member.session)]
        return min(able)[2] if able else 0

    def _least(self, group_of: Callable[[Kind], Group]) -> int:
        ranks = [rank for kind in self._kinds if (rank := group_of(kind).least_loaded()) is not None]
        return min(ranks)[2] if ranks else 0
