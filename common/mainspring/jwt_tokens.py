"""JWTs as tokens: signed by a key of AUTH_JWKS, for this cluster, in time, with a role.

Which algorithms may sign is fixed here and by each key, never by the token (RFC 8725). What was verified is remembered until it
expires or the keys change, because a signature costs as much as the call.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from mainspring.callers import Caller, Role
from mainspring.clock import calendar_now
from mainspring.errors import SettingsError, UnauthenticatedError
from mainspring.extras import wheel_with
from mainspring.limits import jwks_bytes_max, name_bytes_max, verified_tokens_max
from mainspring.settings_security import Serving
from mainspring.watched import Watched, read_bytes

_algorithms: Final = ("ES256", "EdDSA", "RS256")
_leeway_s: Final = 10
"""By which the clocks of who signs and who checks may differ."""
_kinds: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def looks_like_jwt(token: str) -> bool:
    """Tell a JWT from a static token, which has no dots."""
    return token.count(".") == 2


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    until_s: float


class JwtVerifier:
    """Checks JWTs by the settings AUTH_JWKS and AUTH_JWT_…; may be asked from any thread."""

    def __init__(self, settings: Serving) -> None:
        """Read the keys. `SettingsError` when they cannot be used, or PyJWT is not installed."""
        try:
            import jwt  # noqa: PLC0415  (an extra, which most do without)
        except ImportError as error:
            raise SettingsError(f"AUTH_JWKS needs a package that is not installed: {wheel_with('jwt')}") from error
        self._jwt = jwt
        assert settings.auth_jwks is not None
        path = settings.auth_jwks
        self._issuer = settings.auth_jwt_issuer
        self._audience = settings.auth_jwt_audience
        self._claim = settings.auth_jwt_role_claim
        self._keys = Watched((path,), lambda: self._read(path))
        self._lock = threading.Lock()
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._verified_by = self._keys.get()

    def caller(self, token: str) -> Caller:
        """Return who the token is for. `UnauthenticatedError` says what is wrong with it."""
        keys, name = self._keys.get(), sha256(token.encode()).digest()
        with self._lock:
            if keys is not self._verified_by:
                self._verified.clear()
                self._verified_by = keys
            known = self._verified.get(name)
        if known is not None and calendar_now().timestamp() < known.until_s:
            return known.caller
        verified = self._verify(token, keys)
        with self._lock:
            if keys is self._verified_by:
                self._verified[name] = verified
                if len(self._verified) > verified_tokens_max:
                    self._verified.popitem(last=False)
        return verified.caller

    def _verify(self, token: str, keys: Mapping[str, Any]) -> _Verified:
        jwt = self._jwt
        try:
            header = jwt.get_unverified_header(token)
            key = keys.get(str(header.get("kid", ""))) or (next(iter(keys.values())) if len(keys) == 1 else None)
            if key is None:
                raise UnauthenticatedError(
                    "the JWT's `kid` is not among the keys of AUTH_JWKS; compare it with that file"
                )
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (
            jwt.PyJWTError,
            RecursionError,
        ) as error:  # PyJWT lets the second one out for JSON that is nested too deep
            raise UnauthenticatedError(f"the JWT does not count: {error}; get a new one from who issues it") from error
        name = str(claims["sub"])
        if not name.isprintable() or not 0 < len(name.encode()) <= name_bytes_max:
            raise UnauthenticatedError(f"the JWT's `sub` is not 1 to {name_bytes_max} bytes of printable text")
        return _Verified(Caller(name, self._role(claims, name)), float(claims["exp"]) + _leeway_s)

    def _role(self, claims: Mapping[str, Any], name: str) -> Role:
        value: Any = claims
        for part in self._claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        told = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        found = [Role(one) for one in told if one in tuple(Role)]
        if len(found) != 1:
            raise UnauthenticatedError(
                f"the JWT of {name!r} has {len(found) or 'no'} roles in the claim {self._claim!r} (AUTH_JWT_ROLE_CLAIM); "
                f"it needs exactly one of {', '.join(Role)}"
            )
        return found[0]

    def _read(self, path: str) -> Mapping[str, Any]:
        """Return the keys that may sign, by their `kid`; others in the file are left out."""
        try:
            listed = orjson.loads(read_bytes("AUTH_JWKS", path, jwks_bytes_max))["keys"]
            keys = {
                str(one.get("kid", "")): self._jwt.PyJWK(one, algorithm=_kinds[one["kty"]])
                for one in listed
                if one.get("kty") in _kinds
                and one.get("use", "sig") == "sig"
                and one.get("alg", _kinds[one["kty"]]) in _algorithms
            }
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, self._jwt.PyJWTError) as error:
            raise SettingsError(
                f"AUTH_JWKS: {path} is no set of keys (JWKS): {type(error).__name__}: {error}"
            ) from error
        if not keys:
            raise SettingsError(f"AUTH_JWKS: {path} has no key for {', '.join(_algorithms)}; others may not sign")
        return keys
