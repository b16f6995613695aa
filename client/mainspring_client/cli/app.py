"""The program's frame: the options that all commands share, and how errors become messages and exit codes."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from mainspring.errors import (
    BusyError,
    DeadlineError,
    MainspringError,
    NotFoundError,
    StoreUnavailableError,
    UnavailableError,
    WorkflowCancelledError,
    WorkflowFailedError,
)
from mainspring.interrupts import exit_interrupted
from mainspring_client.cli.output import Output
from mainspring_client.client import Client

_T = TypeVar("_T")

exit_failed: Final = 1
exit_bad_input: Final = 2
exit_not_found: Final = 3
exit_unavailable: Final = 4
exit_broken: Final = 5

_first_contact_s: Final = 3.0
_exit_codes: Final[tuple[tuple[tuple[type[MainspringError], ...], int], ...]] = (
    ((WorkflowFailedError, WorkflowCancelledError), exit_failed),
    ((NotFoundError,), exit_not_found),
    ((UnavailableError, DeadlineError, BusyError, StoreUnavailableError), exit_unavailable),
)
_order: Final = (
    *("dev", "init", "validate", "submit", "watch", "get", "explain", "result", "history", "list", "cancel"),
    *(
        "workers",
        "coordinators",
        "shards",
        "failovers",
        "strategy",
        "pause",
        "resume",
        "pauses",
        "node",
        "rerun",
        "step-down",
        "audit",
        "config",
        "token",
        "simulate",
        "coordinator",
        "worker",
        "db",
    ),
)
_help: Final = """Durable workflows for teams that already run MySQL.

Start a cluster on this machine with 'mainspring dev'; every other command then works in another terminal with no option.
"""
_epilog: Final = (
    "\b\nExit codes:\n"
    "  0    done\n"
    "  1    the workflow failed or was cancelled; the database failed a check\n"
    "  2    bad input or usage\n"
    "  3    not found\n"
    "  4    unavailable, busy, or past its deadline\n"
    "  5    an error inside the cluster; its message has the incident to report\n"
    "  130  interrupted"
)


def exit_code(error: MainspringError) -> int:
    """Return the exit code that tells whose fault an error is."""
    if type(error) is MainspringError:
        return exit_broken
    return next((code for kinds, code in _exit_codes if isinstance(error, kinds)), exit_bad_input)


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    shown = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExample{'s' if len(lines) > 1 else ''}:\n{shown}"


def _name_value(error: typer.BadParameter) -> None:
    """Put the value that was given into an option's error, where Typer tells Pydantic's words alone."""
    if isinstance(error.__cause__, ValidationError):
        first = error.__cause__.errors(include_url=False, include_context=False)[0]
        told = first["msg"].removeprefix("Value error, ")
        error.message = told.replace("Input should", f"{first['input']!r} should")


class _Commands(TyperGroup):
    """All commands; what they raise by intent ends here."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  (the base class gives it)
        """Return the commands in the order in which a newcomer needs them."""
        return [name for name in _order if name in self.commands]

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        session = ctx.ensure_object(Session)
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            _name_value(error)
            raise
        except MainspringError as error:
            session.out.error(error)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(exit_interrupted) from interrupt


@dataclass(slots=True)
class Session:
    """What the options that all commands share said; they may stand before the command or after it."""

    address: str | None = None
    """Where the cluster is; None: MAINSPRING_ADDRESS, else this machine."""
    out: Output = field(default_factory=Output)
    """Where answers go."""

    def client(self) -> Client:
        """Open a client."""
        return Client(self.address, connect_timeout=_first_contact_s)


AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="A coordinator, or several with commas.  [env: MAINSPRING_ADDRESS; default: 127.0.0.1:7320]",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, one document (one a line for streams), and nothing else.")
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mainspring {version('mainspring')}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the installed version and exit."),
]

app = typer.Typer(
    cls=_Commands,
    help=_help,
    epilog=_epilog,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def options(
    ctx: typer.Context, address: AddressOption = None, as_json: JsonOption = False, _version: VersionOption = False
) -> None:
    """Take the options that stand before the command."""
    session_of(ctx, address, as_json=as_json)


def session_of(ctx: typer.Context, address: str | None = None, *, as_json: bool = False) -> Session:
    """Return the session, with what a command's own options add to it."""
    session = ctx.find_root().ensure_object(Session)
    session.address = address or session.address
    session.out.as_json = as_json or session.out.as_json
    return session


def ask(session: Session, work: Callable[[Client], Coroutine[Any, Any, _T]]) -> _T:
    """Do something with a client."""

    async def with_client() -> _T:
        async with session.client() as client:
            return await work(client)

    return asyncio.run(with_client())
