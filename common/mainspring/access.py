"""How a process reaches coordinators: by plain connections or TLS, with a token or without. Plain data, read from the settings."""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificates are, PEM; empty: none."""

    ca: str = ""
    """Who signs the certificates that are trusted: a file, or `public`."""
    cert: str = ""
    """Ours, with its chain."""
    key: str = ""
    """Its key."""
    server_name: str = ""
    """What the other side's certificate must be for; empty: the host that is dialled."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files."""
        return tuple(path for path in (self.ca, self.cert, self.key) if path not in ("", "public"))


@dataclass(frozen=True, slots=True)
class Access:
    """By which way, and as whom."""

    tls: TlsFiles = field(default_factory=TlsFiles)
    """Connections are by TLS when `ca` is set."""
    token: str = field(default="", repr=False)
    token_file: str = ""
    """A file with the token; read again when it changes."""
    insecure: bool = False
    """A token may go to other hosts without TLS."""

    @property
    def has_token(self) -> bool:
        """Tell whether calls carry a token."""
        return bool(self.token or self.token_file)


plain: Final = Access()
"""Plain connections without a token."""
