"""What the settings of coordinators, workers and clients share."""

import os
import socket
import time
from collections.abc import Sequence
from typing import Final, Literal, Self

from pydantic import field_validator, model_validator

from mainspring.dial import Keepalive, default_grpc_port, parse_addresses
from mainspring.limits import name_bytes_max
from mainspring.settings_model import declare
from mainspring.settings_security import Calling, Serving

day_ms: Final = 24 * 3600 * 1000
_NAME: Final = rf"^[A-Za-z0-9_.:@+=-]{{1,{name_bytes_max}}}$"
_NAME_ALLOWED: Final = f"1 to {name_bytes_max} letters, digits and `_.:@+=-`"
host_pattern: Final = r"^[A-Za-z0-9_.:%\[\]-]{1,255}$"
host_allowed: Final = "a host name or an IP address"


def _default_instance_id() -> str:
    # The guide's form of the name. It tells instances apart for people; no decision rests on the time in it.
    return f"engine_{os.getpid()}_{time.time_ns() // 1_000_000}"


class Part(Calling):
    """What every part reads."""

    config_file: str | None = declare(
        "MAINSPRING_CONFIG", "a TOML file with settings; as a flag, `--config`", None, allowed="a path", shown="none"
    )
    log_level: Literal["debug", "info", "warning", "error"] = declare(
        "LOG_LEVEL", "the least severe lines that are logged", "info", allowed="`debug`, `info`, `warning`, `error`"
    )
    node_env: str | None = declare("NODE_ENV", "accepted and ignored", None, allowed="anything", shown="none")
    keepalive_time_ms: int = declare("KEEPALIVE_TIME", "ms between transport pings", 5_000, low=100, high=day_ms)
    keepalive_timeout_ms: int = declare(
        "KEEPALIVE_TIMEOUT", "ms that a transport ping may take", 5_000, low=100, high=day_ms
    )
    keepalive_ping_timeout_ms: int = declare(
        "KEEPALIVE_PING_TIMEOUT",
        "ms until a stopped peer counts as gone although its kernel still answers",
        5_000,
        low=100,
        high=day_ms,
    )

    @property
    def keepalive(self) -> Keepalive:
        """The transport's pings, as `mainspring.dial` takes them."""
        return Keepalive(self.keepalive_time_ms, self.keepalive_timeout_ms, self.keepalive_ping_timeout_ms)


class Contact(Part):
    """Where clients and workers find a cluster."""

    mainspring_address: str = declare(
        "MAINSPRING_ADDRESS",
        "the coordinators to begin with",
        f"127.0.0.1:{default_grpc_port}",
        allowed="`host:port`, several separated by commas",
    )

    @field_validator("mainspring_address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        parse_addresses(value)
        return value

    @property
    def addresses(self) -> Sequence[str]:
        """The coordinators to begin with, each as "host:port"."""
        return parse_addresses(self.mainspring_address)


class Instance(Part, Serving):
    """Who a process is, and how long its streams may be silent."""

    engine_instance_id: str = declare(
        "ENGINE_INSTANCE_ID",
        "the instance's name in lists, logs and metrics",
        _default_instance_id,
        allowed=_NAME_ALLOWED,
        shown="`engine_<pid>_<epoch ms>`",
        pattern=_NAME,
    )
    hostname: str = declare(
        "HOSTNAME",
        "the host that it says it runs on",
        socket.gethostname,
        allowed=host_allowed,
        shown="the system's host name",
        pattern=host_pattern,
    )
    heartbeat_interval_ms: int = declare(
        "HEARTBEAT_INTERVAL",
        "ms between application heartbeats on a stream, and between detection passes",
        30_000,
        low=100,
        high=3_600_000,
    )
    failure_detection_timeout_ms: int = declare(
        "FAILURE_DETECTION_TIMEOUT",
        "ms after which a peer whose stream is open but silent is lost; at least 3 x HEARTBEAT_INTERVAL",
        90_000,
        low=300,
        high=day_ms,
    )
    http_host: str = declare(
        "HTTP_HOST",
        "the address that /health, /ready and /metrics are served on",
        "127.0.0.1",
        allowed=host_allowed,
        pattern=host_pattern,
    )
    otel_traces_exporter: Literal["none", "otlp"] = declare(
        "OTEL_TRACES_EXPORTER",
        "whether OpenTelemetry traces are sent (docs/traces.md); where to is said by OpenTelemetry's own variables",
        "none",
        allowed="`none`, `otlp`",
    )

    @model_validator(mode="after")
    def _check_silence(self) -> Self:
        if self.failure_detection_timeout_ms < 3 * self.heartbeat_interval_ms:
            raise ValueError(
                "FAILURE_DETECTION_TIMEOUT >= 3 x HEARTBEAT_INTERVAL does not hold: "
                f"{self.failure_detection_timeout_ms} < 3 x {self.heartbeat_interval_ms}; raise one or lower the other"
            )
        return self
