"""Tokens: made by chance, known to coordinators by their hashes alone.

The file of AUTH_TOKENS has a line for each: who, with which role, by which token or client certificate, until when.

    billing = { role = "client", sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
    fleet = { role = "worker", certificate = "workers.internal", expires = 2027-01-31T00:00:00Z }
"""

import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any, Final

from mainspring.callers import Caller, Role
from mainspring.errors import SettingsError, UnauthenticatedError
from mainspring.limits import name_bytes_max, tokens_file_bytes_max, tokens_max
from mainspring.watched import read_text

_token_bytes: Final = 32
_hash: Final = re.compile(r"[0-9a-f]{64}")
_name: Final = re.compile(rf"[A-Za-z0-9_.:@+=-]{{1,{name_bytes_max}}}")
_keys: Final = frozenset({"role", "sha256", "certificate", "expires"})
roles: Final = ", ".join(Role)


def new_token() -> str:
    """Make a token: 32 random bytes, base64url."""
    return secrets.token_urlsafe(_token_bytes)


def digest(token: str) -> str:
    """Return what the file has of a token; its 256 random bits need neither salt nor a slow hash."""
    return sha256(token.encode()).hexdigest()


def line(name: str, role: Role, token: str, expires: datetime | None) -> str:
    """Return the line of the file for a token."""
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
    until = f", expires = {expires.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}" if expires is not None else ""
    return f'{key} = {{ role = "{role}", sha256 = "{digest(token)}"{until} }}'


def check_name(name: str) -> None:
    """Raise `SettingsError` when nobody may be called so."""
    if not _name.fullmatch(name):
        raise SettingsError(
            f"{name[:name_bytes_max]!r} is no name; it has 1 to {name_bytes_max} letters, digits and `_.:@+=-`"
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the file."""

    caller: Caller
    sha256: str
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class TokenBook:
    """What the file says."""

    by_hash: Mapping[str, Entry]
    by_certificate: Mapping[str, Entry]

    def by_token(self, token: str, now: datetime) -> Caller:
        """Return whose token it is. `UnauthenticatedError` when it is nobody's, or its time is over."""
        found = self.by_hash.get(digest(token))
        # Looked up by hash, so that time tells nothing of a token; compared once more, so that nothing rests on that.
        if found is None or not hmac.compare_digest(found.sha256, digest(token)):
            raise UnauthenticatedError(
                "the token is not known here; use one that AUTH_TOKENS of this coordinator has, "
                "or make one with: mainspring token create"
            )
        return _in_time(found, now, "token")

    def by_names(self, names: Iterable[str], now: datetime) -> Caller | None:
        """Return whose certificate bears one of these names; None when nobody's does."""
        for name in names:
            if (found := self.by_certificate.get(name)) is not None:
                return _in_time(found, now, "certificate")
        return None


def _in_time(found: Entry, now: datetime, what: str) -> Caller:
    if found.expires is not None and found.expires <= now:
        raise UnauthenticatedError(
            f"the {what} of {found.caller.name!r} is over since {found.expires.isoformat()}; give it a new one in AUTH_TOKENS"
        )
    return found.caller


def read_tokens(path: str) -> TokenBook:
    """Read the file. `SettingsError` names the line's name and what is wrong."""
    text = read_text("AUTH_TOKENS", path, tokens_file_bytes_max)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"AUTH_TOKENS: {path} is not TOML: {error}") from error
    if len(table) > tokens_max:
        raise SettingsError(f"AUTH_TOKENS: {path} has {len(table)} entries; at most {tokens_max} are allowed")
    by_hash: dict[str, Entry] = {}
    by_certificate: dict[str, Entry] = {}
    for name, value in table.items():
        where = f"AUTH_TOKENS: {name!r} in {path}"
        entry, certificate = _entry(name, value, where)
        book, key = (by_certificate, certificate) if certificate else (by_hash, entry.sha256)
        if key in book:
            raise SettingsError(f"{where} has the token or certificate of {book[key].caller.name!r}; give each its own")
        book[key] = entry
    return TokenBook(by_hash, by_certificate)


def _entry(name: str, value: Any, where: str) -> tuple[Entry, str]:
    if not isinstance(value, dict) or not _keys.issuperset(value):
        raise SettingsError(
            f'{where}: write {{ role = "…", sha256 = "…" }}, or certificate instead of sha256, and expires'
        )
    if not _name.fullmatch(name):
        raise SettingsError(f"{where}: a name has 1 to {name_bytes_max} letters, digits and `_.:@+=-`")
    if value.get("role") not in tuple(Role):
        raise SettingsError(f"{where}: role is one of {roles}")
    hashed, certificate = value.get("sha256", ""), value.get("certificate", "")
    if bool(hashed) == bool(certificate) or not isinstance(certificate, str):
        raise SettingsError(
            f"{where}: it needs either sha256, the hash of a token, or certificate, a name in a client certificate"
        )
    if hashed and not (isinstance(hashed, str) and _hash.fullmatch(hashed)):
        raise SettingsError(
            f"{where}: sha256 is the hash of a token, 64 hexadecimal digits in lower case, and not the token itself; "
            "'mainspring token create' prints it"
        )
    return Entry(Caller(name, Role(value["role"])), hashed, _expires(value.get("expires"), where)), certificate


def _expires(value: object, where: str) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise SettingsError(f"{where}: expires is a day or a moment with its zone, such as 2027-01-31T00:00:00Z")
