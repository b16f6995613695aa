"""What goes wrong, and when: drawn from the seed, at steps of the processes and at times.

Every fault mends itself after a while. A blow against a process falls after one of its own steps, so that each place at which it can
be killed or paused is hit by some seed.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from tests.simulation.cluster import Cluster
from tests.simulation.process import Process
from tests.simulation.world import MS, SECOND

_between_ms: Final = (50, 900)
_steps_max: Final = 60
_host: Final = "db"


class Faults:
    """Of one run."""

    def __init__(self, cluster: Cluster, *, on: bool) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._chance = cluster.world.chance
        self._on = on
        self._injected = 0
        self._blows: dict[str, tuple[int, Callable[[], None]]] = {}
        self._kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (6, self._kill_coordinator),
            (4, self._kill_worker),
            (6, self._pause_coordinator),
            (4, self._pause_worker),
            (4, self._cut_worker_off),
            (5, self._cut_database_off),
            (3, self._forget_coordinator),
            (2, self._cut_clients_off),
            (2, self._isolate),
            (5, self._let_speak_late),
            (5, self._drop_streams),
            (3, self._restart_database),
            (6, self._trouble_statements),
            (2, self._slow_database),
            (4, self._end_connection),
            (3, self._refuse_rows),
            (5, self._harm_messages),
            (2, self._stop_coordinator),
            (2, self._drain_worker),
            (1, self._move_database_clock),
        )
        if on:
            self._world.stepped = self._after_step
            self._world.at(self._chance.randint(500, 2_500) * MS, self._strike)

    @property
    def count(self) -> int:
        """How many faults there were."""
        return self._injected + self._cluster.server.faults + self._cluster.wires.faults

    @property
    def enough(self) -> bool:
        """Whether there were as many as a run must have."""
        return self._injected >= 3 or not self._on

    def end(self) -> None:
        """Let nothing go wrong any more, and mend everything."""
        self._on = False
        self._blows.clear()
        cluster, server, wires = self._cluster, self._cluster.server, self._cluster.wires
        self._world.tell("faults", "are over")
        server.up, server.slow_us = True, 0
        server.fail_before = server.fail_after = server.poison = wires.lose = wires.repeat = 0.0
        cluster.heal_all()
        for name in (*cluster.coordinator_names, *cluster.worker_names):
            cluster.resume(name)
        # Again, for those that are still on their way out: their last statements may be waited for until the sockets' timeout.
        for after_s in (3, 10):
            self._world.at(after_s * SECOND, cluster.start_all)
        cluster.start_all()

    def _strike(self) -> None:
        if not self._on:
            return
        weights = [weight for weight, _ in self._kinds]
        (kind,) = self._chance.choices([kind for _, kind in self._kinds], weights)
        kind()
        self._world.at(self._chance.randint(*_between_ms) * MS, self._strike)

    def _struck(self) -> None:
        self._injected += 1

    def _for_a_while(self, longest_ms: int, mend: Callable[[], None]) -> None:
        """Mend a fault after a time that is mostly short."""
        draw = self._chance.random()
        self._world.at(int((5 + longest_ms * draw * draw) * MS), partial(self._mend, mend))

    def _mend(self, mend: Callable[[], None]) -> None:
        if self._on:
            mend()

    # -- processes ---------------------------------------------------------------------------------------------------------

    def _after_step(self, process: Process) -> None:
        blow = self._blows.get(process.name) if self._blows else None
        if blow is not None:
            left, act = blow
            if left:
                self._blows[process.name] = (left - 1, act)
            else:
                del self._blows[process.name]
                act()

    def _blow(self, names: list[str], act: Callable[[str], None]) -> None:
        """Let something befall a process after one of its next steps."""
        name = self._chance.choice(names)
        self._blows[name] = (self._chance.randrange(_steps_max), partial(act, name))

    def _kill_coordinator(self) -> None:
        self._blow(self._cluster.coordinator_names, partial(self._kill, self._cluster.start_coordinator))

    def _kill_worker(self) -> None:
        self._blow(self._cluster.worker_names, partial(self._kill, self._cluster.start_worker))

    def _kill(self, start: Callable[[str], None], name: str) -> None:
        if self._cluster.kill(name):
            self._struck()
            self._for_a_while(3_000, partial(start, name))

    def _pause_coordinator(self) -> None:
        self._blow(self._cluster.coordinator_names, self._pause)

    def _pause_worker(self) -> None:
        self._blow(self._cluster.worker_names, self._pause)

    def _pause(self, name: str) -> None:
        if self._cluster.pause(name):
            self._struck()
            self._for_a_while(5_000, partial(self._cluster.resume, name))

    def _stop_coordinator(self) -> None:
        name = self._chance.choice(self._cluster.coordinator_names)
        host = self._cluster.coordinators[name]
        if host.process.alive and host.started and not host.stopped:
            self._struck()
            self._world.tell(name, "is told to stop")
            host.process.run_soon(lambda: host._spawn(host.stop()) and None)
            self._for_a_while(6_000, partial(self._replace, name))

    def _replace(self, name: str) -> None:
        self._cluster.kill(name)
        self._cluster.start_coordinator(name)

    def _drain_worker(self) -> None:
        name = self._chance.choice(self._cluster.worker_names)
        worker = self._cluster.workers[name]
        if worker.process.alive and not worker.stopped:
            self._struck()
            self._world.tell(name, "is told to drain")
            worker.process.run_soon(partial(worker.drain, self._chance.choice((0, 100, 1_000))))
            self._for_a_while(6_000, partial(self._replace_worker, name))

    def _replace_worker(self, name: str) -> None:
        self._cluster.kill(name)
        self._cluster.start_worker(name)

    # -- the network -------------------------------------------------------------------------------------------------------

    def _cut(self, one: str, other: str, longest_ms: int) -> None:
        if not self._cluster.network.is_cut(one, other):
            self._struck()
            self._cluster.cut(one, other)
            self._for_a_while(longest_ms, partial(self._cluster.heal, one, other))

    def _cut_worker_off(self) -> None:
        worker = self._chance.choice(self._cluster.worker_names)
        self._cut(worker, self._chance.choice(self._cluster.coordinator_names), 6_000)

    def _cut_database_off(self) -> None:
        self._cut(self._chance.choice(self._cluster.coordinator_names), _host, 5_000)

    def _forget_coordinator(self) -> None:
        """Cut a coordinator off from a database that ends its connections, as another primary would: its locks are free at once."""
        name = self._chance.choice(self._cluster.coordinator_names)
        coordinator = self._cluster.coordinators.get(name)
        if coordinator is not None and not self._cluster.network.is_cut(name, _host):
            self._cut(name, _host, 2_500)
            for connection in coordinator.store.client.connections:
                self._cluster.server.store.disconnect(connection)

    def _cut_clients_off(self) -> None:
        self._cut("client", self._chance.choice(self._cluster.coordinator_names), 3_000)

    def _isolate(self) -> None:
        """Cut a coordinator off from all workers, not from the database."""
        name = self._chance.choice(self._cluster.coordinator_names)
        for worker in self._cluster.worker_names:
            self._cut(name, worker, 8_000)

    def _let_speak_late(self) -> None:
        """Hold what a coordinator sends to a worker until others have taken its shards over."""
        name, worker = (
            self._chance.choice(self._cluster.coordinator_names),
            self._chance.choice(self._cluster.worker_names),
        )
        if not self._cluster.network.is_cut(worker, name):
            self._struck()
            self._cluster.cut(worker, name)
            self._world.at(
                self._chance.randint(20, 200) * MS, partial(self._mend, partial(self._blow, [name], self._end_it))
            )
            self._world.at(
                self._chance.randint(900, 2_000) * MS, partial(self._mend, partial(self._cluster.heal, worker, name))
            )

    def _end_it(self, name: str) -> None:
        self._kill(self._cluster.start_coordinator, name)

    def _drop_streams(self) -> None:
        streams = [stream for stream in self._cluster.wires.streams if not stream.over]
        if streams:
            self._struck()
            stream = self._chance.choice(streams)
            self._world.tell(stream.client.process.name, f"is reset by {stream.server.process.name}")
            stream.drop()

    def _harm_messages(self) -> None:
        wires = self._cluster.wires
        wires.lose, wires.repeat = self._chance.choice(((0.1, 0.0), (0.0, 0.3), (0.05, 0.15)))
        self._for_a_while(3_000, self._spare_messages)

    def _spare_messages(self) -> None:
        self._cluster.wires.lose = self._cluster.wires.repeat = 0.0

    # -- the database ------------------------------------------------------------------------------------------------------

    def _restart_database(self) -> None:
        server = self._cluster.server
        if server.up:
            self._struck()
            self._world.tell(_host, "goes down")
            server.restart()
            self._for_a_while(4_000, self._bring_up)

    def _bring_up(self) -> None:
        self._world.tell(_host, "comes up")
        self._cluster.server.up = True

    def _trouble_statements(self) -> None:
        server = self._cluster.server
        server.fail_before, server.fail_after = self._chance.choice(((0.2, 0.0), (0.0, 0.2), (0.05, 0.05), (0.02, 0.4)))
        self._for_a_while(1_500, self._untrouble_statements)

    def _untrouble_statements(self) -> None:
        self._cluster.server.fail_before = self._cluster.server.fail_after = 0.0

    def _slow_database(self) -> None:
        self._struck()
        self._cluster.server.slow_us = self._chance.choice((20 * MS, 200 * MS, 900 * MS))
        self._for_a_while(3_000, self._speed_database_up)

    def _speed_database_up(self) -> None:
        self._cluster.server.slow_us = 0

    def _refuse_rows(self) -> None:
        self._cluster.server.poison = 0.1
        self._for_a_while(800, self._accept_rows)

    def _accept_rows(self) -> None:
        self._cluster.server.poison = 0.0

    def _end_connection(self) -> None:
        store = self._cluster.server.store
        if store.connections:
            self._struck()
            connection = self._chance.choice(sorted(store.connections))
            self._world.tell(_host, f"ends connection {connection}")
            store.disconnect(connection)

    def _move_database_clock(self) -> None:
        self._struck()
        by_ms = self._chance.choice((-3_000, -400, 400, 3_000))
        self._world.tell(_host, f"moves its clock by {by_ms} ms")
        self._cluster.server.ahead_us += by_ms * MS
