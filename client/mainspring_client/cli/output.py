"""What a command prints: tables for a terminal, aligned lines for a pipe, JSON for a program.

With `--json` the standard output holds JSON and nothing else; errors and hints go to the standard error. Text that came from users
is never read as markup, and its control characters never reach the terminal.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from time import time_ns
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mainspring.durations import span
from mainspring.errors import DefinitionError, MainspringError
from mainspring.printable import printable

_json_options: Final = orjson.OPT_NON_STR_KEYS
_styles: Final = {
    "SUCCEEDED": "green",
    "RUNNING": "cyan",
    "READY": "yellow",
    "BACKOFF": "yellow",
    "CANCELLING": "magenta",
    "FAILING": "red",
    "FAILED": "bold red",
    "CANCELLED": "magenta",
    "SKIPPED": "dim",
    "WAITING": "dim",
}


class Output:
    """Where a command's answers and hints go."""

    def __init__(self) -> None:
        self.as_json = False
        """Whether a program reads."""
        self.console = Console(highlight=False, soft_wrap=False)
        """The standard output."""
        self.side = Console(stderr=True, highlight=False)
        """The standard error."""

    @property
    def live(self) -> bool:
        """Whether a person watches a terminal that can redraw."""
        return not self.as_json and self.console.is_terminal

    def document(self, value: object) -> None:
        """Print the one JSON document of a command."""
        self._write(orjson.dumps(value, option=_json_options | orjson.OPT_INDENT_2))

    def record(self, value: object) -> None:
        """Print one line of a stream of JSON documents."""
        self._write(orjson.dumps(value, option=_json_options))

    def line(self, text: str, style: str = "") -> None:
        """Print a line for a person or a pipe."""
        self.console.print(Text(printable(text), style=style if self.console.is_terminal else ""), soft_wrap=True)

    def hint(self, text: str) -> None:
        """Print what may be done next; never in the way of a program or a pipe."""
        if not self.as_json:
            self.side.print(Text(printable(text), style="dim"), soft_wrap=True)

    def error(self, error: MainspringError) -> None:
        """Say what went wrong, on the standard error."""
        if self.as_json:
            told: dict[str, object] = {"type": type(error).__name__, "message": str(error)}
            if isinstance(error, DefinitionError):
                told["problems"] = error.problems
            sys.stderr.write(orjson.dumps({"error": told}).decode() + "\n")
            return
        self.side.print(Text.assemble(("Error: ", "bold red"), printable(str(error))), soft_wrap=True)

    def fields(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Print names with their values; those without a value are left out."""
        shown = [(name, value) for name, value in pairs if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            first, *more = value.split("\n")
            self.line(f"{name:<{width}}  {first}")
            for line in more:
                self.line(f"{'':<{width}}  {line}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: fitted to a terminal, or aligned and whole for a pipe."""
        if self.console.is_terminal:
            self.console.print(rich_table(columns, rows))
            return
        cells = [[column.upper() for column in columns], *([printable(cell, keep="") for cell in row] for row in rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
        for row in cells:
            self.line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())

    def _write(self, data: bytes) -> None:
        sys.stdout.write(data.decode() + "\n")
        sys.stdout.flush()


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for a terminal; states have their colours."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.upper(), overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell, keep=""), style=_styles.get(cell, "")) for cell in row))
    return table


def json_text(value: object) -> str:
    """Return a value as indented JSON."""
    return orjson.dumps(value, option=_json_options | orjson.OPT_INDENT_2).decode()


def moment(at_us: int) -> str:
    """Return a time of the cluster in the reader's time zone; nothing for 0."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if at_us else ""


def since(began_us: int, ended_us: int = 0) -> str:
    """Return how long something took, or has taken so far; nothing for what has not begun.

    The host's wall clock stands in for the cluster's, because it is only shown to a person.
    """
    return span((ended_us or time_ns() // 1000) - began_us) if began_us else ""


def counted(number: int, noun: str) -> str:
    """Return so many of something: "1 workflow", "2,000 workflows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_line(text: str) -> str:
    """Return the first line of a text."""
    return text.split("\n", 1)[0]
