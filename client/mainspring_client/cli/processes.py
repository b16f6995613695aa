"""The commands that run the other parts: dev, coordinator, worker, db, simulate.

The parts are started as `python -m mainspring_...`, so that a client's install needs none of their packages.
"""

import asyncio
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from mainspring.dial import default_grpc_port, default_http_port
from mainspring.errors import SettingsError
from mainspring.extras import wheel_with
from mainspring.interrupts import exit_interrupted, hold_interrupts
from mainspring.limits import dev_restarts_max, dev_restarts_window_ms, dev_workers_max, slots_max
from mainspring_client.child import Child
from mainspring_client.cli.app import JsonOption, Session, app, examples, exit_unavailable, session_of
from mainspring_client.cli.template import project_workflow
from mainspring_client.dev import DevCluster, Restarts

_needs: Final = {
    "coordinator": ("mainspring_coordinator", "alembic", "psutil", "pymysql", "sqlalchemy", "starlette", "uvicorn"),
    "worker": ("mainspring_worker", "prometheus_client", "psutil", "starlette", "uvicorn"),
}
_pass_on: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(
    epilog=examples(
        "mainspring dev --import tasks",
        "mainspring dev --import tasks --workers 4 --slots 10",
        "mainspring dev --free-ports",
    )
)
def dev(
    ctx: typer.Context,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="A module that registers executors; may be repeated. Without one there are no workers.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=dev_workers_max, help="How many worker processes.")] = 2,
    slots: Annotated[
        int | None,
        typer.Option(min=1, max=slots_max, help="How many nodes each worker runs at once.", show_default="50"),
    ] = None,
    data: Annotated[Path, typer.Option(help="The folder of the database and the logs.")] = Path(".mainspring"),
    grpc_port: Annotated[
        int, typer.Option(envvar="GRPC_PORT", min=0, max=65_535, help="For clients and workers.")
    ] = default_grpc_port,
    http_port: Annotated[
        int, typer.Option(envvar="HTTP_PORT", min=0, max=65_535, help="For probes and metrics.")
    ] = default_http_port,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Take whichever ports are free.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what all processes log.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a cluster on this machine until Ctrl-C.

    It is a coordinator on SQLite and a few workers, each a process of its own; one that dies is started again.
    """
    session = session_of(ctx, as_json=as_json)
    _require("coordinator")
    if imports:
        _require("worker")
    cluster = DevCluster(
        imports=imports or (),
        workers=workers,
        slots=slots,
        data=data,
        grpc_port=0 if free_ports else grpc_port,
        http_port=0 if free_ports else http_port,
        echo=(lambda name, line: session.out.side.print(f"{name} | {line}", markup=False, highlight=False))
        if verbose
        else None,
    )
    raise typer.Exit(asyncio.run(_run(session, cluster)))


@app.command(context_settings=_pass_on, add_help_option=False)
def coordinator(ctx: typer.Context) -> None:
    """Run a coordinator in this terminal."""
    _become(session_of(ctx), "coordinator", ctx.args)


@app.command(context_settings=_pass_on, add_help_option=False)
def worker(ctx: typer.Context) -> None:
    """Run a worker in this terminal."""
    _become(session_of(ctx), "worker", ctx.args)


@app.command(context_settings=_pass_on, add_help_option=False)
def db(ctx: typer.Context) -> None:
    """Prepare the database, or check it."""
    _become(session_of(ctx), "coordinator", ["db", *ctx.args])


@app.command(context_settings=_pass_on, add_help_option=False)
def simulate(ctx: typer.Context) -> None:
    """Find out on virtual time which strategy, and how many workers, suit a workflow."""
    _exec("coordinator", ["simulate", *(["--json"] if session_of(ctx).out.as_json else []), *ctx.args])


async def _run(session: Session, cluster: DevCluster) -> int:
    """Keep a cluster until a signal, or until one of its processes dies again and again; return the exit code."""
    asked: asyncio.Event = asyncio.Event()
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            session.out.hint("stopping: workers finish what they run; Ctrl-C again stops at once")
            asked.set()
        else:
            cluster.kill()

    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(cluster.start())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    waiting = asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return exit_interrupted
        await starting
        _greet(session, cluster)
        return await _keep(session, cluster, waiting)
    finally:
        waiting.cancel()
        await cluster.stop()


async def _keep(session: Session, cluster: DevCluster, asked: asyncio.Future[Any]) -> int:
    """Start again whatever dies, until it was asked to stop, or a part dies too often; return the exit code."""
    restarts = Restarts()
    loop = asyncio.get_running_loop()
    while True:
        ended = asyncio.ensure_future(cluster.ended())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            ended.cancel()
            return 0
        child = ended.result()
        if not restarts.allow(child.name, loop.time()):
            limit = f"{dev_restarts_max} restarts within {dev_restarts_window_ms // 1000} s"
            session.out.error(child.failure(f"{child.fate}, after {limit}"))
            return exit_unavailable
        await cluster.start_again(child)
        _tell_restart(session, child)


def _tell_restart(session: Session, dead: Child) -> None:
    if session.out.as_json:
        session.out.record(
            {
                "event": "restarted",
                "name": dead.name,
                "exit_code": dead.exited.result(),
                "log": str(dead.log_path),
            }
        )
        return
    session.out.hint(f"{dead.fate}; started again, its log is {dead.log_path}")


def _greet(session: Session, cluster: DevCluster) -> None:
    if session.out.as_json:
        session.out.record(
            {
                "event": "ready",
                "grpc": cluster.address,
                "http": cluster.http_address,
                "data": str(cluster.data),
                "workers": [worker.name for worker in cluster.workers],
            }
        )
        return
    out = session.out
    address = "" if cluster.address == f"127.0.0.1:{default_grpc_port}" else f" --address {cluster.address}"
    count = len(cluster.workers)
    out.fields(
        [
            ("cluster", cluster.address),
            ("probes", f"http://{cluster.probes_address}/health"),
            ("workers", f"{count} running {', '.join(cluster.imports)}" if count else "none yet"),
            ("data", f"{cluster.data} (database and logs)"),
        ]
    )
    if count:
        file = project_workflow if Path(project_workflow).is_file() else "FILE"
        out.line(f"\nin another terminal:\n  mainspring{address} submit {file} --watch\n  mainspring{address} list")
    else:
        out.line(f"\nstart a worker in another terminal:\n  mainspring{address} worker --import tasks")
    out.line("\nCtrl-C stops it; what was submitted stays in the data folder.")


def _require(part: str) -> None:
    missing = next((name for name in _needs[part] if importlib.util.find_spec(name) is None), None)
    if missing is not None:
        raise SettingsError(f"the {part} needs packages that are not installed (no {missing}): {wheel_with(part)}")


def _become(session: Session, part: str, arguments: list[str]) -> NoReturn:
    _require(part)
    if session.address is not None:
        os.environ["MAINSPRING_ADDRESS"] = session.address
    _exec(part, arguments)


def _exec(part: str, arguments: list[str]) -> NoReturn:
    hold_interrupts()
    os.execv(sys.executable, [sys.executable, "-m", f"mainspring_{part}", *arguments])  # noqa: S606  (our own part, no shell)
