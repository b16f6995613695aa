"""A coordinator, put together: election, control loop, services, probes; started in order, stopped in the opposite one.

The election decides what we own and tells the control loop; the loop keeps the state; the services are its doors. Nothing here
decides anything.
"""

import asyncio
import gc
import os
import secrets
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import grpc.aio
import structlog

from mainspring import limits
from mainspring.authentication import Authenticator
from mainspring.channels import check
from mainspring.clock import BootClock, calendar_us
from mainspring.dial import open_channel, server_options
from mainspring.errors import SettingsError
from mainspring.http_listener import HttpListeners
from mainspring.settings import CoordinatorSettings
from mainspring.tls import server_credentials
from mainspring.usage import Usage
from mainspring.v1 import worker_pb2
from mainspring_coordinator.admin import Build
from mainspring_coordinator.auth.gate import Gate
from mainspring_coordinator.configuration import dynamic_config, engine_config
from mainspring_coordinator.dynamic import Dynamic, RecentAttempts
from mainspring_coordinator.election import Election, Vitals
from mainspring_coordinator.engine.events import PeersSeen
from mainspring_coordinator.engine.eviction import incarnations_of
from mainspring_coordinator.engine.operator_events import EvictionsSeen, PausesSeen, StrategySeen
from mainspring_coordinator.engine.pauses import ClusterPauses
from mainspring_coordinator.engine.strategy import home
from mainspring_coordinator.epoch import View
from mainspring_coordinator.loop import ControlLoop
from mainspring_coordinator.metrics import Metrics
from mainspring_coordinator.plans import PlanCache
from mainspring_coordinator.probes import metrics_handler, page_handler, probe_handlers, ready_checks
from mainspring_coordinator.readings import Fleet, Reading
from mainspring_coordinator.record import Record
from mainspring_coordinator.redis_cache import RedisCache
from mainspring_coordinator.retention import Retention
from mainspring_coordinator.services import Services, add_services
from mainspring_coordinator.session import FleetTimings
from mainspring_coordinator.shard_loader import ShardLoader
from mainspring_coordinator.status_page import Owner, Status
from mainspring_coordinator.store.errors import errors_met
from mainspring_coordinator.store.open import open_store
from mainspring_coordinator.store.protocol import Attempts, Journal, ShardRow
from mainspring_coordinator.store.revision import revision_wanted
from mainspring_coordinator.webhook import Webhook
from mainspring_coordinator.withdrawal import Withdrawal

if TYPE_CHECKING:
    from mainspring_coordinator.traces import TracedLoop

_log: Final = structlog.get_logger(__name__)
_version: Final = version("mainspring")
_reading_threads: Final = 3
_server_grace_s: Final = 1.0
_collect_after: Final = (50_000, 20, 1_000)
"""Allocations before the young are collected, and so on. A full collection looks at all workflows in memory and holds the loop for it,
while hardly anything here is part of a cycle: at Python's own thresholds it took a fifth of the time under load."""
_thread_switch_s: Final = 0.0005
"""The journal's thread and the event loop take turns in the interpreter; the default of 5 ms would be added to many a commit."""


class Coordinator:
    """Implements `election.Listener` and `probes.Probed`."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        """Must be made on the event loop that it serves on."""
        sys.setswitchinterval(_thread_switch_s)
        gc.freeze()  # what is imported stays
        gc.set_threshold(*_collect_after)
        self._settings = settings
        settings.demand_closed_doors()
        check(settings.access)
        self._engine_config = engine_config(settings)
        self._store = open_store(
            settings.database_url,
            lock_timeout_ms=settings.lock_timeout_ms,
            lock_socket_timeout_ms=settings.lock_query_timeout_ms,
        )
        self._clock = BootClock()
        self._withdrawal = Withdrawal(self._clock, lambda: self._loop.engine.state.peers_have_workers)
        self._usage = Usage()
        self._metrics = Metrics(settings.engine_instance_id, self._usage)
        self._traces = self._open_traces()
        redis_url = settings.redis_url
        self._redis = RedisCache(redis_url, settings.cluster_name, self._metrics, self._clock) if redis_url else None
        self._threads = ThreadPoolExecutor(_reading_threads, thread_name_prefix="recovery")
        self._plans = PlanCache()
        self._authenticator = Authenticator(settings)
        gate = Gate(self._authenticator, settings.max_call_rate, refused=self._metrics.call_refused)
        self._server = grpc.aio.server(options=server_options(settings.keepalive), interceptors=(gate,))
        self.grpc_port = self._listen()
        self._http = HttpListeners(
            settings,
            self._authenticator,
            probe_handlers(self, self._usage),
            metrics_handler(self._metrics),
            pages={"/": page_handler(self)},
            host=settings.http_host,
            port=settings.http_port,
            probe_port=settings.http_probe_port if settings.tls.cert else None,
        )
        self._services: Services | None = None
        self._record: Record | None = None
        self._dynamic: Dynamic | None = None
        self._retention: Retention | None = None
        self._attempts = RecentAttempts(settings.dynamic_failure_window_ms * 1_000)
        self._strategy = ""
        self._pauses = ClusterPauses()
        self._cluster = ""
        self._healthy: bool | None = None
        """What the gRPC health service says; None before calls are served."""
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: Sequence[tuple[str, str, str]] = ()
        self._standing_by = False
        self._election: Election
        self._loop: ControlLoop

    def _open_traces(self) -> "TracedLoop | None":
        if self._settings.otel_traces_exporter == "none":
            return None
        # Loaded here, because OpenTelemetry is an extra.
        from mainspring_coordinator.traces import TracedLoop  # noqa: PLC0415

        return TracedLoop(self._metrics, self._settings.engine_instance_id)

    def _listen(self) -> int:
        settings = self._settings
        host, port = settings.grpc_host, settings.grpc_port
        try:
            if not settings.tls.cert:
                return self._server.add_insecure_port(f"{host}:{port}")
            credentials = server_credentials(settings.tls, client_certs=settings.wants_client_certs)
            return self._server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as error:
            raise SettingsError(
                f"GRPC_PORT: cannot listen on {host}:{port}; free the port or set GRPC_PORT (0: a free one) or GRPC_HOST"
            ) from error

    @property
    def grpc_address(self) -> str:
        """The address under which others reach the gRPC server."""
        return f"{self._settings.reachable_host}:{self.grpc_port}"

    @property
    def http_address(self) -> str:
        """The address of the HTTP server."""
        return f"{self._settings.http_host}:{self._http.port}"

    @property
    def probes_address(self) -> str:
        """Where `/health` and `/ready` answer plain calls."""
        return f"{self._settings.http_host}:{self._http.probe_port}"

    async def start(self) -> None:
        """Begin; return when the first term has begun and calls are served. Raises as `Election.start`."""
        settings = self._settings
        await self._http.start()
        self._election = Election(
            self._store,
            settings,
            self,
            self._vitals,
            self._metrics,
            grpc_address=self.grpc_address,
            http_address=self.http_address,
        )
        loader = ShardLoader(self._store.reader(), self._threads)
        self._loop = ControlLoop(
            self._engine_config,
            settings.shards,
            loader,
            now_us=self._election.now_us,
            fresh=self._election.fresh,
            new_batch_id=lambda: secrets.token_bytes(16),
            observer=self._traces or self._metrics,
            give_up=self._election.give_up,
            cache=self._redis,
        )
        self._metrics.watch(self._read)
        self._loop.on_shard_lost(self._metrics.shard_lost)
        cluster = await self._election.start()
        self._loop.shards_total = cluster.shards_total
        self._cluster = cluster.name
        self._services = await add_services(
            self._server,
            loop=self._loop,
            directory=self._election,
            reader=self._store.reader(),
            plans=self._plans,
            build=Build(cluster.name, _version, revision_wanted, self._store.description),
            strategy=lambda: self._loop.engine.strategy,
            counts=self._metrics,
            timings=FleetTimings(
                settings.heartbeat_interval_ms, settings.failure_detection_timeout_ms, settings.stream_grace_ms
            ),
            withdrawal=self._withdrawal,
            release=self._election.release,
            vitals=self._said_to_workers,
            dial=partial(open_channel, access=settings.access),
        )
        self._record = Record(
            self._loop,
            self._services.reads,
            loader,
            self._metrics,
            self._clock,
            webhook=self._webhook(cluster.name),
            failover=settings.enable_failover,
            heartbeat_ms=settings.heartbeat_interval_ms,
        )
        self._record.start()
        self._dynamic = Dynamic(
            self._loop,
            lambda: self._loop.engine,
            self._services.fleet.book.entries.values,
            self._attempts,
            self._services.reads,
            self._election,
            self._election.strategies,
            dynamic_config(settings),
            self._metrics,
            period_ms=settings.heartbeat_interval_ms,
        )
        self._dynamic.start()
        self._retention = Retention(
            self._loop,
            self._services.reads,
            self._metrics,
            self._clock,
            keep_ms=settings.retention_ms,
            is_behind=self._is_behind,
        )
        self._retention.start()
        await self._server.start()
        await self._services.set_serving(True)
        self._healthy = True
        _log.info(
            "serving",
            grpc=self.grpc_address,
            http=self.http_address,
            probes=self.probes_address,
            cluster=cluster.name,
            database=self._store.description,
            pid=os.getpid(),
        )

    async def stop(self) -> None:
        """Give up the shards for others to take at once, say goodbye, and end; bounded."""
        self._draining = True
        for passes in (self._record, self._dynamic, self._retention):
            if passes is not None:
                await passes.close()
        if self._services is not None:
            self._election.withdraw()
            await self._loop.release_shards(list(self._loop.serving))
            await self._services.leave()
        await self._server.stop(_server_grace_s)
        if self._services is not None:
            await self._services.close()
        if hasattr(self, "_election"):
            await self._election.stop()
            self._loop.end_term("the coordinator stops")
        if self._redis is not None:
            await self._redis.close()
        await self._http.stop()
        if self._traces is not None:
            await self._traces.close()
        self._plans.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._store.close)

    # -- election.Listener -------------------------------------------------------------------------------------------------

    def on_term(self, incarnation: str, journal: Journal) -> None:
        """A term began."""
        _log.info("term_began", incarnation=incarnation)
        self._metrics.term_began()
        self._loop.begin_term(journal)
        if self._services is not None:
            self._services.fleet.accepting = True

    def on_taken(self, row: ShardRow) -> None:
        """A shard became ours."""
        self._loop.take_shard(row)

    def on_release_wanted(self, shards: Sequence[int]) -> None:
        """Others should own these."""
        self._spawn(self._loop.release_shards(shards))

    def on_peers(self, view: View) -> None:
        """See `election.Listener`."""
        epochs = {shard: row.epoch for shard, row in view.shards.items()}
        have_workers = view.peers_have_workers(self._election.incarnation)
        evicted = [name for row in view.shards.values() for name in incarnations_of(row.evicted)]
        standing = view.shards[home]
        self._loop.looked(
            epochs,
            PeersSeen(have_workers, len(view.live)),
            StrategySeen(standing.strategy),
            PausesSeen(standing.pauses),
            EvictionsSeen(evicted),
        )
        self._note_standby(view)
        if self._record is not None:
            self._record.looked(view)
        live = self._election.coordinators()
        if live != self._known and self._services is not None:
            self._known = live
            self._services.fleet.coordinators_changed()

    def on_term_lost(self, reason: str) -> None:
        """The term is over."""
        _log.warning("term_lost", reason=reason)
        if not self._draining:
            self._metrics.term_lost()
        self._loop.end_term(reason)
        if self._services is not None and not self._draining:
            fleet = self._services.fleet
            fleet.accepting = False
            message = "this coordinator lost its term; attach again"
            self._spawn(fleet.dismiss(worker_pb2.GOODBYE_REASON_STEPPING_DOWN, message))

    def on_tick(self) -> None:
        """The event loop turns."""
        self._loop.tick()
        state = self._loop.engine.state
        self._attempts.note(self._clock.now_us(), Attempts(state.attempts_ended, state.attempts_failed))
        self._note_strategy(self._loop.engine.strategy)
        self._note_pauses(state.ready.pauses)
        self._agree_on_health()

    # -- probes.Probed -----------------------------------------------------------------------------------------------------

    @property
    def instance_id(self) -> str:
        """ENGINE_INSTANCE_ID."""
        return self._settings.engine_instance_id

    def loop_silent_us(self) -> int:
        """Return since when the control loop has not run."""
        return self._election.loop_silent_us() if hasattr(self, "_election") else 0

    def database_silent_us(self) -> int | None:
        """Return since when the database has not answered, None when it never did."""
        return self._election.database_silent_us() if hasattr(self, "_election") else None

    def lock_held(self) -> bool:
        """Tell whether a term is under way and its lease fresh."""
        return hasattr(self, "_election") and self._election.fresh()

    def draining(self) -> bool:
        """Tell whether the process is about to stop."""
        return self._draining

    def active_workflows(self) -> int:
        """Return how many unfinished workflows are ours."""
        return self._loop.engine.open_workflows if hasattr(self, "_loop") else 0

    def status(self) -> Status:
        """Return what the page for people shows."""
        unready = [check.error for check in ready_checks(self) if check.error is not None]
        if self._services is None:
            return Status(self.instance_id, _version, "", self._store.description, unready, 0, "", (), (), 0, ())
        election, loop = self._election, self._loop
        owners = [
            Owner(row.name, row.incarnation, row.grpc_address, row.http_address, row.attached_workers)
            for row in election.live_rows()
        ]
        held = [election.owner_of(shard) for shard in range(loop.shards_total)]
        return Status(
            name=self.instance_id,
            version=_version,
            cluster=self._cluster,
            database=self._store.description,
            unready=unready,
            open_workflows=self.active_workflows(),
            strategy=loop.engine.strategy,
            owners=owners,
            shards=[owner[0] if owner is not None else "" for owner in held],
            serving=len(loop.serving),
            workers=self._services.fleet.book.messages(self._clock.now_us()),
            pauses=loop.engine.state.ready.pauses,
            paused_workflows=len(loop.engine.state.ready.paused),
        )

    # -- within ------------------------------------------------------------------------------------------------------------

    def _note_standby(self, view: View) -> None:
        """Say once that we own nothing because there are more coordinators than shards."""
        spare = len(view.live) > len(view.shards) and self._election.incarnation not in view.holders.values()
        if spare and not self._standing_by:
            _log.info(
                "standing_by",
                coordinators=len(view.live),
                shards=len(view.shards),
                action="serves clients by forwarding, and takes shards over when another coordinator ends",
            )
        self._standing_by = spare

    def _agree_on_health(self) -> None:
        """Let the gRPC health service say what `/ready` says, once calls are served and until we leave."""
        serving = all(check.error is None for check in ready_checks(self))
        if self._services is not None and self._healthy is not None and serving != self._healthy and not self._draining:
            self._healthy = serving
            self._spawn(self._services.set_serving(serving))

    def _note_strategy(self, in_force: str) -> None:
        if self._strategy not in ("", in_force):
            _log.info("strategy_in_force", before=self._strategy, strategy=in_force)
        self._strategy = in_force

    def _note_pauses(self, pauses: ClusterPauses) -> None:
        before, self._pauses = self._pauses, pauses
        if (pauses.everything, pauses.executors) != (before.everything, before.executors):
            _log.info("pauses_in_force", everything=pauses.everything is not None, executors=len(pauses.executors))

    def _read(self) -> Reading:
        """Look at everything that metrics tell of; on the event loop."""
        loop, election, services = self._loop, self._election, self._services
        silent_us = election.database_silent_us()
        return Reading(
            state=loop.engine.state,
            strategy=loop.engine.strategy,
            open_workflows=loop.engine.open_workflows,
            events_queued=loop.queue_depth,
            fleet=services.fleet.book.fleet() if services is not None else Fleet(),
            shards_total=loop.shards_total,
            shards_owned=len(loop.owned()),
            shards_serving=len(loop.serving),
            shards_without_owner=sum(election.owner_of(shard) is None for shard in range(loop.shards_total)),
            lease_held=election.fresh(),
            database_silent_s=silent_us / 1_000_000 if silent_us is not None else None,
            database_errors=errors_met(),
            database_us=election.now_us() if loop.engine.state.shards else 0,
            now_us=self._clock.now_us(),
            calendar_us=calendar_us(),
            oldest_ended_us=self._retention.oldest_ended_us() if self._retention is not None else None,
        )

    def _is_behind(self) -> bool:
        """Tell whether the journal or the loop have more than they get done at once."""
        slow = self._loop.oldest_batch_us() > limits.retention_behind_ms * 1_000
        return slow or self._loop.queue_depth > limits.retention_behind_events

    def _said_to_workers(self) -> tuple[str, str]:
        silent_us = self._election.database_silent_us()
        up = silent_us is not None and silent_us < self._settings.lease_timeout_ms * 1_000
        return "up" if up else "down", "held" if self.lock_held() else "not_held"

    def _webhook(self, cluster: str) -> Webhook | None:
        url = self._settings.failover_webhook_url
        return Webhook(url, self._settings.failover_webhook_secret, cluster) if url is not None else None

    def _vitals(self) -> Vitals:
        attached = self._withdrawal.attached(self._attached_workers())
        return Vitals(self._loop.oldest_batch_us(), attached, self._loop.owned(), self._attempts.recent)

    def _attached_workers(self) -> int:
        services = self._services  # the election's thread asks too, and may do so while we stop
        return len(services.fleet.book) if services is not None else 0

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", exc_info=error)
