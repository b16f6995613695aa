"""`python -m mainspring_worker`, also `mainspring worker`: import executors, attach to a cluster, run what it assigns."""

import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import orjson
import structlog
import typer
import uvloop

from mainspring.errors import MainspringError, SettingsError
from mainspring.limits import labels_max, name_bytes_max
from mainspring.logs import configure_logs
from mainspring.settings import WorkerSettings
from mainspring_worker.config import WorkerConfig
from mainspring_worker.executors import Executor, registry
from mainspring_worker.probes import WorkerProbes
from mainspring_worker.worker import RefusedError, Worker

_log: Final = structlog.get_logger(__name__)
_epilog: Final = "Example: mainspring worker --import mypkg.tasks --slots 50 --label zone=a"


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
    sys.stdout.write(orjson.dumps({"event": event, **facts}).decode() + "\n")
    sys.stdout.flush()


async def serve(settings: WorkerSettings, config: WorkerConfig, executors: dict[str, Executor]) -> None:
    """Run a worker with its probes until it is told to stop."""
    told = False

    def attached(coordinator: str, address: str) -> None:
        nonlocal told
        if not told:
            told = True
            say("attached", worker=config.name, coordinator=coordinator, address=address)

    probes = WorkerProbes(settings.engine_instance_id)
    worker = Worker(config, executors, on_attached=attached, on_ended=probes.attempt_ended)
    worker.stop_on_signals()
    async with probes.serving(worker, settings.http_host, settings.http_port):
        await worker.run()


def main(
    modules: Annotated[
        list[str], typer.Option("--import", help="A module whose import registers executors; repeatable.")
    ],
    slots: Annotated[int | None, typer.Option(help="How many nodes run at once (MAX_CONCURRENT_NODES, 50).")] = None,
    label: Annotated[list[str] | None, typer.Option(help="name=value, which nodes can require; repeatable.")] = None,
    name: Annotated[str | None, typer.Option(help="The worker's name (ENGINE_INSTANCE_ID).")] = None,
    zone: Annotated[str, typer.Option(help="The zone that it runs in.")] = "",
    address: Annotated[str | None, typer.Option(help="Coordinators, host:port[,…] (MAINSPRING_ADDRESS).")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of /health, /ready, /metrics; 0: none.")] = None,
    drain: Annotated[int, typer.Option(min=0, help="Seconds that running nodes get at SIGTERM.")] = 30,
    config: Annotated[str | None, typer.Option(help="A TOML file with settings (MAINSPRING_CONFIG).")] = None,
) -> None:
    """Run executors for a cluster."""
    try:
        settings = WorkerSettings.load(
            {
                "MAX_CONCURRENT_NODES": slots,
                "ENGINE_INSTANCE_ID": name,
                "MAINSPRING_ADDRESS": address,
                "HTTP_PORT": http_port,
                "MAINSPRING_CONFIG": config,
            }
        )
        configure_logs(settings.log_level)
        import_modules(modules)
        executors = dict(registry.chosen(settings.supported_executors))
        worker_config = WorkerConfig(
            name=settings.engine_instance_id,
            addresses=settings.addresses,
            slots=settings.max_concurrent_nodes,
            workflows_max=settings.max_concurrent_workflows,
            host=settings.hostname,
            zone=zone,
            labels=parse_labels(label or []),
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            failure_detection_timeout_ms=settings.failure_detection_timeout_ms,
            load_report_interval_ms=settings.load_report_interval_ms,
            drain_ms=drain * 1_000,
            keepalive=settings.keepalive,
            modules=modules,
            processes=min(settings.max_concurrent_nodes, os.cpu_count() or 1),
            http_port=settings.http_port,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, worker_config, executors))
    except RefusedError as error:
        typer.echo(f"mainspring: the cluster refuses this worker: {error}", err=True)
        raise typer.Exit(2) from error
    except MainspringError as error:
        typer.echo(f"mainspring: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=_epilog)(main)
    app()
