"""Operators: they retry, skip and complete nodes, pause workflows, executors and the cluster, and evict workers, in the midst of it all.

What they pause they let go on again before long, whatever has become of the cluster meanwhile.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from mainspring.ids import shard_of
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import Event
from mainspring_coordinator.engine.operator_events import ActOnNode, PauseSet, WorkerEvicted, WorkflowPauseSet
from mainspring_coordinator.engine.status import NodeAct
from tests.simulation.clients import Call, Clients
from tests.simulation.cluster import Cluster
from tests.simulation.world import MS

_between_ms: Final = (20, 400)
_who: Final = "ops"


class Operators:
    """Of one run."""

    def __init__(self, cluster: Cluster, clients: Clients) -> None:
        self._cluster = cluster
        self._clients = clients
        self._world = cluster.world
        self._chance = cluster.world.chance
        self._kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (6, partial(self._act, NodeAct.RETRY)),
            (3, partial(self._act, NodeAct.SKIP)),
            (3, partial(self._act, NodeAct.COMPLETE)),
            (3, self._pause_workflow),
            (1, partial(self._pause_cluster, "")),
            (1, partial(self._pause_cluster, "work")),
            (1, self._evict),
        )
        if cluster.profile.operated:
            self._world.at(self._chance.randint(*_between_ms) * MS, self._work)

    def _work(self) -> None:
        if not self._clients.busy:
            return
        (kind,) = self._chance.choices([kind for _, kind in self._kinds], [weight for weight, _ in self._kinds])
        kind()
        self._world.at(self._chance.randint(*_between_ms) * MS, self._work)

    # -- nodes -------------------------------------------------------------------------------------------------------------

    def _act(self, act: NodeAct) -> None:
        name = self._open_workflow()
        if not name:
            return
        plan = self._cluster.witness.plans[name]
        node = self._chance.randrange(len(plan.nodes))
        instance = self._chance.randrange(3) if plan.nodes[node].map is not None else -1
        shard = self._shard_of(name)
        self._world.tell(_who, f"would {act.name} {name}/{node}/{instance}")

        def make(token: int) -> Event:
            return ActOnNode(token, shard, name, act, plan.nodes[node].id, instance, "why not", output=b'{"given":1}')

        check = partial(self._cluster.witness.acted, (name, node, instance), act)
        self._call(name, make, check)

    # -- pauses ------------------------------------------------------------------------------------------------------------

    def _pause_workflow(self) -> None:
        name = self._open_workflow()
        if name:
            self._set(name, partial(self._workflow_paused, name, self._shard_of(name)))

    def _workflow_paused(self, name: str, shard: int, token: int, *, paused: bool) -> Event:
        return WorkflowPauseSet(token, shard, name, paused, _who, "why not")

    def _pause_cluster(self, executor: str) -> None:
        self._set(self._name_in(0), partial(self._cluster_paused, executor))

    def _cluster_paused(self, executor: str, token: int, *, paused: bool) -> Event:
        return PauseSet(token, 0, executor, paused, _who, "why not")

    def _set(self, name: str, make: Callable[..., Event]) -> None:
        """Pause something, and let it go on as soon as that was answered and a while is over."""
        self._world.tell(_who, f"pauses something, by way of {name}")
        go_on = partial(self._call, name, partial(make, paused=False), _nothing)

        def paused(answer: Answer) -> None:
            del answer
            self._world.at(self._chance.randint(1, 500) * MS, go_on)

        self._call(name, partial(make, paused=True), paused)

    # -- workers -----------------------------------------------------------------------------------------------------------

    def _evict(self) -> None:
        worker = self._cluster.workers[self._chance.choice(self._cluster.worker_names)]
        if not hasattr(worker, "worker"):
            return
        incarnation, shard = worker.worker.incarnation, self._chance.randrange(self._cluster.profile.shards)
        self._world.tell(_who, f"evicts {worker.name} ({incarnation})")
        self._call(self._name_in(shard), lambda token: WorkerEvicted(token, shard, incarnation), _nothing)
        self._world.at(self._chance.randint(100, 2_000) * MS, partial(self._replace, worker.name))

    def _replace(self, name: str) -> None:
        self._cluster.kill(name)
        self._cluster.start_worker(name)

    # -- within ------------------------------------------------------------------------------------------------------------

    def _open_workflow(self) -> str:
        there = sorted(self._cluster.witness.open)
        return self._chance.choice(there) if there else ""

    def _shard_of(self, name: str) -> int:
        return shard_of(name, self._cluster.profile.shards)

    def _name_in(self, shard: int) -> str:
        """Return an id of a shard, for a call that is about the shard."""
        return next(name for name in (f"ops-{at}" for at in range(10_000)) if self._shard_of(name) == shard)

    def _call(self, name: str, make: Callable[[int], Event], check: Callable[[Answer], None]) -> None:
        call = Call(self._clients, name, make, lambda: check)
        self._clients.calls.add(call)
        call.ask()


def _nothing(answer: Answer) -> None:
    assert answer.code in (AnswerCode.OK, AnswerCode.NOT_FOUND, AnswerCode.NOT_OWNER, AnswerCode.BUSY), answer
