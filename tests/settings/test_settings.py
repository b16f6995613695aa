"""Names, defaults, precedence and refusals of the settings."""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from mainspring.errors import SettingsError
from mainspring.settings import ClientSettings, CoordinatorSettings, WorkerSettings
from mainspring.settings_model import mask
from mainspring.settings_security import Serving
from tests.settings.reference import rows

BOTH = (CoordinatorSettings, WorkerSettings)
COORDINATOR = (CoordinatorSettings,)
WORKER = (WorkerSettings,)

# The deployment guide's names, their defaults, and who reads them.
GUIDE = [
    ("DATABASE_URL", "database_url", "sqlite:///mainspring.db", COORDINATOR),
    ("REDIS_URL", "redis_url", None, COORDINATOR),
    ("DISTRIBUTED_MODE", "distributed_mode", False, COORDINATOR),
    ("HOSTNAME", "hostname", socket.gethostname(), BOTH),
    ("ASSIGNMENT_STRATEGY", "assignment_strategy", "load-balanced", COORDINATOR),
    ("HEARTBEAT_INTERVAL", "heartbeat_interval_ms", 30000, BOTH),
    ("FAILURE_DETECTION_TIMEOUT", "failure_detection_timeout_ms", 90000, BOTH),
    ("LOCK_TIMEOUT", "lock_timeout_ms", 300000, COORDINATOR),
    ("MAX_RETRIES", "max_retries", 3, COORDINATOR),
    ("PRIORITY_AGEING", "priority_ageing_ms", 30000, COORDINATOR),
    ("ENABLE_FAILOVER", "enable_failover", True, COORDINATOR),
    ("CPU_WEIGHT", "cpu_weight", 0.3, COORDINATOR),
    ("MEMORY_WEIGHT", "memory_weight", 0.3, COORDINATOR),
    ("WORKFLOW_WEIGHT", "workflow_weight", 0.4, COORDINATOR),
    ("SUPPORTED_EXECUTORS", "supported_executors", None, WORKER),
    ("MAX_CONCURRENT_WORKFLOWS", "max_concurrent_workflows", 10, WORKER),
    ("MAX_CONCURRENT_NODES", "max_concurrent_nodes", 50, WORKER),
    ("NODE_ENV", "node_env", None, BOTH),
    ("HTTP_PORT", "http_port", 3000, COORDINATOR),
    ("GRPC_PORT", "grpc_port", 7320, COORDINATOR),
    ("GRPC_HOST", "grpc_host", "127.0.0.1", COORDINATOR),
    ("HTTP_HOST", "http_host", "127.0.0.1", BOTH),
    ("MAINSPRING_ADDRESS", "mainspring_address", "127.0.0.1:7320", (WorkerSettings, ClientSettings)),
    ("STREAM_GRACE", "stream_grace_ms", 2000, COORDINATOR),
    ("LOCALITY_WAIT", "locality_wait_ms", 200, COORDINATOR),
    ("LEASE_TIMEOUT", "lease_timeout_ms", 5000, COORDINATOR),
    ("LOAD_REPORT_INTERVAL", "load_report_interval_ms", 2000, WORKER),
    ("KEEPALIVE_TIME", "keepalive_time_ms", 5000, BOTH),
    ("KEEPALIVE_TIMEOUT", "keepalive_timeout_ms", 5000, BOTH),
    ("KEEPALIVE_PING_TIMEOUT", "keepalive_ping_timeout_ms", 5000, BOTH),
    ("FAILOVER_WEBHOOK_URL", "failover_webhook_url", None, COORDINATOR),
    ("FAILOVER_WEBHOOK_SECRET", "failover_webhook_secret", None, COORDINATOR),
    ("RETENTION_DAYS", "retention_days", 0, COORDINATOR),
    ("CLUSTER_NAME", "cluster_name", "mainspring", COORDINATOR),
    ("CLUSTER_NAME", "cluster_name", None, WORKER),
    ("SHARDS", "shards", 16, COORDINATOR),
]

CERT = {"TLS_CERT": "a", "TLS_KEY": "b"}
Part = type[CoordinatorSettings] | type[WorkerSettings] | type[ClientSettings]


@pytest.mark.parametrize(("name", "field", "default", "parts"), GUIDE, ids=[row[0] for row in GUIDE])
def test_the_guides_names_and_defaults_hold(name: str, field: str, default: object, parts: tuple[Part, ...]) -> None:
    for part in parts:
        assert getattr(part.load((), {}), field) == default
        assert part.reference()[name].field == field


def test_an_instance_without_a_name_is_called_by_pid_and_start() -> None:
    assert re.fullmatch(rf"engine_{os.getpid()}_\d{{13}}", CoordinatorSettings.of().engine_instance_id)


@pytest.mark.parametrize(
    ("text", "distributed", "failover"),
    [
        ("true", True, True),
        ("false", False, False),
        ("True", False, True),
        ("1", False, True),
        ("no", False, True),
        ("", False, True),
    ],
)
def test_switches_need_the_exact_word(text: str, distributed: bool, failover: bool) -> None:
    settings = CoordinatorSettings.load((), {"DISTRIBUTED_MODE": text, "ENABLE_FAILOVER": text})
    assert settings.distributed_mode is distributed
    assert settings.enable_failover is failover


@pytest.mark.parametrize(
    ("flags", "environment", "in_file", "port", "origin"),
    [
        ([], {}, "", 3000, "default"),
        ([], {}, "http_port = 1", 1, "file"),
        ([], {"HTTP_PORT": "2"}, "http_port = 1", 2, "environment"),
        (["--http-port", "3"], {"HTTP_PORT": "2"}, "http_port = 1", 3, "flag"),
        (["--http-port=3"], {}, "HTTP_PORT = 1", 3, "flag"),
        ({"http-port": 3, "grpc_port": None}, {"HTTP_PORT": "2"}, "", 3, "flag"),
        ([], {"HTTP_PORT": ""}, "http_port = 1", 1, "file"),
    ],
)
def test_flags_win_over_environment_over_file_over_default(
    *,
    tmp_path: Path,
    flags: list[str] | Mapping[str, object],
    environment: dict[str, str],
    in_file: str,
    port: int,
    origin: str,
) -> None:
    path = tmp_path / "mainspring.toml"
    path.write_text(in_file)
    settings = CoordinatorSettings.load(flags, {**environment, "MAINSPRING_CONFIG": str(path)})
    assert settings.http_port == port
    assert {item.name: item.origin for item in settings.effective()}["HTTP_PORT"] == origin


def test_a_config_flag_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mainspring.toml"
    path.write_text('distributed_mode = true\nsupported_executors = ["a", "b"]\n')
    assert CoordinatorSettings.load(["--config", str(path)], {}).distributed_mode
    assert WorkerSettings.load(["--config", str(path)], {}).supported_executors == ("a", "b")


def test_a_flag_without_a_value_means_on() -> None:
    settings = CoordinatorSettings.load(["--distributed-mode", "--http-port", "0"], {})
    assert settings.distributed_mode
    assert settings.http_port == 0


def test_executors_are_separated_by_commas() -> None:
    settings = WorkerSettings.load((), {"SUPPORTED_EXECUTORS": "fetch, delete ,fetch,"})
    assert settings.supported_executors == ("fetch", "delete")


BAD: list[tuple[Part, dict[str, object], str]] = [
    (CoordinatorSettings, {"HEARTBEAT_INTERVALL": 1}, "did you mean HEARTBEAT_INTERVAL?"),
    (CoordinatorSettings, {"HTTP_PORT": 70000}, "HTTP_PORT = '70000' (flag): allowed is 0 to 65535"),
    (CoordinatorSettings, {"HTTP_PORT": True}, "HTTP_PORT = 'true' (flag): allowed is 0 to 65535"),
    (CoordinatorSettings, {"CPU_WEIGHT": "nan"}, "CPU_WEIGHT = 'nan' (flag): allowed is 0 to 1"),
    (CoordinatorSettings, {"ASSIGNMENT_STRATEGY": "best"}, "`load-balanced`, `round-robin`"),
    (CoordinatorSettings, {"EXECUTOR_RATES": "fetch=10"}, "'fetch=10' is no rate; write EXECUTOR=COUNT/UNIT"),
    (CoordinatorSettings, {"SHARDS": 0}, "SHARDS = '0' (flag): allowed is 1 to 1024"),
    (CoordinatorSettings, {"ENGINE_INSTANCE_ID": "a b"}, "ENGINE_INSTANCE_ID = 'a b'"),
    (CoordinatorSettings, {"HEARTBEAT_INTERVAL": 40000}, "FAILURE_DETECTION_TIMEOUT >= 3 x HEARTBEAT_INTERVAL"),
    (
        CoordinatorSettings,
        {"LOCK_TIMEOUT": 80000},
        "LOCK_TIMEOUT >= FAILURE_DETECTION_TIMEOUT does not hold: 80000 < 90000",
    ),
    (CoordinatorSettings, {"LEASE_TIMEOUT": 400000}, "LOCK_TIMEOUT >= T"),
    (CoordinatorSettings, {"CPU_WEIGHT": 0, "MEMORY_WEIGHT": 0, "WORKFLOW_WEIGHT": 0}, "raise one of them"),
    (WorkerSettings, {"SUPPORTED_EXECUTORS": " , "}, "it names 0 executors"),
    (WorkerSettings, {"SUPPORTED_EXECUTORS": "x" * 129}, "is no executor's name"),
    (WorkerSettings, {"HEARTBEAT_INTERVAL": 30001}, "90000 < 3 x 30001"),
    (WorkerSettings, {"MAX_CONCURRENT_NODES": 0}, "MAX_CONCURRENT_NODES = '0' (flag): allowed is 1 to 10000"),
    (ClientSettings, {"MAINSPRING_ADDRESS": "http://x"}, "write host:port"),
    (ClientSettings, {"TLS_CERT": "a"}, "TLS_CERT is set without TLS_KEY"),
    (ClientSettings, {"TLS_KEY": "a"}, "TLS_KEY is set without TLS_CERT"),
    (ClientSettings, {"MAINSPRING_TOKEN": "a b"}, "MAINSPRING_TOKEN = '****' (flag)"),
    (ClientSettings, {"MAINSPRING_TOKEN": "a", "MAINSPRING_TOKEN_FILE": "b"}, "are both set; keep one of them"),
    (CoordinatorSettings, {"TLS_CLIENT_CERTS": "required"}, "TLS_CLIENT_CERTS = required needs TLS_CERT"),
    (CoordinatorSettings, {**CERT, "TLS_CLIENT_CERTS": "required", "TLS_CA": "public"}, "as TLS_CA, the file of"),
    (CoordinatorSettings, {"AUTH_JWKS": "a", "AUTH_JWT_ISSUER": "b"}, "AUTH_JWKS needs AUTH_JWT_AUDIENCE"),
    (CoordinatorSettings, {"AUTH_JWT_ISSUER": "b"}, "AUTH_JWT_ISSUER have no effect without AUTH_JWKS"),
    (CoordinatorSettings, {**CERT, "DISTRIBUTED_MODE": "true"}, "TLS_CERT is set without TLS_CA"),
    (CoordinatorSettings, {"AUTH_TOKENS": "a", "DISTRIBUTED_MODE": "true"}, "set without MAINSPRING_TOKEN_FILE"),
    (WorkerSettings, {**CERT, "HTTP_PORT": 3000}, "set HTTP_PROBE_PORT, where /health and /ready answer without"),
]
OPEN: list[tuple[type[Serving], dict[str, object], str]] = [
    (
        CoordinatorSettings,
        {"GRPC_HOST": "0.0.0.0"},
        "GRPC_HOST = 0.0.0.0 lets other hosts connect, without TLS (TLS_CERT, TLS_KEY) and without authentication (AUTH_TOKENS",
    ),
    (CoordinatorSettings, {"GRPC_HOST": "::"}, "GRPC_HOST = :: lets other hosts connect"),
    (CoordinatorSettings, {"GRPC_HOST": "pod-1"}, "GRPC_HOST = pod-1 lets other hosts connect"),
    (CoordinatorSettings, {"HTTP_HOST": "10.0.0.7"}, "HTTP_HOST = 10.0.0.7 lets other hosts connect"),
    (CoordinatorSettings, {"GRPC_HOST": "0.0.0.0", **CERT}, "connect, without authentication"),
    (
        CoordinatorSettings,
        {"GRPC_HOST": "0.0.0.0", "AUTH_TOKENS": "a"},
        "connect, without TLS (TLS_CERT, TLS_KEY); set these",
    ),
    (WorkerSettings, {"HTTP_HOST": "0.0.0.0", "HTTP_PORT": 3000}, "HTTP_HOST = 0.0.0.0 lets other hosts connect"),
]


@pytest.mark.parametrize(("part", "values", "told"), BAD, ids=[told for _, _, told in BAD])
def test_what_is_not_allowed_is_named_with_what_is(part: Part, values: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        part.of(**values)


@pytest.mark.parametrize(("part", "values", "told"), OPEN, ids=[told for _, _, told in OPEN])
def test_a_door_that_is_open_to_other_hosts_is_refused_unless_it_is_said_so(
    part: type[Serving], values: dict[str, object], told: str
) -> None:
    for said in ({}, {"INSECURE": "yes"}):
        with pytest.raises(SettingsError, match=re.escape(told)) as refused:
            part.of(**values, **said).demand_closed_doors()
        assert "INSECURE=true (--insecure)" in str(refused.value)
    part.of(**values, INSECURE="true").demand_closed_doors()
    part.of(**{**values, **CERT, "AUTH_TOKENS": "a", "HTTP_PROBE_PORT": 3001}).demand_closed_doors()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "localhost", "::1", "[::1]"])
def test_loopback_may_be_open(host: str) -> None:
    CoordinatorSettings.of(GRPC_HOST=host, HTTP_HOST=host).demand_closed_doors()


def test_plain_probes_may_be_open() -> None:
    WorkerSettings.of(HTTP_HOST="0.0.0.0").demand_closed_doors()
    WorkerSettings.of(HTTP_HOST="0.0.0.0", HTTP_PROBE_PORT=3000).demand_closed_doors()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("heartbeat = 1", "did you mean HEARTBEAT_INTERVAL?"),
        ("http_port = 1\nHTTP_PORT = 2", "HTTP_PORT stands twice"),
        ("http_port = ", "is not TOML"),
        ('config = "other.toml"', "a file cannot name another"),
        ("http_port = true", "allowed is 0 to 65535"),
        ("http_port = 99999", "HTTP_PORT = '99999' (file)"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mainspring.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(told)):
        CoordinatorSettings.load(["--config", str(path)], {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MAINSPRING_CONFIG: cannot read .*none\.toml"):
        CoordinatorSettings.load((), {"MAINSPRING_CONFIG": str(tmp_path / "none.toml")})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--http-prot", "1"], "'--http-prot' among the flags; did you mean HTTP_PORT?"),
        (["3000"], "'3000' is not a flag"),
        (["--http-port", "1", "--http-port", "2"], "given twice"),
    ],
)
def test_a_bad_flag_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        CoordinatorSettings.load(words, {})


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("mysql://u:p@ss/w:d@h:3306/db?ssl_key=hush&x=1", "mysql://u:****@h:3306/db?ssl_key=****&x=****"),
        ("redis://:hush@h:1/0", "redis://:****@h:1/0"),
        ("https://hooks.example/T0/hush", "https://hooks.example/****"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("hush", "****"),
    ],
)
def test_secrets_are_masked(secret: str, shown: str) -> None:
    assert mask(secret) == shown


def test_secrets_appear_nowhere() -> None:
    environment = {
        "DATABASE_URL": "mysql://u:hush@h/db",
        "REDIS_URL": "redis://:hush@h",
        "FAILOVER_WEBHOOK_URL": "https://h/hush",
        "FAILOVER_WEBHOOK_SECRET": "hush",
        "MAINSPRING_TOKEN": "hush",
    }
    settings = CoordinatorSettings.load((), environment)
    assert "hush" not in repr(settings) + repr(settings.effective())
    with pytest.raises(SettingsError) as refused:
        CoordinatorSettings.load((), {**environment, "REDIS_URL": "mysql://:hush@h", "SHARDS": "x"})
    assert "hush" not in str(refused.value) + repr(refused.value.__cause__)


def test_derived_times_are_those_of_the_design() -> None:
    settings = CoordinatorSettings.of()
    assert settings.renew_interval_ms == 1_000
    assert settings.lock_query_timeout_ms == 3_000
    assert settings.poll_interval_ms == 200
    assert settings.hung_after_ms == 5_714
    assert settings.recovery_grace_ms == 5_714 + 3_000 + 1_000
    assert CoordinatorSettings.of(LEASE_TIMEOUT=1_000).lock_query_timeout_ms == 300


@pytest.mark.parametrize(
    ("values", "host"),
    [
        ({}, "127.0.0.1"),
        ({"GRPC_HOST": "0.0.0.0"}, "pod-1"),
        ({"GRPC_HOST": "10.0.0.7"}, "10.0.0.7"),
        ({"GRPC_HOST": "0.0.0.0", "ADVERTISE_HOST": "lb"}, "lb"),
    ],
)
def test_others_reach_a_coordinator_by_a_host_that_they_can_dial(values: dict[str, str], host: str) -> None:
    assert CoordinatorSettings.of(HOSTNAME="pod-1", **values).reachable_host == host


def test_the_documents_table_is_the_models() -> None:
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    table = text.partition("## The table")[2].partition("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows()
