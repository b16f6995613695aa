"""All processes of a run, by name, and what can be done to them."""

from dataclasses import dataclass, field

from mainspring.settings import CoordinatorSettings
from mainspring.v1 import worker_pb2 as wire
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_worker.attempts import Phase
from mainspring_worker.config import WorkerConfig
from tests.simulation.coordinator import Coordinator
from tests.simulation.database import Server
from tests.simulation.network import Network
from tests.simulation.process import Process
from tests.simulation.wire import Wires
from tests.simulation.witness import Witness
from tests.simulation.worker import SimWorker
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Profile:
    """What a run is made of; times in milliseconds."""

    coordinators: int
    workers: int
    shards: int
    slots: int
    lease_ms: int = 1_000
    heartbeat_ms: int = 500
    silence_ms: int = 2_500
    grace_ms: int = 600
    workflows_open: int = 8
    cancel_grace_ms: int = 2_000
    step_nodes: int = 500
    """How much a step of the engine may do; few let long acts fall apart into many."""
    small: bool = False
    """Whether the bounds are as small as the cluster."""
    strategy: str = "load-balanced"
    limited: bool = False
    """Whether workflows have nodes with concurrency keys."""
    operated: bool = False
    """Whether operators act on it."""


@dataclass(slots=True, eq=False)
class Cluster:
    """The processes that there are, and the dead ones."""

    world: World
    profile: Profile
    network: Network = field(init=False)
    witness: Witness = field(init=False)
    server: Server = field(init=False)
    wires: Wires = field(init=False)
    coordinators: dict[str, Coordinator] = field(default_factory=dict[str, Coordinator])
    workers: dict[str, SimWorker] = field(default_factory=dict[str, SimWorker])
    processes: list[Process] = field(default_factory=list[Process])
    """All that ever were."""
    _paused_us: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self.network = Network(self.world)
        self.witness = Witness(self.world, self.profile.lease_ms * 1_000)
        self.server = Server(self.world, self.network, self.witness, self.profile.shards)
        self.witness.is_locked = lambda incarnation: incarnation in self.server.store.locks
        self.wires = Wires(self.world, self.network)
        self.wires.sent = self._sent

    def _sent(self, process: Process, message: wire.AttachRequest | wire.AttachResponse) -> None:
        if isinstance(message, wire.AttachRequest):
            for item in message.inventory:
                self.witness.stated(process, item.shard, item.epoch, item.running)
            self._check_results(process)
        else:
            self.witness.sent([(item.shard, item.id) for item in message.assignments])
            if message.credit_seq:
                self.check_credit()

    def _check_results(self, process: Process) -> None:
        """Hold how many results a worker keeps to its bound, beyond which it asks for no work."""
        worker = self.workers[process.name]
        kept = [a for a in worker.worker._machine.attempts.values() if a.phase is Phase.FINISHED]
        self.witness.hold(len(kept) <= 3 * worker.config.slots, 9, f"{worker.name} keeps {len(kept)} results")

    @property
    def coordinator_names(self) -> list[str]:
        """Return the names of all coordinators, started or not."""
        return [f"c{number}" for number in range(1, self.profile.coordinators + 1)]

    @property
    def worker_names(self) -> list[str]:
        """Return the names of all workers, started or not."""
        return [f"w{number}" for number in range(1, self.profile.workers + 1)]

    def start_coordinator(self, name: str) -> None:
        """Start one, unless it runs."""
        present = self.coordinators.get(name)
        if present is not None and present.process.alive and not present.stopped:
            return
        profile = self.profile
        settings = CoordinatorSettings.of(
            ENGINE_INSTANCE_ID=name,
            DISTRIBUTED_MODE=True,
            SHARDS=profile.shards,
            LEASE_TIMEOUT=profile.lease_ms,
            HEARTBEAT_INTERVAL=profile.heartbeat_ms,
            FAILURE_DETECTION_TIMEOUT=profile.silence_ms,
            STREAM_GRACE=profile.grace_ms,
        )
        config = EngineConfig(
            instance=name,
            stream_grace_us=profile.grace_ms * 1_000,
            cancel_grace_us=profile.cancel_grace_ms * 1_000,
            timeout_slack_us=200_000,
            # Small, so that outputs leave memory and are asked for again.
            payload_cache_bytes=400,
            # Short, so that the low priorities rise in a run.
            priority_ageing_us=100_000,
            step_nodes=profile.step_nodes,
            strategy=profile.strategy,
        )
        self.world.tell(name, "starts")
        self.coordinators[name] = Coordinator(self._process(name), self.server, self.wires, settings, config)

    def start_worker(self, name: str) -> None:
        """Start one, unless it runs."""
        present = self.workers.get(name)
        if present is not None and present.process.alive and not present.stopped:
            return
        profile = self.profile
        config = WorkerConfig(
            name=name,
            addresses=self.coordinator_names,
            slots=profile.slots,
            workflows_max=4,
            host=f"host{ord(name[-1]) % 2}",
            zone=f"zone{ord(name[-1]) % 2}",
            heartbeat_interval_ms=profile.heartbeat_ms,
            failure_detection_timeout_ms=profile.silence_ms,
            drain_ms=2_000,
        )
        self.world.tell(name, "starts")
        self.workers[name] = SimWorker(self._process(name), self.wires, self.witness, config)

    def _process(self, name: str) -> Process:
        # Two clocks may differ from the truth by 2 %: see how T is derived from L.
        process = Process(self.world, name, drift=self.world.chance.uniform(-0.01, 0.01))
        self.processes.append(process)
        return process

    def kill(self, name: str) -> bool:
        """Kill a process; tell whether it was alive."""
        host = self.coordinators.get(name) or self.workers.get(name)
        if host is None or not host.process.alive:
            return False
        self.world.tell(name, "is killed")
        host.process.kill()
        if isinstance(host, Coordinator):
            host.store.client.died()
        for stream in self.wires.streams:
            for end in (stream.client, stream.server):
                if end.process is host.process:
                    stream.died(end)
        return True

    def start_all(self) -> None:
        """Start whatever does not run."""
        for name in self.coordinator_names:
            self.start_coordinator(name)
        for name in self.worker_names:
            self.start_worker(name)

    def pause(self, name: str) -> bool:
        """Pause a process; tell whether it ran."""
        process = self.process_of(name)
        if process is None or process.paused:
            return False
        self.world.tell(name, "is paused")
        self._paused_us[name] = self.world.now_us
        process.pause()
        self.wires.find_dead()
        return True

    def resume(self, name: str) -> None:
        """Let a process go on."""
        process = self.process_of(name)
        if process is not None and process.paused:
            self.world.tell(name, "goes on")
            worker = self.workers.get(name)
            if worker is not None and self.world.now_us - self._paused_us[name] > worker.stall_us:
                self.witness.went_on(process, worker.begun)
            process.resume()

    def process_of(self, name: str) -> Process | None:
        """Return the process of this name that is alive."""
        host = self.coordinators.get(name) or self.workers.get(name)
        return host.process if host is not None and host.process.alive else None

    def cut(self, one: str, other: str) -> None:
        """Cut a link."""
        self.world.tell(one, f"is cut off from {other}")
        self.network.cut(one, other)
        self.wires.find_dead()

    def heal(self, one: str, other: str) -> None:
        """Heal a link."""
        self.network.heal(one, other)
        self._healed()

    def heal_all(self) -> None:
        """Heal every link."""
        self.network.heal_all()
        self._healed()

    def _healed(self) -> None:
        for stream in self.wires.streams:
            stream.healed()

    def take_down(self) -> None:
        """After the run: end everything."""
        for process in self.processes:
            process.take_down()

    def at_rest(self) -> str:
        """Return what is not as it should be when all has ended, empty if nothing is."""
        holders = [row.holder for row in self.server.store.tables.shards.values()]
        serving: dict[int, int] = {}
        for coordinator in self.coordinators.values():
            if not coordinator.started:
                return f"{coordinator.name} has not started"
            for shard in coordinator.loop.serving:
                serving[shard] = serving.get(shard, 0) + 1
            if (
                coordinator.loop.engine.open_workflows
                or coordinator.loop.queue_depth
                or coordinator.loop.oldest_batch_us()
            ):
                return f"{coordinator.name} is not idle"
            if len(coordinator.fleet.book) != len(self.workers):
                return f"{coordinator.name} has {len(coordinator.fleet.book)} workers"
        if None in holders or serving != dict.fromkeys(range(self.profile.shards), 1):
            return f"shards are served {serving}"
        for worker in self.workers.values():
            machine = worker.worker._machine
            if not machine.idle:
                return f"{worker.name} has {list(machine.attempts)}"
        if self.server.store.tables.permits:
            return f"permits are out: {list(self.server.store.tables.permits)}"
        return ""

    def check_credit(self) -> None:
        """Hold what coordinators believe of each worker's slots against the slots."""
        for worker in self.workers.values():
            if not worker.process.alive or not hasattr(worker, "worker"):
                continue
            believed = 0
            for stream in worker.worker._links.attached.values():
                connection = stream._call.connection  # type: ignore[union-attr]
                coordinator = self.coordinators.get(connection.server.process.name)
                if (
                    coordinator is None
                    or coordinator.process is not connection.server.process
                    or connection.server.closed
                ):
                    continue
                believed += next(
                    (
                        state.credit
                        for session in coordinator.fleet._sessions
                        if session._context.connection is connection  # type: ignore[attr-defined]
                        and (state := coordinator.loop._engine.state.workers.get(session.number)) is not None
                    ),
                    0,
                )
            self.witness.hold(
                believed <= self.profile.slots,
                6,
                f"{believed} slots of {worker.name} are promised, it has {self.profile.slots}",
            )
