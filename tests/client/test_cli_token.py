"""The command that makes tokens."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mainspring.callers import Caller, Role
from mainspring.tokens import read_tokens
from tests.client.commands import run

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def test_it_prints_the_token_once_and_below_it_the_line_for_the_file(tmp_path: Path) -> None:
    made = run("token", "create", "--name", "billing", "--role", "client", "--expires", "2127-01-31")
    token, line = made.stdout.splitlines()
    assert made.exit_code == 0
    assert token not in line
    assert line.startswith('billing = { role = "client", sha256 = ')
    (tmp_path / "tokens.toml").write_text(line)
    book = read_tokens(str(tmp_path / "tokens.toml"))
    assert book.by_token(token, NOW) == Caller("billing", Role.CLIENT)
    (entry,) = book.by_hash.values()
    assert entry.expires == datetime(2127, 1, 31, tzinfo=UTC)
    again = run("token", "create", "--name", "billing", "--role", "client")
    assert again.stdout.splitlines()[0] != token


def test_it_prints_json_for_a_program() -> None:
    made = json.loads(run("token", "create", "--name", "fleet", "--role", "worker", "--json").stdout)
    assert set(made) == {"name", "role", "token", "line"}
    assert (made["name"], made["role"]) == ("fleet", "worker")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--name", "a b", "--role", "client"), "'a b' is no name"),
        (("--name", "a", "--role", "king"), "'--role': 'king' is not one of 'client',"),
        (("--name", "a", "--role", "client", "--expires", "2026-02-29"), "'--expires': "),
        (("--name", "a", "--role", "client", "--expires", "2020-01-01"), "--expires: 2020-01-01 is over already"),
        (("--name", "a"), "--role"),
        (("--name", "a", "--role", "client", "--expires", "soon"), "--expires"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: tuple[str, ...], told: str) -> None:
    refused = run("token", "create", *arguments)
    assert refused.exit_code == 2
    assert told in refused.stderr
