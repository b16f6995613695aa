"""The command that makes tokens. It asks no cluster: a coordinator knows a token by the line that is put into its file."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from mainspring.callers import Role
from mainspring.clock import calendar_now
from mainspring.errors import BadRequestError
from mainspring.tokens import check_name, line, new_token
from mainspring_client.cli.app import JsonOption, app, examples, session_of

token = typer.Typer(help="Make tokens for callers.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(token, name="token")


@token.callback()
def tokens() -> None:
    """Make tokens for callers (docs/security.md)."""


@token.command(
    epilog=examples(
        "mainspring token create --name billing --role client",
        "mainspring token create --name prometheus --role read-only --expires 2027-06-30 --json",
    )
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Who it is for; errors and the audit log say so.")],
    role: Annotated[Role, typer.Option("--role", help="What it may do.")],
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires",
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            help="The day from which on it does not count, UTC.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it, and below it the line for the file of AUTH_TOKENS.

    The token is shown this once: the line has its hash alone. Put it into a file that MAINSPRING_TOKEN_FILE names where the caller runs.
    """
    session = session_of(ctx, as_json=as_json)
    check_name(name)
    ends = expires.replace(tzinfo=UTC) if expires is not None else None
    if ends is not None and ends <= calendar_now():
        raise BadRequestError(f"--expires: {ends.date()} is over already; name a day to come", field="expires")
    made = new_token()
    written = line(name, role, made, ends)
    if session.out.as_json:
        session.out.document({"name": name, "role": role, "token": made, "line": written})
        return
    session.out.line(made)
    session.out.line(written)
    session.out.hint(
        "the first line is the token, the second is for the file that AUTH_TOKENS names at each coordinator"
    )
