"""Where the database is: the one reader of `DATABASE_URL`.

    mysql://user:password@host:3306/database      also mysql+pymysql:// and mariadb://
    sqlite:///relative/path, sqlite:////absolute/path

Options in the query of a MySQL URL: `ssl_ca` (a PEM file; with it the server must prove its identity), `ssl_cert` and `ssl_key`
(our own), `ssl_verify_identity=false` (any name in the server's certificate will do), `ssl=false` (no TLS even if it is offered) and
`unix_socket`. The password shows in no message and no `repr`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from mainspring.errors import SettingsError

_options: Final = frozenset({"ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_identity", "unix_socket"})
_booleans: Final = {"true": True, "1": True, "false": False, "0": False}
_mysql_schemes: Final = frozenset({"mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"})


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A database on a MySQL or MariaDB server."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    ssl: bool = True
    """Use TLS if the server offers it."""
    ssl_ca: str = ""
    ssl_cert: str = ""
    ssl_key: str = ""
    ssl_verify_identity: bool = True
    unix_socket: str = ""

    def __str__(self) -> str:
        return f"mysql://{self.user}@{self.unix_socket or f'{self.host}:{self.port}'}/{self.database}"


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A SQLite file."""

    path: Path

    def __str__(self) -> str:
        return f"sqlite:///{self.path}"


Address = ServerAddress | FileAddress


def parse_url(url: str) -> Address:
    """Read a database URL. `SettingsError` says what is wrong with it, without showing a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        # The error's words may hold the password: urlsplit takes "user:pa/ss@host" for a port.
        raise _wrong("it cannot be read; write %40, %3A, %2F for @ : / within user and password") from (
            None if "@" in url else error
        )
    if parts.scheme == "sqlite":
        return _file(parts.path, parts.netloc)
    if parts.scheme not in _mysql_schemes:
        raise _wrong(f"the scheme {parts.scheme!r} is unknown; use mysql://, mariadb:// or sqlite:///")
    database = unquote(parts.path.removeprefix("/"))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - _options):
        raise _wrong(f"the option {unknown[0]!r} is unknown; known are {', '.join(sorted(_options))}")
    if not parts.hostname and "unix_socket" not in options:
        raise _wrong("it names no host; write mysql://user:password@host:3306/database")
    if not parts.username:
        raise _wrong("it names no user; write mysql://user:password@host:3306/database")
    if not database or "/" in database:
        raise _wrong("it names no database; write mysql://user:password@host:3306/database")
    return ServerAddress(
        host=parts.hostname or "localhost",
        port=port or 3306,
        user=unquote(parts.username),
        password=unquote(parts.password or ""),
        database=database,
        ssl=_boolean(options, "ssl"),
        ssl_ca=options.get("ssl_ca", ""),
        ssl_cert=options.get("ssl_cert", ""),
        ssl_key=options.get("ssl_key", ""),
        ssl_verify_identity=_boolean(options, "ssl_verify_identity"),
        unix_socket=options.get("unix_socket", ""),
    )


def _file(path: str, host: str) -> FileAddress:
    name = unquote(path.removeprefix("/"))
    if host:
        raise _wrong("a SQLite file has no host; write sqlite:///path with three slashes, or four for an absolute path")
    if not name or name == ":memory:":
        raise _wrong(
            "it names no file; write sqlite:///path (a database in memory would be lost with its first connection)"
        )
    return FileAddress(Path(name))


def _boolean(options: dict[str, str], name: str) -> bool:
    text = options.get(name, "true").lower()
    if text not in _booleans:
        raise _wrong(f"{name}={text!r} is neither true nor false")
    return _booleans[text]


def _wrong(reason: str) -> SettingsError:
    return SettingsError(f"DATABASE_URL: {reason}")
