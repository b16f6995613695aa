"""The settings of who may connect: TLS, tokens, roles. docs/security.md says how they go together.

They are unnamed in the code that uses them: `Calling.access` is how a process reaches others, `Serving.doors` what it opens itself.
"""

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, model_validator

from mainspring.access import Access, TlsFiles
from mainspring.errors import SettingsError
from mainspring.limits import token_bytes_max
from mainspring.settings_model import Settings, declare

_PATH: Final = "a path"
_TOKEN: Final = rf"^[\x21-\x7e]{{1,{token_bytes_max}}}$"


def exactly_true(value: object) -> bool:
    """Read a switch that only the exact word turns on."""
    return value is True or value == "true"


def unless_false(value: object) -> bool:
    """Read a switch that only the exact word turns off."""
    return not (value is False or value == "false")


@dataclass(frozen=True, slots=True)
class Door:
    """An address that a process listens on."""

    setting: str
    """What its host is set by."""
    host: str

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this host can reach it."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


class Calling(Settings):
    """How a process reaches others, and as whom."""

    tls_ca: str | None = declare(
        "TLS_CA",
        "who signs the certificates that are trusted, PEM; set, every connection to a coordinator is by TLS and the other side checked",
        None,
        allowed=f"{_PATH}, or `public`: the public authorities",
        shown="none",
    )
    tls_cert: str | None = declare(
        "TLS_CERT",
        "this process's certificate with its chain, PEM; set, its own ports are served by TLS, and it is shown to coordinators",
        None,
        allowed=_PATH,
        shown="none",
    )
    tls_key: str | None = declare("TLS_KEY", "the key of TLS_CERT, PEM", None, allowed=_PATH, shown="none")
    tls_server_name: str | None = declare(
        "TLS_SERVER_NAME",
        "the name that coordinators' certificates must bear",
        None,
        allowed="a host name",
        shown="the host that is dialled",
        pattern=r"^[A-Za-z0-9_.-]{1,255}$",
    )
    token: str | None = declare(
        "MAINSPRING_TOKEN",
        "the token that is sent with each call to a coordinator",
        None,
        allowed=f"1 to {token_bytes_max} printable characters without a space",
        shown="none",
        secret=True,
        pattern=_TOKEN,
    )
    token_file: str | None = declare(
        "MAINSPRING_TOKEN_FILE",
        "a file with that token, read again when it changes",
        None,
        allowed=_PATH,
        shown="none",
    )
    insecure: Annotated[bool, BeforeValidator(exactly_true)] = declare(
        "INSECURE",
        "listen beyond loopback without TLS and authentication, and send tokens without TLS; as a flag, `--insecure`",
        default=False,
        allowed="on only if exactly `true`",
        shown="off",
    )

    @model_validator(mode="after")
    def _check_calling(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("TLS_CERT", "TLS_KEY") if self.tls_key is None else ("TLS_KEY", "TLS_CERT")
            raise ValueError(f"{given} is set without {missing}; a certificate and its key go together")
        if self.token is not None and self.token_file is not None:
            raise ValueError("MAINSPRING_TOKEN and MAINSPRING_TOKEN_FILE are both set; keep one of them")
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """Read these settings alone. Raises `SettingsError` as `load`."""
        return Calling.load((), environment).access

    @property
    def tls(self) -> TlsFiles:
        """Where the certificates are."""
        return TlsFiles(self.tls_ca or "", self.tls_cert or "", self.tls_key or "", self.tls_server_name or "")

    @property
    def access(self) -> Access:
        """How others are reached."""
        return Access(self.tls, self.token or "", self.token_file or "", insecure=self.insecure)


class Serving(Calling):
    """What a process that listens wants of its callers."""

    tls_client_certs: Literal["none", "required"] = declare(
        "TLS_CLIENT_CERTS",
        "whether callers must show a certificate that TLS_CA has signed (mTLS)",
        "none",
        allowed="`none`, `required`",
    )
    auth_tokens: str | None = declare(
        "AUTH_TOKENS",
        "a file of tokens' hashes and certificates' names with their roles; set, every call must have a role (docs/security.md)",
        None,
        allowed=_PATH,
        shown="none",
    )
    auth_jwks: str | None = declare(
        "AUTH_JWKS",
        "a file of public keys (JWKS); set, JWTs that these have signed are tokens too",
        None,
        allowed=_PATH,
        shown="none",
    )
    auth_jwt_issuer: str | None = declare(
        "AUTH_JWT_ISSUER", "what the claim `iss` of a JWT must be", None, allowed="any text", shown="none"
    )
    auth_jwt_audience: str | None = declare(
        "AUTH_JWT_AUDIENCE", "what the claim `aud` of a JWT must hold", None, allowed="any text", shown="none"
    )
    auth_jwt_role_claim: str = declare(
        "AUTH_JWT_ROLE_CLAIM",
        "the claim of a JWT that has the role, or a list in which exactly one is a role; dots lead into objects",
        "role",
        allowed="1 to 128 characters",
        pattern=r"^.{1,128}$",
    )
    metrics_auth: Annotated[bool, BeforeValidator(unless_false)] = declare(
        "METRICS_AUTH",
        "/metrics wants a token of the role `read-only` or `admin` where there is authentication; off, anyone may read it, "
        "on the port of HTTP_PROBE_PORT too",
        default=True,
        allowed="off only if exactly `false`",
        shown="on",
    )

    @property
    def doors(self) -> Sequence[Door]:
        """The listeners that must be secure or on loopback."""
        raise NotImplementedError

    @property
    def authenticates(self) -> bool:
        """Tell whether callers must have a role."""
        return self.auth_tokens is not None or self.auth_jwks is not None

    @property
    def wants_client_certs(self) -> bool:
        """Tell whether callers must show a certificate."""
        return self.tls_client_certs == "required"

    @model_validator(mode="after")
    def _check_serving(self) -> Self:
        if self.wants_client_certs and (self.tls_cert is None or self.tls_ca in (None, "public")):
            raise ValueError(
                "TLS_CLIENT_CERTS = required needs TLS_CERT, TLS_KEY and, as TLS_CA, the file of who signs the callers' certificates"
            )
        jwt = {"AUTH_JWT_ISSUER": self.auth_jwt_issuer, "AUTH_JWT_AUDIENCE": self.auth_jwt_audience}
        if self.auth_jwks is not None and (missing := [name for name, value in jwt.items() if not value]):
            raise ValueError(
                f"AUTH_JWKS needs {' and '.join(missing)}, or tokens that were made for others would count"
            )
        if self.auth_jwks is None and (idle := [name for name, value in jwt.items() if value]):
            raise ValueError(f"{' and '.join(idle)} have no effect without AUTH_JWKS; set it or leave them out")
        return self

    def demand_closed_doors(self) -> None:
        """Raise `SettingsError` when other hosts may connect without TLS and authentication and nobody said that they may.

        Asked at a start and not of the settings as such: what only reads the database listens nowhere.
        """
        if self.insecure or (self.tls_cert is not None and self.authenticates):
            return
        for door in self.doors:
            if not door.is_loopback:
                lacks = [
                    *(["TLS (TLS_CERT, TLS_KEY)"] if self.tls_cert is None else []),
                    *(["authentication (AUTH_TOKENS or AUTH_JWKS)"] if not self.authenticates else []),
                ]
                raise SettingsError(
                    f"{door.setting} = {door.host} lets other hosts connect, without {' and without '.join(lacks)}; set these "
                    f"(docs/security.md), or {door.setting} to 127.0.0.1, or say that it may be so with INSECURE=true (--insecure)"
                )
