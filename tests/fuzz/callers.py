"""Who calls: those that a cluster knows, by token, JWT or certificate, and those that pretend.

The cluster has TLS, asks for certificates, and takes static tokens and JWTs. A caller is a channel and what its calls bring with them.
"""

import json
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import new as hmac_of
from pathlib import Path
from random import Random
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from mainspring.access import Access, TlsFiles
from mainspring.callers import Caller, Role, caller_key, forwarded_key, to_text
from mainspring.channels import authorization_key
from mainspring.tokens import line, new_token
from mainspring_coordinator.audit import entry_key, user_key
from tests.fuzz.contract import Method
from tests.servers.certificates import Authority, Identity

Metadata = tuple[tuple[str, str | bytes], ...]
_issuer: Final = "https://id.internal"
_audience: Final = "mainspring"
_root: Final = Caller("root", Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Pretender:
    """Somebody who calls."""

    name: str
    """What is wrong with who it says it is; of one that the cluster knows, its role."""
    certificate: str
    """By which certificate it connects: a key of `Secrets.certificates`."""
    metadata: Metadata
    role: str = ""
    """What it may do; empty: nothing but what anybody may."""

    def may(self, method: Method) -> bool:
        """Tell whether it may call a method."""
        return method.open or method.may(self.role)


class Secrets:
    """The files of a cluster's secrets, and all callers that are made of them."""

    def __init__(self, folder: Path) -> None:
        """Write them into a folder, which must be there."""
        self.folder = folder
        self.ca = Authority(folder)
        self.server = self.ca.sign("server")
        self.certificates: Mapping[str, Identity] = {
            "client": self.ca.sign("client", "client.internal"),
            "worker": self.ca.sign("worker", "w.internal"),
            "unknown": self.ca.sign("unknown", "unknown.internal"),
        }
        self.tokens = {role: new_token() for role in Role}
        self._expired = new_token()
        self._key = ec.generate_private_key(ec.SECP256R1())
        for role, token in self.tokens.items():
            (folder / f"{role}.token").write_text(token + "\n")
        past = datetime.now(UTC) - timedelta(days=1)  # noqa: TID251  (tokens expire by the calendar)
        lines = [line(f"a-{role}", role, token, None) for role, token in self.tokens.items()]
        lines += [
            line("expired", Role.ADMIN, self._expired, past),
            'fleet = { role = "worker", certificate = "w.internal" }',
        ]
        (folder / "tokens.toml").write_text("\n".join(lines))
        public: dict[str, Any] = json.loads(ECAlgorithm.to_jwk(self._key.public_key()))
        (folder / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "one"}]}))

    def coordinator(self) -> dict[str, str]:
        """Return the settings of a coordinator."""
        return {
            **self._tls(self.server),
            "MAINSPRING_TOKEN_FILE": str(self.folder / f"{Role.COORDINATOR}.token"),
            "AUTH_TOKENS": str(self.folder / "tokens.toml"),
            "AUTH_JWKS": str(self.folder / "jwks.json"),
            "AUTH_JWT_ISSUER": _issuer,
            "AUTH_JWT_AUDIENCE": _audience,
            "TLS_CLIENT_CERTS": "required",
            "HTTP_PROBE_PORT": "0",
        }

    def worker(self) -> dict[str, str]:
        """Return the settings of a worker."""
        return self._tls(self.certificates["worker"])

    def access(self, role: Role) -> Access:
        """Return by which way one of our own clients calls."""
        mine = self.certificates["client"]
        return Access(TlsFiles(str(self.ca.path), str(mine.cert), str(mine.key)), self.tokens[role])

    def known(self) -> Sequence[Pretender]:
        """Return those that the cluster knows."""
        by_token = [Pretender(role, "client", bearer(token), role) for role, token in self.tokens.items()]
        by_jwt = [
            Pretender(f"{role} by JWT", "client", self._jwt(role=role), role) for role in (Role.CLIENT, Role.ADMIN)
        ]
        return [*by_token, *by_jwt, Pretender("worker by certificate", "worker", (), Role.WORKER)]

    def strangers(self) -> Sequence[Pretender]:
        """Return those that it does not know, by what is wrong with them, and those that say that they speak for somebody else."""
        admin = self.tokens[Role.ADMIN]
        other = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        forwarded: Metadata = ((forwarded_key, "1"), (caller_key, to_text(_root)))
        wrong: dict[str, Metadata] = {
            "no token": (),
            "an unknown token": bearer(new_token()),
            "a token cut short": bearer(admin[:-1]),
            "a token's hash": bearer(sha256(admin.encode()).hexdigest()),
            "an expired token": bearer(self._expired),
            "another scheme": ((authorization_key, f"Basic {admin}"),),
            "an empty token": ((authorization_key, "Bearer "),),
            "a token that is too long": bearer("x" * 8_193),
            "an expired JWT": self._jwt(exp=_now() - 3_600),
            "a JWT of another key": self._jwt(key=other),
            "a JWT for others": self._jwt(aud="others"),
            "a JWT of another issuer": self._jwt(iss="https://elsewhere"),
            "a JWT not yet valid": self._jwt(nbf=_now() + 3_600),
            "a JWT without a role": self._jwt(role="emperor"),
            "a JWT with all roles": self._jwt(role=list(Role)),
            "a JWT that nobody signed": bearer(_unsigned()),
            "a JWT signed by the public key": bearer(_signed_by_public_key(public)),
            "a JWT with half a signature": ((authorization_key, str(self._jwt()[0][1])[:-20]),),
            "no JWT": bearer("a.b.c"),
            "who says that it forwards": forwarded,
            "who says that it forwards, with an unknown token": (*bearer(new_token()), *forwarded),
            "who names itself": ((user_key, "root"), (caller_key, to_text(_root)), (entry_key, secrets.token_hex(16))),
        }
        found = [Pretender(name, "client", metadata) for name, metadata in wrong.items()]
        return [*found, Pretender("an unknown certificate", "unknown", ()), *self._usurpers()]

    def _usurpers(self) -> Sequence[Pretender]:
        """Those that have a role, and say that they call for an admin; a coordinator may say so, but only for whom it is."""
        root: Metadata = ((forwarded_key, "1"), (caller_key, to_text(_root)))
        reader: Metadata = ((forwarded_key, "1"), (caller_key, to_text(Caller("reader", Role.READ_ONLY))))
        nobody: Metadata = ((forwarded_key, "1"), (caller_key, "emperor nobody"))
        roles = (Role.CLIENT, Role.WORKER, Role.READ_ONLY)
        usurpers = [
            Pretender(f"{role} for an admin", "client", (*bearer(self.tokens[role]), *root), role) for role in roles
        ]
        ours = bearer(self.tokens[Role.COORDINATOR])
        return [
            *usurpers,
            Pretender("coordinator for a reader", "client", (*ours, *reader), Role.READ_ONLY),
            Pretender("coordinator for nobody", "client", (*ours, *nobody)),
        ]

    def _jwt(self, key: Any = None, **claims: Any) -> Metadata:
        named = {"sub": "fuzz", "iss": _issuer, "aud": _audience, "exp": _now() + 36_000, "role": Role.ADMIN, **claims}
        return bearer(jwt.encode(named, key or self._key, algorithm="ES256", headers={"kid": "one"}))

    def _tls(self, identity: Identity) -> dict[str, str]:
        return {"TLS_CERT": str(identity.cert), "TLS_KEY": str(identity.key), "TLS_CA": str(self.ca.path)}


def bearer(token: str) -> Metadata:
    """Return the metadata with a token."""
    return ((authorization_key, f"Bearer {token}"),)


def odd_metadata(rng: Random) -> Metadata:
    """Return metadata that no caller of ours sends."""
    return rng.choice(
        (
            ((forwarded_key, ""), (forwarded_key, "1"), (caller_key, "")),
            ((caller_key, "admin " + "x" * 5_000),),
            ((caller_key, "admin %00%ff"),),
            ((entry_key, "x" * 3_000),),
            (("x-mainspring-addressee", "0" * 32),),
            (("x-mainspring-addressee", ""),),
            (("x-mainspring-owner", "0/0 x y"),),
            ((user_key, "~" * 500),),
            *([tuple((f"x-fuzz-{n}", "y") for n in range(200))]),
            (("x-fuzz-bin", rng.randbytes(500)),),
            (("authorization-", "Bearer x"), ("x-authorization", "Bearer y")),
            (("x-fuzz", "z" * 20_000),),
        )
    )


def _now() -> int:
    return time.time_ns() // 1_000_000_000


def _encoded(part: object) -> str:
    return urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def _claims() -> dict[str, object]:
    return {"sub": "fuzz", "iss": _issuer, "aud": _audience, "exp": _now() + 3_600, "role": "admin"}


def _unsigned() -> str:
    return f"{_encoded({'alg': 'none', 'kid': 'one'})}.{_encoded(_claims())}."


def _signed_by_public_key(public: bytes) -> str:
    signed = f"{_encoded({'alg': 'HS256', 'kid': 'one'})}.{_encoded(_claims())}"
    return f"{signed}.{urlsafe_b64encode(hmac_of(public, signed.encode(), sha256).digest()).rstrip(b'=').decode()}"
