"""`python -m mainspring_coordinator`, also `mainspring coordinator`; its words may be `db`, the acts on its database, or `simulate`."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Final

import orjson
import structlog
import uvloop

from mainspring.errors import MainspringError, SettingsError, StoreUnavailableError
from mainspring.interrupts import interrupted, let_interrupts_in
from mainspring.log_stream import LogStream
from mainspring.logs import change_level_by_signals, configure_logs
from mainspring.settings import CoordinatorSettings

_log: Final = structlog.get_logger(__name__)
_bad_usage: Final = 2
_unavailable: Final = 4


async def serve(settings: CoordinatorSettings) -> None:
    """Run a coordinator until SIGTERM or SIGINT; the second one ends it at once."""
    # Loaded here, because the acts on the database need none of it, and it takes a second.
    from mainspring_coordinator.app import Coordinator  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    change_level_by_signals(settings.log_level)
    stop = asyncio.Event()
    coordinator = Coordinator(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    starting = loop.create_task(coordinator.start())
    stopping = loop.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            listening = {
                "event": "listening",
                "grpc": coordinator.grpc_address,
                "http": coordinator.http_address,
                "probes": coordinator.probes_address,
            }
            LogStream(sys.stdout).write(orjson.dumps(listening).decode() + "\n")
            await stopping
    finally:
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await coordinator.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status: 0, 2 for bad settings or a wrong schema, 4 for a database out of reach, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        let_interrupts_in()
        asks_help = not {"-h", "--help"}.isdisjoint(words)
        if words[:1] == ["db"]:
            # Loaded here, because a coordinator needs neither Alembic nor the doctor.
            from mainspring_coordinator import database  # noqa: PLC0415

            if not asks_help:
                return database.main(words[1:])
            sys.stdout.write(database.usage())
            return 0
        if words[:1] == ["simulate"]:
            from mainspring_coordinator.simulate import command  # noqa: PLC0415  (as above)

            return command.main(words[1:])
        if asks_help:
            sys.stdout.write(usage())
            return 0
        settings = CoordinatorSettings.load(words)
        configure_logs(settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except StoreUnavailableError as error:
        sys.stderr.write(f"mainspring: {error}\n")
        return _unavailable
    except (SettingsError, MainspringError) as error:
        sys.stderr.write(f"mainspring: {error}\n")
        return _bad_usage
    except KeyboardInterrupt:
        return interrupted()
    return 0


def usage() -> str:
    """Return the help text: every setting as a flag, with its default."""
    lines = [
        "Usage: mainspring coordinator [--SETTING VALUE ...]",
        "       mainspring db --help",
        "",
        "Every setting is a flag, an environment variable and a key of the file named by --config (docs/settings.md):",
        "",
    ]
    for name, setting in sorted(CoordinatorSettings.reference().items()):
        lines.append(f"  --{name.lower().replace('_', '-'):32} {setting.meaning} ({setting.default})")
    return "\n".join(
        [
            *lines,
            "",
            "Example: mainspring coordinator --database-url mysql://mainspring:secret@127.0.0.1/mainspring",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
