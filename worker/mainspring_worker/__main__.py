"""`python -m mainspring_worker`, also `mainspring worker`: import executors, attach to a cluster, run what it assigns."""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import orjson
import structlog
import uvloop

from mainspring.channels import check
from mainspring.errors import MainspringError, SettingsError
from mainspring.interrupts import interrupted, let_interrupts_in
from mainspring.limits import labels_max, name_bytes_max
from mainspring.log_stream import LogStream
from mainspring.logs import change_level_by_signals, configure_logs
from mainspring.settings import WorkerSettings
from mainspring_worker.config import WorkerConfig
from mainspring_worker.executors import Executor, registry
from mainspring_worker.spans import Spans, no_spans
from mainspring_worker.worker import EvictedError, RefusedError, Worker

_log: Final = structlog.get_logger(__name__)
_evicted: Final = 1
"""A supervisor may start it again: it comes as a new incarnation."""
_unusable: Final = 2
_short_flags: Final = {
    "MAX_CONCURRENT_NODES": ("--slots", "N"),
    "ENGINE_INSTANCE_ID": ("--name", "NAME"),
    "MAINSPRING_ADDRESS": ("--address", "HOST:PORT[,…]"),
}
"""What people type most often has a short name beside the setting's own."""


def import_modules(modules: Sequence[str]) -> None:
    """Import what registers the executors; `SettingsError` with the module and the reason when one cannot be imported."""
    if "" not in sys.path:
        # A module beside the caller is found as a script would find it.
        sys.path.insert(0, "")
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            message = f"--import {module}: {type(error).__name__}: {error}"
            raise SettingsError(f"{message}; is the folder that holds it the current one, or on PYTHONPATH?") from error


def parse_labels(pairs: Sequence[str]) -> dict[str, str]:
    """Return labels from "name=value" words."""
    labels: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or len(name.encode()) > name_bytes_max or len(value.encode()) > name_bytes_max:
            raise SettingsError(f"--label {pair!r}: write name=value, each of at most {name_bytes_max} bytes")
        labels[name] = value
    if len(labels) > labels_max:
        raise SettingsError(f"{len(labels)} labels are more than the {labels_max} that a worker may have")
    return labels


def say(event: str, **facts: object) -> None:
    """Print one JSON line for whoever started us."""
    LogStream(sys.stdout).write(orjson.dumps({"event": event, **facts}).decode() + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mainspring worker",
        usage="mainspring worker --import MODULE [--slots N] [--name NAME] [--address HOST:PORT] [--SETTING VALUE ...]",
        description="Run executors for a cluster.",
        epilog="Example: mainspring worker --import mypkg.tasks --slots 50 --label zone=a",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        required=True,
        help="A module whose import registers executors; repeatable.",
    )
    add(
        "--label",
        dest="labels",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="What nodes can require; repeatable.",
    )
    add("--zone", default="", help="The zone that it runs in.")
    add("--drain", metavar="SECONDS", type=_seconds, default=30, help="What running nodes get at SIGTERM (30).")
    settings = parser.add_argument_group(
        "settings", "Each is also an environment variable and a key of the file named by --config (docs/settings.md)."
    )
    for setting in WorkerSettings.reference().values():
        short, metavar = _short_flags.get(setting.name, (None, "VALUE"))
        flags = (setting.flag,) if short is None else (short, setting.flag)
        told = f"{setting.meaning} ({setting.default})".replace("%", "%%")
        # A switch may be given without a value, and then is on.
        is_switch = WorkerSettings.model_fields[setting.field].annotation is bool
        arity: dict[str, Any] = {"nargs": "?", "const": "true"} if is_switch else {}
        settings.add_argument(*flags, dest=setting.name, metavar=metavar, help=told, **arity)
    return parser


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return int(text)


async def serve(settings: WorkerSettings, config: WorkerConfig, executors: dict[str, Executor]) -> None:
    """Run a worker, with its probes where a port is set, until it is told to stop."""
    told = False

    def attached(coordinator: str, address: str) -> None:
        nonlocal told
        if not told:
            told = True
            say("attached", worker=config.name, coordinator=coordinator, address=address)

    spans: Spans = no_spans
    if settings.otel_traces_exporter != "none":
        # Loaded here, because OpenTelemetry is an extra.
        from mainspring_worker.traces import TracedAttempts  # noqa: PLC0415

        spans = TracedAttempts(config.name)
    async with AsyncExitStack() as stack:
        if settings.http_port or settings.http_probe_port:
            # Loaded here, because most workers serve no probes, and the HTTP server is a quarter of what a start costs.
            from mainspring_worker.probes import WorkerProbes  # noqa: PLC0415

            probes = WorkerProbes(settings.engine_instance_id)
            worker = Worker(config, executors, on_attached=attached, on_ended=probes.metrics.attempt_ended, spans=spans)
            await stack.enter_async_context(probes.serving(worker, settings))
        else:
            worker = Worker(config, executors, on_attached=attached, spans=spans)
        worker.stop_on_signals()
        change_level_by_signals(settings.log_level)
        await worker.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status: 0, 1 when evicted, 2 for what it cannot start with or when it is refused, 130 when interrupted."""
    try:
        let_interrupts_in()
        given = _parser().parse_args(arguments)
        settings = WorkerSettings.load({name: getattr(given, name) for name in WorkerSettings.reference()})
        configure_logs(settings.log_level)
        settings.demand_closed_doors()
        check(settings.access)
        import_modules(given.modules)
        executors = dict(registry.chosen(settings.supported_executors))
        config = WorkerConfig(
            name=settings.engine_instance_id,
            addresses=settings.addresses,
            slots=settings.max_concurrent_nodes,
            workflows_max=settings.max_concurrent_workflows,
            host=settings.hostname,
            zone=given.zone,
            labels=parse_labels(given.labels),
            cluster=settings.cluster_name or "",
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            failure_detection_timeout_ms=settings.failure_detection_timeout_ms,
            load_report_interval_ms=settings.load_report_interval_ms,
            drain_ms=given.drain * 1_000,
            keepalive=settings.keepalive,
            access=settings.access,
            modules=given.modules,
            processes=min(settings.max_concurrent_nodes, os.cpu_count() or 1),
            http_port=settings.http_port,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, config, executors))
    except EvictedError as error:
        sys.stderr.write(f"mainspring: {error}\n")
        return _evicted
    except RefusedError as error:
        sys.stderr.write(f"mainspring: the cluster refuses this worker: {error}\n")
        return _unusable
    except MainspringError as error:
        sys.stderr.write(f"mainspring: {error}\n")
        return _unusable
    except KeyboardInterrupt:
        return interrupted()
    return 0


if __name__ == "__main__":
    sys.exit(main())
