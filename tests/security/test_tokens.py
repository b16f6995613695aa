"""The file of AUTH_TOKENS: what it may hold, what is refused, and whose a token is."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mainspring.authentication import Authenticator
from mainspring.callers import Caller, Role, anonymous
from mainspring.errors import SettingsError, UnauthenticatedError
from mainspring.settings import CoordinatorSettings
from mainspring.tokens import digest, line, new_token, read_tokens

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HASH = digest("a token")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def test_a_token_is_32_random_bytes_and_its_line_has_its_hash_alone(file: Path) -> None:
    token = new_token()
    assert len(token) == 43
    assert token != new_token()
    written = line("billing@example.com", Role.CLIENT, token, NOW + timedelta(days=1))
    assert token not in written
    file.write_text(written)
    assert read_tokens(str(file)).by_token(token, NOW) == Caller("billing@example.com", Role.CLIENT)


def test_an_entry_counts_until_it_expires(file: Path) -> None:
    file.write_text(
        f'a = {{ role = "client", sha256 = "{HASH}", expires = 2026-11-26T13:00:00+01:00 }}\n'
        'b = { role = "worker", certificate = "b.internal", expires = 2026-11-26 }\n'
    )
    book = read_tokens(str(file))
    before = NOW - timedelta(microseconds=1)
    assert book.by_token("a token", before).name == "a"
    with pytest.raises(UnauthenticatedError, match=r"the token of 'a' is over since 2026-11-26T13:00:00\+01:00"):
        book.by_token("a token", NOW)
    assert book.by_names(["b.internal"], datetime(2026, 11, 25, 23, tzinfo=UTC)) == Caller("b", Role.WORKER)
    with pytest.raises(UnauthenticatedError, match="the certificate of 'b' is over"):
        book.by_names(["b.internal"], NOW)


BAD = [
    ("a = ", "is not TOML"),
    ('a = "x"', "'a' in .* write { role ="),
    ('a = { role = "client", sha256 = "%s", admin = true }', "write { role ="),
    ('a = { sha256 = "%s" }', "role is one of client, worker, read-only, admin, coordinator"),
    ('a = { role = "king", sha256 = "%s" }', "role is one of"),
    ('a = { role = ["client"], sha256 = "%s" }', "role is one of"),
    ('a = { role = "client" }', "it needs either sha256"),
    ('a = { role = "client", sha256 = "%s", certificate = "x" }', "it needs either sha256"),
    ('a = { role = "client", sha256 = "hush" }', "sha256 is the hash of a token"),
    ('a = { role = "client", sha256 = 7 }', "sha256 is the hash of a token"),
    ('a = { role = "client", certificate = 7 }', "it needs either sha256"),
    (
        'a = { role = "client", sha256 = "%s", expires = 2026-11-26T12:00:00 }',
        "expires is a day or a moment with its zone",
    ),
    ('a = { role = "client", sha256 = "%s", expires = "soon" }', "expires is a day or a moment"),
    ('"a b" = { role = "client", sha256 = "%s" }', "a name has 1 to 128"),
    ('a = { role = "client", sha256 = "%s" }\nb = { role = "admin", sha256 = "%s" }', "has the token .* of 'a'"),
]


@pytest.mark.parametrize(("text", "told"), BAD, ids=[told for _, told in BAD])
def test_a_bad_file_is_refused_with_the_name_and_what_to_write(file: Path, text: str, told: str) -> None:
    file.write_text(text.replace("%s", HASH))
    with pytest.raises(SettingsError, match=told) as refused:
        read_tokens(str(file))
    assert str(refused.value).startswith("AUTH_TOKENS: ")
    assert "hush" not in str(refused.value)


def test_a_certificate_gives_a_role_and_a_token_goes_before_it(file: Path) -> None:
    token = new_token()
    file.write_text(
        "\n".join([line("a", Role.CLIENT, token, None), 'fleet = { role = "worker", certificate = "w.internal" }'])
    )
    authenticator = Authenticator(CoordinatorSettings.of(AUTH_TOKENS=str(file)))
    assert authenticator.caller(None, ["10.0.0.7", "w.internal"]) == Caller("fleet", Role.WORKER)
    assert authenticator.caller(f"bearer {token}", ["w.internal"]) == Caller("a", Role.CLIENT)
    with pytest.raises(UnauthenticatedError, match=re.escape("the certificate's names ('x.internal') are not among")):
        authenticator.caller(None, ["x.internal"])
    with pytest.raises(UnauthenticatedError, match="is not known here"):
        authenticator.caller("Bearer stolen", ["w.internal"])


def test_without_authentication_everybody_is_anonymous() -> None:
    assert Authenticator(CoordinatorSettings.of()).caller("Bearer x") == anonymous
