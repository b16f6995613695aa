"""Clients: they submit, submit again, cancel and read, and ask until they are answered."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from mainspring.errors import MainspringError, NotOwnerError
from mainspring.ids import shard_of
from mainspring_coordinator.engine.effects import Answer
from mainspring_coordinator.engine.events import Cancel, Event, Read, Submit
from mainspring_coordinator.engine.plan import Plan
from tests.simulation.cluster import Cluster
from tests.simulation.coordinator import Coordinator
from tests.simulation.plans import draw_plan
from tests.simulation.world import MS, SECOND

_patience_us = 3 * SECOND
_host = "client"


class Call:
    """One call, tried until it is answered."""

    def __init__(
        self, clients: "Clients", name: str, make: Callable[[int], Event], check: Callable[[], Callable[[Answer], None]]
    ) -> None:
        """`check` is called as the coordinator takes the call up, and returns what holds its answer to the laws."""
        self._clients = clients
        self._name = name
        self._shard = shard_of(name, clients.cluster.profile.shards)
        self._make = make
        self._check = check
        self._try = 0
        self._what = ""
        self.answered = False

    def ask(self) -> None:
        """Try."""
        cluster, chance = self._clients.cluster, self._clients.cluster.world.chance
        self._try += 1
        target = self._clients.owners.get(self._shard) or chance.choice(cluster.coordinator_names)
        cluster.network.send(_host, target, partial(self._arrive, target, self._try))
        cluster.world.at(_patience_us, partial(self._overdue, self._try))

    def _arrive(self, target: str, number: int) -> None:
        coordinator = self._clients.cluster.coordinators.get(target)
        if coordinator is None or not coordinator.started or not coordinator.process.alive:
            self._again(target, number)
            return
        coordinator.process.run_soon(
            lambda: coordinator.process.create_task(self._serve(coordinator, target, number)) and None
        )

    async def _serve(self, coordinator: Coordinator, target: str, number: int) -> None:
        hold = self._check()
        try:
            answer = await coordinator.loop.ask(self._shard, self._make)
        except NotOwnerError:
            back = partial(self._moved, coordinator.election.owner_of(self._shard), target, number)
        except MainspringError:
            back = partial(self._again, target, number)
        else:
            self._clients.cluster.world.tell(
                target, f"answers {self._make(0).__class__.__name__} of {self._name}: {answer.code.name}"
            )
            hold(answer)
            back = partial(self._take, answer, target)
        self._clients.cluster.network.send(target, _host, back)

    def _take(self, answer: Answer, target: str) -> None:
        del answer
        self._clients.owners[self._shard] = target
        if not self.answered:
            self.answered = True
            self._clients.calls.discard(self)

    def _moved(self, owner: tuple[str, str] | None, target: str, number: int) -> None:
        self._again(target, number)
        if owner is not None:
            self._clients.owners[self._shard] = owner[1]

    def _again(self, target: str, number: int) -> None:
        if self._clients.owners.get(self._shard) == target:
            del self._clients.owners[self._shard]
        self._retry(number)

    def _overdue(self, number: int) -> None:
        self._clients.owners.pop(self._shard, None)
        self._retry(number)

    def _retry(self, number: int) -> None:
        if not self.answered and number == self._try:
            self._try += 1
            world = self._clients.cluster.world
            world.at(world.chance.randint(20, 400) * MS, self.ask)


class Clients:
    """All of them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.calls: set[Call] = set()
        self.owners: dict[int, str] = {}
        """By shard: who answered last."""
        self.submitted = 0
        self.busy = True
        cluster.world.at(0, self._work)

    def _work(self) -> None:
        """Keep some workflows open."""
        if not self.busy:
            return
        world, witness = self.cluster.world, self.cluster.witness
        if self.submitted - len(witness.flows) + len(witness.open) < self.cluster.profile.workflows_open:
            self._begin()
        world.at(world.chance.randint(1, 60) * MS, self._work)

    def _begin(self) -> None:
        world, chance = self.cluster.world, self.cluster.world.chance
        self.submitted += 1
        name = f"wf-{self.submitted}"
        plan = draw_plan(chance, self.submitted, limited=self.cluster.profile.limited)
        given = {
            "ms": chance.choice((1, 5, 20, 20, 60, 200, 800)),
            "fails": chance.choice((0, 0, 0, 0, 1, 2, 3)),
            "wide": chance.randint(0, 6),
        }
        self.cluster.witness.plans[name] = plan
        self._submit(name, plan, given)
        draw = chance.random()
        if draw < 0.15:
            world.at(chance.randint(0, 400) * MS, partial(self._submit, name, plan, given))
        elif draw < 0.18:
            world.at(chance.randint(200, 600) * MS, partial(self._submit_other, name, plan, given))
        if chance.random() < 0.15:
            world.at(chance.randint(0, 1_500) * MS, partial(self._cancel, name))
        for _ in range(chance.choice((0, 1, 2, 6))):
            world.at(chance.randint(0, 1_500) * MS, partial(self._read, name))

    def _submit_other(self, name: str, plan: Plan, given: dict[str, Any]) -> None:
        # Only over one that is known to be there: else which of both is the workflow would be a race.
        if name in self.cluster.witness.acknowledged:
            self._submit(name, plan, given | {"other": 1})

    def _submit(self, name: str, plan: Plan, given: dict[str, Any]) -> None:
        data = orjson.dumps(given)
        digest = hashlib.sha256(plan.hash + data).digest()
        shard = shard_of(name, self.cluster.profile.shards)
        self.cluster.world.tell(_host, f"submits {name} ({plan.name}, {data.decode()})")

        def make(token: int) -> Event:
            return Submit(token, shard, name, plan, data, digest, "load-balanced")

        self._call(name, make, lambda: partial(self.cluster.witness.submitted, name, digest))

    def _cancel(self, name: str) -> None:
        witness, shard = self.cluster.witness, shard_of(name, self.cluster.profile.shards)
        self.cluster.world.tell(_host, f"cancels {name}")
        self._call(
            name,
            lambda token: Cancel(token, shard, name, "why not"),
            lambda: partial(witness.cancelled, name, bool(witness.version_of(name))),
        )

    def _read(self, name: str) -> None:
        witness, shard = self.cluster.witness, shard_of(name, self.cluster.profile.shards)
        self._call(
            name, lambda token: Read(token, shard, name), lambda: partial(witness.read, name, witness.version_of(name))
        )

    def _call(self, name: str, make: Callable[[int], Event], check: Callable[[], Callable[[Answer], None]]) -> None:
        call = Call(self, name, make, check)
        self.calls.add(call)
        call.ask()
