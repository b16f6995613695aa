"""What an operator may change: one model for environment, flags and a file.

A setting has one name everywhere: `HEARTBEAT_INTERVAL` in the environment, `--heartbeat-interval` as a flag,
`heartbeat_interval` in the file. A flag wins over the environment, the environment over the file, the file over the
default. The file is TOML, named by `--config` or `MAINSPRING_CONFIG`; all parts of a cluster may share one, so a part
passes over what only its neighbours know. An unknown name in the file or among the flags is refused; the environment is
full of names that are not ours.

Times are milliseconds, and the fields that hold them end in `_ms`. Values that do not fit each other are refused at
start with the inequality that they break. Secrets appear neither in errors nor in `effective`. docs/settings.md is the
table for users.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from mainspring.dial import default_grpc_port, default_http_port
from mainspring.limits import (
    attempts_max,
    call_rate_max,
    cluster_name_bytes_max,
    executor_bytes_max,
    executors_a_worker_max,
    locality_wait_ms_max,
    open_workflows_a_shard_max,
    priority_ageing_ms_max,
    reconnect_delay_ms_max,
    shards_max,
    slots_max,
)
from mainspring.rates import Rate, parse_rates
from mainspring.settings_model import declare
from mainspring.settings_parts import Contact, Instance, day_ms, host_allowed, host_pattern
from mainspring.settings_security import Door, exactly_true, unless_false

_CLUSTER: Final = rf"^[A-Za-z0-9_.-]{{1,{cluster_name_bytes_max}}}$"
_CLUSTER_ALLOWED: Final = f"1 to {cluster_name_bytes_max} letters, digits and `_.-`"
_WILDCARDS: Final = frozenset({"0.0.0.0", "::", "[::]"})  # noqa: S104  (compared with, never bound)

Strategy = Literal["load-balanced", "round-robin", "capability", "locality", "affinity", "dynamic"]


class CoordinatorSettings(Instance):
    """What a coordinator reads."""

    database_url: str = declare(
        "DATABASE_URL",
        "where the state lives; SQLite serves one coordinator",
        "sqlite:///mainspring.db",
        allowed="`mysql://user:password@host:3306/database`, `mysql+pymysql://…`, `mariadb://…`, `sqlite:///path`",
        shown="sqlite:///mainspring.db (a file in the working directory)",
        secret=True,
    )
    redis_url: str | None = declare(
        "REDIS_URL",
        "where the result cache is; needs the extra `redis`",
        None,
        allowed="`redis://:password@host:6379/0`, `rediss://…`, `unix://…`",
        shown="none: in the database",
        secret=True,
        pattern=r"^(rediss?|unix)://.+",
    )
    distributed_mode: Annotated[bool, BeforeValidator(exactly_true)] = declare(
        "DISTRIBUTED_MODE",
        "several coordinators share the work; off, one owns all and refuses to start beside another",
        default=False,
        allowed="on only if exactly `true`",
        shown="off",
    )
    enable_failover: Annotated[bool, BeforeValidator(unless_false)] = declare(
        "ENABLE_FAILOVER",
        "the work of a dead worker or coordinator goes elsewhere; off, deaths are recorded and alerted, and the work waits for one of "
        "the same name",
        default=True,
        allowed="off only if exactly `false`",
        shown="on",
    )
    assignment_strategy: Strategy = declare(
        "ASSIGNMENT_STRATEGY",
        "how a worker is chosen (docs/placement.md)",
        "load-balanced",
        allowed="`load-balanced`, `round-robin`, `capability`, `locality`, `affinity`, `dynamic`",
    )
    lock_timeout_ms: int = declare(
        "LOCK_TIMEOUT",
        "ms that the lock of a silent coordinator may outlive it where its session cannot be ended; "
        "at least FAILURE_DETECTION_TIMEOUT",
        300_000,
        low=1_000,
        high=day_ms,
    )
    max_retries: int = declare(
        "MAX_RETRIES", "retries after the first attempt, for nodes that set none", 3, low=0, high=attempts_max - 1
    )
    priority_ageing_ms: int = declare(
        "PRIORITY_AGEING",
        "ms after which what waits rises by one level of priority if nothing of its priority was assigned meanwhile",
        30_000,
        low=1,
        high=priority_ageing_ms_max,
    )
    cpu_weight: float = declare("CPU_WEIGHT", "load-balanced: the weight of a worker's cpu", 0.3, low=0, high=1)
    memory_weight: float = declare("MEMORY_WEIGHT", "load-balanced: the weight of its memory", 0.3, low=0, high=1)
    workflow_weight: float = declare("WORKFLOW_WEIGHT", "load-balanced: the weight of its nodes", 0.4, low=0, high=1)
    locality_wait_ms: int = declare(
        "LOCALITY_WAIT",
        "locality: ms that a node waits for a worker near its inputs while another one has room; 0: not at all",
        200,
        low=0,
        high=locality_wait_ms_max,
    )
    max_open_workflows: int = declare(
        "MAX_OPEN_WORKFLOWS",
        "unfinished workflows of one shard; who submits more is told to come back when some have ended",
        100_000,
        low=1,
        high=open_workflows_a_shard_max,
    )
    executor_rates: str = declare(
        "EXECUTOR_RATES",
        "how often attempts of an executor may be started in the whole cluster, retries included (docs/placement.md)",
        "",
        allowed="`executor=count/unit`, several separated by commas; the unit is `s`, `m`, `h` or `d`",
        shown="none",
    )
    dynamic_cpu_threshold: float = declare(
        "DYNAMIC_CPU_THRESHOLD",
        "dynamic: a mean cpu of the workers above this, in percent, speaks for load-balanced",
        80,
        low=0,
        high=100,
    )
    dynamic_round_trip_threshold_ms: int = declare(
        "DYNAMIC_ROUND_TRIP_THRESHOLD",
        "dynamic: a mean round trip of heartbeats above this many ms speaks for locality",
        100,
        low=1,
        high=day_ms,
    )
    dynamic_failure_threshold: float = declare(
        "DYNAMIC_FAILURE_THRESHOLD",
        "dynamic: a share of failed attempts above this speaks for affinity",
        0.1,
        low=0,
        high=1,
    )
    dynamic_failure_window_ms: int = declare(
        "DYNAMIC_FAILURE_WINDOW", "dynamic: ms over which that share is taken", 300_000, low=1_000, high=day_ms
    )
    dynamic_failure_attempts: int = declare(
        "DYNAMIC_FAILURE_ATTEMPTS", "dynamic: of fewer attempts than this no share is taken", 20, low=1, high=1_000_000
    )
    dynamic_hysteresis: float = declare(
        "DYNAMIC_HYSTERESIS",
        "dynamic: the strategy in force stays until its signal is below its threshold by this share of it",
        0.1,
        low=0,
        high=0.9,
    )
    dynamic_dwell_ms: int = declare(
        "DYNAMIC_DWELL", "dynamic: ms that a choice holds at least", 120_000, low=0, high=day_ms
    )
    grpc_host: str = declare(
        "GRPC_HOST", "the address that gRPC is served on", "127.0.0.1", allowed=host_allowed, pattern=host_pattern
    )
    grpc_port: int = declare("GRPC_PORT", "its port; 0: a free one", default_grpc_port, low=0, high=65_535)
    http_port: int = declare(
        "HTTP_PORT", "the port of /health, /ready and /metrics; 0: a free one", default_http_port, low=0, high=65_535
    )
    http_probe_port: int = declare(
        "HTTP_PROBE_PORT",
        "the port of plain /health and /ready where HTTP_PORT is served by TLS; 0: a free one",
        default_http_port + 1,
        low=0,
        high=65_535,
    )
    max_call_rate: int = declare(
        "MAX_CALL_RATE",
        "calls that one caller may make a second, and at once; who makes more is told to come back",
        5_000,
        low=1,
        high=call_rate_max,
    )
    advertise_host: str | None = declare(
        "ADVERTISE_HOST",
        "under what host workers and other coordinators reach this one",
        None,
        allowed=host_allowed,
        shown="GRPC_HOST, or HOSTNAME where that is every address",
        pattern=host_pattern,
    )
    stream_grace_ms: int = declare(
        "STREAM_GRACE",
        "ms in which a worker whose stream dropped may attach again and keep its work",
        2_000,
        low=0,
        high=3_600_000,
    )
    lease_timeout_ms: int = declare(
        "LEASE_TIMEOUT",
        "ms that a coordinator may act after it last renewed its lease; a hung one is replaced about 1.2 x later",
        5_000,
        low=1_000,
        high=600_000,
    )
    failover_webhook_url: str | None = declare(
        "FAILOVER_WEBHOOK_URL",
        "gets a POST for each failover (docs/failovers.md)",
        None,
        allowed="`http://…` or `https://…`",
        shown="none",
        secret=True,
        pattern=r"^https?://.+",
    )
    failover_webhook_secret: str | None = declare(
        "FAILOVER_WEBHOOK_SECRET", "signs these POSTs", None, allowed="any text", shown="none", secret=True
    )
    retention_days: float = declare(
        "RETENTION_DAYS",
        "days that ended workflows, failovers and the audit log are kept, 0.5 say (docs/operating.md); 0: for ever",
        0,
        low=0,
        high=36_500,
    )
    cluster_name: str = declare(
        "CLUSTER_NAME",
        "the cluster's name; fixed when the cluster is made",
        "mainspring",
        allowed=_CLUSTER_ALLOWED,
        pattern=_CLUSTER,
    )
    shards: int = declare(
        "SHARDS",
        "shares of all workflows, the unit of ownership; fixed when the cluster is made, and another number is refused then",
        16,
        shown="16, or what the cluster was made with",
        low=1,
        high=shards_max,
    )

    @field_validator("executor_rates")
    @classmethod
    def _check_rates(cls, value: str) -> str:
        parse_rates(value)
        return value

    @property
    def rates(self) -> Mapping[str, Rate]:
        """EXECUTOR_RATES by executor."""
        return parse_rates(self.executor_rates)

    @model_validator(mode="after")
    def _check_ownership(self) -> Self:
        if self.lock_timeout_ms < self.failure_detection_timeout_ms:
            raise ValueError(
                "LOCK_TIMEOUT >= FAILURE_DETECTION_TIMEOUT does not hold: "
                f"{self.lock_timeout_ms} < {self.failure_detection_timeout_ms}; raise one or lower the other"
            )
        if self.lock_timeout_ms < self.hung_after_ms:
            raise ValueError(
                "LOCK_TIMEOUT >= T = 1.02 x (LEASE_TIMEOUT / 0.98 + 500) does not hold: "
                f"{self.lock_timeout_ms} < {self.hung_after_ms}; raise the first or lower LEASE_TIMEOUT"
            )
        if self.cpu_weight + self.memory_weight + self.workflow_weight == 0:
            raise ValueError(
                "CPU_WEIGHT + MEMORY_WEIGHT + WORKFLOW_WEIGHT > 0 does not hold: all three are 0; raise one of them"
            )
        # Q <= L - H - 0.5 s follows from how Q and H are derived, for every LEASE_TIMEOUT in range.
        assert 0 < self.lock_query_timeout_ms <= self.lease_timeout_ms - self.renew_interval_ms - 500
        return self

    @model_validator(mode="after")
    def _check_peers(self) -> Self:
        if not self.distributed_mode:
            return self
        if self.tls_cert is not None and self.tls_ca is None:
            raise ValueError(
                "TLS_CERT is set without TLS_CA; with DISTRIBUTED_MODE coordinators call each other, and must know whom to trust"
            )
        if self.authenticates and not self.access.has_token and not self.wants_client_certs:
            raise ValueError(
                "AUTH_TOKENS or AUTH_JWKS is set without MAINSPRING_TOKEN_FILE (or MAINSPRING_TOKEN); with DISTRIBUTED_MODE "
                "coordinators call each other, with a token of the role `coordinator`"
            )
        return self

    @property
    def doors(self) -> Sequence[Door]:
        """The listeners that must be secure or on loopback."""
        return (Door("GRPC_HOST", self.grpc_host), Door("HTTP_HOST", self.http_host))

    @property
    def renew_interval_ms(self) -> int:
        """H: between renewals of the lease."""
        return self.lease_timeout_ms // 5

    @property
    def lock_query_timeout_ms(self) -> int:
        """Q: the lock session's socket timeout, so that a slow but successful renewal still lands inside the lease."""
        return min(3_000, self.lease_timeout_ms - self.renew_interval_ms - 500)

    @property
    def poll_interval_ms(self) -> int:
        """P: between looks at all peers, give or take a fifth."""
        return 200

    @property
    def retention_ms(self) -> int:
        """RETENTION_DAYS in ms, at least 1; 0: for ever."""
        return math.ceil(self.retention_days * day_ms)

    @property
    def hung_after_ms(self) -> int:
        """T: a coordinator whose lease row has not changed for this long is hung, and is replaced."""
        # 2 % is the most that two clocks' rates may differ from the truth, 0.5 s what the argument has to spare.
        return round(1.02 * (self.lease_timeout_ms / 0.98 + 500))

    @property
    def newcomer_after_ms(self) -> int:
        """A coordinator gets its share once it has been seen for this long."""
        return 2_000

    @property
    def recovery_grace_ms(self) -> int:
        """How long workers may take to attach to a shard's new owner and keep their work: T, a reconnect, a second."""
        return self.hung_after_ms + reconnect_delay_ms_max + 1_000

    @property
    def lock_session_wait_s(self) -> int:
        """`wait_timeout` of the lock session, in whole seconds."""
        return -(-self.lock_timeout_ms // 1_000)

    @property
    def reachable_host(self) -> str:
        """The host under which others reach this coordinator."""
        return self.advertise_host or (self.hostname if self.grpc_host in _WILDCARDS else self.grpc_host)


class WorkerSettings(Instance, Contact):
    """What a worker reads."""

    supported_executors: tuple[str, ...] | None = declare(
        "SUPPORTED_EXECUTORS",
        "which registered executors it announces, separated by commas; a name that nothing registers stops the start",
        None,
        allowed=f"1 to {executors_a_worker_max} names of at most {executor_bytes_max} bytes",
        shown="all that its modules register",
    )
    max_concurrent_workflows: int = declare(
        "MAX_CONCURRENT_WORKFLOWS", "of how many different workflows it has nodes at once", 10, low=1, high=slots_max
    )
    max_concurrent_nodes: int = declare("MAX_CONCURRENT_NODES", "its slots", 50, low=1, high=slots_max)
    load_report_interval_ms: int = declare(
        "LOAD_REPORT_INTERVAL", "ms between load reports when the load changed", 2_000, low=100, high=3_600_000
    )
    http_port: int = declare(
        "HTTP_PORT", "the port of /health, /ready and /metrics; 0: they are not served", 0, low=0, high=65_535
    )
    http_probe_port: int = declare(
        "HTTP_PROBE_PORT",
        "the port of plain /health and /ready, without TLS whatever TLS_CERT says; 0: none",
        0,
        low=0,
        high=65_535,
    )
    cluster_name: str | None = declare(
        "CLUSTER_NAME",
        "the cluster that it means to join; coordinators of another one refuse it",
        None,
        allowed=_CLUSTER_ALLOWED,
        shown="whichever answers",
        pattern=_CLUSTER,
    )

    @model_validator(mode="after")
    def _check_probes(self) -> Self:
        if self.http_port and self.tls_cert is not None and not self.http_probe_port:
            raise ValueError(
                "HTTP_PORT is served by TLS here, because TLS_CERT is set; set HTTP_PROBE_PORT, where /health and /ready answer without"
            )
        return self

    @property
    def doors(self) -> Sequence[Door]:
        """The listeners that must be secure or on loopback."""
        return (Door("HTTP_HOST", self.http_host),) if self.http_port else ()

    @field_validator("supported_executors", mode="before")
    @classmethod
    def _split_executors(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("supported_executors")
    @classmethod
    def _check_executors(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if not 0 < len(value) <= executors_a_worker_max:
            raise ValueError(f"it names {len(value)} executors")
        for name in value:
            if not name or len(name.encode()) > executor_bytes_max:
                raise ValueError(f"{name[:executor_bytes_max]!r} is no executor's name")
        return tuple(dict.fromkeys(value))


class ClientSettings(Contact):
    """What the SDK and the command read."""
